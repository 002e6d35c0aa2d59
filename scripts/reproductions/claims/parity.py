"""Parity: what a recurrent state can compute, by the eigenvalues of its transitions."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.config.attention import DeltaNetConfig
from attnzoo.config.llama import LlamaConfig
from attnzoo.models.llama import Llama
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead, below, headline
from reproductions.training import fit

WIDTH = 32
BETAS = {"β up to 1": 1.0, "β up to 2": 2.0}
SHORT = 40
LENGTHS = (20, 40, 80, 160, 256)


def bits(key: Array, length: int, rows: int) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Return random bits, and after each of them whether the number of ones so far is odd."""
    drawn = jax.random.bernoulli(key, 0.5, (rows, length)).astype(jnp.int32)
    return drawn, jnp.cumsum(drawn, axis=1) % 2


def parity(setting: Setting) -> Mapping[str, Measured]:
    """Train DeltaNet on parities of short sequences; return the accuracy around longer lengths."""
    found: dict[str, Measured] = {}

    def loss(model: Llama, made: tuple[Array, Array]) -> Float[Array, ""]:
        drawn, odd = made
        return optax.softmax_cross_entropy_with_integer_labels(model(drawn), odd).mean()

    for name, beta in BETAS.items():
        config = LlamaConfig(
            attention=DeltaNetConfig(num_heads=2, max_beta=beta), dim=WIDTH, hidden=2 * WIDTH,
            layers=1, max_length=LENGTHS[-1],
        )  # fmt: skip
        model = Llama(config, 2, rngs=nnx.Rngs(setting.seed))
        steps = setting.pick(1_000, 3)
        fit(model, loss, lambda key: bits(key, SHORT, 32), steps=steps, seed=setting.seed,
            learning_rate=3e-3)  # fmt: skip
        drawn, odd = bits(jax.random.key(10_000 + setting.seed), LENGTHS[-1], 256)
        right = np.asarray(nnx.jit(lambda model, x: model(x).argmax(-1))(model, drawn) == odd)
        for length in LENGTHS:
            found[f"{name}/{length}"] = float(right[:, length - 10 : length].mean())
    return found


def _parity_came(results: Results) -> str:
    low, high = (
        [results.mean(f"{name}/{length}") for length in (SHORT, LENGTHS[-1])] for name in BETAS
    )
    return (
        f"With β up to 1 the parity of {SHORT} bits is right in {low[0]:.0%} and of "
        f"{LENGTHS[-1]} bits in {low[1]:.0%}; with β up to 2 in {high[0]:.0%} and {high[1]:.0%}."
    )


CLAIMS = (
    Claim(
        name="parity-of-long-sequences",
        title="Parity needs a delta rule with negative eigenvalues",
        source="Grazzi et al. 2024, arXiv 2411.12537, section 5.1",
        claimed="DeltaNet with write strengths in [0, 1] cannot learn the parity of sequences "
        "longer than those it was trained on; with strengths in [0, 2], whose state transitions "
        "have negative eigenvalues, it can.",
        setup=f"random bits, {SHORT} in training and up to {LENGTHS[-1]} when tested, the parity "
        f"asked for after every bit; one block of width {WIDTH} with 2 heads, 1,000 steps of 32 "
        "rows; accuracy over the ten last bits of a length. The paper asks at the end only.",
        criterion=(
            headline(above("β up to 2/160", 0.9)),
            headline(below("β up to 1/160", 0.6)),
            headline(ahead("β up to 2/256", "β up to 1/256", 0.2)),
        ),
        measure=parity,
        came=_parity_came,
        meaning="A state that can only decay or be overwritten cannot flip its sign with every "
        "one it reads; a factor of two in one setting is the difference.",
        otherwise="Strengths up to 2 make parity learnable where those up to 1 are at chance at "
        "the trained length already, so that these fail to learn, not to go on; after so short a "
        "training it holds only for a few times that length, and not as far with every seed.",
        minutes=0.6,
        axes=("length in bits", "share of right parities"),
    ),
)

"""Associative recall: what a decoder whose state has a fixed size can look up."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.config.attention import (
    AttentionConfig,
    DeltaNetConfig,
    GatedLinearConfig,
    LinearConfig,
    MultiHeadConfig,
    RetNetConfig,
)
from attnzoo.config.llama import LlamaConfig
from attnzoo.layers.embedding import Embedding
from attnzoo.models import Llama
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead
from reproductions.training import fit

SYMBOLS, PAIRS, ROWS = 64, 16, 32
"""Number of keys and of values, pairs in a text, texts in a batch."""
WIDTHS, STEPS, RATE = (16, 32), 1_000, 5e-3
KINDS: dict[str, AttentionConfig] = {
    "softmax": MultiHeadConfig(num_heads=1),
    "linear": LinearConfig(num_heads=1),
    "retention": RetNetConfig(num_heads=1),
    "gated linear": GatedLinearConfig(num_heads=1),
    "delta rule": DeltaNetConfig(num_heads=1),
    "gated delta rule": DeltaNetConfig(num_heads=1, gated=True),
}


def texts(key: Array, rows: int = ROWS) -> tuple[Int[Array, "B T"], Int[Array, "B P"]]:
    """Return texts, key, value, key, value, ..., then the keys in another order; their values."""
    first, second, third = jax.random.split(key, 3)
    keys = jnp.argsort(jax.random.uniform(first, (rows, SYMBOLS)), axis=1)[:, :PAIRS]
    values = jax.random.randint(second, (rows, PAIRS), 0, SYMBOLS)
    order = jnp.argsort(jax.random.uniform(third, (rows, PAIRS)), axis=1)
    asked, answers = (jnp.take_along_axis(x, order, axis=1) for x in (keys, values))
    told = jnp.stack([keys, SYMBOLS + values], axis=2).reshape(rows, 2 * PAIRS)
    return jnp.concatenate([told, asked], axis=1), answers


def answered(model: Llama, tokens: Int[Array, "B T"]) -> Float[Array, "B P V"]:
    """Return the logits of the values at the questions."""
    return model(tokens)[:, 2 * PAIRS :, SYMBOLS:]


def loss(model: Llama, made: tuple[Array, Array]) -> Float[Array, ""]:
    """Return the cross-entropy of the answers."""
    tokens, answers = made
    logits = answered(model, tokens)
    return optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean()


class Shifted(Llama):
    """Decoder whose input at each position is the sum of two vectors: of its token and the last.

    A value then stands beside its key, as after a short convolution, in every kind of attention.
    """

    def __init__(self, config: LlamaConfig, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, vocabulary, rngs=rngs)
        normal = jax.nn.initializers.normal(1.0)
        self.embedding = Embedding(vocabulary, config.dim, init=normal, rngs=rngs)
        self.before = Embedding(vocabulary, config.dim, init=normal, rngs=rngs)

    def _embed(
        self, tokens: Int[Array, "B T"], positions: Any, rngs: nnx.Rngs | None
    ) -> Float[Array, "B T D"]:
        last = jnp.pad(self.before(tokens)[:, :-1], ((0, 0), (1, 0), (0, 0)))
        return self.embedding(tokens) + last


def build(attention: AttentionConfig, width: int, seed: int) -> Llama:
    """Return a decoder of one layer with its first weights."""
    config = LlamaConfig(
        attention=attention, dim=width, hidden=2 * width, layers=1, max_length=3 * PAIRS
    )
    return Shifted(config, 2 * SYMBOLS, rngs=nnx.Rngs(seed))


def recall(setting: Setting) -> Mapping[str, Measured]:
    """Train a decoder of each kind and width; return the share of right answers on new texts."""
    found: dict[str, Measured] = {}
    for name, attention in KINDS.items():
        for width in setting.pick(WIDTHS, WIDTHS[:1]):
            model = build(attention, width, setting.seed)
            steps = setting.pick(STEPS, 3)
            fit(model, loss, texts, steps=steps, seed=setting.seed, learning_rate=RATE)
            tokens, answers = texts(jax.random.key(10_000 + setting.seed), 256)
            best = nnx.jit(answered)(model, tokens).argmax(-1)
            found[f"{name}/{width}"] = float((best == answers).mean())
    return found


def _came(results: Results) -> str:
    told = []
    for name in KINDS:
        shares = " and ".join(f"{results.mean(f'{name}/{width}'):.0%}" for width in WIDTHS)
        told.append(f"{shares} ({name})")
    return (
        f"Of {PAIRS} pairs decoders of width {' and '.join(map(str, WIDTHS))} recall "
        f"{', '.join(told[:-1])} and {told[-1]}."
    )


CLAIMS = (
    Claim(
        name="associative-recall",
        title="Attention recalls what a state of fixed size has no room for",
        source="Arora et al. 2023, arXiv 2312.04927, section 4, figure 2; Yang et al. 2024, arXiv "
        "2406.06484, figure 2 (DeltaNet)",
        claimed="In associative recall attention finds all answers at any width, and models with a "
        "state of fixed size need a width that grows with the number of pairs; the delta rule "
        "recalls more from a state of the same size than sums of outer products do.",
        setup=f"texts of {PAIRS} pairs of {SYMBOLS} keys and {SYMBOLS} values, then a question for "
        f"each pair; one layer with one head of width {' or '.join(map(str, WIDTHS))}, whose "
        "inputs are the sums of the vectors of a token and of the last one; the state has as many "
        "numbers as the square of the width (gated linear attention: half of it); "
        f"{STEPS:,} steps of {ROWS} texts. The papers use two layers, up to 64 pairs and 20 to "
        "64 times as many texts; Arora et al. have gated convolutions in place of recurrent "
        "attention.",
        criterion=(
            above(f"softmax/{WIDTHS[1]}", 0.95),
            *(
                check
                for name in ("linear", "retention", "gated linear")
                for check in (
                    ahead(f"softmax/{WIDTHS[0]}", f"{name}/{WIDTHS[0]}"),
                    ahead(f"{name}/{WIDTHS[1]}", f"{name}/{WIDTHS[0]}", 0.1),
                )
            ),
            ahead(f"delta rule/{WIDTHS[0]}", f"linear/{WIDTHS[0]}"),
            ahead(f"gated delta rule/{WIDTHS[0]}", f"gated linear/{WIDTHS[0]}"),
        ),
        measure=recall,
        came=_came,
        meaning="Recall is what the cache of softmax attention buys: it grows with the text, while "
        "a state that does not must be as large as all that may be asked, and erase what it "
        "writes over.",
        otherwise="Room in the state is not all: which kind has learned to recall within so few "
        "steps depends on how it starts.",
        minutes=2,
        axes=("width", "share of right answers"),
        scales=("log", "linear"),
    ),
)

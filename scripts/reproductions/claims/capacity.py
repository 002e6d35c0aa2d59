"""Capacity of fast weights: how many associations a matrix holds, and whether it can change one."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.module import Module
from attnzoo.ops.dot_product import dot_product_attention
from attnzoo.ops.linear import delta_rule, dpfp, linear_attention
from reproductions.claim import (
    Claim,
    Measured,
    Results,
    Setting,
    above,
    ahead,
    below,
    certain,
    headline,
)
from reproductions.training import fit

HEAD = 16
"""Width of a key (H)."""
COUNTS = (8, 16, 32, 64)
READERS: dict[str, Callable[..., Array]] = {
    "softmax": dot_product_attention,
    "linear, φ = elu + 1": functools.partial(linear_attention, causal=False),
} | {
    f"linear, φ = DPFP-{nu}": functools.partial(
        linear_attention, causal=False, feature_map=functools.partial(dpfp, nu=nu)
    )
    for nu in (1, 3)
}
REWRITTEN = (4, 8, 16)
BATCH = 16


class Keys(Module):
    """Learned keys, one for each symbol, and a learned write strength for the delta rule."""

    def __init__(self, count: int, *, rngs: nnx.Rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (count, HEAD)))
        self.strength = nnx.Param(jnp.zeros(()))


def capacity(setting: Setting) -> Mapping[str, Measured]:
    """Learn keys for a growing number of symbols, each written once; return the loss of reading."""
    found: dict[str, Measured] = {}
    for name, reader in READERS.items():
        for count in setting.pick(COUNTS, COUNTS[:1]):

            def loss(keys: Keys, values: Float[Array, "1 S 1 S"], reader=reader) -> Array:
                table = keys.table[...][None, :, None]
                return jnp.sum((reader(table, table, values) - values) ** 2) / 2 / values.shape[1]

            # Any other pairing of keys and values has the same loss.
            pairs = jnp.eye(count)[None, :, None]
            found[f"{name}/{count}"] = _learned(loss, lambda _, pairs=pairs: pairs, count, setting)
    return found


def rewriting(setting: Setting) -> Mapping[str, Measured]:
    """Write symbols again and again with new values; return the loss of reading the last ones."""
    found: dict[str, Measured] = {}
    for name, reader in (("sum", _read_sum), ("delta rule", _read_delta)):
        for count in setting.pick(REWRITTEN, REWRITTEN[:1]):

            def loss(keys: Keys, made: tuple[Array, Array], reader=reader) -> Array:
                symbols, values = made
                count = values.shape[-1]
                same = symbols[:, None] == jnp.arange(count)[:, None]  # B S T
                time = jnp.where(same, jnp.arange(symbols.shape[1]), -1)
                last = jnp.argmax(time, axis=2)
                wanted = jnp.take_along_axis(values, last[:, :, None], axis=1)
                errors = jnp.sum((reader(keys, symbols, values) - wanted) ** 2, axis=-1) / 2
                return jnp.mean(errors, where=jnp.any(same, axis=2))

            found[f"{name}/{count}"] = _learned(
                loss, functools.partial(_rewritten, count=count), count, setting
            )
    return found


def _rewritten(key: Array, count: int) -> tuple[Int[Array, "B T"], Float[Array, "B T V"]]:
    """Return symbols drawn with replacement, twice as many as there are, and random values."""
    first, second = jax.random.split(key)
    shape = BATCH, 2 * count
    symbols = jax.random.randint(first, shape, 0, count)
    return symbols, jax.nn.one_hot(jax.random.randint(second, shape, 0, count), count)


def _read_sum(
    keys: Keys, symbols: Int[Array, "B T"], values: Float[Array, "B T V"]
) -> Float[Array, "B S V"]:
    queries = jnp.broadcast_to(keys.table[...], (symbols.shape[0], *keys.table.shape))
    written = keys.table[...][symbols][:, :, None]
    found = linear_attention(
        queries[:, :, None], written, values[:, :, None], feature_map=dpfp, causal=False
    )
    return found[:, :, 0]


def _read_delta(
    keys: Keys, symbols: Int[Array, "B T"], values: Float[Array, "B T V"]
) -> Float[Array, "B S V"]:
    (B, T), S = symbols.shape, keys.table.shape[0]
    queries = jnp.broadcast_to(jnp.arange(S), (B, S))
    k = keys.table[...][jnp.concatenate([symbols, queries], axis=1)][:, :, None]
    v = jnp.concatenate([values, jnp.zeros((B, S, S))], axis=1)[:, :, None]
    # A strength of 0 reads without writing.
    beta = jnp.where(jnp.arange(T + S) < T, jax.nn.sigmoid(keys.strength[...]), 0.0)
    beta = jnp.broadcast_to(beta[None, :, None], (B, T + S, 1))
    return delta_rule(k, k, v, beta, feature_map=dpfp)[:, T:, 0]


def _learned(
    loss: Callable[..., Array], batch: Callable[[Array], object], count: int, setting: Setting
) -> float:
    """Train keys and return the mean loss of the last tenth of the steps."""
    keys = Keys(count, rngs=nnx.Rngs(setting.seed))
    steps = setting.pick(800, 10)
    losses = fit(keys, loss, batch, steps=steps, seed=setting.seed, learning_rate=3e-2)
    return float(losses[-steps // 10 :].mean())


def _capacity_came(results: Results) -> str:
    told = "; ".join(
        f"{name} {results.mean(f'{name}/16'):.2f} and {results.mean(f'{name}/64'):.2f}"
        for name in READERS
    )
    return f"With keys of width 16 the loss for 16 and for 64 associations is: {told}."


def _rewriting_came(results: Results) -> str:
    first, last = REWRITTEN[0], REWRITTEN[-1]
    return (
        f"The loss of reading the last value of {first} and of {last} symbols is "
        f"{results.mean(f'sum/{first}'):.2f} and {results.mean(f'sum/{last}'):.2f} with sums, "
        f"{results.mean(f'delta rule/{first}'):.2f} and {results.mean(f'delta rule/{last}'):.2f} "
        "with the delta rule."
    )


LINEAR, SMALL, LARGE = list(READERS)[1:]
CLAIMS = (
    Claim(
        name="fast-weight-capacity",
        title="Linear attention holds as many associations as its features have dimensions",
        source="Schlag, Irie and Schmidhuber 2021, arXiv 2102.11174, section 6.1.1, figure 2",
        claimed="The loss of retrieving associations from linear attention rises once there are "
        "more of them than feature dimensions; DPFP features move that limit up, and softmax "
        "attention has none in sight.",
        setup="S learned keys of width 16 that serve as queries too, each with one of S one-hot "
        "values, 800 steps; half the squared error of a value. The paper's keys have width 64 "
        "and S is 20 to 600. A matrix of rank r cannot have a loss under (1 - r / S) / 2, which "
        "is 0.375 for 64 associations in 16 dimensions.",
        criterion=(
            below("softmax/64", 0.05),
            certain(above(f"{LINEAR}/64", 0.3), "no matrix of rank 16 has a loss below 0.375"),
            headline(ahead(f"{LINEAR}/64", f"{LINEAR}/16")),
            headline(ahead(f"{LINEAR}/64", f"{SMALL}/64")),
            headline(ahead(f"{SMALL}/64", f"{LARGE}/64")),
        ),
        measure=capacity,
        came=_capacity_came,
        meaning="A sum of outer products can only tell apart as many keys as its rank; either "
        "the features must be many, or the keys must be kept, as softmax attention does.",
        minutes=0.6,
        axes=("associations", "loss of a value"),
        scales=("log", "linear"),
    ),
    Claim(
        name="delta-rule-rewrites",
        title="The delta rule can replace an association, a sum cannot",
        source="Schlag, Irie and Schmidhuber 2021, arXiv 2102.11174, section 6.1.2, figure 3",
        claimed="When keys come again with new values, fast weights that add outer products mix "
        "old and new, and those written by the delta rule retrieve the last one.",
        setup="S symbols, drawn 2 S times with replacement and with random one-hot values; learned "
        "keys of width 16 with DPFP-1 features (32 dimensions) and one learned write strength, "
        "800 steps of 16 sequences. The paper's sequences have 40 pairs of 20 keys.",
        criterion=(
            *(headline(ahead(f"sum/{count}", f"delta rule/{count}", 0.1)) for count in REWRITTEN),
            below("delta rule/8", 0.05),
        ),
        measure=rewriting,
        came=_rewriting_came,
        meaning="A recurrent memory of fixed size must be able to forget one thing without the "
        "rest: this is why DeltaNet writes the difference to what it already reads.",
        minutes=0.4,
        axes=("symbols", "loss of a value"),
    ),
)

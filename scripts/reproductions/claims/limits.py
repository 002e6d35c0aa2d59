"""Theorems about attention, tried without training: retrieval in one update, and rank collapse."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention import Site, build_attention
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.layers.feed_forward import FeedForward
from attnzoo.ops.hopfield import hopfield_retrieve
from reproductions.claim import Claim, Results, Setting, above, ahead, headline

RADIUS, NOISE, NEAR, SHARE = 1.5, 0.5, 0.2, 0.9
"""Norm of a pattern over sqrt(H - 1); of the noise of a query and of the distance that counts as
retrieved, over the norm of a pattern; share of patterns that must be retrieved."""
DIMS = (4, 7, 10, 13, 16)
DRAWS, QUERIES = 8, 64
DEPTH, WIDTH = 6, 64
FLOOR = 1e-16
"""Smallest relative residual that float64 can tell from 0."""


def retrieval(setting: Setting) -> Mapping[str, float]:
    """Find how many patterns on a sphere are retrieved by one update, for each dimension."""
    found: dict[str, float] = {
        f"one update/{dim}": _capacity(dim, setting.pick(16, 5), setting.seed) for dim in DIMS
    }
    doublings = [math.log2(found[f"one update/{dim}"]) for dim in DIMS]
    first, second = doublings[2] - doublings[0], doublings[4] - doublings[2]
    found["doublings per dimension"] = (first + second) / (DIMS[-1] - DIMS[0])
    found["growth from 10 to 16 over that from 4 to 10"] = second / max(first, 1 / 6)
    return found


def _capacity(dim: int, limit: int, seed: int) -> float:
    """Return the largest number of patterns, to a sixth of a doubling, that are retrieved."""
    most = 2 ** min(dim + 2, limit)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), dim))
    patterns = _sphere(jax.random.normal(keys[0], (DRAWS, most, 1, dim)))
    noise = NOISE * _sphere(jax.random.normal(keys[1], (DRAWS, min(most, QUERIES), 1, dim)))

    @jax.jit
    def retrieved(patterns: Array, noise: Array, count: Array) -> Float[Array, ""]:
        # Patterns are exchangeable: the first ones stand for all.
        wanted = patterns[:, : noise.shape[1]]
        stored = (jnp.arange(most) < count)[None, None, None]
        moved = hopfield_retrieve(wanted + noise, patterns, beta=1.0, mask=stored)
        far = jnp.linalg.norm(moved - wanted, axis=-1) / jnp.linalg.norm(wanted, axis=-1)
        return jnp.mean(far < NEAR, where=jnp.arange(noise.shape[1])[None, :, None] < count)

    low, high = 0.0, math.log2(most)  # doublings: the first is retrieved, the last is not
    while high - low > 1 / 6:
        middle = (low + high) / 2
        share = retrieved(patterns, noise, jnp.asarray(round(2**middle)))
        low, high = (middle, high) if float(share) >= SHARE else (low, middle)
    return 2.0**low


def _sphere(x: Float[Array, "*shape H"]) -> Float[Array, "*shape H"]:
    """Scale vectors to the common length of the patterns."""
    return RADIUS * (x.shape[-1] - 1) ** 0.5 * x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def collapse(setting: Setting) -> Mapping[str, float]:
    """Measure how far the states of a deep random network are from one and the same row."""
    found: dict[str, float] = {}
    for name, skips, feeds in (
        ("attention alone", False, False),
        ("with feed-forward layers", False, True),
        ("with skip connections", True, False),
        ("with both", True, True),
    ):
        with jax.enable_x64(True):
            key = jax.random.key(setting.seed)
            states = jax.random.normal(key, (1, setting.pick(64, 16), WIDTH), jnp.float64)
            rngs = nnx.Rngs(setting.seed)
            for depth in range(DEPTH + 1):
                found[f"{name}/{depth}"] = math.log10(_residual(states))
                states = _layer(states, skips, feeds, rngs)
    for depth in (1, 2, 3):
        before, after = (found[f"attention alone/{d}"] for d in (depth - 1, depth))
        found[f"decades lost in layer {depth}"] = before - after
    return found


def _layer(x: Float[Array, "1 T D"], skips: bool, feeds: bool, rngs: nnx.Rngs) -> Array:
    """Apply a layer with new random weights."""
    attention = build_attention(MultiHeadConfig(num_heads=4), Site.of_itself(WIDTH), rngs=rngs)
    branches: list[Any] = [lambda x: attention(x, x)]
    he = jax.nn.initializers.he_normal()
    feed_forward = FeedForward(WIDTH, 4 * WIDTH, kernel_init=he, out_init=he, rngs=rngs)
    branches += [feed_forward] if feeds else []
    for branch in branches:
        x = x + branch(x) if skips else branch(x)
    return x


def _residual(x: Float[Array, "1 T D"]) -> float:
    """Return the norm of what rows have beyond their mean, over that of all (section 2.2)."""
    own = x - jnp.mean(x, axis=1, keepdims=True)
    return max(float(jnp.linalg.norm(own) / jnp.linalg.norm(x)), FLOOR)


def _one_update(results: Results) -> str:
    numbers = ", ".join(f"{results.mean(f'one update/{dim}'):,.0f}" for dim in DIMS)
    rate = results.mean("doublings per dimension")
    return (
        f"In {', '.join(map(str, DIMS))} dimensions one update retrieves {numbers} patterns, "
        f"{rate:.2f} doublings for each dimension."
    )


def _collapsed(results: Results) -> str:
    alone, fed, skipped = (
        10 ** results.mean(f"{name}/3")
        for name in ("attention alone", "with feed-forward layers", "with skip connections")
    )
    first, first_fed = (
        10 ** results.mean(f"{name}/1") for name in ("attention alone", "with feed-forward layers")
    )
    return (
        f"After three layers the rows differ by {alone:.0e} of their norm in attention alone, "
        f"by {fed:.0e} with feed-forward layers and by {skipped:.0%} with skip connections. After "
        f"one layer feed-forward layers make it worse: {first:.0%} alone, {first_fed:.0%} with "
        "them."
    )


CLAIMS = (
    Claim(
        name="hopfield-retrieval",
        title="One step of attention retrieves exponentially many patterns",
        source="Ramsauer et al. 2020, arXiv 2008.02217, theorems 3 and 4",
        claimed="Softmax attention is the update of a Hopfield network that finds a stored pattern "
        "in one step and stores a number of random patterns that grows exponentially with their "
        "dimension.",
        setup="random patterns on a sphere of radius 1.5 √(d - 1), β = 1, queries with noise of "
        "half the norm of a pattern; a pattern counts as retrieved within a fifth of its norm, and "
        "a number of patterns as stored if 90 % are retrieved. No training. The theorem has a "
        "bound; here the number itself is searched for. A number that grew as a power of the "
        "dimension would grow from 10 to 16 half as many doublings as from 4 to 10.",
        criterion=(
            headline(above("doublings per dimension", 0.5)),
            headline(above("growth from 10 to 16 over that from 4 to 10", 0.75)),
        ),
        measure=retrieval,
        came=_one_update,
        meaning="A softmax over keys separates patterns far better than a sum over them does: its "
        "memory is limited by how many keys are kept, not by their width.",
        minutes=0.2,
        seeds=5,
        axes=("dimension", "patterns retrieved"),
        scales=("linear", "log"),
        in_tests=True,
    ),
    Claim(
        name="rank-collapse",
        title="Attention alone loses rank doubly exponentially",
        source="Dong, Cordonnier and Loukas 2021, arXiv 2103.03404, theorem 2.2 and section 3",
        claimed="The output of attention layers without skip connections and feed-forward layers "
        "converges to equal rows at a rate that is doubly exponential in depth; both of these "
        "slow it down or stop it.",
        setup="random weights and 64 random states of width 64, 4 heads, ReLU layers of width 256, "
        "no norms, in float64; the residual is that of rows without their mean, over the norm of "
        "all, and ends at the precision of the numbers. Feed-forward layers start as by He; "
        "Glorot's start shrinks the states, and they then collapse faster. The paper shows trained "
        "BERT, ALBERT and XLNet.",
        criterion=(
            headline(ahead("decades lost in layer 2", "decades lost in layer 1")),
            headline(ahead("decades lost in layer 3", "decades lost in layer 2")),
            above("with skip connections/6", -1),
            ahead("with feed-forward layers/3", "attention alone/3"),
        ),
        measure=collapse,
        came=_collapsed,
        meaning="A Transformer is no stack of attention layers: its skip connections are what "
        "keeps tokens apart.",
        minutes=0.1,
        seeds=5,
        axes=("layer", "log10 of the relative residual"),
        in_tests=True,
    ),
)

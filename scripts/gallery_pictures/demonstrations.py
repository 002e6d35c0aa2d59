"""Figures of docs/demonstrations.md, whose snippets compute the same numbers step by step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo import ops, plotting
from attnzoo.attention import HardAttention, MultiplicativeAttention
from attnzoo.ops import masks
from attnzoo.plotting import Figure, LinePanel, WeightPanel

WORDS = ("See", "that", "girl", "run")


def see_that_girl_run() -> Figure:
    """The weights of four words that read each other, and those of a decoder."""
    random = np.random.default_rng(0)
    X = random.normal(size=(4, 300))
    W_q, W_k, W_v = random.normal(size=(3, 300, 100)) / np.sqrt(300)
    u = np.full(100, 0.1)
    W_q += 5 * np.outer(X[1] / (X[1] @ X[1]), u)
    W_k += 5 * np.outer(X[2] / (X[2] @ X[2]), u)
    q, k, v = (jnp.asarray((X @ W)[None, :, None], jnp.float32) for W in (W_q, W_k, W_v))
    panels = []
    for title, mask in (("every word", masks.full()), ("causal", masks.causal())):
        _, weights = ops.dot_product_attention(q, k, v, mask, return_weights=True)
        panels.append(WeightPanel(np.asarray(weights[0, 0], float), WORDS, WORDS, title))
    return plotting.weight_panels(panels, digits=2, outlined_row=1)


def scaling() -> Figure:
    """Variance of logits and entropy of weights against the width, with and without the scale."""
    widths = [2**i for i in range(11)]
    variance: dict[str, list[float]] = {}
    entropy: dict[str, list[float]] = {}
    random_q, random_k = (
        jax.random.normal(jax.random.key(seed), (1, length, 1, widths[-1]))
        for seed, length in ((0, 256), (1, 32))
    )

    @jax.jit
    def measure(d: Int[Array, ""], scale: Float[Array, ""]) -> tuple[Array, Array]:
        # Zeros beyond the first d entries: a narrower query in an array of one shape.
        inside = (jnp.arange(widths[-1]) < d)[None, None, None]
        q, k = (jnp.where(inside, x, jnp.zeros_like(x)) for x in (random_q, random_k))
        logits = scale * jnp.einsum("btnh,bsnh->bts", q, k)
        request = ops.WeightRequest(statistics=("entropy",))
        _, report = ops.dot_product_attention(q, k, k, scale=scale, return_weights=request)
        return jnp.var(logits), jnp.mean(report.entropy)

    for d in widths:
        for name, scale in (("q · k", 1.0), ("q · k / √d", d**-0.5)):
            found = measure(jnp.asarray(d), jnp.asarray(scale))
            for numbers, number in zip((variance, entropy), found):
                numbers.setdefault(name, []).append(float(number))
    even = {"32 equal weights": (widths, [float(np.log(32))] * len(widths))}
    return plotting.line_panels(
        [
            LinePanel(
                {name: (widths, ys) for name, ys in variance.items()},
                "width d",
                "variance of logits",
                log="xy",
            ),
            LinePanel(
                {name: (widths, ys) for name, ys in entropy.items()} | even,
                "width d",
                "entropy of weights (nats)",
                log="x",
            ),
        ]
    )


def soft_and_hard() -> Figure:
    """Soft attention as it cools, and the mean of draws as there are more of them."""
    query, keys, values = tables()
    attention: Any = MultiplicativeAttention(4, 4, "dot", rngs=nnx.Rngs(0))
    hard: Any = HardAttention(attention)
    arg_max = hard(query, keys, values)
    temperatures = [2.0**i for i in range(-3, 4)]
    distance, largest = [], []
    for temperature in temperatures:
        soft, weights = attention(query / temperature, keys, values, return_weights=True)
        distance.append(float(jnp.linalg.norm(soft - arg_max)))
        largest.append(float(weights.max()))
    draws = jax.vmap(lambda key: hard(query, keys, values, sample_key=key)[0, 0])(
        jax.random.split(jax.random.key(0), 4096)
    )
    soft = attention(query, keys, values)[0, 0]
    counts = [2**i for i in range(13)]
    errors = [float(jnp.linalg.norm(draws[:n].mean(0) - soft)) for n in counts]
    spread = float(jnp.sqrt(draws.var(0).sum()))
    return plotting.line_panels(
        [
            LinePanel(
                {
                    "largest weight": (temperatures, largest),
                    "distance to arg max's context": (temperatures, distance),
                },
                "temperature",
                "",
                log="x",
            ),
            LinePanel(
                {
                    "|mean of n draws − soft context|": (counts, errors),
                    "standard deviation / √n": (counts, [spread / n**0.5 for n in counts]),
                },
                "draws n",
                "",
                log="xy",
            ),
        ]
    )


def tables() -> tuple[Float[Array, "1 1 4"], Float[Array, "1 6 4"], Float[Array, "1 6 3"]]:
    """One query, six keys and their values."""
    query, keys, values = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in ((0, (1, 1, 4)), (1, (1, 6, 4)), (2, (1, 6, 3)))
    )
    return query, keys, values


def capacity() -> Figure:
    """How well a matrix of 32 x 32 gives back the values of N keys, by how they were written."""
    counts = [2, 4, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128]
    rules = {"sum rule": (False, 1), "delta rule": (True, 1), "delta rule, 10 passes": (True, 10)}
    shape = (8, counts[-1], 1, 32)
    values = jax.random.normal(jax.random.key(0), shape)
    keys = jax.random.normal(jax.random.key(1), shape)
    keys = keys / jnp.linalg.norm(keys, axis=-1, keepdims=True)
    axes = jnp.eye(32)[jnp.arange(counts[-1]) % 32]
    axes = jnp.broadcast_to(axes[None, :, None], shape)

    def errors(keys: Array, delta: bool, passes: int, newest: int) -> list[float]:
        error = jax.jit(
            lambda count: retrieval_error(
                keys, values, count, delta=delta, passes=passes, newest=newest
            )
        )
        return [float(error(jnp.asarray(count))) for count in counts]

    random_keys = {name: (counts, errors(keys, *rule, 128)) for name, rule in rules.items()}
    orthogonal = {name: (counts, errors(axes, *rule, 32)) for name, rule in list(rules.items())[:2]}
    label = "relative error of retrieval"
    return plotting.line_panels(
        [
            LinePanel(random_keys, "keys N", label, "random keys"),
            LinePanel(orthogonal, "keys N", label, "32 orthogonal keys, over and over"),
        ]
    )


def retrieval_error(
    keys: Float[Array, "B S 1 H"],
    values: Float[Array, "B S 1 Hv"],
    count: Int[Array, ""],
    *,
    delta: bool,
    passes: int,
    newest: int,
) -> Float[Array, ""]:
    """|k M - v| / |v| after the first ``count`` pairs were written, root mean square over the
    ``newest`` of them.
    """
    place = jnp.arange(keys.shape[1])
    written = place < count
    long_keys, long_values = (jnp.tile(x, (1, passes, 1, 1)) for x in (keys, values))
    _, memory = ops.fast_weights(
        long_keys,
        long_keys,
        long_values,
        beta=jnp.ones(long_keys.shape[:3]) if delta else None,
        mask=jnp.tile(written, passes)[None, None, None, :],
        return_state=True,
    )
    asked = (written & (place >= count - newest))[None, :, None, None]
    error = jnp.einsum("btnh,bnhv->btnv", keys, memory) - values
    return jnp.sqrt(jnp.mean(error**2, where=asked) / jnp.mean(values**2, where=asked))


LETTERS = """
#...#  .###.  ####.  #####  #####  #####  #....  ####.
#...#  #...#  #...#  #....  ..#..  #....  #....  #...#
#...#  #...#  #...#  #....  ..#..  #....  #....  #...#
#####  #...#  ####.  ####.  ..#..  ####.  #....  #...#
#...#  #...#  #....  #....  ..#..  #....  #....  #...#
#...#  #...#  #....  #....  ..#..  #....  #....  #...#
#...#  .###.  #....  #....  #####  #####  #####  ####.
"""


def letters() -> Float[Array, "8 7 5"]:
    """H O P F I E L D in pixels of 1 and -1."""
    rows = [line.split() for line in LETTERS.split("\n")[1:-1]]
    pixels = [[[1.0 if c == "#" else -1.0 for c in cell] for cell in row] for row in rows]
    return jnp.asarray(np.moveaxis(np.asarray(pixels), 1, 0), jnp.float32)


def retrieved(
    patterns: Float[Array, "S H"], known: int, beta: float, steps: int = 1
) -> Float[Array, "S H"]:
    """What each stored pattern becomes after only its first ``known`` numbers were given."""
    queries = jnp.where(jnp.arange(patterns.shape[1]) < known, patterns, 0.0)
    found = ops.hopfield_retrieve(
        queries[None, :, None], patterns[None, :, None], beta=beta, steps=steps
    )
    return found[0, :, 0]


def hopfield_retrieval() -> Figure:
    """Five of eight stored letters; their upper halves; what one update makes of these."""
    stored = letters()
    flat = stored.reshape(8, 35)
    half = jnp.where(jnp.arange(7)[:, None] < 4, stored, 0.0)
    soft, sharp = (retrieved(flat, 20, beta).reshape(8, 7, 5) for beta in (0.25, 2.0))
    shown = {}
    rows = {"stored": stored, "given": half, "β = 1/4": soft, "β = 2": sharp}
    for name, pictures in rows.items():
        shown |= {f"{name}, {c}": np.asarray(pictures["HOPFIELD".index(c)]) for c in "HOPFE"}
    return plotting.matrix_grid(shown, columns=5, numbers=True)


def hopfield_error() -> Figure:
    """Error of retrieval by beta, and by the number of patterns, beside a classical network."""
    flat = letters().reshape(8, 35)
    betas = [2.0**i for i in range(-6, 4)]

    def error(found: Array, wanted: Array) -> float:
        return float(jnp.sqrt(jnp.mean((found - wanted) ** 2)))

    by_beta = {
        name: (betas, [error(retrieved(flat, 20, beta, steps), flat) for beta in betas])
        for name, steps in (("one update", 1), ("converged", 50))
    }
    counts = [2**i for i in range(1, 12)]
    random = np.random.default_rng(0)
    patterns = random.choice([-1.0, 1.0], size=(counts[-1], 64)).astype(np.float32)
    continuous, classical = [], []
    for count in counts:
        some = patterns[:count]
        continuous.append(error(retrieved(jnp.asarray(some), 32, 1.0), jnp.asarray(some)))
        classical.append(error(jnp.asarray(hebbian(some, 32)), jnp.asarray(some)))
    return plotting.line_panels(
        [
            LinePanel(by_beta, "β", "error of a pixel (rms)", "eight letters, halved", log="x"),
            LinePanel(
                {"softmax, β = 1": (counts, continuous), "Hopfield 1982": (counts, classical)},
                "stored patterns of 64 bits",
                "error of a bit (rms)",
                "random patterns, halved",
                log="x",
            ),
        ]
    )


def hebbian(
    patterns: Float[np.ndarray, "S H"], known: int, sweeps: int = 10
) -> Float[np.ndarray, "S H"]:
    """The same by Hopfield's network of 1982: Hebbian weights, bits updated one after the other."""
    weights = patterns.T @ patterns / patterns.shape[1]
    np.fill_diagonal(weights, 0)
    state = np.where(np.arange(patterns.shape[1]) < known, patterns, 0)
    for _ in range(sweeps):
        for bit in range(patterns.shape[1]):
            state[:, bit] = np.where(state @ weights[bit] >= 0, 1, -1)
    return state


def bilateral() -> Figure:
    """A noisy step: the picture by three filters, and one row of each."""
    clean, noisy = noisy_step()
    found = {"noisy": noisy, "Gaussian": smooth(noisy, np.inf), "bilateral": smooth(noisy, 0.4)}
    places = list(range(32))
    rows = {name: (places, list(map(float, image[16]))) for name, image in found.items()}
    sigmas = [2.0**i for i in range(-5, 4)]
    error = [float(np.sqrt(np.mean((smooth(noisy, s) - clean) ** 2))) for s in sigmas]
    raw = float(np.sqrt(np.mean((noisy - clean) ** 2)))
    gauss = float(np.sqrt(np.mean((found["Gaussian"] - clean) ** 2)))
    return plotting.line_panels(
        [
            LinePanel(rows, "column", "brightness", "one row of the picture"),
            LinePanel(
                {
                    "bilateral": (sigmas, error),
                    "noisy": (sigmas, [raw] * len(sigmas)),
                    "Gaussian": (sigmas, [gauss] * len(sigmas)),
                },
                "σ of values",
                "error (rms)",
                "whole picture",
                log="x",
            ),
        ]
    )


def noisy_step() -> tuple[Float[np.ndarray, "32 32"], Float[np.ndarray, "32 32"]]:
    """A step from 0 to 1 in the middle of 32 columns, and the same with noise of 0.1."""
    clean = np.broadcast_to((np.arange(32) >= 16).astype(np.float32), (32, 32))
    noise = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    return clean, clean + np.float32(0.1) * noise


def smooth(image: Float[np.ndarray, "h w"], sigma_range: float) -> Float[np.ndarray, "h w"]:
    """The bilateral filter with a standard deviation of 2 pixels."""
    found = ops.bilateral_filter(
        jnp.asarray(image)[None, :, :, None], sigma_space=2.0, sigma_range=sigma_range
    )
    return np.asarray(found[0, :, :, 0])


DEMONSTRATIONS: dict[str, Callable[[], Figure]] = {
    "see_that_girl_run": see_that_girl_run,
    "scaling": scaling,
    "soft_and_hard": soft_and_hard,
    "capacity": capacity,
    "hopfield_retrieval": hopfield_retrieval,
    "hopfield_error": hopfield_error,
    "bilateral": bilateral,
}

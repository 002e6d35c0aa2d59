"""The mechanisms between two sequences against loops in float64: one query, one key at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import (
    AdditiveAttention,
    FixedAttention,
    HardAttention,
    LocalMonotonicAttention,
    LocalPredictiveAttention,
    LocationAttention,
    MultiplicativeAttention,
)

B, T, S, D, D2, DV, W = 2, 3, 7, 5, 11, 4, 6

MODULES = {
    "additive": lambda rngs: AdditiveAttention(D, D2, W, rngs=rngs),
    "general": lambda rngs: MultiplicativeAttention(D, D2, "general", rngs=rngs),
    "dot": lambda rngs: MultiplicativeAttention(D, D, "dot", rngs=rngs),
    "scaled_dot": lambda rngs: MultiplicativeAttention(D, D, "scaled_dot", rngs=rngs),
    "concat": lambda rngs: MultiplicativeAttention(D, D2, "concat", width=W, rngs=rngs),
    "location": lambda rngs: LocationAttention(D, S + 2, rngs=rngs),
    "local_m": lambda rngs: LocalMonotonicAttention(D, D2, window=2, rngs=rngs),
    "local_p": lambda rngs: LocalPredictiveAttention(D, D2, window=2, rngs=rngs),
    "none": lambda rngs: FixedAttention(),
    "hard": lambda rngs: HardAttention(AdditiveAttention(D, D2, W, rngs=rngs)),
}


def draw(name: str) -> nnx.Module:
    """Parameters of order 1, exact in float32, which is what modules hold."""
    module, random = MODULES[name](nnx.Rngs(0)), np.random.default_rng(1)
    parameters = jax.tree.map(
        lambda x: jnp.asarray(0.6 * random.standard_normal(x.shape), jnp.float32),
        nnx.state(module, nnx.Param),
    )
    nnx.update(module, parameters)
    return module


def of(parameter: nnx.Param) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def score(name: str, m, q: np.ndarray, k: np.ndarray, s: int) -> float:
    """One query and one key, at place s."""
    match name:
        case "additive" | "concat":
            return of(m.score_kernel) @ np.tanh(q @ of(m.query_kernel) + k @ of(m.key_kernel))
        case "general":
            return q @ of(m.kernel) @ k
        case "location":
            return q @ of(m.kernel)[:, s]
        case "scaled_dot":
            return q @ k / np.sqrt(len(q))
        case "local_m" | "local_p":
            return score("general", m.content, q, k, s)
        case "hard":
            return score("additive", m.content, q, k, s)
    return q @ k


def row(name: str, m, t: int, q: np.ndarray, keys: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The weights of query t; ``real`` are the places of the keys that it may read."""
    weights = np.zeros(len(keys))
    if name == "none":
        weights[real.max()] = 1
        return weights
    centre = None
    if name == "local_m":
        centre = t
    if name == "local_p":
        hidden = np.tanh(q @ of(m.position_kernel))
        centre = len(real) / (1 + np.exp(-hidden @ of(m.position_vector)))
    for s in real:
        if centre is None or abs(s - centre) <= 2:
            weights[s] = np.exp(score(name, m, q, keys[s], s))
    if name == "hard":
        return 1.0 * (weights == weights.max())
    weights = weights / max(weights.sum(), 1e-300)
    if name == "local_p":  # sigma is half the half-width, and nothing is renormalised
        weights = weights * np.exp(-((np.arange(len(keys)) - centre) ** 2) / 2)
    return weights


@pytest.mark.parametrize("name", MODULES)
def test_agrees_with_loops(name: str) -> None:
    """float64 to 1e-10; the same module in float32 to 1e-5."""
    random = np.random.default_rng(0)
    module = draw(name)
    width = D if name in ("dot", "scaled_dot") else D2
    query, keys, values = (
        random.standard_normal(shape).astype(np.float32).astype(np.float64)
        for shape in ((B, T, D), (B, S, width), (B, S, DV))
    )
    valid = np.arange(S) < np.array([S, S - 3])[:, None]
    wanted = np.array(
        [
            [row(name, module, t, query[b, t], keys[b], np.flatnonzero(valid[b])) for t in range(T)]
            for b in range(B)
        ]
    )
    run = nnx.jit(lambda m, *arrays, mask: m(*arrays, mask=mask, return_weights=True))
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        with jax.enable_x64(dtype == "float64"):
            graph, state = nnx.split(module)
            state = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), state)
            arrays = (jnp.asarray(x, dtype) for x in (query, keys, values))
            mask = jnp.asarray(valid)[:, None, None, :]
            context, weights = run(nnx.merge(graph, state), *arrays, mask=mask)
        np.testing.assert_allclose(weights[:, 0], wanted, atol=tolerance)
        np.testing.assert_allclose(context, wanted @ values, atol=tolerance)

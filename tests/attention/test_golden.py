"""The golden values of METHODS.md, section 15: inputs sin(a n + b), float64."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import (
    AdditiveAttention,
    LocalPredictiveAttention,
    MultiplicativeAttention,
)

pytestmark = pytest.mark.usefixtures("x64")


def fill(shape: tuple[int, ...], a: float, b: float) -> np.ndarray:
    return np.sin(a * np.arange(np.prod(shape)) + b).reshape(shape)


Q, K, V = (fill((2, 6, 4), a, b)[0][None] for a, b in ((0.37, 0.1), (0.53, 0.7), (0.29, 1.3)))
W_Q, W_K, V_A = fill((4, 5), 0.17, 0.4), fill((4, 5), 0.23, 0.9), fill((5,), 0.61, 0.3)
W_G, W_C = fill((4, 4), 0.19, 0.5), fill((5, 8), 0.13, 0.2)
W_P, V_P = fill((5, 4), 0.31, 0.6), fill((5,), 0.47, 0.1)


def param(value: np.ndarray) -> nnx.Param:
    return nnx.Param(jnp.asarray(value, jnp.float64))


def additive() -> AdditiveAttention:
    module = AdditiveAttention(4, 4, 5, rngs=nnx.Rngs(0))
    module.query_kernel, module.key_kernel, module.score_kernel = map(param, (W_Q, W_K, V_A))
    return module


def dot() -> MultiplicativeAttention:
    return MultiplicativeAttention(4, 4, "dot", rngs=nnx.Rngs(0))


def general() -> MultiplicativeAttention:
    module = MultiplicativeAttention(4, 4, "general", rngs=nnx.Rngs(0))
    module.kernel = param(W_G)
    return module


def concat() -> MultiplicativeAttention:
    module = MultiplicativeAttention(4, 4, "concat", width=5, rngs=nnx.Rngs(0))
    halves = W_C[:, :4].T, W_C[:, 4:].T
    module.query_kernel, module.key_kernel, module.score_kernel = map(param, (*halves, V_A))
    return module


def check(got: np.ndarray, first: str, total: float, weighted: float) -> None:
    """The table has six decimals."""
    flat = np.asarray(got).reshape(-1)
    assert flat.size in (24, 36)
    np.testing.assert_allclose(flat[:4], [float(x) for x in first.split()], atol=6e-7)
    np.testing.assert_allclose(flat.sum(), total, atol=6e-7)
    np.testing.assert_allclose(flat @ np.cos(0.11 * np.arange(flat.size)), weighted, atol=6e-7)


def test_additive_scores() -> None:
    module = additive()
    scores = module.scores(jnp.asarray(Q), module.prepare(jnp.asarray(K), jnp.asarray(V)))
    assert scores.shape == (1, 1, 6, 6)
    check(np.asarray(scores), "1.719786 3.248527 -1.759715 1.949799", 18.374242, 11.401304)


@pytest.mark.parametrize(
    ("build", "first", "total", "weighted"),
    [
        (additive, ".094082 .116639 .129454 .131459", 2.949267, 0.659402),
        (dot, ".026748 .067403 .102429 .128900", 1.766588, 0.422888),
        (general, "-.042991 .005398 .053337 .096821", 0.821811, 0.125614),
        (concat, ".096531 .107091 .108709 .101248", 2.355713, 0.533605),
    ],
)
def test_contexts(
    build: Callable[[], nnx.Module], first: str, total: float, weighted: float
) -> None:
    context = build()(jnp.asarray(Q), jnp.asarray(K), jnp.asarray(V))
    assert context.dtype == jnp.float64
    check(np.asarray(context), first, total, weighted)


def test_local_p_weights() -> None:
    module = LocalPredictiveAttention(4, 4, "general", window=2, rngs=nnx.Rngs(0))
    module.content.kernel = param(W_G)
    module.position_kernel, module.position_vector = param(W_P.T), param(V_P)
    _, weights = module(jnp.asarray(Q), jnp.asarray(K), jnp.asarray(V), return_weights=True)
    check(np.asarray(weights), ".198239 .003549 .000815 .128016", 3.709343, -1.075626)

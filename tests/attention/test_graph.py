"""Graph attention: loops over edges, and dense additive attention on a complete graph."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention.graph import GraphAttention

B, S, D, N = 2, 5, 3, 2


def nodes(dtype=jnp.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(B, S, D)), dtype)


def of(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def edge_score(attention: GraphAttention, n: int, one: np.ndarray, other: np.ndarray) -> float:
    """LeakyReLU(a . [x ; y]) of two projected nodes."""
    a = np.concatenate([of(attention.query_kernel)[n], of(attention.key_kernel)[n]])
    score = a @ np.concatenate([one, other])
    return score if score > 0 else 0.2 * score


ADJACENCY = np.eye(S, dtype=bool) | (np.random.default_rng(1).random((B, S, S)) < 0.4)
ADJACENCY[1, 2] = False  # a node without neighbours


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("complete", [False, True])
def test_agrees_with_a_loop_over_edges(complete):
    """The complete graph without a mask is dense attention with additive scores."""
    attention = GraphAttention(D, N, out_dim=4, rngs=nnx.Rngs(0))
    x = nodes()
    mask = None if complete else jnp.asarray(ADJACENCY)[:, None]
    edges = np.ones_like(ADJACENCY) if complete else ADJACENCY
    out, weights = nnx.jit(lambda m, x: m(x, x, mask=mask, return_weights=True))(attention, x)
    h = (np.asarray(x) @ of(attention.node.kernel)).reshape(B, S, N, 2)
    for b, n, i in np.ndindex(B, N, S):
        row = np.zeros(S)
        for j in np.flatnonzero(edges[b, i]):
            row[j] = np.exp(edge_score(attention, n, h[b, i, n], h[b, j, n]))
        row = row / row.sum() if row.any() else row
        np.testing.assert_allclose(weights[b, n, i], row, atol=1e-10)
        np.testing.assert_allclose(out[b, i, 2 * n : 2 * n + 2], row @ h[b, :, n], atol=1e-10)


def test_relabelled_nodes_give_relabelled_results():
    attention = GraphAttention(D, N, out_dim=4, rngs=nnx.Rngs(0))
    x, order = nodes(jnp.float32), np.array([3, 0, 4, 2, 1])
    moved_graph = jnp.asarray(ADJACENCY[:, order][:, :, order])[:, None]
    run = nnx.jit(lambda m, x, mask: m(x, x, mask=mask))
    out = run(attention, x, jnp.asarray(ADJACENCY)[:, None])
    moved = run(attention, x[:, order], moved_graph)
    np.testing.assert_allclose(moved, out[:, order], atol=1e-6)
    # ... and not if the edges stay behind.
    assert np.abs(run(attention, x[:, order], jnp.asarray(ADJACENCY)[:, None]) - moved).max() > 0.01


def test_a_broken_node_reaches_its_neighbours_alone():
    attention = GraphAttention(D, N, out_dim=4, rngs=nnx.Rngs(0))
    x = nodes(jnp.float32)
    mask = jnp.asarray(ADJACENCY)[:, None]
    out = attention(x, x.at[:, 4].set(jnp.nan), mask=mask)
    np.testing.assert_array_equal(np.isnan(out).any(axis=-1), ADJACENCY[:, :, 4])


@pytest.mark.usefixtures("x64")
def test_gradients_against_finite_differences():
    attention = GraphAttention(D, N, out_dim=4, rngs=nnx.Rngs(0))
    x, direction = nodes(), np.random.default_rng(3).normal(size=(B, S, D))
    mask = jnp.asarray(ADJACENCY)[:, None]
    run = jax.jit(lambda x: jnp.sum(jnp.sin(attention(x, x, mask=mask))))
    exact = float(np.sum(jax.grad(run)(x) * direction))
    slope = float((run(x + 1e-6 * direction) - run(x - 1e-6 * direction)) / 2e-6)
    assert slope == pytest.approx(exact, rel=1e-7)


def test_heads_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="out_dim=5 is not divisible by num_heads=2"):
        GraphAttention(D, N, out_dim=5, rngs=nnx.Rngs(0))

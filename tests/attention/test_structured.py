"""The structured self-attentive embedding, and the penalty that keeps its hops apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from attnzoo.attention import StructuredSelfAttention
from attnzoo.attention.structured import hop_overlap

B, S, D, WIDTH, HOPS = 3, 7, 5, 11, 2
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(B, S, D))
LENGTHS = np.array([7, 4, 0])
VALID = np.arange(S)[None, :] < LENGTHS[:, None]


def draw(dtype: str = "float64") -> StructuredSelfAttention:
    graph, state = nnx.split(
        nnx.eval_shape(lambda: StructuredSelfAttention(D, WIDTH, HOPS, rngs=nnx.Rngs(0)))
    )
    random = np.random.default_rng(1)
    return nnx.merge(
        graph, jax.tree.map(lambda a: jnp.asarray(random.normal(size=a.shape), dtype), state)
    )


@jax.jit
def run(module, states, valid):
    return module(states, valid, return_weights=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_oracle(dtype: str, tolerance: float) -> None:
    with jax.enable_x64(dtype == "float64"):
        module = draw(dtype)
        embedding, weights = run(module, jnp.asarray(STATES, dtype), jnp.asarray(VALID))
    w1, w2 = (np.asarray(layer.kernel[...], np.float64) for layer in (module.hidden, module.hop))
    for b, length in enumerate(LENGTHS):
        for hop in range(HOPS):
            row = np.zeros(S)
            scores = np.exp([np.tanh(h @ w1) @ w2[:, hop] for h in STATES[b, :length]])
            row[:length] = scores / scores.sum()
            np.testing.assert_allclose(weights[b, hop, 0], row, rtol=0, atol=tolerance)
            np.testing.assert_allclose(embedding[b, hop], row @ STATES[b], rtol=0, atol=tolerance)


def test_the_order_of_the_tokens_does_not_matter() -> None:
    module, order = draw("float32"), np.random.default_rng(3).permutation(S)
    there = jnp.asarray(STATES, jnp.float32), jnp.asarray(VALID)
    embedding, weights = run(module, *there)
    moved, moved_weights = run(module, *(x[:, order] for x in there))
    np.testing.assert_allclose(moved, embedding, atol=1e-6)
    np.testing.assert_allclose(moved_weights, weights[..., order], atol=1e-6)


def test_gradients_and_padding(x64: None) -> None:
    module, valid = draw(), jnp.asarray(VALID)

    @jax.jit
    def loss(module, states):
        embedding, weights = module(states, valid, return_weights=True)
        return jnp.sum(jnp.sin(embedding)) + jnp.sum(hop_overlap(weights))

    states = jnp.asarray(STATES)
    check_grads(loss, (module, states), order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-6)
    poisoned = jnp.where(valid[:, :, None], states, jnp.nan)
    of_module, of_states = jax.jit(jax.grad(loss, argnums=(0, 1)))(module, poisoned)
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(of_module)):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(np.asarray(leaf) != 0), path
    np.testing.assert_array_equal(np.any(np.asarray(of_states) != 0, axis=2), VALID)


@pytest.mark.parametrize(("hops", "length"), [(2, 3), (3, 7), (5, 2)])
def test_penalty_of_equal_uniform_rows(hops: int, length: int) -> None:
    weights = jnp.full((1, hops, 1, length), 1 / length, jnp.float32)
    wanted = hops * (hops - 1) / length**2 + hops * (1 - 1 / length) ** 2
    np.testing.assert_allclose(hop_overlap(weights), [wanted], rtol=1e-5)


def test_the_penalty_is_zero_for_distinct_single_tokens_alone() -> None:
    rows = {
        "distinct": [[0, 1, 0], [1, 0, 0]],
        "the same": [[0, 1, 0], [0, 1, 0]],  # 1 off the diagonal, twice
        "spread": [[0.5, 0.5, 0], [0, 0, 1]],  # 1/2 for 1 on the diagonal
    }
    weights = jnp.asarray(list(rows.values()), jnp.float32)[:, :, None]
    np.testing.assert_array_equal(hop_overlap(weights), [0.0, 2.0, 0.25])


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="hops=0"):
        StructuredSelfAttention(D, WIDTH, 0, rngs=nnx.Rngs(0))

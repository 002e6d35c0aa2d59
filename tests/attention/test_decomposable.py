"""Decomposable attention: loops in float64, order of words, padding, the bias of distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from attnzoo.attention import DecomposableAttention
from attnzoo.attention.decomposable import IntraSentenceAttention

B, T, S, D, WIDTH, V = 3, 5, 7, 2, 4, 3
RNG = np.random.default_rng(0)
PREMISE, HYPOTHESIS = RNG.normal(size=(B, T, D)), RNG.normal(size=(B, S, D))
LENGTHS = {"premise": np.array([5, 2, 3]), "hypothesis": np.array([4, 7, 1])}
VALID = [
    np.arange(size)[None, :] < LENGTHS[name][:, None]
    for name, size in (("premise", T), ("hypothesis", S))
]
BOTH = pytest.mark.parametrize("distance", [None, 2])


def draw(distance: int | None, dtype: str = "float64") -> DecomposableAttention:
    """Every parameter drawn; biases positive, so that no ReLU is dead."""

    def make() -> DecomposableAttention:
        return DecomposableAttention(D, WIDTH, V, max_distance=distance, rngs=nnx.Rngs(0))

    graph, state = nnx.split(nnx.eval_shape(make))
    random = np.random.default_rng(1)

    def number(path, leaf):
        values = random.normal(size=leaf.shape) / WIDTH**0.5
        linear_bias = leaf.ndim == 1 and "bias" in jax.tree_util.keystr(path)
        return jnp.asarray(np.abs(values) + 0.2 if linear_bias else values, dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(number, state))


@jax.jit
def run(module, premise, hypothesis, premise_valid, hypothesis_valid):
    return module(premise, hypothesis, premise_valid, hypothesis_valid, return_weights=True)


def mlp(module, x: np.ndarray) -> np.ndarray:
    for layer in (module.first, module.second):
        x = np.maximum(x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    return x


def softmax(x) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def oracle(module: DecomposableAttention, a: np.ndarray, b: np.ndarray, maps: dict) -> np.ndarray:
    """One pair of sentences without padding; the weights go into ``maps``."""
    sides = []
    for name, x in (("premise", a), ("hypothesis", b)):
        if module.intra is not None:
            hidden, table = mlp(module.intra.transform, x), np.asarray(module.intra.bias[...])
            rows = np.zeros((len(x), len(x)))
            for i in range(len(x)):
                far = [table[i - j + 2] if abs(i - j) <= 2 else table[5] for j in range(len(x))]
                rows[i] = softmax(hidden @ hidden[i] + far)
            maps[f"{name}/intra"] = rows
            x = np.hstack([x, rows @ x])
        sides.append(x)
    a, b = sides
    scores = mlp(module.attend, a) @ mlp(module.attend, b).T
    maps["premise"] = np.stack([softmax(row) for row in scores])
    maps["hypothesis"] = np.stack([softmax(column) for column in scores.T])
    v1 = sum(mlp(module.compare, np.r_[x, maps["premise"][i] @ b]) for i, x in enumerate(a))
    v2 = sum(mlp(module.compare, np.r_[x, maps["hypothesis"][j] @ a]) for j, x in enumerate(b))
    hidden = mlp(module.aggregate, np.r_[v1, v2])
    return hidden @ np.asarray(module.output.kernel[...]) + np.asarray(module.output.bias[...])


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_oracle(distance: int | None, dtype: str, tolerance: float) -> None:
    with jax.enable_x64(dtype == "float64"):
        module = draw(distance, dtype)
        pair = [jnp.asarray(x, dtype) for x in (PREMISE, HYPOTHESIS)]
        logits, maps = run(module, *pair, *(jnp.asarray(x) for x in VALID))
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.state(module))
    exact = nnx.merge(nnx.graphdef(module), exact)
    for b in range(B):
        sizes = {name: lengths[b] for name, lengths in LENGTHS.items()}
        rows: dict[str, np.ndarray] = {}
        wanted = oracle(
            exact, PREMISE[b, : sizes["premise"]], HYPOTHESIS[b, : sizes["hypothesis"]], rows
        )
        np.testing.assert_allclose(logits[b], wanted, rtol=tolerance, atol=tolerance)
        assert set(maps) == set(rows)
        for name, row in rows.items():
            found = np.asarray(maps[name])[b, 0]
            np.testing.assert_allclose(
                found[: row.shape[0], : row.shape[1]], row, rtol=0, atol=tolerance
            )
            assert np.all(found[:, row.shape[1] :] == 0)


@BOTH
def test_word_order_enters_through_the_distances_alone(distance: int | None) -> None:
    module = draw(distance, "float32")
    pair = [jnp.asarray(x, jnp.float32) for x in (PREMISE, HYPOTHESIS)]
    everything = [jnp.ones(x.shape[:2], bool) for x in pair]
    logits, _ = run(module, *pair, *everything)
    moved = [x[:, np.random.default_rng(3).permutation(x.shape[1])] for x in pair]
    again, _ = run(module, *moved, *everything)
    assert np.allclose(again, logits, rtol=1e-4) == (distance is None)
    # The sentences are not exchangeable with each other: H sees them side by side.
    swapped, _ = run(module, *pair[::-1], *everything[::-1])
    assert not np.allclose(swapped, logits, rtol=1e-2)


@BOTH
def test_gradients_and_padding(distance: int | None, x64: None) -> None:
    module, valid = draw(distance), [jnp.asarray(x) for x in VALID]

    @jax.jit
    def loss(module, premise, hypothesis):
        return jnp.sum(jnp.sin(module(premise, hypothesis, *valid)))

    pair = [jnp.asarray(x) for x in (PREMISE, HYPOTHESIS)]
    check_grads(loss, (module, *pair), order=1, modes=["rev"], eps=1e-6, atol=1e-5, rtol=1e-5)
    poisoned = [jnp.where(v[:, :, None], x, jnp.nan) for x, v in zip(pair, valid, strict=True)]
    of_module, *of_pair = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(module, *poisoned)
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(of_module)):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(np.asarray(leaf) != 0), path
    for gradient, where in zip(of_pair, VALID, strict=True):
        np.testing.assert_array_equal(np.any(np.asarray(gradient) != 0, axis=2), where)


def test_dropout_only_with_rngs() -> None:
    module = DecomposableAttention(D, WIDTH, V, dropout=0.5, rngs=nnx.Rngs(0))
    pair = [jnp.asarray(x, jnp.float32) for x in (PREMISE, HYPOTHESIS)]
    still = module(*pair)
    np.testing.assert_array_equal(module(*pair), still)
    assert np.any(np.asarray(module(*pair, rngs=nnx.Rngs(dropout=1))) != still)


def test_far_words_share_one_bias() -> None:
    module = nnx.eval_shape(lambda: IntraSentenceAttention(D, WIDTH, 1, rngs=nnx.Rngs(0)))
    module.bias = nnx.Param(jnp.asarray([10.0, 20.0, 30.0, 7.0], jnp.float32))  # -1, 0, 1, far
    wanted = [[20, 10, 7, 7], [30, 20, 10, 7], [7, 30, 20, 10], [7, 7, 30, 20]]
    np.testing.assert_array_equal(module.distance_bias(4), wanted)
    with pytest.raises(ValueError, match="max_distance=-1"):
        IntraSentenceAttention(D, WIDTH, -1, rngs=nnx.Rngs(0))

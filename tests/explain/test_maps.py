"""Rollout, flow, relevance and distance: golden values, and small cases by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.explain import (
    attention_distance,
    attention_flow,
    attention_gradcam,
    encoder_decoder_relevance,
    fuse,
    gradient_rollout,
    relevance,
    rollout,
    with_residual,
)
from attnzoo.explain.flow import max_flow
from attnzoo.explain.rollout import discard_smallest


def filled(shape: tuple[int, ...], a: float, b: float) -> np.ndarray:
    return np.sin(a * np.arange(np.prod(shape)) + b).reshape(shape)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


A1 = jnp.asarray(softmax(2 * filled((2, 3, 3), 0.8, 0.2)), jnp.float32)[None]
A2 = jnp.asarray(softmax(2 * filled((2, 3, 3), 0.6, 1.1)), jnp.float32)[None]
MIXED = [np.asarray(with_residual(fuse(a))[0]) for a in (A1, A2)]


def test_rollout_is_the_golden_one() -> None:
    golden = [
        [0.455337, 0.257324, 0.287339],
        [0.426308, 0.442524, 0.131168],
        [0.166486, 0.179847, 0.653667],
    ]
    R = rollout([A1, A2])
    np.testing.assert_allclose(R[0], golden, atol=2e-6)
    np.testing.assert_allclose(R.sum(-1), np.ones((1, 3)), rtol=1e-6)
    np.testing.assert_allclose(rollout([A2, A1])[0, 0], [0.481555, 0.265894, 0.252551], atol=2e-6)


def test_rollout_by_hand() -> None:
    eye = jnp.eye(3)[None, None]
    np.testing.assert_allclose(rollout([eye, eye])[0], np.eye(3))
    # Everyone looks at token 0, in both layers: half stays, half goes there.
    first = jnp.zeros((1, 1, 3, 3)).at[..., 0].set(1.0)
    want = [[1, 0, 0], [0.75, 0.25, 0], [0.75, 0, 0.25]]
    np.testing.assert_allclose(rollout([first, first])[0], want)
    np.testing.assert_allclose(rollout([eye, first], start=1)[0], rollout([first])[0])
    with pytest.raises(ValueError, match="start=2, but there are 2 layers"):
        rollout([first, first], start=2)


def test_heads_are_fused_and_the_smallest_discarded() -> None:
    heads = jnp.asarray([[[[0.2, 0.8], [0.6, 0.4]], [[0.5, 0.5], [0.1, 0.9]]]])
    np.testing.assert_allclose(fuse(heads, "max")[0], [[0.5, 0.8], [0.6, 0.9]])
    np.testing.assert_allclose(fuse(heads, "min")[0], [[0.2, 0.5], [0.1, 0.4]])
    np.testing.assert_allclose(fuse(heads)[0], [[0.35, 0.65], [0.35, 0.65]])
    fused = jnp.asarray([[[0.1, 0.9], [0.7, 0.3]]])
    # Of the two smallest, 0.1 and 0.3, the first stands in the class token's column.
    np.testing.assert_allclose(discard_smallest(fused, 0.5, 1)[0], [[0.1, 0.9], [0.7, 0.0]])
    np.testing.assert_allclose(discard_smallest(fused, 0.5)[0], [[0, 0.9], [0.7, 0]])
    # Behind padding, which has the smallest weights of all, the same.
    padded = jnp.full((1, 3, 3), 0.01).at[:, :2, :2].set(fused)
    real = jnp.asarray([[True, True, False]])
    found = discard_smallest(padded, 0.5, real=real)[0, :2, :2]
    np.testing.assert_allclose(found, [[0, 0.9], [0.7, 0]])
    with pytest.raises(ValueError, match="there are mean, max, min"):
        fuse(heads, "median")


def test_gradient_rollout_counts_what_speaks_for_the_class() -> None:
    weights = jnp.full((1, 2, 2, 2), 0.5)
    # Head 0: 0.5 x 2 = 1 for the token 1 in row 0; head 1 speaks against it: 0. Mean 0.5.
    gradients = jnp.zeros((1, 2, 2, 2)).at[0, :, 0, 1].set(jnp.asarray([2.0, -2.0]))
    want = [[1 / 1.5, 0.5 / 1.5], [0, 1]]
    np.testing.assert_allclose(gradient_rollout([weights], [gradients])[0], want, rtol=1e-6)
    np.testing.assert_allclose(gradient_rollout([weights], [-0 * gradients])[0], np.eye(2))


def test_flow_is_the_golden_one() -> None:
    golden = [
        [0.827090, 0.495017, 0.427838],
        [0.707074, 0.842007, 0.270073],
        [0.316253, 0.390606, 0.938676],
    ]
    np.testing.assert_allclose(attention_flow(MIXED), golden, atol=2e-6)
    first = attention_flow(MIXED, rows=[0], normalise=True)
    np.testing.assert_allclose(first, [[0.472638, 0.282876, 0.244487]], atol=2e-6)


def test_flow_by_hand() -> None:
    # Two ways from 0 to 3: by 1, min(3, 2), and by 2, min(1, 5); and 2 -> 1 -> 3 has no room left.
    capacity = np.zeros((4, 4))
    for a, b, c in ((0, 1, 3), (0, 2, 1), (1, 3, 2), (2, 3, 5), (1, 2, 0.5)):
        capacity[a, b] = c
    assert max_flow(capacity, 0, 3) == 2 + 1 + 0.5
    assert max_flow(capacity, 3, 0) == 0
    # An edge that must be taken back: 0-1-2-3 is no way of the best two.
    diamond = np.zeros((4, 4))
    for a, b in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3)):
        diamond[a, b] = 1
    assert max_flow(diamond, 0, 3) == 2
    with pytest.raises(ValueError, match="flow takes 2000"):
        attention_flow([np.eye(101)] * 20)


def test_relevance_by_hand() -> None:
    weights = jnp.asarray([[[[0.5, 0.5], [0.2, 0.8]]]])
    gradients = jnp.asarray([[[[2.0, -1.0], [5.0, 0.0]]]])  # (A dA)^+ = [[1, 0], [1, 0]]
    np.testing.assert_allclose(relevance([weights], [gradients])[0], [[2, 0], [1, 1]])
    # R = R + A R: row 0 is [2, 0] + [2, 0], row 1 [1, 1] + [2, 0].
    twice = relevance([weights, weights], [gradients, gradients])
    np.testing.assert_allclose(twice[0], [[4, 0], [3, 1]])
    np.testing.assert_allclose(relevance([weights], [jnp.zeros_like(weights)])[0], np.eye(2))
    np.testing.assert_allclose(relevance([weights], [3 * gradients])[0], [[4, 0], [3, 1]])


def test_relevance_through_a_decoder_by_hand() -> None:
    one = jnp.ones((1, 1, 2, 2))
    encoder = jnp.asarray([[[[0.0, 1.0], [0.0, 0.0]]]])  # R_ss = [[1, 1], [0, 1]]
    nothing = jnp.zeros((1, 1, 1, 1))
    cross = jnp.asarray([[[[0.25, 0.5]]]])
    twos = 2 * one[:, :, :1]
    R = encoder_decoder_relevance(([encoder], [one]), ([nothing], [nothing]), ([cross], [twos]))
    np.testing.assert_allclose(R.target[0], [[1]])
    # A R^_ss with R^_ss = [[1, 1], [0, 1]]: [0.5, 1] -> [0.5, 1.5].
    np.testing.assert_allclose(R.source[0], [[0.5, 1.5]])
    # A second layer whose target reads itself: R_ts doubles, and R^_tt = [[2]] times as much comes.
    own = jnp.ones((1, 1, 1, 1))
    R = encoder_decoder_relevance(
        ([encoder], [one]), ([nothing, own], [nothing, own]), ([cross] * 2, [twos] * 2)
    )
    np.testing.assert_allclose(R.source[0], [[1 + 1, 3 + 3]])
    np.testing.assert_allclose(R.target[0], [[2]])


def test_distance_of_uniform_attention_is_the_golden_one() -> None:
    weights = jnp.full((1, 1, 196, 196), 1 / 196)
    distance = attention_distance(weights, (14, 14), pixels=16)
    np.testing.assert_allclose(distance, [[116.4922]], rtol=1e-6)


def test_distance_by_hand() -> None:
    # A class token, then patches in one row. Patch 0 looks at patch 2 and, as much, at the class
    # token, which does not count; patch 1 at itself; patch 2 at the class token alone.
    weights = np.zeros((4, 4), np.float32)
    weights[0, 1], weights[1, 3], weights[1, 0], weights[2, 2], weights[3, 0] = 1, 0.5, 0.5, 1, 1
    distance = attention_distance(jnp.asarray(weights)[None, None], (1, 3), prefix=1, pixels=5)
    np.testing.assert_allclose(distance, [[(10 + 0) / 2]])
    with pytest.raises(ValueError, match="make 5 tokens, the weights have 4"):
        attention_distance(jnp.asarray(weights)[None, None], (2, 2), prefix=1)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_only_columns_before_the_patches_are_spared(prefix: int) -> None:
    rng = np.random.default_rng(3)
    weights = jnp.asarray(softmax(rng.normal(size=(31, 2, 7, 7))), jnp.float32)
    ones = jnp.ones_like(weights)
    for rolled in (
        rollout([weights], discard=0.9, prefix=prefix),
        gradient_rollout([weights], [ones], discard=0.9, prefix=prefix),
    ):
        off_diagonal = np.asarray(rolled) * (1 - np.eye(7))
        kept = (off_diagonal > 0).mean(axis=(0, 1))
        assert (kept[:prefix] > 0.8).all()
        assert (kept[prefix:] < 0.25).all()


def test_gradcam_on_weights_by_hand() -> None:
    # A class token, two patches, padding. Heads' means over the patches: 2 and -1.
    weights = jnp.asarray([[[[0.2, 0.4, 0.4, 0.0]], [[0.1, 0.2, 0.7, 0.0]]]])
    gradients = jnp.asarray([[[[9.0, 1.0, 3.0, 7.0]], [[8.0, -1.0, -1.0, 5.0]]]])
    real = jnp.asarray([[True, True, True, False]])
    want = [[0, (2 * 0.4 - 0.2) / 2, (2 * 0.4 - 0.7) / 2, 0]]
    got = attention_gradcam(weights, gradients, real=real)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    # Without a class token all columns count: means 13/3 and 2.
    want = [[(13 / 3 * 0.2 + 2 * 0.1) / 2, (13 / 3 * 0.4 + 0.4) / 2, (13 / 3 * 0.4 + 1.4) / 2, 0]]
    got = attention_gradcam(weights, gradients, skip=0, real=real)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_all_of_it_jits() -> None:
    def everything(a: jax.Array, b: jax.Array):
        return rollout([a, b], discard=0.3), gradient_rollout([a, b], [b, a]), relevance([a], [b])

    for got, want in zip(jax.jit(everything)(A1, A2), everything(A1, A2)):
        np.testing.assert_allclose(got, want, rtol=1e-5)

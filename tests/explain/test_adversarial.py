"""Adversarial attention on answers whose worst case is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.explain.adversarial import (
    adversarial,
    adversary_curve,
    answer_of,
    divergence,
    seed_divergence,
    train_adversary,
    uniform_change,
)
from tests.explain.test_capture import IMAGES, NAMES, vit

KEY = jax.random.key(0)
# Two examples of five units; the second has two of padding.
WEIGHTS = jnp.asarray([[0.98, 0.005, 0.005, 0.005, 0.005], [0.2, 0.7, 0.1, 0.0, 0.0]])


def constant(weights: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray([[0.3, 0.7]]), (weights.shape[0], 2))


def js(p: list[float], q: list[float]) -> float:
    """Entropy of the middle less the mean entropy."""

    def entropy(x: np.ndarray) -> float:
        return -float(np.sum(x[x > 0] * np.log(x[x > 0])))

    a, b = np.asarray(p), np.asarray(q)
    return entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2


def test_an_answer_that_ignores_attention_allows_the_farthest_weights() -> None:
    found = jax.jit(lambda w: adversarial(constant, w, KEY))(WEIGHTS)
    # All on one of the smallest units is as far as it goes: nearly ln 2 in the first example.
    want = [js([0.98, *[0.005] * 4], [0, 1, 0, 0, 0]), js([0.2, 0.7, 0.1], [0, 0, 1])]
    # 500 steps of 0.01 move a logit by 5 at most: a few hundredths of the weight stay elsewhere.
    np.testing.assert_allclose(found.divergence, want, rtol=0.03)
    assert found.divergence[0] > 0.97 * np.log(2)
    np.testing.assert_allclose(found.change, [0, 0])
    np.testing.assert_allclose(found.weights.sum(axis=1), [1, 1], rtol=1e-5)
    assert (found.weights[1, 3:] == 0).all()


def test_an_answer_that_is_the_attention_allows_none() -> None:
    found = jax.jit(lambda w: adversarial(lambda w: w, w, KEY, epsilon=0.05))(WEIGHTS)
    # Jensen-Shannon's divergence is at most ln 2 times the total variation (Lin 1991).
    assert (found.change <= 0.05).all()
    assert (found.divergence <= 0.05 * np.log(2)).all()
    np.testing.assert_allclose(
        found.divergence, divergence(found.weights, WEIGHTS), rtol=1e-4, atol=1e-6
    )
    # Something was found: the bound is not kept by standing still.
    assert (found.divergence > 0).all()


def test_half_of_the_attention_may_move() -> None:
    # Units 0 and 1 answer together: weight may move between them, and nowhere else.
    def answer(weights: jax.Array) -> jax.Array:
        return jnp.stack([weights[:, 0] + weights[:, 1], weights[:, 2]], axis=1)

    weights = jnp.asarray([[0.79, 0.01, 0.2]])
    found = jax.jit(lambda w: adversarial(answer, w, KEY, epsilon=0.001))(weights)
    want = js([0.79, 0.01, 0.2], [0, 0.8, 0.2])
    assert 0.95 * want < found.divergence[0] < 1.02 * want


def test_uniform_weights_by_hand() -> None:
    np.testing.assert_allclose(uniform_change(constant, WEIGHTS), [0, 0])
    # 0.98 -> 0.2 and four times 0.005 -> 0.2; of three real units 0.7 -> 1/3 is what falls.
    want = [0.78, 0.7 - 1 / 3]
    np.testing.assert_allclose(uniform_change(lambda w: w, WEIGHTS), want, rtol=1e-5)


def test_seeds_by_hand() -> None:
    a, b = jnp.asarray([[[1.0, 0.0], [0.5, 0.5]]]), jnp.asarray([[[0.0, 1.0], [0.5, 0.5]]])
    # One of two rows is ln 2 apart, in two of three pairs.
    np.testing.assert_allclose(seed_divergence([a, b, a]), [np.log(2) / 2 * 2 / 3], rtol=1e-5)
    with pytest.raises(ValueError, match="maps of 1 models"):
        seed_divergence([a])


def test_the_answer_by_a_models_own_weights_is_its_answer() -> None:
    want = jax.nn.softmax(vit()(IMAGES), axis=-1)
    for model in (vit(), vit("scan=true")):
        weights, answer = answer_of(model, NAMES[1], IMAGES)
        assert weights.shape == (2, 2, 5, 5)
        np.testing.assert_allclose(answer(weights), want, rtol=1e-4)
        row, by_row = answer_of(model, NAMES[1], IMAGES, row=0)
        np.testing.assert_allclose(row, weights[:, :, 0])
        even = jnp.full_like(weights, 0.2)
        moved = weights.at[:, :, 0].set(0.2)
        np.testing.assert_allclose(by_row(even[:, :, 0]), answer(moved), rtol=1e-4)
        assert jnp.abs(answer(even) - want).max() > 1e-4
    # Behind the last layer only the class token is read.
    weights, answer = answer_of(vit(), NAMES[2], IMAGES)
    others = weights.at[:, :, 1:].set(0.2)
    np.testing.assert_allclose(answer(others), want, rtol=1e-4)
    with pytest.raises(ValueError, match="encoder/3/self"):
        answer_of(vit(), "encoder/3/self", IMAGES)
    with pytest.raises(NotImplementedError, match="LinearAttention"):
        answer_of(vit("attention.kind=linear"), NAMES[0], IMAGES)


def test_an_adversary_trades_its_answer_for_distance() -> None:
    batches = [IMAGES] * 40
    still, eager = adversary_curve(vit(), batches, IMAGES, NAMES[2], (0.0, 1.0), rate=0.01, row=0)
    # Without a reason to move nothing moves far: Adam makes steps of the rounding of a zero loss.
    assert still.divergence < 0.01
    assert still.change < 0.05
    assert eager.divergence > 0.1
    # Values that are all alike: attention says nothing, and the answer needs not change.
    deaf = vit()
    value = deaf.encoder.blocks[2].attention.mechanism.value
    kept = value.kernel[...]
    value.kernel[...] = jnp.zeros_like(kept)
    try:
        weights, answer = answer_of(deaf, NAMES[2], IMAGES)
        np.testing.assert_allclose(uniform_change(answer, weights), [0, 0], atol=1e-6)
    finally:
        value.kernel[...] = kept
    other = train_adversary(vit(), batches[:1], NAMES[2], 1.0)
    assert other is not vit()
    np.testing.assert_allclose(value.kernel[...], kept)

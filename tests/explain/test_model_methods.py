"""Explanations that need the model: where gradients must vanish, what sums to what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.explain import (
    averaged,
    by_patch,
    cdam,
    chosen,
    gradcam,
    gradient_times_input,
    integrated_cdam,
    integrated_gradients,
    scaled,
    smooth_cdam,
    smooth_grad,
)
from attnzoo.explain.attention_modules import before_attention
from tests.explain.test_capture import IMAGES, vit

CLASSES = jnp.asarray([2, 0])


def test_the_last_attention_reads_the_normed_states() -> None:
    model = vit()
    x, tail = before_attention(model, None, IMAGES)
    states = model.embed(IMAGES)
    for block in model.encoder.blocks[:2]:
        states, _ = block(states)
    last = model.encoder.blocks[2]
    np.testing.assert_allclose(x, last.attention_norm(states), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tail(x), model(IMAGES), rtol=1e-4, atol=1e-6)
    # Only the attention reads the new X: with 0 for it the residual branch is as before.
    after = states + last.attention(jnp.zeros_like(x))
    after = after + last.feed_forward(last.feed_forward_norm(after))
    want = model.classify(model.norm(after))
    np.testing.assert_allclose(tail(jnp.zeros_like(x)), want, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"encoder/9/self.*encoder/0/self"):
        before_attention(model, "encoder/9/self", IMAGES)


def test_cdam_is_the_gradient_times_the_tokens() -> None:
    model = vit()
    x, tail = before_attention(model, None, IMAGES)
    scores = cdam(model, CLASSES, IMAGES)
    # d/da f(X with token t scaled by 1 + a), by differences.
    for t in (0, 3):
        step = jnp.zeros((1, 5, 1)).at[0, t].set(0.02)
        more, less = (chosen(tail(x * (1 + s)), CLASSES) for s in (step, -step))
        np.testing.assert_allclose(scores[:, t], (more - less) / 0.04, rtol=2e-2, atol=1e-3)
    none = smooth_cdam(model, CLASSES, IMAGES, key=jax.random.key(0), num_samples=2, spread=0.0)
    np.testing.assert_allclose(none, scores, rtol=1e-4, atol=1e-6)
    # The mean of CDAM at 0 (which is 0) and at X.
    half = integrated_cdam(model, CLASSES, IMAGES, steps=1)
    np.testing.assert_allclose(half, scores / 2, rtol=1e-4, atol=1e-6)
    # A scanned model with rematerialisation has the same parameters, one behind another.
    other = cdam(vit("scan=true", "remat=full"), CLASSES, IMAGES)
    np.testing.assert_allclose(other, scores, rtol=1e-3, atol=1e-5)


def test_cdam_knows_the_class() -> None:
    a, b = (cdam(vit(), c, IMAGES) for c in (0, 1))
    assert (jnp.abs(a - b) > 1e-4).any()


def test_gradcam_by_its_definition_and_its_error() -> None:
    model = vit()
    x, tail = before_attention(model, None, IMAGES)
    gradient = jax.grad(lambda x: chosen(tail(x), CLASSES).sum())(x)
    w = np.asarray(gradient)[:, 1:].mean(axis=1)
    want = np.maximum((np.asarray(x)[:, 1:] * w[:, None]).sum(-1), 0)
    got = gradcam(model, CLASSES, IMAGES, skip=1)
    np.testing.assert_allclose(got[:, 1:], want, rtol=1e-4, atol=1e-6)
    assert (got[:, 0] == 0).all()
    with pytest.raises(ValueError, match="exactly 0 at every token"):
        gradcam(model, lambda logits: 0 * logits[:, 0], IMAGES)


def test_gradients_of_a_quadratic_by_hand() -> None:
    x = jnp.asarray([[1.0, 2.0], [3.0, 0.0]])

    def f(x: jax.Array) -> jax.Array:
        return x[:, 0] ** 2 + x[:, 0] * x[:, 1]

    np.testing.assert_allclose(gradient_times_input(f, x), [[4, 2], [18, 0]])
    # Along the line from 0 the gradient grows linearly: half of it; the sum is f.
    np.testing.assert_allclose(integrated_gradients(f, x, steps=3), [[2, 1], [9, 0]], rtol=1e-5)
    base = jnp.asarray([[1.0, 0.0], [0.0, 0.0]])
    total = integrated_gradients(f, x, baseline=base).sum(axis=1)
    np.testing.assert_allclose(total, f(x) - f(base), rtol=1e-5)
    # The gradient is linear: noise averages out.
    smooth = smooth_grad(f, x, key=jax.random.key(0), num_samples=4000, spread=0.1)
    np.testing.assert_allclose(smooth, [[4, 1], [6, 3]], atol=0.05)


def test_pixels_are_summed_by_patch() -> None:
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert by_patch(image, 2).tolist() == [[0 + 1 + 4 + 5, 2 + 3 + 6 + 7, 42, 50]]
    with pytest.raises(ValueError, match="patch=3"):
        by_patch(image, 3)


def test_cdam_is_the_slope_of_a_tokens_curve() -> None:
    model, tokens = vit(), jnp.asarray([3, 1])
    curve = scaled(model, CLASSES, IMAGES, tokens=tokens, factors=(0.98, 1.0, 1.02))
    logits = jnp.take_along_axis(model(IMAGES), CLASSES[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(curve[:, 1], logits, rtol=1e-4)
    slope = (curve[:, 2] - curve[:, 0]) / 0.04
    scores = cdam(model, CLASSES, IMAGES)[jnp.arange(2), tokens]
    np.testing.assert_allclose(slope, scores, rtol=2e-2, atol=1e-3)


def test_tokens_that_are_the_batchs_mean() -> None:
    model = vit()
    alike = jnp.repeat(IMAGES[:1], 2, axis=0)
    np.testing.assert_allclose(averaged(model, alike), model(alike), rtol=1e-4)
    # All but the class token's input of the last attention are the same for both.
    x, tail = before_attention(model, None, IMAGES)
    want = tail(jnp.stack([x[0].at[1:].set(x[:, 1:].mean(0)), x[1].at[1:].set(x[:, 1:].mean(0))]))
    np.testing.assert_allclose(averaged(model, IMAGES, skip=1), want, rtol=1e-4)
    assert jnp.abs(averaged(model, IMAGES) - model(IMAGES)).max() > 1e-3

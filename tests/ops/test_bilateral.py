"""The bilateral filter against loops over pixels, and attention with the same scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.ops import bilateral_filter, dot_product_attention

IMAGE = np.random.default_rng(0).random((2, 5, 7, 3))


def oracle(image: np.ndarray, space: float, values: float, radius: int) -> np.ndarray:
    """One pixel and one neighbour at a time, in float64."""
    B, h, w, _ = image.shape
    out = np.zeros_like(image)
    for b, i, j in np.ndindex(B, h, w):
        total = 0.0
        for y in range(max(0, i - radius), min(h, i + radius + 1)):
            for x in range(max(0, j - radius), min(w, j + radius + 1)):
                far = ((i - y) ** 2 + (j - x) ** 2) / (2 * space**2)
                far += np.sum((image[b, i, j] - image[b, y, x]) ** 2) / (2 * values**2)
                out[b, i, j] += np.exp(-far) * image[b, y, x]
                total += np.exp(-far)
        out[b, i, j] /= total
    return out


@pytest.mark.parametrize(("space", "values", "radius"), [(1.3, 0.3, 3), (2.0, np.inf, 1)])
def test_it_is_what_loops_compute(x64: None, space: float, values: float, radius: int) -> None:
    found = bilateral_filter(
        jnp.asarray(IMAGE), sigma_space=space, sigma_range=values, radius=radius
    )
    np.testing.assert_allclose(found, oracle(IMAGE, space, values, radius), rtol=1e-12)


def test_it_is_attention_whose_scores_are_distances(x64: None) -> None:
    """Softmax of q . k - |k|^2 / 2 is the same, for |q|^2 does not depend on the key."""
    places = np.stack(np.indices((5, 7)), -1).reshape(1, 35, 2) / 1.3
    pixels = IMAGE.reshape(2, 35, 3)
    features = np.concatenate([np.repeat(places, 2, 0), pixels / 0.3], -1)
    one = np.ones((2, 35, 1))
    query = jnp.asarray(np.concatenate([features, one], -1)[:, :, None])
    norm = -np.sum(features**2, -1, keepdims=True) / 2
    keys = jnp.asarray(np.concatenate([features, norm], -1)[:, :, None])
    read = dot_product_attention(query, keys, jnp.asarray(pixels)[:, :, None], scale=1.0)
    found = bilateral_filter(jnp.asarray(IMAGE), sigma_space=1.3, sigma_range=0.3, radius=7)
    np.testing.assert_allclose(found.reshape(2, 35, 3), read[:, :, 0], rtol=1e-10)


def test_by_hand_half_precision_and_gradients() -> None:
    """Two pixels, 0 and 1: the neighbour has weight exp(-1/2 - 1/2) beside 1."""
    image = jnp.asarray([0.0, 1.0]).reshape(1, 1, 2, 1)
    found = bilateral_filter(image, sigma_space=1.0, sigma_range=1.0)
    share = np.exp(-1) / (1 + np.exp(-1))
    np.testing.assert_allclose(found.ravel(), [share, 1 - share], rtol=1e-6)
    half = bilateral_filter(image.astype(jnp.bfloat16), sigma_space=1.0, sigma_range=1.0)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), found, rtol=1e-2)
    slope = jax.grad(lambda x: bilateral_filter(x, sigma_space=1.0, sigma_range=1.0)[0, 0, 0, 0])
    # d/dx of x e / (1 + e) at x = 1 with e = exp(-1/2 - x^2/2), which falls by x e.
    wanted = share - share * (1 - share)
    np.testing.assert_allclose(slope(image)[0, 0, 1, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma_space": 0.0, "sigma_range": 1.0}, "sigma_space=0.0; wanted a positive"),
        ({"sigma_space": 1.0, "sigma_range": -1.0}, "sigma_range=-1.0; wanted a positive"),
        ({"sigma_space": 1.0, "sigma_range": 1.0, "radius": -1}, "radius=-1; wanted at least 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bilateral_filter(jnp.zeros((1, 2, 2, 1)), **settings)  # ty: ignore[invalid-argument-type]

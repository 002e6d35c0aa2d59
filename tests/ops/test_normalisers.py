"""Sparsemax and entmax against bisection in float64, by hand, and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.ops.normalisers import entmax15, smoothing, sparsemax

# name: the function, its weights as a function of the threshold tau
CASES = {
    "sparsemax": (sparsemax, lambda z, tau: np.maximum(z - tau, 0)),
    "entmax15": (entmax15, lambda z, tau: np.maximum(z / 2 - tau, 0) ** 2),
}


def by_bisection(weights_at, z: np.ndarray) -> np.ndarray:
    """The weights whose sum is 1, by halving the interval that holds the threshold."""
    low, high = z.min() - 2.0, z.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if weights_at(z, middle).sum() > 1 else (low, middle)
    return weights_at(z, (low + high) / 2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_bisection(name):
    function, weights_at = CASES[name]
    rng = np.random.default_rng(0)
    z = np.stack([rng.normal(size=7) * scale for scale in (0.0, 0.1, 1.0, 5.0, 1e4)])
    found = np.asarray(function(jnp.asarray(z)))
    np.testing.assert_allclose(found, [by_bisection(weights_at, row) for row in z], atol=1e-10)
    assert (found[3:] == 0).any()
    narrow = function(jnp.asarray(z, jnp.float32))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow[:4], found[:4], atol=1e-5)


def test_values_by_hand():
    # tau = (1 + 0.5 - 1) / 2 = 0.25; the third entry lies below it.
    found = sparsemax(jnp.asarray([[1.0, 0.5, -1.0]]))
    np.testing.assert_allclose(found, [[0.75, 0.25, 0.0]], atol=1e-6)
    # z / 2 = (0.7, 0.1, -2): tau = 0.4 - sqrt((1 - 2 0.3^2) / 2) = 0.4 - sqrt(0.41)
    tau = 0.4 - np.sqrt(0.41)
    found = entmax15(jnp.asarray([[1.4, 0.2, -4.0]]))
    np.testing.assert_allclose(found, [[(0.7 - tau) ** 2, (0.1 - tau) ** 2, 0.0]], atol=1e-6)


def test_smoothing_by_hand():
    """The sigmoids of (-1, 0, 2) over their sum; a masked key has no weight."""
    found = smoothing(jnp.asarray([[-1.0, 0.0, 2.0, 9.0]]), jnp.arange(4) < 3)
    np.testing.assert_allclose(found, [[0.163021, 0.303078, 0.533901, 0.0]], atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_derivatives_against_finite_differences(name):
    function = CASES[name][0]
    rng = np.random.default_rng(1)
    z, direction, cotangent = rng.normal(size=(3, 4, 6))
    mask = jnp.asarray(rng.random((4, 6)) < 0.8).at[0].set(False).at[1].set(True)
    run = jax.jit(lambda z: function(z, mask))
    slope = (run(z + 1e-6 * direction) - run(z - 1e-6 * direction)) / 2e-6
    _, tangent = jax.jvp(run, (jnp.asarray(z),), (jnp.asarray(direction),))
    np.testing.assert_allclose(tangent, slope, atol=1e-8)
    _, pullback = jax.vjp(run, jnp.asarray(z))
    (gradient,) = pullback(jnp.asarray(cotangent))
    np.testing.assert_allclose(np.sum(gradient * direction), np.sum(slope * cotangent), atol=1e-8)
    np.testing.assert_array_equal(gradient[~mask], 0)


@pytest.mark.parametrize("name", CASES)
def test_masked_entries_and_empty_rows(name):
    function = CASES[name][0]
    z = jnp.asarray([[0.1, jnp.nan, 0.3, jnp.inf], [1.0, 2.0, 3.0, 4.0]])
    mask = jnp.asarray([[True, False, True, False], [False] * 4])
    weights, gradient = jax.value_and_grad(lambda z: jnp.sum(function(z, mask)[:, 0]))(z)
    found = function(z, mask)
    np.testing.assert_allclose(found[0, [0, 2]], function(z[:1, [0, 2]])[0], atol=1e-6)
    np.testing.assert_array_equal(found[0, [1, 3]], 0)
    np.testing.assert_array_equal(found[1], 0)
    assert np.isfinite(weights)
    np.testing.assert_array_equal(gradient[~mask], 0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", CASES)
def test_any_axis_and_half_precision(name):
    function = CASES[name][0]
    z = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5)), jnp.bfloat16)
    assert function(z).dtype == jnp.float32
    np.testing.assert_array_equal(function(z.T, None, 0).T, function(z))

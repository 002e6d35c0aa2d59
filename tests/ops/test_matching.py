"""Matchings have the least cost, as SciPy finds it; overlaps of boxes equal a float64 formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from attnzoo.ops.boxes import generalised_iou, iou, to_centres, to_corners
from attnzoo.ops.matching import match, match_on_host

CASES = 1000
M, Q = 7, 11
MATCH = jax.jit(match)


def costs(kind: str) -> np.ndarray:
    random = np.random.default_rng(5)
    if kind == "ties":
        return random.integers(0, 4, (CASES, M, Q)).astype(np.float32)
    if kind == "alike":
        return np.ones((CASES, M, Q), np.float32)
    return random.normal(0, 10.0 if kind == "wide" else 1.0, (CASES, M, Q)).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "wide", "ties", "alike"])
@pytest.mark.parametrize("matching", [MATCH, jax.jit(match_on_host)])
def test_the_cost_is_the_least_in_a_thousand_cases(kind: str, matching: object) -> None:
    cost = costs(kind)
    counted = np.random.default_rng(6).random((CASES, M)) < 0.7
    counted[:20] = False
    counted[20:40] = True
    found = np.asarray(matching(jnp.asarray(cost), jnp.asarray(counted)))
    np.testing.assert_array_equal(found >= 0, counted)
    for own, rows, columns in zip(cost, counted, found, strict=True):
        chosen = columns[rows]
        assert len(set(chosen)) == rows.sum()
        least = own[rows][linear_sum_assignment(own[rows])].astype(np.float64).sum()
        ours = own[rows, chosen].astype(np.float64).sum()
        # Sums of float32 within the search: rounding of the largest term, for each step of a path.
        assert ours - least <= M * Q * np.spacing(np.abs(own).max())


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 29), (23, 29)])
def test_shapes(shape: tuple[int, int]) -> None:
    cost = np.random.default_rng(7).integers(0, 50, (3, *shape)).astype(np.float32)
    found = np.asarray(match(jnp.asarray(cost), jnp.ones((3, shape[0]), bool)))
    for own, columns in zip(cost, found, strict=True):
        assert own[np.arange(shape[0]), columns].sum() == own[linear_sum_assignment(own)].sum()


def test_what_is_not_finite_is_avoided_and_ends() -> None:
    cost = jnp.asarray([[jnp.nan, 1.0, jnp.inf], [jnp.nan, 2.0, 5.0]])
    np.testing.assert_array_equal(MATCH(cost, jnp.ones(2, bool)), [1, 2])
    found = MATCH(jnp.full((2, 3), jnp.nan), jnp.ones(2, bool))
    assert sorted(set(np.asarray(found).tolist())) == sorted(np.asarray(found).tolist())


def test_more_rows_than_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows and 2 columns"):
        match(jnp.zeros((3, 2)), jnp.ones(3, bool))


def in_float64(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """IoU and GIoU by sides along each axis, another way than that of the code."""
    common, around, areas = 1.0, 1.0, [1.0, 1.0]
    for axis in (0, 1):
        (a, b), (c, d) = one[[axis, axis + 2]], other[[axis, axis + 2]]
        common *= max(b - a + d - c - (max(b, d) - min(a, c)), 0.0)
        around *= max(b, d) - min(a, c)
        areas[0], areas[1] = areas[0] * (b - a), areas[1] * (d - c)
    union = sum(areas) - common
    return common / union, common / union - (around - union) / around


def test_overlaps_equal_the_formula() -> None:
    random = np.random.default_rng(8)
    first = random.uniform(0, 1, (500, 2, 2)).astype(np.float32)
    size = random.uniform(0.01, 0.6, (500, 2, 2)).astype(np.float32)
    one, other = np.moveaxis(np.concatenate([first, first + size], axis=2), 1, 0)
    wanted = np.asarray([in_float64(*pair) for pair in zip(one.astype(float), other.astype(float))])
    assert (wanted[:, 0] == 0).sum() > 50
    np.testing.assert_allclose(iou(jnp.asarray(one), jnp.asarray(other)), wanted[:, 0], atol=2e-6)
    np.testing.assert_allclose(
        generalised_iou(jnp.asarray(one), jnp.asarray(other)), wanted[:, 1], atol=2e-6
    )
    centres = to_centres(jnp.asarray(one))
    np.testing.assert_allclose(centres[0, :2], (one[0, :2] + one[0, 2:]) / 2, rtol=1e-6)
    np.testing.assert_allclose(to_corners(centres), one, atol=1e-6)


def test_overlaps_by_hand() -> None:
    pairs = jnp.asarray(
        [[[0, 0, 2, 2], [1, 1, 3, 3]], [[0, 0, 1, 1], [2, 2, 3, 3]], [[0, 0, 0, 0], [0, 0, 0, 0]]],
        jnp.float32,
    )
    found = generalised_iou(pairs[:, 0], pairs[:, 1])
    np.testing.assert_allclose(found, [1 / 7 - 2 / 9, -7 / 9, 0.0], rtol=1e-6)
    gradient = jax.grad(lambda boxes: generalised_iou(boxes, pairs[:, 1]).sum())(pairs[:, 0])
    assert np.isfinite(gradient).all()

"""Dynamic time warping and times of tokens, against all paths and by hand."""

import itertools

import numpy as np
import pytest

from attnzoo.alignment.monotonic import median_filter, time_warping_path, token_starts


def paths(T: int, S: int) -> list[list[tuple[int, int]]]:
    """Every path from corner to corner."""
    if T == S == 1:
        return [[(0, 0)]]
    before = [(T - 1, S - 1), (T - 1, S), (T, S - 1)]
    return [[*path, (T - 1, S - 1)] for t, s in before if t > 0 and s > 0 for path in paths(t, s)]


@pytest.mark.parametrize(("T", "S"), list(itertools.product((1, 2, 3, 5), repeat=2)))
def test_the_path_is_the_cheapest_of_all(T: int, S: int) -> None:
    cost = np.random.default_rng(T * 7 + S).normal(size=(T, S))
    rows, columns = time_warping_path(cost)
    found = list(zip(rows.tolist(), columns.tolist(), strict=True))
    every = paths(T, S)
    assert found in every
    assert sum(cost[place] for place in found) == pytest.approx(
        min(sum(cost[place] for place in path) for path in every), abs=1e-5
    )


def test_equal_costs_go_along_a_row_last() -> None:
    """As in Whisper's code: all the zeros of a row before the next row, from the end backwards."""
    rows, columns = time_warping_path(np.zeros((2, 3)))
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 1, 1], [0, 0, 1, 2])


def test_median_of_neighbours_mirrored_at_the_ends() -> None:
    values = np.asarray([[4.0, 1.0, 9.0, 2.0, 7.0]])
    np.testing.assert_array_equal(median_filter(values, 3), [[1, 4, 2, 7, 2]])
    np.testing.assert_array_equal(median_filter(values, 1), values)
    np.testing.assert_array_equal(median_filter(values, 11), values)  # too short


def test_starts_are_those_that_the_weights_were_made_with() -> None:
    random, starts = np.random.default_rng(0), [0, 6, 11, 19]
    segment = np.searchsorted(starts, np.arange(30), side="right") - 1
    weights = random.uniform(0, 0.3, (3, 4, 30)).astype(np.float32)
    weights[:, segment, np.arange(30)] += 1
    weights[1] = 0.5  # a head that says nothing, without deviation
    np.testing.assert_allclose(token_starts(weights, 3), starts, atol=1)
    assert token_starts(weights[:, :1], 7).tolist() == [0]


@pytest.mark.parametrize(("shape", "width"), [((0, 2, 3), 3), ((1, 0, 3), 3), ((1, 2, 3), 4)])
def test_what_cannot_be_aligned_is_refused(shape: tuple[int, int, int], width: int) -> None:
    with pytest.raises(ValueError, match="wanted 1 or more of each, and an odd width"):
        token_starts(np.zeros(shape, np.float32), width)

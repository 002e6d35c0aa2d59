"""Error rates by hand, against a recursive edit distance, and the times of words."""

import functools

import numpy as np
import pytest

from attnzoo.alignment.monotonic import segment_starts
from attnzoo.tasks.word_error import ErrorCount, edit_pairs, errors, total


def test_errors_by_hand():
    """One word is replaced, one is left out, one is added: 3 errors in 6 words."""
    found = errors("one two three four five six".split(), "one too three five six ten".split())
    assert found == ErrorCount(substitutions=1, deletions=1, insertions=1, said=6)
    assert found.rate == 0.5
    assert errors("abc", "") == ErrorCount(deletions=3, said=3)
    assert errors("", "ab") == ErrorCount(insertions=2)
    assert np.isnan(errors("", "ab").rate)
    assert total([found, errors("ab", "ab")]) == ErrorCount(1, 1, 1, 8)


def test_fewest_errors():
    """The number of errors is that of the recursive definition; pairs are in order and complete."""
    draw = np.random.default_rng(0)

    @functools.cache
    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(
            distance(a[:-1], b) + 1,
            distance(a, b[:-1]) + 1,
            distance(a[:-1], b[:-1]) + (a[-1] != b[-1]),
        )

    for _ in range(200):
        a, b = ("".join(draw.choice(list("abc"), draw.integers(0, 8))) for _ in range(2))
        found = errors(a, b)
        assert sum(found[:3]) == distance(a, b)
        pairs = edit_pairs(a, b)
        assert [i for i, _ in pairs if i is not None] == list(range(len(a)))
        assert [j for _, j in pairs if j is not None] == list(range(len(b)))


def test_segments_are_the_best_ones():
    """The division is the best of all, found by trying each."""
    draw = np.random.default_rng(1)
    for _ in range(50):
        weights = draw.dirichlet(np.full(7, 0.3), size=3)
        logs = np.log(weights + 0.01)

        def gain(first: int, second: int, logs=logs) -> float:
            return logs[0, :first].sum() + logs[1, first:second].sum() + logs[2, second:].sum()

        best = max((gain(i, j), [0, i, j]) for i in range(1, 7) for j in range(i + 1, 7))
        starts = segment_starts(weights, 0.01)
        assert gain(starts[1], starts[2]) == pytest.approx(best[0])
    assert segment_starts(np.eye(4)).tolist() == [0, 1, 2, 3]
    assert segment_starts(np.ones((1, 5))).tolist() == [0]
    with pytest.raises(ValueError, match="3 rows and 2 positions"):
        segment_starts(np.ones((3, 2)))

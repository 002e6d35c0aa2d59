"""Word and character error rates of transcripts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ErrorCount(NamedTuple):
    """Errors of transcripts, and the number of words or characters that were said."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    said: int = 0

    @property
    def rate(self) -> float:
        """Errors per word or character that was said; it may be above 1. NaN if none was."""
        errors = self.substitutions + self.deletions + self.insertions
        return errors / self.said if self.said else float("nan")


def edit_pairs(
    reference: Sequence[str], hypothesis: Sequence[str]
) -> list[tuple[int | None, int | None]]:
    """Align two sequences with the fewest substitutions, deletions and insertions (Levenshtein).

    Return pairs of an index in the reference and one in the hypothesis: equal elements and
    substitutions; (i, None) is a deletion, (None, j) an insertion. Of several alignments it is one
    that substitutes where it can.
    """
    number = {one: i for i, one in enumerate({*reference, *hypothesis})}
    left = np.asarray([number[one] for one in reference], np.int64)
    right = np.asarray([number[one] for one in hypothesis], np.int64)
    R, H = len(left), len(right)
    places = np.arange(H + 1)
    cost = np.empty((R + 1, H + 1), np.int64)
    cost[0] = places
    for i in range(R):
        # Without insertions, then with them: min over k <= j of row[k] + (j - k).
        row = cost[i] + 1
        row[1:] = np.minimum(row[1:], cost[i, :-1] + (left[i] != right))
        cost[i + 1] = np.minimum.accumulate(row - places) + places
    pairs: list[tuple[int | None, int | None]] = []
    i, j = R, H
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (left[i - 1] != right[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def errors(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorCount:
    """Count the errors of one transcript: a list of words, or a text by its characters."""
    pairs = edit_pairs(reference, hypothesis)
    both = [(i, j) for i, j in pairs if i is not None and j is not None]
    return ErrorCount(
        substitutions=sum(reference[i] != hypothesis[j] for i, j in both),
        deletions=sum(j is None for _, j in pairs),
        insertions=sum(i is None for i, _ in pairs),
        said=len(reference),
    )


def total(counts: Sequence[ErrorCount]) -> ErrorCount:
    """Return the sum of the counts of many transcripts."""
    return (
        ErrorCount(*(sum(column) for column in zip(*counts, strict=True)))
        if counts
        else (ErrorCount())
    )

"""Times of words from attention: a division of the source into one segment for each word."""

import numpy as np
from jaxtyping import Float, Int64

FLOOR = 1e-3


def segment_starts(
    weights: Float[np.ndarray, "T S"], floor: float = FLOOR
) -> Int64[np.ndarray, " T"]:
    """Divide S source positions into T segments in order, one for each row of weights.

    Return the first position of each segment; the first is 0. The segments maximise the sum of
    log(weight + floor) of each position in the row of its segment, by dynamic programming (Viterbi)
    over monotone paths. Each has a position at least; ValueError for more rows than positions.
    """
    T, S = weights.shape
    if not 0 < T <= S:
        raise ValueError(
            f"{T} rows and {S} positions; wanted 1 row or more, no more than positions"
        )
    gain = np.log(np.asarray(weights, np.float64) + floor)
    best = np.full(T, -np.inf)
    best[0] = gain[0, 0]
    moved = np.zeros((S, T), bool)
    for s in range(1, S):
        before = np.concatenate([[-np.inf], best[:-1]])
        moved[s] = before > best
        best = np.maximum(before, best) + gain[:, s]
    starts = np.zeros(T, np.int64)
    row = T - 1
    for s in range(S - 1, 0, -1):
        if moved[s, row]:
            starts[row] = s
            row -= 1
    return starts

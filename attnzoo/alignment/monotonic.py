"""Times of words from attention: segments of the source in order, or dynamic time warping."""

import numpy as np
from jaxtyping import Float, Float64, Int64

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


def token_starts(weights: Float[np.ndarray, "N T S"], width: int = 7) -> Int64[np.ndarray, " T"]:
    """Return the source position at which each row begins, by dynamic time warping over heads.

    The method of Whisper's word times (the ``timing`` module of its code): each position of each
    head is normalised over the rows to mean 0 and deviation 1, a median filter of ``width``
    positions smooths each row, and the mean over the heads is what the path gains. The first row
    begins at 0; a row may begin where the one before does. A position that all rows weigh alike has
    no deviation, and gains nothing.

    ValueError: no row, no position, or an even ``width``.
    """
    N, T, S = weights.shape
    if 0 in (N, T, S) or width < 1 or width % 2 == 0:
        raise ValueError(
            f"{N} heads, {T} rows, {S} positions, width={width}; wanted 1 or more of each, and an "
            "odd width"
        )
    weights = np.asarray(weights, np.float32)
    spread = weights - weights.mean(axis=1, keepdims=True)
    deviation = weights.std(axis=1, keepdims=True)
    normal = np.divide(spread, deviation, out=np.zeros_like(spread), where=deviation > 0)
    gain = median_filter(normal, width).mean(axis=0)
    rows, columns = time_warping_path(-gain.astype(np.float64))
    return columns[np.flatnonzero(np.diff(rows, prepend=-1))]


def median_filter(values: Float[np.ndarray, "*batch S"], width: int) -> Float[np.ndarray, "..."]:
    """Return the median of ``width`` neighbours (odd) along the last axis, mirrored at its ends.

    An axis of ``width // 2`` positions or fewer, too short to be mirrored, is returned as it is.
    """
    half = width // 2
    if values.shape[-1] <= half:
        return values
    around = [(0, 0)] * (values.ndim - 1) + [(half, half)]
    padded = np.pad(values, around, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1)
    return np.sort(windows, axis=-1)[..., half]


def time_warping_path(
    cost: Float64[np.ndarray, "T S"],
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Return rows and columns of the cheapest path from corner to corner: dynamic time warping.

    A step goes to the next row, the next column, or both (Sakoe and Chiba 1978, without slope
    constraint). Sums are float32, and of equal ones a step along a row comes first, as in Whisper's
    code, so that ties are broken alike.
    """
    T, S = cost.shape
    # total[i, j]: cheapest sum over the first i rows and j columns; a diagonal i + j at a time.
    total = np.full((T + 1, S + 1), np.inf, np.float32)
    total[0, 0] = 0.0
    step = np.zeros((T + 1, S + 1), np.int8)
    for diagonal in range(2, T + S + 1):
        i = np.arange(max(1, diagonal - S), min(T, diagonal - 1) + 1)
        j = diagonal - i
        both, down, along = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        kind = np.where(
            (both < down) & (both < along), 0, np.where(down < np.minimum(both, along), 1, 2)
        )
        before = np.choose(kind, (both, down, along))
        total[i, j] = cost[i - 1, j - 1] + before
        step[i, j] = kind
    step[0, :], step[:, 0] = 2, 1
    i, j, path = T, S, []
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        kind = step[i, j]
        i, j = i - (kind != 2), j - (kind != 1)
    rows, columns = np.asarray(path[::-1], np.int64).T
    return rows, columns

"""Random numbers that are a pure function of their arguments in every version of numpy."""

from __future__ import annotations

from math import prod

import numpy as np
from jaxtyping import Float64, Int64, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permutation(size: int, *key: int, stream: int) -> Int64[np.ndarray, " size"]:
    """Return a random permutation of `0 .. size - 1`."""
    return np.argsort(bits((size,), *key, stream=stream), kind="stable")


def uniform(shape: tuple[int, ...], *key: int, stream: int) -> Float64[np.ndarray, "*shape"]:
    """Return uniform numbers in [0, 1) with 53 random bits each."""
    return (bits(shape, *key, stream=stream) >> np.uint64(11)) * 2.0**-53


def integers(
    high: int, shape: tuple[int, ...], *key: int, stream: int
) -> Int64[np.ndarray, "*shape"]:
    """Return uniform integers in `0 .. high - 1`; `high` at most 2**53."""
    return (uniform(shape, *key, stream=stream) * high).astype(np.int64)


def bits(shape: tuple[int, ...], *key: int, stream: int) -> UInt64[np.ndarray, "*shape"]:
    """Return 64 random bits per element; `stream` separates different uses of one key."""
    state = np.zeros(1, np.uint64)
    for part in (*key, stream):
        state = _mix(state + np.uint64(part % 2**64) + _GOLDEN)
    counter = np.arange(1, prod(shape) + 1, dtype=np.uint64)
    return _mix(state + _GOLDEN * counter).reshape(shape)


def _mix(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Apply SplitMix64's output function (Steele, Lea and Flood 2014); overflow is intended."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

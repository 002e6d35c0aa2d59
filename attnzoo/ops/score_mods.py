"""Score modifiers as functions of indices: ``score_mod(score, b, n, q, k)`` returns the new score.

They run on scaled logits, before the mask; compose with ``first.then(second)``; draw themselves;
and are pytrees, so that jit sees captured tables and gradients flow to them.

A plain function ``lambda score, b, n, q, k: ...`` is as good wherever one is wanted.
"""

import dataclasses
import html
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnzoo.ops.index_functions import (
    Index,
    along,
    dense,
    describe,
    index_function,
    index_grid,
    is_traced,
    setting,
    wants_length,
    wants_size,
)

Buckets = Callable[[Int[Array, "..."]], Int[Array, "..."]]
ScoreFunction = Callable[[Any, Any, Any, Any, Any], Any]
Score = Float[Array, "..."]


class ScoreMod:
    """The interface: callable on a score and its indices, composable, drawable."""

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        """The new score of query ``q`` and key ``k`` in head ``n`` of batch row ``b``."""
        raise NotImplementedError

    def check(self, B: int, N: int, T: int, S: int) -> None:
        """Raise ValueError if a captured array does not fit ``B N T S`` (jax would clamp)."""

    def then(self, following: ScoreFunction) -> "ScoreMod":
        """First this, then ``following``."""
        return Then(self, following)

    def to_dense(self, B: int, N: int, T: int, S: int) -> Float[Array, "B N T S"]:
        """What becomes of scores that are all 0: the bias, for a modifier that adds one."""
        self.check(B, N, T, S)
        shape = (B, N, T, S)
        score = self(jnp.zeros(shape), *index_grid(*shape))
        return jnp.broadcast_to(dense(score, shape), shape)

    def draw(self, T: int = 6, S: int | None = None, b: int = 0, n: int = 0) -> str:
        """What becomes of zero scores, for one batch row and head, as numbers; a row is a query."""
        zeros = jnp.zeros((1, 1, T, T if S is None else S))
        _, _, q, k = index_grid(1, 1, T, zeros.shape[3])
        here = [jnp.full((1, 1, 1, 1), index, jnp.int32) for index in (b, n)]
        scores = np.asarray(jnp.broadcast_to(self(zeros, *here, q, k), zeros.shape))[0, 0]
        return "\n".join(" ".join(f"{score:6.2f}" for score in row) for row in scores)

    def __repr__(self) -> str:
        return describe(self)

    def __str__(self) -> str:
        return repr(self) if is_traced(self) else f"{self!r}\n{self.draw()}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@index_function
class Then(ScoreMod):
    """Function composition: ``second(first(score))``."""

    first: Any
    second: Any

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        return self.second(self.first(score, b, n, q, k), b, n, q, k)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        for part in (self.first, self.second):
            if isinstance(part, ScoreMod):
                part.check(B, N, T, S)


@index_function
class ALiBi(ScoreMod):
    """See :func:`alibi`."""

    slopes: Float[Array, " N"]

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        return score - self.slopes[n].astype(score.dtype) * abs(q - k).astype(score.dtype)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        wants_length("alibi: slopes", self.slopes.shape[0], N, "N")


@index_function
class RelativeBias(ScoreMod):
    """See :func:`relative_bias`."""

    table: Float[Array, "N R"]
    buckets: Buckets = setting()

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        row = along(n, self.table.shape[0])
        return score + self.table[row, self.buckets(k - q)].astype(score.dtype)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        wants_size("relative_bias: table", self.table.shape[0], N, "head")


@index_function
class SoftCap(ScoreMod):
    """See :func:`softcap`."""

    cap: float = setting()

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        return self.cap * jnp.tanh(score / self.cap)

    def draw(self, T: int = 6, S: int | None = None, b: int = 0, n: int = 0) -> str:
        """Scores and what becomes of them: the indices do not matter."""
        scores = np.linspace(-2, 2, 9) * self.cap
        lines = (scores, self.cap * np.tanh(scores / self.cap))
        return "\n".join(" ".join(f"{score:7.2f}" for score in line) for line in lines)


@index_function
class Temperature(ScoreMod):
    """See :func:`temperature`."""

    temperatures: Float[Array, " N"]

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        row = along(n, self.temperatures.shape[0])
        return score / self.temperatures[row].astype(score.dtype)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        wants_size("temperature: temperatures", self.temperatures.shape[0], N, "head")


@index_function
class Distance(ScoreMod):
    """See :func:`distance`."""

    function: Callable[[Any], Any] = setting()

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        return score + self.function((k - q).astype(score.dtype))


@index_function
class DenseBias(ScoreMod):
    """See :func:`dense_bias`."""

    array: Float[Array, "B N T S"]

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        B, N, _, _ = self.array.shape
        return score + self.array[along(b, B), along(n, N), q, k].astype(score.dtype)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        wants_size("dense_bias: bias", self.array.shape[0], B, "batch")
        wants_size("dense_bias: bias", self.array.shape[1], N, "head")
        wants_length("dense_bias: bias", self.array.shape[2], T, "T")
        wants_length("dense_bias: bias", self.array.shape[3], S, "S")


def alibi(slopes: Float[Array, " N"] | int) -> ScoreMod:
    """-slope_n |q - k|, of slopes or of a number of heads (Press et al. 2022, arXiv 2108.12409).

    Under a causal mask this is the paper's -slope_n (q - k); without one it is symmetric.
    """
    return ALiBi(alibi_slopes(slopes) if isinstance(slopes, int) else slopes)


def alibi_slopes(num_heads: int) -> Float[Array, " N"]:
    """2^(-8 (n + 1) / N) for a power of two, else every second slope of twice that many follows."""
    if num_heads < 1:
        raise ValueError(f"alibi_slopes: num_heads={num_heads}; wanted at least 1")
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (n + 1) / power) for n in range(power)]
    slopes += [2 ** (-4 * (2 * n + 1) / power) for n in range(num_heads - power)]
    return jnp.asarray(slopes)


def relative_bias(table: Float[Array, "N R"], buckets: Buckets) -> ScoreMod:
    """Add ``table[n, buckets(k - q)]``; a table with one row serves all heads."""
    return RelativeBias(table, buckets)


def t5_bias(
    table: Float[Array, "N R"], *, bidirectional: bool, max_distance: int = 128
) -> ScoreMod:
    """T5's relative bias (arXiv 1910.10683); ``table`` has a column per bucket, 32 in the paper."""
    return RelativeBias(table, T5Buckets(bidirectional, table.shape[1], max_distance))


def clipped_bias(table: Float[Array, "N R"]) -> ScoreMod:
    """A bias per distance, of -r ... r for 2 r + 1 columns, clipped (Shaw et al. 2018, §3.2)."""
    if table.shape[1] % 2 == 0:
        raise ValueError(
            f"clipped_bias: table has {table.shape[1]} columns; wanted 2 r + 1 of them"
        )
    return RelativeBias(table, ClippedBuckets(table.shape[1] // 2))


def softcap(cap: float) -> ScoreMod:
    """Cap scores softly: c tanh(score / c) (Gemma 2, arXiv 2408.00118)."""
    if not cap > 0:
        raise ValueError(f"softcap: cap={cap}; wanted a positive number")
    return SoftCap(cap)


def temperature(temperatures: float | Float[Array, " N"]) -> ScoreMod:
    """Divide scores by a temperature, one for all heads or one for each."""
    return Temperature(jnp.atleast_1d(jnp.asarray(temperatures)))


def distance(function: Callable[[Any], Any]) -> ScoreMod:
    """Add a function of k - q, which comes as floating point: ``distance(lambda d: -d**2 / 8)``."""
    return Distance(function)


def dense_bias(bias: Float[Array, "B N T S"]) -> ScoreMod:
    """Add an array; its first two axes may have size 1."""
    if bias.ndim != 4:
        raise ValueError(f"dense_bias: bias has shape {bias.shape}; wanted four axes B N T S")
    return DenseBias(bias)


@dataclasses.dataclass(frozen=True)
class ClippedBuckets:
    """Bucket of a relative position k - q clipped to -radius ... radius."""

    radius: int

    def __call__(self, relative: Int[Array, "..."]) -> Int[Array, "..."]:
        return jnp.clip(relative, -self.radius, self.radius) + self.radius


@dataclasses.dataclass(frozen=True)
class T5Buckets:
    """T5's bucket of a relative position k - q: see :func:`t5_bucket`."""

    bidirectional: bool
    num_buckets: int = 32
    max_distance: int = 128

    def __call__(self, relative: Int[Array, "..."]) -> Int[Array, "..."]:
        return t5_bucket(relative, self.bidirectional, self.num_buckets, self.max_distance)


def t5_bucket(
    relative: Int[Array, "*shape"],
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> Int[Array, "*shape"]:
    """Exact near buckets, then logarithmically wider ones up to ``max_distance`` (METHODS §5.4).

    ``relative`` is key minus query. Causal: the future shares bucket 0 with the query itself;
    bidirectional: the second half of the buckets is the future.
    """
    count = num_buckets // 2 if bidirectional else num_buckets
    exact = count // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(
            f"t5_bucket: num_buckets={num_buckets} and max_distance={max_distance} leave no "
            f"room: {exact} exact buckets must be at least 1 and less than max_distance"
        )
    past = -relative
    behind = jnp.zeros_like(relative)
    if bidirectional:
        behind = count * (past < 0).astype(relative.dtype)
        past = abs(past)
    past = jnp.maximum(past, 0)
    bucket = jnp.minimum(past, exact)
    # floor(ln(n / exact) / ln(max / exact) * wide) counts thresholds. In integers there is no
    # rounding on the boundaries, and comparisons lower in any kernel.
    for threshold in _thresholds(exact, count - exact, max_distance):
        bucket = bucket + (past >= threshold).astype(relative.dtype)
    return behind + bucket


def _thresholds(exact: int, wide: int, max_distance: int) -> list[int]:
    """For j = 1 .. wide - 1 the smallest n with (n / exact)^wide >= (max_distance / exact)^j."""
    thresholds, n = [], exact
    for j in range(1, wide):
        while n**wide * exact**j < max_distance**j * exact**wide:
            n += 1
        thresholds.append(n)
    return thresholds

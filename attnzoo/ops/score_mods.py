"""Score modifiers as functions of indices: ``score_mod(score, b, n, q, k)`` returns the new score.

They change scaled logits before the mask. ``first.then(second)`` composes them, and ``print`` draws
them. They are pytrees: jit traces captured tables, and gradients flow to them.

A plain function ``lambda score, b, n, q, k: ...`` is accepted wherever a score modifier is.
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
    as_four_axes,
    broadcast_index,
    check_length,
    check_size,
    describe,
    index_function,
    index_grid,
    is_traced,
    setting,
)
from attnzoo.ops.softmax import compute_dtype

Buckets = Callable[[Int[Array, "..."]], Int[Array, "..."]]
ScoreFunction = Callable[[Any, Any, Any, Any, Any], Any]
Score = Float[Array, "..."]


class ScoreMod:
    """Interface of score modifiers: callable on a score and its indices, composable, drawable."""

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        """Return the new score of query ``q`` and key ``k`` in head ``n`` of batch row ``b``."""
        raise NotImplementedError

    def check(self, B: int, N: int, T: int, S: int) -> None:
        """Raise ValueError if a captured array does not fit ``B N T S`` (jax would clamp)."""

    def then(self, following: ScoreFunction) -> "ScoreMod":
        """Return a modifier that applies this one first, then ``following``."""
        return Then(self, following)

    def to_dense(self, B: int, N: int, T: int, S: int) -> Float[Array, "B N T S"]:
        """Return the modified scores for scores of 0: the bias, for a modifier that adds one."""
        self.check(B, N, T, S)
        shape = (B, N, T, S)
        score = self(jnp.zeros(shape), *index_grid(*shape))
        return jnp.broadcast_to(as_four_axes(score, shape), shape)

    def draw(self, T: int = 6, S: int | None = None, b: int = 0, n: int = 0) -> str:
        """Draw the modified zero scores of one batch row and head as numbers; a row is a query."""
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
    """Linear bias by distance (ALiBi); see :func:`alibi`."""

    slopes: Float[Array, " N"]

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        return score - self.slopes[n].astype(score.dtype) * abs(q - k).astype(score.dtype)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_length("alibi: slopes", self.slopes.shape[0], N, "N")


@index_function
class RelativeBias(ScoreMod):
    """Bias by bucket of the relative position; see :func:`relative_bias`."""

    table: Float[Array, "N R"]
    buckets: Buckets = setting()

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        row = broadcast_index(n, self.table.shape[0])
        return score + self.table[row, self.buckets(k - q)].astype(score.dtype)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("relative_bias: table", self.table.shape[0], N, "head")


@index_function
class SoftCap(ScoreMod):
    """Soft cap of the scores by tanh; see :func:`softcap`."""

    cap: float = setting()

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        return self.cap * jnp.tanh(score / self.cap)

    def draw(self, T: int = 6, S: int | None = None, b: int = 0, n: int = 0) -> str:
        """Draw a line of scores above their capped values; indices do not matter."""
        scores = np.linspace(-2, 2, 9) * self.cap
        lines = (scores, self.cap * np.tanh(scores / self.cap))
        return "\n".join(" ".join(f"{score:7.2f}" for score in line) for line in lines)


@index_function
class Temperature(ScoreMod):
    """Division of the scores by a temperature; see :func:`temperature`."""

    temperatures: Float[Array, " N"]

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        row = broadcast_index(n, self.temperatures.shape[0])
        return score / self.temperatures[row].astype(score.dtype)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("temperature: temperatures", self.temperatures.shape[0], N, "head")


@index_function
class Distance(ScoreMod):
    """Bias given as a function of k - q; see :func:`distance`."""

    function: Callable[[Any], Any] = setting()

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        return score + self.function((k - q).astype(score.dtype))


@index_function
class DenseBias(ScoreMod):
    """Bias given as an array; see :func:`dense_bias`."""

    array: Float[Array, "B N T S"]

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        B, N, _, _ = self.array.shape
        return score + self.array[broadcast_index(b, B), broadcast_index(n, N), q, k].astype(
            score.dtype
        )

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("dense_bias: bias", self.array.shape[0], B, "batch")
        check_size("dense_bias: bias", self.array.shape[1], N, "head")
        check_length("dense_bias: bias", self.array.shape[2], T, "T")
        check_length("dense_bias: bias", self.array.shape[3], S, "S")


@index_function
class Forget(ScoreMod):
    """Bias by forget gates, the difference of two cumulative sums; see :func:`forget`."""

    sums: Float[Array, "B N S"]

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        row = broadcast_index(b, self.sums.shape[0])
        bias = self.sums[row, n, q] - self.sums[row, n, k]
        return score + bias.astype(score.dtype)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("forget: log_gates", self.sums.shape[0], B, "batch")
        check_length("forget: log_gates", self.sums.shape[1], N, "N")
        check_length("forget: log_gates", self.sums.shape[2], S, "S")


def alibi(slopes: Float[Array, " N"] | int) -> ScoreMod:
    """Return ALiBi, which adds -slope_n |q - k| (Press et al. 2022, arXiv 2108.12409).

    ``slopes`` are given, or a number of heads for the paper's slopes. Under a causal mask this is
    the paper's -slope_n (q - k); without a causal mask it is symmetric.
    """
    return ALiBi(alibi_slopes(slopes) if isinstance(slopes, int) else slopes)


def alibi_slopes(num_heads: int) -> Float[Array, " N"]:
    """Return ALiBi's slopes of all heads: 2^(-8 (n + 1) / N) if N is a power of two.

    For another N, with P the largest power of two below N, the slopes of P heads come first, then
    every second slope of 2 P heads.
    """
    if num_heads < 1:
        raise ValueError(f"alibi_slopes: num_heads={num_heads}; wanted at least 1")
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (n + 1) / power) for n in range(power)]
    slopes += [2 ** (-4 * (2 * n + 1) / power) for n in range(num_heads - power)]
    return jnp.asarray(slopes)


def forget(log_gates: Float[Array, "B S N"]) -> ScoreMod:
    """Return a modifier that adds the log forget gates of positions k + 1 to q (FoX).

    Lin et al. 2025 (arXiv 2503.02130), equation 6. It goes with a causal mask: a later key would be
    favoured. The sums are float32 or wider.
    """
    gates = jnp.moveaxis(log_gates, 1, 2)
    return Forget(jnp.cumsum(gates.astype(compute_dtype(gates)), axis=2))


def relative_bias(table: Float[Array, "N R"], buckets: Buckets) -> ScoreMod:
    """Return a modifier that adds ``table[n, buckets(k - q)]``; one row serves all heads."""
    return RelativeBias(table, buckets)


def t5_bias(
    table: Float[Array, "N R"], *, bidirectional: bool, max_distance: int = 128
) -> ScoreMod:
    """Return T5's relative bias (arXiv 1910.10683).

    ``table`` has a column per bucket, 32 in the paper; see :func:`t5_bucket`.
    """
    return RelativeBias(table, T5Buckets(bidirectional, table.shape[1], max_distance))


def clipped_bias(table: Float[Array, "N R"]) -> ScoreMod:
    """Return a bias by distance, clipped to -r ... r (Shaw et al. 2018, §3.2).

    ``table`` has 2 r + 1 columns.
    """
    if table.shape[1] % 2 == 0:
        raise ValueError(
            f"clipped_bias: table has {table.shape[1]} columns; wanted 2 r + 1 of them"
        )
    return RelativeBias(table, ClippedBuckets(table.shape[1] // 2))


def softcap(cap: float) -> ScoreMod:
    """Return a soft cap of the scores: c tanh(score / c) (Gemma 2, arXiv 2408.00118)."""
    if not cap > 0:
        raise ValueError(f"softcap: cap={cap}; wanted a positive number")
    return SoftCap(cap)


def temperature(temperatures: float | Float[Array, " N"]) -> ScoreMod:
    """Return a modifier that divides scores by a temperature, one for all heads or one per head."""
    return Temperature(jnp.atleast_1d(jnp.asarray(temperatures)))


def distance(function: Callable[[Any], Any]) -> ScoreMod:
    """Return a modifier that adds a function of k - q: ``distance(lambda d: -d**2 / 8)``.

    The function gets the distance in the dtype of the scores.
    """
    return Distance(function)


def dense_bias(bias: Float[Array, "B N T S"]) -> ScoreMod:
    """Return a modifier that adds an array; its first two axes may have size 1."""
    if bias.ndim != 4:
        raise ValueError(f"dense_bias: bias has shape {bias.shape}; wanted four axes B N T S")
    return DenseBias(bias)


@dataclasses.dataclass(frozen=True)
class ClippedBuckets:
    """Buckets of relative positions k - q, clipped to -radius ... radius."""

    radius: int

    def __call__(self, relative: Int[Array, "..."]) -> Int[Array, "..."]:
        return jnp.clip(relative, -self.radius, self.radius) + self.radius


@dataclasses.dataclass(frozen=True)
class T5Buckets:
    """T5's buckets of relative positions k - q: see :func:`t5_bucket`."""

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
    """Return T5's bucket of each relative position, key minus query (METHODS §5.4).

    Near positions have a bucket each; further ones share logarithmically wider buckets up to
    ``max_distance``. If causal, future keys share bucket 0 with the query itself; if bidirectional,
    the second half of the buckets is for future keys.
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
    """Return the distances at which the logarithmic buckets after the first begin.

    For j = 1 .. wide - 1, the smallest n with (n / exact)^wide >= (max_distance / exact)^j.
    """
    thresholds, n = [], exact
    for j in range(1, wide):
        while n**wide * exact**j < max_distance**j * exact**wide:
            n += 1
        thresholds.append(n)
    return thresholds

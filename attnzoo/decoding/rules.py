"""Rules of a search beyond the model's probabilities, such as those of a generation_config.json."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnzoo.decoding.hypotheses import TokenIds, length_penalty


class TimeTokens(NamedTuple):
    """Tokens of Whisper that say when something is said.

    Attributes:
        first: the token of 0 s; every later one is a time. The one before it says "no times".
        latest_start: largest time that begins an output, counted from ``first``; None: any.
    """

    first: int
    latest_start: int | None = None


@dataclasses.dataclass(frozen=True)
class Rules:
    """Tokens that a search must or must not choose, its length penalty, and when it stops.

    The defaults are those of this package; the rules of transformers have ``penalty="power"``.

    Attributes:
        first: first token of every output.
        last: last token of an output of the maximum length.
        no_repeat: n-grams of this length occur once, the start token included; 0: any repetition.
        min_length: least number of tokens, the end token included.
        suppressed: tokens that are never chosen.
        suppressed_first: tokens that are not chosen first (with ``first``: not second).
        ends: tokens that end an output; empty: the one of ``TokenIds``.
        prompt: tokens that the decoder reads after its start token, before the output.
        languages: tokens of which the decoder reads the most probable one before ``prompt``
            (Whisper's detection of the language); empty: none.
        times: time tokens, which an output has in pairs; None: they are tokens as any other.
        penalty: divisor of a log-probability: "wu" for Wu et al. 2016, eq. 14, or "power" for the
            number of tokens to the power alpha, where outputs of the maximum length count as ended.
        stop: "bound": when no running hypothesis can beat the worst finished one; "estimate": when
            none would, if it ended now; "full": as "estimate", or with a finished one in each beam.
    """

    first: int | None = None
    last: int | None = None
    no_repeat: int = 0
    min_length: int = 0
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    prompt: tuple[int, ...] = ()
    languages: tuple[int, ...] = ()
    times: TimeTokens | None = None
    penalty: Literal["wu", "power"] = "wu"
    stop: Literal["bound", "estimate", "full"] = "bound"

    @property
    def prompt_length(self) -> int:
        """Number of tokens that the decoder reads between the start token and the output."""
        return len(self.prompt) + bool(self.languages)

    def end_ids(self, ids: TokenIds) -> tuple[int, ...]:
        """Return the tokens that end an output of a model with these special ids."""
        return self.ends or (ids.end,)

    def ended(self, tokens: Int[Array, "*shape"], ids: TokenIds) -> Bool[Array, "*shape"]:
        """Return which tokens end an output."""
        return jnp.isin(tokens, jnp.array(self.end_ids(ids), jnp.int32))

    def divisor(self, length: Int[Array, "*shape"], alpha: float) -> Float[Array, "*shape"]:
        """Return the divisor of the log-probability of an output with ``length`` tokens."""
        if self.penalty == "wu":
            return length_penalty(length, alpha)
        return length.astype(jnp.float32) ** alpha

    def history(
        self, rows: int, max_length: int, start: int | Int[Array, " R"]
    ) -> Int[Array, "R L"] | None:
        """Return the tokens of all rows before the first step; None if no rule reads them."""
        if not self.no_repeat and self.times is None:
            return None
        return jnp.full((rows, max_length + 1), -1, jnp.int32).at[:, 0].set(start)

    def apply(
        self,
        log_probs: Float[Array, "R V"],
        position: Int[Array, ""],
        history: Int[Array, "R L"] | None,
        max_length: int,
        ids: TokenIds,
    ) -> Float[Array, "R V"]:
        """Return log-probabilities at step ``position`` (from 0), -inf for forbidden tokens.

        A forced token has log-probability 0, as in transformers.
        """
        lowest = -jnp.inf
        if history is not None and self.no_repeat:
            log_probs = _without_repetition(log_probs, position, history, self.no_repeat)
        if self.min_length > 1:
            early = position + 1 < self.min_length
            log_probs = log_probs.at[:, jnp.array(self.end_ids(ids))].add(
                jnp.where(early, lowest, 0.0)
            )
        for token, at in ((self.first, 0), (self.last, max_length - 1)):
            if token is not None:
                forced = jnp.full_like(log_probs, lowest).at[:, token].set(0.0)
                log_probs = jnp.where(position == at, forced, log_probs)
        for tokens, at in (
            (self.suppressed, None),
            (self.suppressed_first, 0 if self.first is None else 1),
        ):
            if tokens:
                here = True if at is None else position == at
                fall = jnp.where(here, lowest, 0.0)
                log_probs = log_probs.at[:, jnp.array(tokens)].add(fall)
        if history is not None and self.times is not None:
            end = min(self.end_ids(ids))
            log_probs = _with_times(log_probs, position, history, self.times, end)
        return log_probs


DEFAULT_RULES = Rules()


def _with_times(
    log_probs: Float[Array, "R V"],
    position: Int[Array, ""],
    history: Int[Array, "R L"],
    times: TimeTokens,
    end: int,
) -> Float[Array, "R V"]:
    """Allow time tokens where Whisper's decoding does (the ``ApplyTimestampRules`` of its code).

    An output begins with a time. A time that ends a segment is followed by another one or the end
    of the output, one that begins a segment by text. Times do not decrease, and a segment is longer
    than 0 s. If all times together are more probable than any other token, it is a time.
    """
    now = jnp.take(history, position, axis=1)
    before = jnp.take(history, jnp.maximum(position - 1, 0), axis=1)
    is_time = (position > 0) & (now >= times.first)
    opens = is_time & ((position < 2) | (before >= times.first))
    closes = is_time & ~opens
    latest = jnp.max(jnp.maximum(history, times.first - 1), axis=1)  # of one before 0 s: no time
    lowest = jnp.where(closes, latest, latest + 1)
    ids = jnp.arange(log_probs.shape[1], dtype=jnp.int32)[None]
    time = ids >= times.first
    wrong = (ids == times.first - 1) | (opens[:, None] & time) | (closes[:, None] & (ids < end))
    wrong |= time & (ids < lowest[:, None])
    late = jnp.zeros_like(time)
    if times.latest_start is not None:
        late = ids > times.first + times.latest_start
    wrong |= (position == 0) & (~time | late)
    log_probs = jnp.where(wrong, -jnp.inf, log_probs)
    together = jax.nn.logsumexp(jnp.where(time, log_probs, -jnp.inf), axis=1, keepdims=True)
    best = jnp.max(jnp.where(time, -jnp.inf, log_probs), axis=1, keepdims=True)
    return jnp.where(~time & (together > best), -jnp.inf, log_probs)


def _without_repetition(
    log_probs: Float[Array, "R V"], position: Int[Array, ""], history: Int[Array, "R L"], n: int
) -> Float[Array, "R V"]:
    """Forbid the tokens that would complete an n-gram that the row has already."""
    R, L = history.shape
    if n > L:
        return log_probs
    count = position + 1  # of the known tokens
    windows = L - n + 1
    rows = jnp.arange(R, dtype=jnp.int32)[:, None]
    starts = jnp.arange(windows, dtype=jnp.int32)[None]
    same = jnp.broadcast_to(starts + n <= count, (R, windows))
    for offset in range(n - 1):
        now = jnp.take(history, jnp.maximum(count - n + 1 + offset, 0), axis=1)
        same &= history[:, offset : offset + windows] == now[:, None]
    ends = history[:, n - 1 :]
    return log_probs.at[rows, ends].add(jnp.where(same, -jnp.inf, 0.0), mode="drop")

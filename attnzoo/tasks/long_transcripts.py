"""Transcripts of sounds of any length: windows one after the other, cut by Whisper's time tokens.

Radford et al. 2022 (arXiv 2212.04356), section 3.8, without its ways out of a failed window: no
other temperatures, no skipped silence, and no text of the window before in the prompt.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from attnzoo.tasks.text_generator import GeneratedText


@dataclasses.dataclass(frozen=True)
class Segment:
    """Part of a transcript: its ids without time tokens, and when it begins and ends in seconds."""

    start: float
    end: float
    ids: tuple[int, ...]
    text: str = ""


@dataclasses.dataclass(frozen=True)
class LongTranscript(GeneratedText):
    """A transcript in segments; it has no weights.

    Attributes:
      language: token of the detected language; None: it was not detected.
    """

    segments: tuple[Segment, ...]
    language: int | None


def segments_of(
    tokens: Sequence[int], first_time: int, step: float, seconds: float
) -> tuple[list[Segment], float]:
    """Cut the tokens of one window at its time tokens; return also where the next one begins.

    Two time tokens in a row end one segment and begin the next. What follows the last such pair was
    cut off by the window: it is left out, and the next window begins there, unless the tokens end
    with a single time token, after which nothing is said.

    Args:
      tokens: output of a window without its end token.
      first_time: the token of 0 s; those of later times follow.
      step: seconds from one time token to the next.
      seconds: length of the sound in this window.
    """
    is_time = [token >= first_time for token in tokens]

    def at(place: int) -> float:
        return (tokens[place] - first_time) * step

    def said(some: Sequence[int]) -> tuple[int, ...]:
        return tuple(token for token in some if token < first_time)

    cuts = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
    if not cuts:
        end, times = seconds, [i for i, one in enumerate(is_time) if one]
        if times and tokens[times[-1]] != first_time:
            end = at(times[-1])
        return [Segment(0.0, end, said(tokens))], seconds
    whole = is_time[-2:] == [False, True]
    ends = [*cuts, len(tokens)] if whole else cuts
    parts = zip([0, *ends[:-1]], ends, strict=True)
    found = [Segment(at(a), at(b - 1), said(tokens[a:b])) for a, b in parts]
    return found, seconds if whole else at(cuts[-1] - 1)


def transcribed(
    frames: Float[np.ndarray, "S M"],
    count: int,
    window: int,
    hop: float,
    step: float,
    first_time: int,
    listen: Callable[[Float[np.ndarray, "W M"]], Sequence[int]],
) -> list[Segment]:
    """Return the segments of a sound; a window begins where the segments of the last one end.

    Args:
      frames: log-mel frames with at least one window of silence after the sound.
      count: frames of the sound.
      window: frames of a window.
      hop: seconds from one frame to the next.
      step: seconds from one time token to the next.
      first_time: the token of 0 s.
      listen: function from a window to its tokens, without the end token.
    """
    found, at = [], 0
    while at < count:
        tokens = listen(frames[at : at + window])
        seconds = min(window, count - at) * hop
        segments, further = segments_of(tokens, first_time, step, seconds)
        found += [
            dataclasses.replace(one, start=at * hop + one.start, end=at * hop + one.end)
            for one in segments
            if one.ids
        ]
        moved = round(further / hop)
        at += moved if moved > 0 else window  # a window of time tokens alone
    return found

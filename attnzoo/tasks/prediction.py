"""Results of ``predict``, for one input each, and of ``evaluate``, for a part of the data."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attnzoo.data.sources import decode, lines_as_they_come, read_lines
from attnzoo.plotting import Figure

STANDARD_INPUT = Path("-")
CHUNK = 1024
"""Most lines of standard input that are read before they are answered."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer of a model to one input.

    Attributes:
        name: name of the input, a file or ``file:line``.
        text: the answer in one line; empty if there is none.
        record: the answer and more, as JSON.
        figure: draws what the model attended to; None: there is nothing to draw.
        problem: why there is no answer, in one line; None: there is one.
    """

    name: str
    text: str
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    figure: Callable[[], Figure] | None = None
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of a part of the data that are no sums over batches.

    Attributes:
        scores: scores by name, as JSON.
        lines: what is printed of them.
        files: contents by the end of the file name, such as "hypotheses.txt", which is written into
            the run directory after the name of the part.
    """

    scores: Mapping[str, Any]
    lines: tuple[str, ...]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PredictSettings:
    """Settings that tasks share; None: as the config of the run says.

    Attributes:
        batch_size: number of inputs that are computed together.
        beam: hypotheses of a search for texts; 1: greedy.
        max_length: longest text in tokens; in question answering, the window that is read.
        encoding: encoding of texts.
        timestamps: True for the times of segments, by the time tokens of a Whisper.
        heads: cross-attentions that align words with a sound, as (layer, head).
    """

    batch_size: int | None = None
    beam: int | None = None
    max_length: int | None = None
    encoding: str = "utf-8"
    heads: tuple[tuple[int, int], ...] | None = None
    timestamps: bool | None = None


def named_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[str, str | None]]:
    """Yield (``file:line``, text) of every line of a file, or of standard input for ``-``.

    A line that is not in this encoding has None for its text.
    """
    source = "standard input" if path == STANDARD_INPUT else str(path)
    if path == STANDARD_INPUT:
        import sys

        chunks = lines_as_they_come(sys.stdin.buffer, CHUNK, encoding)
        lines = (line for chunk in chunks for line in chunk)
    else:
        lines = iter(read_lines(path, encoding))
    for number, line in enumerate(lines, start=1):
        try:
            text = decode(line)
        except UnicodeDecodeError:
            text = None
        yield f"{source}:{number}", text

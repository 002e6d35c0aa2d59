"""Logs of a training: metrics.jsonl, a progress bar, TensorBoard, figures."""

import contextlib
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import TextIO, cast

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from attnzoo import plotting
from attnzoo.files import LONGEST_LINE, Messages, open_regular
from attnzoo.plotting import Figure
from attnzoo.tasks.losses import Sums


class RunLog:
    """Writer of a run's metrics, figures and TensorBoard events, and of progress on the terminal.

    It writes ``metrics.jsonl`` (one object per line, with ``step`` and seconds since the start),
    ``tensorboard/`` and ``figures/`` in a run directory. Progress is a bar on a terminal, otherwise
    a line of text from time to time.

    ``start`` is the step from which a run is resumed: lines of later steps, which will be written
    again, are dropped, and so are lines that cannot be read, which are counted on the terminal.
    Messages that cannot be written (the terminal is gone, its file is on a full disk) are lost, and
    the training goes on.
    """

    def __init__(self, directory: Path, *, start: int, total: int, tensorboard: bool):
        self.directory = directory
        self._metrics = directory / "metrics.jsonl"
        unreadable = self._keep_until(start)
        self._stack = contextlib.ExitStack()
        descriptor = open_regular(self._metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._file = self._stack.enter_context(os.fdopen(descriptor, "a", encoding="utf-8"))
        self._began = time.monotonic()
        self._console = Console(file=cast(TextIO, Messages.on_stderr()))
        self._bar: Progress | None = None
        if self._console.file.isatty():
            self._bar = self._stack.enter_context(
                Progress(
                    TextColumn("[bold]{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[status]}"),
                    TimeElapsedColumn(),
                    TextColumn("{task.fields[left]} left"),
                    console=self._console,
                )
            )
            self._task = self._bar.add_task(
                "training", total=total, completed=start, status="", left="?"
            )
        self._total, self._start = total, start
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(
                str(directory / "tensorboard"), purge_step=start + 1 if start else None
            )
        count, first = unreadable
        if count:
            self.say(
                f"{self._metrics}:{first}: cannot be read; such lines are left out, {count} here"
            )

    def _keep_until(self, step: int) -> tuple[int, int]:
        """Drop lines of later steps; return how many cannot be read, and the first of these."""
        if not self._metrics.exists():
            return 0, 0
        replacement, wrong = self._metrics.with_suffix(".partial"), []
        with (
            open(self._metrics, "rb", opener=open_regular) as old,
            open(replacement, "wb", opener=open_regular) as new,
        ):
            for number, line in enumerate(iter(lambda: old.readline(LONGEST_LINE), b""), start=1):
                try:
                    known = json.loads(line)["step"]
                    if not line.endswith(b"\n") or type(known) is not int:
                        raise ValueError(line)
                except (ValueError, LookupError, TypeError, RecursionError):
                    wrong.append(number)
                    continue
                if known <= step:
                    new.write(line)
        replacement.replace(self._metrics)
        return len(wrong), min(wrong, default=0)

    def metrics(self, step: int, values: dict[str, float], *, part: str) -> None:
        """Record numbers of one ``part`` ("train", "validation") at ``step``."""
        line = {"step": step, "part": part, "seconds": round(time.monotonic() - self._began, 3)}
        self._file.write(json.dumps(line | values) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{part}/{name}", value, step)

    def figure(self, step: int, name: str, figure: Figure) -> Path:
        """Save a figure as ``figures/NAME-STEP.png`` and add it to TensorBoard."""
        path = self.directory / "figures" / f"{name}-{step:07d}.png"
        plotting.save(figure, path)
        if self._events is not None:
            import numpy as np
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._events.add_image(name, pixels, step, dataformats="HWC")
        return path

    def progress(
        self, step: int, status: str, *, line: bool = False, compiling: float = 0.0
    ) -> None:
        """Move the bar; without a terminal, print if ``line`` is set, with the remaining time.

        It is that of the steps so far, without the seconds spent ``compiling``.
        """
        elapsed = time.monotonic() - self._began
        done = max(step - self._start, 1)
        left = _clock(max(elapsed - compiling, 0.0) / done * (self._total - step))
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status, left=left)
        elif line:
            self.say(f"step {step}/{self._total}  {status}  {_clock(elapsed)} done, {left} left")

    def say(self, message: str) -> None:
        """Print one line for the user."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if self._events is not None:
            self._events.close()


class NoLog:
    """A log that writes nothing, for all processes but the first."""

    def metrics(self, step: int, values: dict[str, float], *, part: str) -> None: ...

    def figure(self, step: int, name: str, figure: Figure) -> None: ...

    def progress(
        self, step: int, status: str, *, line: bool = False, compiling: float = 0.0
    ) -> None: ...

    def say(self, message: str) -> None: ...

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *exception: object) -> None: ...


class Profiler:
    """Profiler of the steps that a config names, for TensorBoard's and Perfetto's viewers."""

    def __init__(self, steps: tuple[int, int] | None, directory: Path):
        self.first, self.last = (steps[0], sum(steps)) if steps is not None else (-1, -1)
        self.directory = directory

    def before(self, step: int) -> None:
        """Start the trace if this step is the first."""
        if step == self.first:
            jax.profiler.start_trace(str(self.directory))

    def after(self, step: int, sums: Sums, log: RunLog | NoLog) -> None:
        """Stop the trace if that step was the last."""
        if step == self.last:
            jax.block_until_ready(sums)
            jax.profiler.stop_trace()
            log.say(f"trace of {step - self.first} steps: {self.directory}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

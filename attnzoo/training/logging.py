"""Logs of a training: metrics.jsonl, a progress bar, TensorBoard, figures."""

import contextlib
import json
import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from attnzoo import plotting
from attnzoo.plotting import Figure


class RunLog:
    """Writer of a run's metrics, figures and TensorBoard events, and of progress on the terminal.

    It writes ``metrics.jsonl`` (one object per line, with ``step`` and seconds since the start),
    ``tensorboard/`` and ``figures/`` in a run directory. Progress is a bar on a terminal, otherwise
    a line of text from time to time.

    ``start`` is the step from which a run is resumed: lines of later steps, which will be written
    again, are dropped.
    """

    def __init__(self, directory: Path, *, start: int, total: int, tensorboard: bool):
        self.directory = directory
        self._metrics = directory / "metrics.jsonl"
        self._keep_until(start)
        self._file = self._metrics.open("a", encoding="utf-8")
        self._began = time.monotonic()
        self._console = Console(stderr=True)
        self._stack = contextlib.ExitStack()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = self._stack.enter_context(
                Progress(
                    TextColumn("[bold]{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[status]}"),
                    TimeElapsedColumn(),
                    TextColumn("left"),
                    TimeRemainingColumn(),
                    console=self._console,
                )
            )
            self._task = self._bar.add_task("training", total=total, completed=start, status="")
        self._total, self._start = total, start
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(
                str(directory / "tensorboard"), purge_step=start + 1 if start else None
            )

    def _keep_until(self, step: int) -> None:
        if not self._metrics.exists():
            return
        lines = []
        for line in self._metrics.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= step and line.endswith("\n"):
                    lines.append(line)
            except (ValueError, KeyError):  # a line cut short by a crash
                continue
        replacement = self._metrics.with_suffix(".partial")
        replacement.write_text("".join(lines), encoding="utf-8")
        replacement.replace(self._metrics)

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

    def progress(self, step: int, status: str, *, line: bool = False) -> None:
        """Move the bar; without a terminal, print if ``line`` is set, with the remaining time."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status)
        elif line:
            elapsed = time.monotonic() - self._began
            done = max(step - self._start, 1)
            left = elapsed / done * (self._total - step)
            self.say(
                f"step {step}/{self._total}  {status}  {_clock(elapsed)} done, {_clock(left)} left"
            )

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
        self._file.close()
        if self._events is not None:
            self._events.close()


class NoLog:
    """A log that writes nothing, for all processes but the first."""

    def metrics(self, step: int, values: dict[str, float], *, part: str) -> None: ...

    def figure(self, step: int, name: str, figure: Figure) -> None: ...

    def progress(self, step: int, status: str, *, line: bool = False) -> None: ...

    def say(self, message: str) -> None: ...

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *exception: object) -> None: ...


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

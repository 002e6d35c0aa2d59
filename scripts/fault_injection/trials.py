"""What the faults share: a trial, child processes, a training of seconds, states to compare."""

import contextlib
import dataclasses
import io
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from attnzoo.errors import UserError
from child_process import environment


@dataclasses.dataclass(frozen=True)
class Trial:
    """Whether one trial kept the promise, and what was seen, in words that many may share."""

    passed: bool
    seen: str


@dataclasses.dataclass(frozen=True)
class Fault:
    """``trials(count, draws, work)`` hurts something ``count`` times in the folder ``work``."""

    trials: Callable[[int, random.Random, Path], Iterator[Trial]]
    count: int
    what: str


# Dropout, evaluations, checkpoints: all that a resumed run must find again, in some seconds.
CONFIG = """
name: torture
data: {kind: synthetic, task: reverse, symbols: 7, min_length: 2, max_length: 6,
       train: 400, validation: 16, test: 16}
tokenizer: word
model: {kind: bahdanau, attention: additive, hidden: 12, embedding: 8, maxout: 6, dropout: 0.2}
training: {steps: 300, batch_size: 16, buckets: [7], checkpoint_every: 20, evaluate_every: 150,
           figures_every: null, log_every: 10, tensorboard: false}
decoding: {max_length: 8}
"""


def write_config(work: Path) -> Path:
    """The config of the trainings."""
    path = work / "torture.yaml"
    path.write_text(CONFIG)
    return path


def python(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A Python process that finds this package and keeps what it compiles."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(JAX_PLATFORMS="cpu"),
        **options,
    )


@contextlib.contextmanager
def living(process: subprocess.Popen[str]) -> Generator[subprocess.Popen[str]]:
    """A process that does not outlive the block, whatever ends it."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def training(config: Path, run: Path, *arguments: str) -> subprocess.Popen[str]:
    """A training as its script starts it."""
    return python("-m", "attnzoo.cli", "train", config, "--run-dir", run, *arguments)


def trained(config: Path, run: Path, *arguments: str) -> tuple[int, str]:
    """A training in this process: its exit status and the last line of errors."""
    from attnzoo.cli.train import main

    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = main([str(config), "--run-dir", str(run), *arguments])
    return status, (said.getvalue().splitlines() or [""])[-1]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and the last line of errors."""
    _, errors = process.communicate()
    lines = [line for line in errors.splitlines() if line.strip()]
    return process.returncode, lines[-1] if lines else ""


def wait_for(path: Path, process: subprocess.Popen[str]) -> bool:
    """Wait until a file exists; False if the process ended before."""
    while not path.exists():
        if process.poll() is not None:
            return path.exists()
        time.sleep(0.002)
    return True


def must(process: subprocess.Popen[str], what: str) -> None:
    """Refuse to go on where something that is no fault failed."""
    status, line = ended(process)
    if status:
        raise UserError(f"{what} failed with exit status {status}: {line}")


def leaves(state: Any, prefix: str = "") -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name to dtype, shape and bytes."""
    if not isinstance(state, dict):
        return {prefix: (str(state.dtype), state.shape, state.tobytes())}
    return {
        k: v for key, value in state.items() for k, v in leaves(value, f"{prefix}/{key}").items()
    }

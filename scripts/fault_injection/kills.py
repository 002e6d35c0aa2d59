"""Signals: trainings and saves that are ended at a random instant."""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from attnzoo.training.checkpoint import restore, verify
from attnzoo.training.signals import EXIT_STOPPED
from fault_injection.trials import (
    Trial,
    ended,
    leaves,
    must,
    python,
    trained,
    training,
    wait_for,
    write_config,
)

LIMIT_SECONDS = 5.0
"""From SIGTERM until the training says that its step is on disk; to end a process that holds jax
takes up to a second of CPU more."""

SAVER = """
import sys
import numpy as np
from attnzoo.training.checkpoint import CheckpointStore
with CheckpointStore(sys.argv[1], keep=2) as store:
    start = (store.steps or [0])[-1]
    for step in range(start + 1, start + 100_000):
        rng = np.random.default_rng(step)
        store.save(step, {f"a{i}": rng.normal(size=(100, 1000)) for i in range(10)}, {"n": step})
        print(step, flush=True)
"""


def kill(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """SIGKILL between the first and the last step; resumed, the run must end with the bits of one
    that was left alone.
    """
    config, reference = write_config(work), work / "reference"
    must(training(config, work / "compiled"), "a training")
    process = training(config, reference)
    wait_for(reference / "config.yaml", process)
    began = time.monotonic()
    must(process, "the uninterrupted training")
    duration, want = time.monotonic() - began, restore(reference)
    trial = 0
    while trial < count:
        run = work / f"killed-{trial}"
        process = training(config, run)
        wait_for(run / "config.yaml", process)
        time.sleep(draws.uniform(0, duration))
        if process.poll() is not None:  # it was faster than the first one
            duration *= 0.95
            must(process, "a training")
            shutil.rmtree(run)
            continue
        process.kill()
        process.communicate()
        trial += 1
        had = any(path.name.isdecimal() for path in (run / "checkpoints").iterdir())
        when = "after" if had else "before"
        # In this process, which saves the seconds of a start.
        status, line = trained(config, run, "--resume")
        if status:
            yield Trial(False, f"resuming failed with exit status {status}: {line}")
        elif not all(report.ok for report in verify(run)):
            yield Trial(False, "a step is damaged")
        else:
            got = restore(run)
            same = got.step == want.step and leaves(got.state) == leaves(want.state)
            seen = f"identical, killed {when} the first checkpoint" if same else "other parameters"
            yield Trial(same, seen)
        shutil.rmtree(run)


def save(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """SIGKILL in a process that only saves; what it leaves is whole and not older than known."""
    import numpy as np

    home = work / "steps"
    for _ in range(count):
        process = python("-c", SAVER, home)
        assert process.stdout is not None
        # A line says that the step before it is on disk: its save waited for that one.
        first = int(process.stdout.readline())
        known = int(process.stdout.readline())
        time.sleep(draws.uniform(0, 0.4))
        process.kill()
        # The last line may be cut off.
        known = max([known, *map(int, process.communicate()[0].split("\n")[:-1])])
        got = restore(home)
        rng = np.random.default_rng(got.step)
        exact = all(
            np.array_equal(got.state[f"a{i}"], rng.normal(size=(100, 1000))) for i in range(10)
        )
        if not exact or got.meta != {"n": got.step}:
            yield Trial(False, f"step {got.step} is wrong")
        elif got.step < known - 1 or got.step < first:
            yield Trial(False, f"step {got.step} is the newest, {known - 1} was on disk")
        else:
            yield Trial(True, "newest valid")


def stop(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """SIGTERM to one training again and again; each time it must end soon, with the step it was at
    on disk, and go on from there.
    """
    config, run = write_config(work), work / "run"
    endless = ("training.steps=10000000", "training.evaluate_every=10000000")
    must(training(config, work / "compiled", "training.steps=20"), "a training")
    before = 0
    for trial in range(count):
        process = training(config, run, *endless, *(["--resume"] if trial else []))
        # Its first words are of its data, just before the first step.
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(draws.uniform(0, 3))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        line = next((line for line in process.stderr if line.startswith("stopped by")), "")
        took = time.monotonic() - began
        status, rest = ended(process)
        line = line.strip() or rest
        newest = max((report.step for report in verify(run) if report.ok), default=0)
        if status != EXIT_STOPPED:
            yield Trial(False, f"exit status {status}: {line}")
        elif took >= LIMIT_SECONDS:
            yield Trial(False, f"took {took:.1f} s")
        elif not all(report.ok and not report.unfinished for report in verify(run)):
            yield Trial(False, "a step is damaged or unfinished")
        elif f"step {newest}," not in line or newest < before:
            yield Trial(False, f"step {newest} is on disk, {before} was; it said {line!r}")
        else:
            yield Trial(True, f"durable in under {LIMIT_SECONDS:.0f} s")
        before = newest

"""What must be refused: a second writer, a best that is not a number, another config."""

import math
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from attnzoo.training.checkpoint import BestCheckpoint, CheckpointStore, restore, verify
from fault_injection.trials import (
    Trial,
    ended,
    living,
    must,
    trained,
    training,
    wait_for,
    write_config,
)


def lock(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """A second run, new or resumed, in the directory of one that trains; and two at once."""
    config = write_config(work)
    endless = "training.steps=10000000"
    must(training(config, work / "compiled", "training.steps=20"), "a training")
    home = work / "held"
    with living(training(config, home, endless)) as holder:
        wait_for(home / "config.yaml", holder)
        yield from _intruders(count, draws, work, holder)


def _intruders(
    count: int, draws: random.Random, work: Path, holder: subprocess.Popen[str]
) -> Iterator[Trial]:
    config, home, endless = work / "torture.yaml", work / "held", "training.steps=10000000"
    for trial in range(count):
        if trial % 2:
            more = ["--resume"] if trial % 4 == 1 else []
            status, line = ended(training(config, home, endless, *more))
            refused = status == 2 and f"process {holder.pid} on host" in line
            alive = holder.poll() is None
            seen = "refused by name" if refused and alive else f"exit status {status}: {line}"
            yield Trial(refused and alive, seen)
            continue
        run = work / f"both-{trial}"
        both = [training(config, run, "training.steps=40")]
        time.sleep(draws.uniform(0, 0.3))
        both.append(training(config, run, "training.steps=40"))
        ends = sorted(ended(process) for process in both)
        (won, _), (lost, line) = ends
        passed = (won, lost) == (0, 2) and str(run) in line and restore(run).step == 40
        passed = passed and all(report.ok for report in verify(run))
        yield Trial(passed, "one of two refused" if passed else f"ended with {ends}")


def nan(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """The best of a sequence of metrics is the best finite one, the latest is the newest."""
    for trial in range(count):
        home = work / str(trial)
        mode: Literal["min", "max"] = "min" if draws.random() < 0.5 else "max"
        best, wanted = BestCheckpoint(home / "best"), None
        with CheckpointStore(home / "steps", keep=1) as store:
            problems = []
            for step in range(1, 9):
                metric = draws.choice([math.nan, math.inf, -math.inf, draws.random()])
                arrays = {"x": np.full(3, step)}
                best.offer(step, arrays, metric, mode=mode)
                store.save(step, arrays, {"metric": metric if math.isfinite(metric) else None})
                better = wanted is None or (metric < wanted[1]) == (mode == "min")
                if math.isfinite(metric) and better:
                    wanted = step, metric
                if best.current != wanted:
                    problems.append(f"best is {best.current}, wanted {wanted}")
            store.wait()
            if wanted is not None and restore(home / "best").state["x"][0] != wanted[0]:
                problems.append("the best has the arrays of another step")
            if store.steps != [8]:
                problems.append(f"the latest are {store.steps}")
        yield Trial(not problems, problems[0] if problems else "the best finite one is kept")


CHANGES = {
    "training.seed=1": "config.training.seed",
    "training.batch_size=8": "config.training.batch_size",
    "training.max_length=9": "config.training.max_length",
    "training.buckets=[5,7]": "config.training.buckets",
    "training.learning_rate=2e-3": "config.training.learning_rate",
    "training.schedule={kind: cosine}": "config.training.schedule",
    "training.optimizer={kind: sgd}": "config.training.optimizer",
    "training.optimizer={kind: adam, b1: 0.8}": "config.training.optimizer.b1",
    "training.clip_norm=0.5": "config.training.clip_norm",
    "training.label_smoothing=0.1": "config.training.label_smoothing",
    "training.loss_per=sentence": "config.training.loss_per",
    "training.compute_dtype=bfloat16": "config.training.compute_dtype",
    "training.accumulate=2": "config.training.accumulate",
    "training.ema=0.9": "config.training.ema",
    "training.decay_all=true": "config.training.decay_all",
    "model.hidden=16": "config.model.hidden",
    "model.embedding=6": "config.model.embedding",
    "model.maxout=5": "config.model.maxout",
    "model.dropout=0.1": "config.model.dropout",
    "model.attention=general": "config.model.attention",
    "model.reads=words": "config.model.reads",
    "data.task=copy": "config.data.task",
    "data.train=300": "config.data.train",
    "data.symbols=5": "config.data.symbols",
    "tokenizer={kind: word, max_size: 5}": "config.tokenizer.max_size",
}
"""What is changed, and the key that the refusal names."""


def change(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """A run is resumed with something changed: one line that names it, and nothing is written."""
    config, run = write_config(work), work / "run"
    must(training(config, run, "training.steps=20"), "a training")
    files = lambda: {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}  # noqa: E731
    before = files()
    changes = list(CHANGES.items())
    for trial in range(count):
        override, key = changes[trial % len(changes)]
        status, line = trained(config, run, "training.steps=30", override, "--resume")
        named = status == 2 and line.startswith(
            (f"error: resume: {key} ", f"error: resume: {key}.")
        )
        untouched = files() == before
        seen = "named" if named and untouched else f"{override}: exit status {status}: {line}"
        yield Trial(named and untouched, seen)
    status, line = trained(config, run, "training.steps=30", "--resume")
    if status or restore(run).step != 30:
        yield Trial(False, f"the unchanged config is refused as well: {line}")

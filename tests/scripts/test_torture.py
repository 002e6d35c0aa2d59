"""Every fault of `torture` in small counts, and that it sees what does not survive."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo.training import checkpoint
from fault_injection import disk, kills, rules
from fault_injection import main as torture
from fault_injection.trials import Fault, Trial

COUNTS = {"kill": 1, "save": 1, "stop": 1, "flip": 60, "damage": 10, "full": 2, "lock": 2, "nan": 3,
          "change": 4}  # fmt: skip
# Three quarters of a minute more; tests/training hurts runs in the same ways.
SLOW = () if os.environ.get("ATTNZOO_TORTURE") == "all" else ("kill", "stop", "lock")


def test_every_fault_is_here() -> None:
    assert list(COUNTS) == list(torture.FAULTS)
    assert len(disk.DAMAGES) == 10
    assert len(rules.CHANGES) == torture.FAULTS["change"].count == 25
    assert torture.FAULTS["full"].count == 2 * disk.LEVELS


@pytest.mark.parametrize("name", [name for name in COUNTS if name not in SLOW])
def test_it_survives(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a script measures on a machine that is not busy with other tests.
    monkeypatch.setattr(kills, "LIMIT_SECONDS", 60.0)
    code = torture.main([name, "--count", str(COUNTS[name])])
    out, errors = capsys.readouterr()
    assert code == 0, errors
    head, row = out.splitlines()
    assert head.split() == ["fault", "count", "passed", "seconds", "seen"]
    assert row.split()[:3] == [name, str(COUNTS[name]), str(COUNTS[name])]


def test_a_failure_is_told_counted_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trials(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
        assert work.is_dir()
        for i in range(count):
            yield Trial(i != 1, "lost" if i == 1 else "whole")

    monkeypatch.setitem(torture.FAULTS, "flip", Fault(trials, 3, "made up"))
    assert torture.main(["flip"]) == 1
    out, errors = capsys.readouterr()
    assert errors == "flip 2: FAILED: lost\n"
    assert out.splitlines()[1].split() == "flip 3 2 0 2 whole, 1 FAILED: lost".split()
    # Less than was asked for is no success either.
    none = Fault(lambda count, draws, work: iter(()), 3, "made up")
    monkeypatch.setitem(torture.FAULTS, "flip", none)
    assert torture.main(["flip"]) == 1


def test_a_reader_that_is_silently_wrong_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def careless(path: Path, **options: Any) -> checkpoint.Restored:
        try:
            return checkpoint.restore(path, **options)
        except Exception:
            return checkpoint.Restored(1, {**disk.state(1), "step": np.int32(9)}, {"n": 1})

    monkeypatch.setattr(disk, "restore", careless)
    seen = [trial.passed for trial in disk.flip(30, random.Random(0), tmp_path)]
    assert not all(seen)
    assert any(seen)


def test_a_best_that_a_nan_evicts_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Last(checkpoint.BestCheckpoint):
        def offer(self, step: int, state: Any, metric: float, *args: Any, **more: Any) -> bool:
            return super().offer(step, state, -float(step), mode="min")

    monkeypatch.setattr(rules, "BestCheckpoint", Last)
    assert not any(trial.passed for trial in rules.nan(2, random.Random(0), tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fire"], "fire: no such fault; wanted all or some of kill, save, stop, flip"),
        (["flip", "--count", "0"], "--count 0: wanted at least 1"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert torture.main(arguments) == 2
    assert said in capsys.readouterr().err

"""Workloads `start` and `input`: both starts are timed, and input that is too slow is told."""

import os
from pathlib import Path

import pytest

from attnzoo.errors import UserError
from benchmarks import input as input_pipeline
from benchmarks import start
from benchmarks.main import main
from tests.cli.test_start import CONFIG


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def test_benchmark_start_measures_both(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", str(config), "--rounds", "1"]) == 0
    _, cpu, clock = capsys.readouterr().out.splitlines()
    for row in (cpu, clock):
        name, *_, first, second, ratio = row.split()
        assert name == "tiny"
        assert float(second) / float(first) == pytest.approx(float(ratio), abs=0.02)
    with pytest.raises(UserError, match="ended before step 1"):
        start._start(config.with_name("none.yaml"), config.parent, "x")


def test_benchmark_input_says_what_is_too_slow(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None)
    command = ["input", str(config), "--rounds", "1", "--steps", "2"]
    monkeypatch.setattr(input_pipeline, "WANTED", 1e-9)
    assert main(command) == 0
    name, unit, given, step, ratio, *_ = capsys.readouterr().out.splitlines()[1].split()
    assert (name, unit) == ("tiny", "tokens")
    fast, slow = (float(one.replace(",", "")) for one in (given, step))
    assert fast / slow == pytest.approx(float(ratio), rel=0.1)
    monkeypatch.setattr(input_pipeline, "WANTED", 5.0)
    monkeypatch.setattr(input_pipeline, "_times", lambda *a: ("tokens", 10.0, 0.2, 1.0, 1.2, 1.2))
    assert main(command) == 0
    monkeypatch.setattr(input_pipeline, "_times", lambda *a: ("tokens", 10.0, 0.21, 1.0, 1.2, 1.2))
    assert main(command) == 1

"""The verify program: a table, and an exit status that a script can use."""

from pathlib import Path

import numpy as np
import pytest

from attnzoo.cli.verify import main
from attnzoo.training.checkpoint import BestCheckpoint, CheckpointStore
from attnzoo.training.step_files import COMMIT_FILE


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with CheckpointStore(tmp_path / "checkpoints") as store:
        for step in (10, 20):
            store.save(step, {"w": np.arange(5000.0)}, {})
    BestCheckpoint(tmp_path / "best").offer(10, {"w": np.arange(5000.0)}, 1.5)
    return tmp_path


def test_a_whole_run_is_ok(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["where", "step", "state"],
        ["best", "10", "ok"],
        ["checkpoints", "10", "ok"],
        ["checkpoints", "20", "ok"],
        ["3", "read,", "0", "damaged"],
    ]


def test_damage_names_the_leaf_and_fails(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = run / "checkpoints" / "20"
    file = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    (run / "checkpoints" / "10" / COMMIT_FILE).unlink()
    assert main([str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "unfinished" in lines[2]
    assert "DAMAGED: w:" in lines[3]
    assert lines[4] == "3 read, 1 damaged"
    assert main([str(step)]) == 1


def test_a_directory_without_checkpoints_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: there is no checkpoint to verify\n"

"""The verify program: a table, and an exit status that a script can use."""

import os
from pathlib import Path

import numpy as np
import pytest

from attnzoo.cli.verify import main
from attnzoo.config.data import TextConfig
from attnzoo.errors import UserError
from attnzoo.training import manifest
from attnzoo.training.checkpoint import BestCheckpoint, CheckpointStore, restore
from attnzoo.training.manifest import (
    MANIFEST,
    Manifest,
    changes,
    check_step,
    open_run,
    sizes_of_data,
)
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


@pytest.fixture
def with_files(run: Path) -> Path:
    (run / "config.yaml").write_text("model: {initial_state: backward}\n")
    (run / "source.tokenizer.json").write_text('["one", "two"]\n')
    (run / "labels.json").write_text('["no", "yes"]\n')
    names = ["source.tokenizer.json", "labels.json"]
    manifest = Manifest.of(run, names, (run / "config.yaml").read_text(), {})
    manifest.write(run)
    with CheckpointStore(run / "checkpoints") as store:
        store.save(30, {"w": np.arange(5.0)}, {"files": manifest.files})
    return run


def test_no_flipped_bit_of_a_file_is_silent(
    with_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(with_files)]) == 0
    for path in (p for p in sorted(with_files.iterdir()) if p.is_file()):
        content = path.read_bytes()
        for bit in range(0, 8 * len(content), 7):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(UserError, match=rf"{path.name}: (changed since|damaged)"):
                open_run(with_files)
        capsys.readouterr()
        assert main([str(with_files)]) == (2 if path.name == MANIFEST else 1)
        said = "".join(capsys.readouterr())
        assert path.name in said
        assert "restore it" in said
        path.write_bytes(content)
    assert main([str(with_files)]) == 0


def test_a_change_on_purpose_is_accepted(
    with_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = restore(with_files).meta
    (with_files / "config.yaml").write_text("model: {initial_state: zero}\n")
    with pytest.raises(UserError, match=r"attnzoo verify .* --accept config.yaml$"):
        open_run(with_files)
    assert main([str(with_files), "--accept", "config.yaml"]) == 0
    _, manifest = open_run(with_files)
    check_step(with_files, manifest, meta)
    (with_files / "config.yaml").write_text("model: {initial_state: other}\n")
    with pytest.raises(UserError, match=r"config.yaml: changed"):
        open_run(with_files)
    assert main([str(with_files), "--accept", "metrics.jsonl"]) == 2
    assert "it names config.yaml, source.tokenizer.json, labels.json" in capsys.readouterr().err


def test_the_steps_know_the_files_of_their_run(
    with_files: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    meta, labels = restore(with_files).meta, with_files / "labels.json"
    labels.write_text('["yes", "no"]\n')
    names = ["source.tokenizer.json", "labels.json"]
    other = Manifest.of(with_files, names, (with_files / "config.yaml").read_text(), {})
    with pytest.raises(UserError, match="belongs to another run, which had another labels"):
        check_step(with_files, other, meta)
    other.write(with_files)
    assert main([str(with_files)]) == 1
    assert "DAMAGED: " in capsys.readouterr().out
    (with_files / MANIFEST).unlink()
    assert main([str(with_files)]) == 1
    assert "labels.json: changed since training" in capsys.readouterr().out
    _, manifest = open_run(with_files)
    assert "no manifest.json" in caplog.text
    with pytest.raises(UserError, match=r"labels.json: changed since training"):
        check_step(with_files, manifest, meta)
    check_step(with_files, None, {})  # a step of an older version


def test_a_changed_data_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("a.txt", "b.txt", "c.zip")]
    for path in files:
        path.write_text("one\ntwo\n")
    inside = tmp_path / "c.zip" / "member"  # of an archive
    config = TextConfig(train=(files[0], inside), validation=(files[1],))
    before = sizes_of_data(config, {str(files[0]): 2})
    assert changes(before, sizes_of_data(config, {str(files[0]): 2})) == []
    os.utime(files[1], (1, 1))
    assert changes(before, sizes_of_data(config, {str(files[0]): 2})) == []
    files[1].write_text("two\none\n")
    (line,) = changes(before, sizes_of_data(config, {str(files[0]): 2}), certain=True)
    assert line == f"{files[1]} (as many bytes, but others)"
    monkeypatch.setattr(manifest, "DIGESTED", 0)  # a large file
    os.utime(files[1], (1, 1))
    (line,) = changes(before, sizes_of_data(config, {str(files[0]): 2}))
    assert line.startswith(f"{files[1]} (as many bytes, but written at 1970-01-01")
    files[0].write_text("one\ntwo\nthree\n")
    files[2].write_text("one")
    lines = changes(before, sizes_of_data(config, {str(files[0]): 3}))
    assert lines == [
        f"{files[0]} (2 rows then, 3 now; 8 bytes then, 14 now)",
        f"{inside} (8 bytes then, 3 now)",
    ]
    files[0].unlink()
    assert changes(before, sizes_of_data(config, {str(files[0]): 2}))[0] == f"{files[0]} (is gone)"

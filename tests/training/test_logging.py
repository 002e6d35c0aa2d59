"""What a run says: metrics.jsonl that survives a crash, lines with the time left, TensorBoard."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnzoo import plotting
from attnzoo.training.logging import RunLog


def write(directory: Path, *lines: str) -> Path:
    path = directory / "metrics.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def log(directory: Path, start: int = 0, **settings: bool) -> RunLog:
    return RunLog(directory, start=start, total=100, **({"tensorboard": False} | settings))


def test_one_object_a_line(tmp_path: Path) -> None:
    with log(tmp_path) as run:
        run.metrics(5, {"loss": 1.5}, part="train")
        # Flushed at once: a kill right now loses nothing.
        (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
        run.metrics(5, {"nll": 2.0}, part="validation")
    record = json.loads(line)
    assert record.pop("seconds") >= 0
    assert record == {"step": 5, "part": "train", "loss": 1.5}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_resumed_run_drops_what_comes_again_and_what_was_cut_short(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"step": 5, "part": "train"}\n',
        '{"step": 10, "part": "validation"}\n',
        "\x00\x00\x00\n",
        '{"part": "no step"}\n',
        '{"step": 11, "part": "train"}\n',
        '{"step": 10, "part"',
    )
    with log(tmp_path, start=10) as run:
        run.metrics(11, {}, part="train")
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [5, 10, 11]
    assert not list(tmp_path.glob("*.partial"))
    write(tmp_path, '{"step": 5, "part": "train"}')  # whole, but for its end of line
    with log(tmp_path, start=5) as run:
        run.metrics(6, {}, part="train")
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [6]


def test_without_a_terminal_there_are_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log(tmp_path, start=50) as run:
        run.progress(60, "loss 1.0", line=False)
        run.progress(60, "loss [bold]1.0", line=True)
        run.progress(75, "loss 1.0", line=True, compiling=1e9)
        run.say("x" * 300)
    out, err = capsys.readouterr()
    assert out == ""
    first, compiled, second = err.splitlines()
    assert first.startswith("step 60/100  loss [bold]1.0  0:0")  # markup is only text
    assert first.endswith(" left")
    assert compiled.endswith(", 0:00 left")  # all the time was compiling
    assert second == "x" * 300  # one line however narrow the terminal


def test_figures_are_files_and_events(tmp_path: Path) -> None:
    picture = plotting.AlignmentPicture(np.eye(2, dtype=np.float32), ["a", "b"], ["c", "d"])
    with log(tmp_path, tensorboard=True) as run:
        run.metrics(3, {"loss": 1.0}, part="train")
        path = run.figure(3, "alignment", plotting.alignment_grid([picture]))
    assert path == tmp_path / "figures" / "alignment-0000003.png"
    with Image.open(path) as image:
        assert min(image.size) > 20
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"\x89PNG" in content

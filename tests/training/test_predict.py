"""predict has an answer for every input, in its order, whatever it holds, for every task."""

import contextlib
import dataclasses
import io
import json
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnzoo import cli
from attnzoo.tasks import TASKS
from attnzoo.tasks.prediction import PredictSettings
from attnzoo.training.loop import train
from tests.spoken import write_recordings
from tests.training.test_tasks import TASK, data, experiment  # noqa: F401


@dataclasses.dataclass
class Inputs:
    """Files for predict, how many answers there are, those with a problem, and those cut."""

    files: list[Path]
    problems: set[int]
    count: int
    cut: set[int] = dataclasses.field(default_factory=set)


def pictures(home: Path) -> Inputs:
    pixels = np.random.default_rng(0).integers(0, 255, (13, 17, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(home / "wide.png")
    Image.fromarray(pixels[:9, :7, 0]).save(home / "grey.jpg")
    (home / "broken.png").write_bytes((home / "wide.png").read_bytes()[:40])
    (home / "empty.png").write_bytes(b"")
    names = ["broken.png", "wide.png", "empty.png", ".", "grey.jpg", "missing.png", "wide.png"]
    return Inputs([home / name for name in names], {0, 2, 3, 5}, 7)


def lines(home: Path) -> Inputs:
    (home / "lines").write_bytes(b"the cat sat\n\na dog \xff\n" + b"x " * 300 + b"\nthe sun\n")
    (home / "empty").write_text("")
    return Inputs([home / name for name in ("missing", "lines", "empty", ".")], {0, 2, 3, 6, 7}, 8)


def long_lines(home: Path) -> Inputs:
    return dataclasses.replace(lines(home), cut={4})


def pairs(home: Path) -> Inputs:
    (home / "pairs").write_bytes(b"the cat\tsat\nthe cat sat\n\t\n \ta dog\n" + b"x\t" * 600)
    return Inputs([home / "pairs"], {2}, 5, {4})


def sounds(home: Path) -> Inputs:
    write_recordings(home / "spoken", count=2)
    good = sorted((home / "spoken").rglob("*.wav"))[:2]
    (home / "broken.wav").write_bytes(good[0].read_bytes()[:30])
    (home / "empty.flac").write_bytes(b"")
    with wave.open(str(home / "silent.wav"), "wb") as silent:
        silent.setparams((1, 2, 2_000, 0, "NONE", ""))
    with wave.open(str(good[0])) as first:
        loud = np.frombuffer(first.readframes(99), "<i2").astype("<f4") * 1e25
    head = b"RIFF" + (36 + 4 * len(loud)).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\3\0\1\0"
    head += (2_000).to_bytes(4, "little") + (8_000).to_bytes(4, "little") + b"\4\0\x20\0data"
    (home / "loud.wav").write_bytes(head + (4 * len(loud)).to_bytes(4, "little") + loud.tobytes())
    names = [home / name for name in ("broken.wav", "empty.flac", "silent.wav", "loud.wav")]
    return Inputs([names[0], good[0], *names[1:], good[1]], {0, 2, 3, 4}, 6)


def questions(home: Path) -> Inputs:
    told = [
        "where ?\tthe cat sat on the mat .",
        "no tab",
        "\tno question",
        "who ?\t",
        "who ?\ta cat",
    ]
    (home / "asked").write_text("\n".join(told) + "\n")
    return Inputs([home / "asked"], {1, 2, 3}, 5, {0, 4})


def squad(home: Path) -> Inputs:
    asked = [{"id": "a", "question": "who ?"}, {"id": "b", "question": "where ?"}]
    paragraph = {"context": "the cat sat on the mat .", "qas": asked}
    (home / "asked.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph] * 2}]}))
    return Inputs([home / "asked.json"], set(), 4, {0, 1, 2, 3})


def stories(home: Path) -> Inputs:
    (home / "told").write_text("1 the cat sat on the mat .\n2 who sat ?\tcat\t1\n3 who ran ?\n")
    return Inputs([home / "told"], set(), 2)


def reports(home: Path) -> Inputs:
    rows = [{"source": "the cat sat"}, {"target": "a dog"}, {"source": ""}, {"source": "a dog"}]
    (home / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Inputs([home / "told.jsonl"], {1, 2}, 4)


INPUTS: dict[str, list[Callable[[Path], Inputs]]] = {
    "image_classification": [pictures],
    "sequence_classification": [long_lines, pairs],
    "token_classification": [long_lines],
    "captioning": [pictures],
    "detection": [pictures],
    "speech": [sounds],
    "question_answering": [questions, squad],
    "stories": [stories],
    "summarisation": [lines, reports],
}
"""Inputs for each task that predicts, good ones and odd ones."""


def test_every_task_that_predicts_is_here() -> None:
    assert {kind for kind, task in TASKS.items() if task.predicts is not None} == set(INPUTS)


def kind_of(name: str) -> str:
    """The kind of the task of a small experiment."""
    return TASK[name][0].strip("{}").removeprefix("kind: ").split(",")[0]


@pytest.mark.parametrize("name", [name for name in TASK if kind_of(name) in INPUTS])
def test_every_input_has_its_answer_in_its_place(
    name: str,
    data: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: set[str] = set()
    fields = {field.name for field in dataclasses.fields(PredictSettings)}

    class Recorded(PredictSettings):
        """Settings that note which of them are read."""

        def __getattribute__(self, name: str) -> object:
            read.update({name} & fields)
            return super().__getattribute__(name)

    monkeypatch.setattr("attnzoo.tasks.prediction.PredictSettings", Recorded)
    config = experiment(name, data, tmp_path / "run", "")
    with contextlib.redirect_stderr(io.StringIO()):
        train(config)
    for make in INPUTS[config.task.kind]:
        given = make(tmp_path)
        files = [str(path) for path in given.files]
        capsys.readouterr()
        asked = ["predict", str(tmp_path / "run"), *files]
        assert cli.main([*asked, "--json", "--batch-size", "3"]) == bool(given.problems)
        out, err = capsys.readouterr()
        records = [json.loads(line) for line in out.splitlines()]
        assert len(records) == given.count
        assert {n for n, one in enumerate(records) if "problem" in one} == given.problems
        warned = [line for line in err.splitlines() if line.startswith("warning: ")]
        assert len(warned) == len(given.problems | given.cut)
        for n in given.problems | given.cut:
            name = records[n]["input"]
            assert any(
                name in line and ("end is left out" in line) == (n in given.cut) for line in warned
            )
        assert read - {"encoding"} == set(TASKS[config.task.kind].predict_options)
        # Alone or together, in plain text or as JSON: the same answers.
        assert cli.main(asked) == bool(given.problems)
        plain = capsys.readouterr().out.splitlines()
        assert len(plain) == given.count
        assert {n for n, line in enumerate(plain) if not line} >= given.problems

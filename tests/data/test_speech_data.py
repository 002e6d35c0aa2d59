"""Sounds with their texts, from tables and folders: what is read, and what is left out."""

import json
from pathlib import Path

import numpy as np
import pytest

from attnzoo.config.speech import SpeechConfig
from attnzoo.data.speech import SpeechPlan, load_speech
from attnzoo.errors import UserError
from tests.spoken import RATE, tone, write_wave


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Four sounds of 0.2 to 0.5 s."""
    for number in range(4):
        write_wave(tmp_path / "wav" / f"{number}.wav", tone(200, 0.2 + 0.1 * number))
    return tmp_path


ROWS = [(f"wav/{i}.wav", f"text {i}") for i in range(4)]


def write_table(home: Path, kind: str) -> Path:
    path = home / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"path": a, "text": b}) + "\n" for a, b in ROWS))
    else:
        mark = "\t" if kind == "tsv" else ","
        path.write_text("".join(f"{a}{mark}{b}\n" for a, b in [("path", "text"), *ROWS]))
    return path


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "beside", "librispeech"])
def test_every_layout_reads_the_same(kind: str, sounds: Path) -> None:
    source = sounds / "wav"
    if kind == "beside":
        for number in range(4):
            (source / f"{number}.txt").write_text(f"text\n{number}\n")
    elif kind == "librispeech":
        (source / "1-2.trans.txt").write_text("".join(f"{i} text {i}\n" for i in range(4)))
    else:
        source = write_table(sounds, kind)
    found = load_speech(SpeechConfig(train=(source,), validation=(source,))).train
    assert found.texts == [text for _, text in ROWS]
    np.testing.assert_allclose(found.seconds, [0.2, 0.3, 0.4, 0.5], atol=1e-3)
    assert len(found.sound(3, RATE)) == 1000
    assert len(found.sound(3, 2 * RATE)) == 2000


def test_parts_of_one_file(sounds: Path) -> None:
    """Start and end select a part; parts drawn at random share no sound."""
    rows = ["path\ttext\tstart\tend", "wav/3.wav\ta\t0.1\t0.3", "wav/3.wav\tb\t0.25\t"]
    (sounds / "t.tsv").write_text("\n".join(rows) + "\n")
    found = load_speech(SpeechConfig(train=(sounds / "t.tsv",))).train
    np.testing.assert_allclose(found.seconds, [0.2, 0.25], atol=1e-3)
    whole = write_table(sounds, "tsv")
    parts = load_speech(SpeechConfig(train=(whole,), validation_share=0.25, test_share=0.5))
    texts = [getattr(parts, part).texts for part in ("train", "validation", "test")]
    assert [len(part) for part in texts] == [1, 1, 2]
    assert sorted(text for part in texts for text in part) == [text for _, text in ROWS]


def test_what_is_broken_is_named_and_counted(sounds: Path) -> None:
    (sounds / "empty.wav").write_bytes(b"")
    rows = [
        "path\ttext\tstart\tend",
        "wav/0.wav\tgood\t\t",
        "wav/1.wav\t \t\t",
        "empty.wav\tx\t\t",
        "none.wav\tx\t\t",
        "wav/2.wav\tx\tsoon\t",
        "wav/2.wav\tx\t0.3\t0.9",
        "wav/3.wav\tx\t\t",
    ]
    table = sounds / "t.tsv"
    table.write_text("\n".join(rows) + "\n")
    config = SpeechConfig(train=(table,), max_skipped=0.9, max_seconds=0.45)
    splits = load_speech(config)
    assert splits.train.texts == ["good"]
    said = "\n".join(splits.reports[0].lines())
    for line, reason in (
        (3, "no text"),
        (4, "an empty file"),
        (5, "no such file"),
        (6, "'soon' is no time in seconds"),
        (7, "no part from 0.3 to 0.9 s"),
        (8, "longer than data.max_seconds=0.45"),
    ):
        assert any(reason in row and f"{table}:{line}" in row for row in said.splitlines()), said
    with pytest.raises(UserError, match="6 of 7 sounds cannot be used"):
        load_speech(SpeechConfig(train=(table,), max_seconds=0.45))
    (sounds / "u.tsv").write_text("words\tpath\nx\ty\n")
    with pytest.raises(UserError, match="no column 'text'; it has words, path"):
        load_speech(SpeechConfig(train=(sounds / "u.tsv",)))
    with pytest.raises(UserError, match="neither a folder nor a table"):
        load_speech(SpeechConfig(train=(sounds / "wav" / "0.wav",)))


def test_batches(sounds: Path) -> None:
    """Each sound once, at its length and NaN behind it, with the ids of its text."""
    found = load_speech(SpeechConfig(train=(write_table(sounds, "tsv"),))).train
    plan = SpeechPlan(found, [[1, 4 + i, 2][: 2 + i % 2] for i in range(4)], RATE, 3)
    seen = {}
    for batch in plan.batches():
        assert batch["source"].shape[0] == 3
        assert batch["target"].shape == (3, 3)
        for row, source, target in zip(batch["rows"], batch["source"], batch["target"]):
            real = source[~np.isnan(source)]
            if row < 0:
                assert not len(real)
                assert not target.any()
                continue
            seen[int(row)] = target.tolist()
            np.testing.assert_array_equal(real, found.sound(int(row), RATE))
            assert not np.isnan(source[: len(real)]).any()
    assert seen == {0: [1, 4, 0], 1: [1, 5, 2], 2: [1, 6, 0], 3: [1, 7, 2]}

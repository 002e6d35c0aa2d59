"""Strings of spliced words: times that are where the words are, and parts that share nothing."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest

from attnzoo.config.speech import SplicedConfig
from attnzoo.data.spliced import load_spliced
from attnzoo.errors import UserError
from tests.spoken import RATE, TONES, tone, write_recordings, write_wave


def config_of(folder: Path, **settings) -> SplicedConfig:
    return SplicedConfig(
        **{
            "recordings": folder,
            "held_out": 2,
            "silence": (0.05, 0.1),
            "train": 30,
            "validation": 10,
            "test": 10,
            "test_words": (8, 9),
            **settings,
        }
    )


def test_words_are_at_their_times(tmp_path: Path) -> None:
    """The strongest frequency within the times of a word is its tone; outside it is silent."""
    config = config_of(write_recordings(tmp_path), speed=0.2)
    for part in (load_spliced(config).train, load_spliced(config).test):
        speeds = []
        for row in range(5):
            sound, times, words = part.sound(row, RATE), part.times[row], part.texts[row].split()
            assert len(words) == len(times)
            assert abs(part.seconds[row] - len(sound) / RATE) < 0.02
            inside = np.zeros(len(sound), bool)
            for word, (start, end) in zip(words, times):
                first, last = round(start * RATE), round(end * RATE)
                inside[max(first - 4, 0) : last + 4] = True
                spectrum = np.abs(np.fft.rfft(sound[first:last], 2000))
                speeds.append(spectrum.argmax() / TONES[word])
            assert not sound[~inside].any()
        assert min(speeds) > 0.75
        assert max(speeds) < 1.3


def test_parts(tmp_path: Path) -> None:
    """The speaker of the test part is in no other, and no recording is in two parts."""
    folder = write_recordings(tmp_path / "a")
    config = config_of(folder, test_speaker="ben")
    splits = load_spliced(config)
    loud = {
        part: {round(float(np.abs(some.sound(row, RATE)).max()), 1) for row in range(len(some))}
        for part, some in (("train", splits.train), ("test", splits.test))
    }
    assert loud == {"train": {0.4}, "test": {0.2}}
    sizes = {part: [len(t) for t in getattr(splits, part).times] for part in ("train", "test")}
    assert set(sizes["train"]) == set(range(3, 8))
    assert set(sizes["test"]) == {8, 9}
    lengths = [
        {round((end - start) * RATE) for times in some.times for start, end in times}
        for some in (splits.train, splits.validation)
    ]
    assert lengths == [{300, 350, 400}, {200, 250}]
    again = load_spliced(config)
    assert again.fingerprint() == splits.fingerprint()
    np.testing.assert_array_equal(again.train.sound(3, RATE), splits.train.sound(3, RATE))
    assert load_spliced(dataclasses.replace(config, seed=1)).train.texts != splits.train.texts
    noisy = load_spliced(dataclasses.replace(config, noise=0.5))
    assert np.abs(noisy.train.sound(3, RATE) - splits.train.sound(3, RATE)).max() > 0.01
    np.testing.assert_array_equal(noisy.test.sound(3, RATE), splits.test.sound(3, RATE))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"some/{file.name}")
    packed = load_spliced(config_of(tmp_path / "a.zip", test_speaker="ben"))
    assert packed.train.texts == splits.train.texts


def test_what_cannot_be_spliced_is_named(tmp_path: Path) -> None:
    folder = write_recordings(tmp_path / "a")
    write_wave(folder / "notes.wav", tone(200, 0.1))
    (folder / "low_ann_9.wav").write_bytes(b"")
    splits = load_spliced(config_of(folder, max_skipped=0.1))
    lines = splits.reports[0].lines()
    assert "30 of 32 recordings" in lines[0]
    assert "not named word_speaker_number (notes.wav)" in " ".join(lines)
    assert "an empty file (low_ann_9.wav)" in " ".join(lines)
    for settings, wanted in (
        ({}, "2 of 32 recordings cannot be used"),
        ({"max_skipped": 1.0, "test_speaker": "cy"}, "data.test_speaker=cy: .* has ann, ben"),
        ({"max_skipped": 1.0, "held_out": 5}, "5 recordings of .*; wanted more than"),
        ({"max_skipped": 1.0, "words": {"low": "l"}}, "no text for high, mid"),
        ({"recordings": tmp_path / "none"}, "none: no such file"),
        ({"recordings": folder / "notes.wav"}, "neither a folder nor a zip or tar"),
    ):
        with pytest.raises(UserError, match=wanted):
            load_spliced(config_of(**{"folder": folder, **settings}))

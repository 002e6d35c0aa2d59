"""Sounds of every kind of file are the same samples; those that are broken are named."""

import io
from pathlib import Path

import numpy as np
import pytest

from attnzoo.data.sound import read_sound
from attnzoo.errors import UserError
from tests.spoken import tone, write_wave

soundfile = pytest.importorskip("soundfile")
STEREO = np.stack([tone(200, 0.5, rate=8000), tone(330, 0.5, rate=8000)], axis=1)
# File format, its encoding, and the largest error of a sample.
KINDS = [
    ("WAV", "PCM_U8", 0.01),
    ("WAV", "PCM_16", 1e-4),
    ("WAV", "PCM_24", 1e-6),
    ("WAV", "PCM_32", 1e-6),
    ("WAV", "FLOAT", 1e-6),
    ("WAV", "DOUBLE", 1e-6),
    ("WAV", "ULAW", 0.02),
    ("WAV", "ALAW", 0.02),
    ("WAVEX", "PCM_16", 1e-4),
    ("FLAC", "PCM_16", 1e-4),
    ("FLAC", "PCM_24", 1e-6),
    ("OGG", "VORBIS", 0.05),
]


@pytest.mark.parametrize(("kind", "encoding", "error"), KINDS)
def test_every_kind(kind: str, encoding: str, error: float, tmp_path: Path) -> None:
    """Channels are averaged, and the rate is converted without loss of a tone below half of it."""
    path = tmp_path / "a.sound"
    soundfile.write(path, STEREO, 8000, format=kind, subtype=encoding)
    found = read_sound(path, 8000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, STEREO.mean(axis=1), atol=error)
    faster = read_sound(path, 11_025)
    time = np.arange(len(faster)) / 11_025
    assert abs(len(faster) - 0.5 * 11_025) <= 1
    middle = (time > 0.1) & (time < 0.4)
    wanted = 0.2 * (np.sin(400 * np.pi * time) + np.sin(660 * np.pi * time))
    assert np.abs(faster - wanted)[middle].max() < 0.05
    half = read_sound(path, 8000, start=0.25, end=0.5)
    np.testing.assert_array_equal(half, found[2000:])


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="FLAC")
    return file.getvalue()


def test_what_is_no_sound_is_one_line(tmp_path: Path) -> None:
    whole = write_wave(tmp_path / "whole.wav", STEREO, 8000).read_bytes()
    cases = {
        b"": "an empty file",
        b"not a sound at all": "no sound that can be read",
        whole[:2000]: "cut off: 1,956 of 16,000 bytes",
        whole[:40]: "cut off: a WAV file without sound",
        whole[:40] + bytes(4): "zero length",
        flac(STEREO)[:3000]: "no sound that can be read, or damaged",
    }
    for number, (data, wanted) in enumerate(cases.items()):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read_sound(path, 8000)
        told = str(caught.value)
        assert told.startswith(f"{path}: ")
        assert wanted in told
        assert "\n" not in told
    path = tmp_path / "nan.wav"
    soundfile.write(path, np.full(100, np.nan), 8000, subtype="FLOAT")
    with pytest.raises(UserError, match="no numbers"):
        read_sound(path, 8000)
    with pytest.raises(UserError, match="no such file"):
        read_sound(tmp_path / "none.wav", 8000)
    for start, end in ((0.3, 0.2), (-1.0, 0.2), (0.2, 0.7), (0.5, None)):
        with pytest.raises(UserError, match="no part from"):
            read_sound(tmp_path / "whole.wav", 8000, start=start, end=end)


def test_plain_files_need_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WAV of 16 bits at the rate of the model; other files name the extra to install."""
    import sys

    for name in ("soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, name, None)
    path = write_wave(tmp_path / "a.wav", STEREO, 8000)
    assert len(read_sound(path, 8000)) == 4000
    with pytest.raises(UserError, match=r"needs soxr.*attnzoo\[speech\]"):
        read_sound(path, 16_000)
    (tmp_path / "a.flac").write_bytes(flac(STEREO))
    with pytest.raises(UserError, match=r"a.flac: needs soundfile.*attnzoo\[speech\]"):
        read_sound(tmp_path / "a.flac", 8000)

"""Sounds: WAV and FLAC files of any rate as samples between -1 and 1."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from attnzoo.data.sources import read_bytes
from attnzoo.errors import UserError

ENDINGS = (".wav", ".flac", ".ogg", ".aiff", ".aif", ".au")
"""Endings of the files that a folder is searched for."""
MOST_SECONDS = 3_600.0
LOUDEST = 1_000.0
"""Largest sample that can be one of a sound, whose samples lie between -1 and 1."""


class Sound(NamedTuple):
    """Samples of one channel between -1 and 1, and how many there are in a second."""

    samples: Float32[np.ndarray, " n"]
    rate: int

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return len(self.samples) / self.rate


def read_sound(
    source: Path | bytes,
    rate: int,
    *,
    place: str | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Float32[np.ndarray, " n"]:
    """Read a sound, or its part from ``start`` to ``end`` in seconds, at a rate.

    Channels are averaged. WAV of 8 or 16 bits is read without a library if it has this rate.

    Args:
      source: file, compressed or not, or its bytes.
      place: name of the sound in messages; None: the file.

    Raises:
      UserError: a file that is no sound, or is cut off, or empty; a part that lies outside of it.
    """
    place = str(source) if place is None and isinstance(source, Path) else place or "sound"
    data = read_bytes(source) if isinstance(source, Path) else source
    sound = decode(data, place)
    if not len(sound.samples):
        raise UserError(f"{place}: a sound of zero length")
    if not np.isfinite(sound.samples).all():
        raise UserError(f"{place}: samples that are no numbers (NaN or infinite)")
    loudest = float(np.abs(sound.samples).max())
    if loudest > LOUDEST:
        raise UserError(f"{place}: samples as large as {loudest:.3g}; wanted -1 to 1")
    if start or end is not None:
        stop = sound.seconds if end is None else end
        if not 0 <= start < stop <= sound.seconds + 0.01:
            raise UserError(
                f"{place}: no part from {start:g} to {stop:g} s in a sound of {sound.seconds:.2f} s"
            )
        first, last = round(start * sound.rate), round(stop * sound.rate)
        sound = Sound(sound.samples[first:last], sound.rate)
    if sound.seconds > MOST_SECONDS:
        raise UserError(f"{place}: {sound.seconds:,.0f} s; at most {MOST_SECONDS:,.0f} are read")
    return resample(sound, rate)


def decode(data: bytes, place: str) -> Sound:
    """Decode the bytes of a sound file; UserError if they are none, or are cut off."""
    _check_whole(data, place)
    plain = _plain_wave(data)
    if plain is not None:
        return plain
    soundfile = _library("soundfile", place)
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).rstrip(".").rpartition(": ")[2].splitlines()
        raise UserError(
            f"{place}: no sound that can be read, or damaged: {(reason or ['unknown'])[0]}"
        ) from None
    return Sound(samples.mean(axis=1), rate)


def resample(sound: Sound, rate: int) -> Float32[np.ndarray, " n"]:
    """Return the samples at another rate, band-limited."""
    if sound.rate == rate:
        return sound.samples
    return _library("soxr", f"{sound.rate:,} Hz, wanted {rate:,}").resample(
        sound.samples, sound.rate, rate
    )


def _check_whole(data: bytes, place: str) -> None:
    """Raise a UserError for a WAV file whose data end before its header says.

    libsndfile reads what is there without a word. Streams leave the size at its largest value.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        if not data:
            raise UserError(f"{place}: an empty file")
        return
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"data":
            if size < 0xFFFFFF00 and at + 8 + size > len(data):
                raise UserError(
                    f"{place}: cut off: {len(data) - at - 8:,} of {size:,} bytes of sound"
                )
            return
        at += 8 + size + size % 2
    raise UserError(f"{place}: cut off: a WAV file without sound")


def _plain_wave(data: bytes) -> Sound | None:
    """Read a WAV file of 8 or 16 bits; None for another one."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            if width not in (1, 2) or not rate:
                return None
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError):
        return None
    values = np.frombuffer(raw, "u1" if width == 1 else "<i2").astype(np.float32)
    values = (values - 128) / 128 if width == 1 else values / 32768
    return Sound(values.reshape(-1, channels).mean(axis=1, dtype=np.float32), rate)


def _library(name: str, what: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{what}: needs {name}: pip install 'attnzoo[speech]', or give 16-bit WAV files of "
            "the rate of the model"
        ) from None

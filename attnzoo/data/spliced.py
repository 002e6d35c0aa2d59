"""Strings of spoken words, spliced from recordings of single words, with known times."""

from __future__ import annotations

import dataclasses
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from attnzoo.data.corpus import Report, Splits
from attnzoo.data.random_numbers import integers, uniform
from attnzoo.data.sound import ENDINGS, Sound, decode, resample
from attnzoo.data.speech import Times, Utterances
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError

STREAMS = {"train": 31, "validation": 32, "test": 33}
Recordings = dict[tuple[str, str], list[Float32[np.ndarray, " n"]]]
"""Samples of the recordings of each speaker and word, in the order of their numbers."""


class Spoken(NamedTuple):
    """Recordings, all at one rate."""

    recordings: Recordings
    rate: int
    content: str

    def speakers(self) -> list[str]:
        """Return the speakers by name."""
        return sorted({speaker for speaker, _ in self.recordings})

    def words(self) -> list[str]:
        """Return the words by name."""
        return sorted({word for _, word in self.recordings})


def load_spliced(config: Any) -> Splits[Utterances]:
    """Load the parts of a ``SplicedConfig``, a pure function of its recordings and its seed.

    Recordings that cannot be read, or have another name than `word_speaker_number`, are skipped
    and counted; more than ``config.max_skipped`` of them are a UserError.
    """
    spoken, report = read_recordings(config)
    speakers = spoken.speakers()
    own = config.test_speaker
    if own is not None and own not in speakers:
        raise UserError(f"data.test_speaker={own}: {config.recordings} has {', '.join(speakers)}")
    others = [name for name in speakers if name != own]
    if not others:
        raise UserError(f"{config.recordings}: no speaker but data.test_speaker={own}")
    few = [key for key, some in spoken.recordings.items() if len(some) <= config.held_out]
    if few:
        raise UserError(
            f"{config.recordings}: {len(spoken.recordings[few[0]])} recordings of "
            f"{few[0][1]} by {few[0][0]}; wanted more than data.held_out={config.held_out}"
        )
    absent = set(spoken.words()) - set(config.words or spoken.words())
    if absent:
        raise UserError(f"data.words: no text for {', '.join(sorted(absent))}")
    held = slice(0, config.held_out)
    new = slice(config.held_out, None)
    lengths = config.min_words, config.max_words
    return Splits(
        _strings(config, spoken, "train", others, new, lengths),
        _strings(config, spoken, "validation", others, held, lengths),
        _strings(
            config,
            spoken,
            "test",
            others if own is None else [own],
            held if own is None else slice(None),
            config.test_words,
        ),
        reports=[report],
    )


def read_recordings(config: Any) -> tuple[Spoken, Report]:
    """Read the recordings of a folder, zip or tar, at the rate of the first."""
    report = Report(str(config.recordings), unit="recordings")
    found: dict[tuple[str, str], list[tuple[str, Float32[np.ndarray, " n"]]]] = {}
    rate = 0
    for name, data in _members(config.recordings):
        report.read += 1
        place = f"{config.recordings}: {name}"
        word, _, rest = Path(name).stem.partition("_")
        speaker, _, number = rest.rpartition("_")
        if not (word and speaker and number.isdigit()):
            report.skip("not named word_speaker_number", name)
            continue
        try:
            sound = decode(data, place)
            if not len(sound.samples):
                raise UserError(f"{place}: a sound of zero length")
        except UserError as error:
            report.skip(str(error).removeprefix(f"{place}: "), name)
            continue
        rate = rate or sound.rate
        # By number: the first ones are held out.
        found.setdefault((speaker, word), []).append((number.zfill(9), resample(sound, rate)))
    if not found:
        raise UserError(
            f"{config.recordings}: no recording named word_speaker_number in {report.read} files"
        )
    report.check(config.max_skipped)
    recordings = {
        key: [samples for _, samples in sorted(some, key=lambda one: one[0])]
        for key, some in sorted(found.items())
    }
    every = (samples for some in recordings.values() for samples in some)
    return Spoken(recordings, rate, array_fingerprint(*every)), report


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every sound of a folder, zip or tar."""
    is_sound = lambda name: Path(name).suffix.lower() in ENDINGS  # noqa: E731
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if is_sound(file.name) and file.is_file():
                    yield file.relative_to(path).as_posix(), file.read_bytes()
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in filter(is_sound, archive.namelist()):
                    yield name, archive.read(name)
        else:
            with tarfile.open(path, "r:*") as archive:
                for member in archive:
                    if member.isfile() and is_sound(member.name):
                        file = archive.extractfile(member)
                        assert file is not None
                        yield member.name, file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: neither a folder nor a zip or tar, or damaged: {error}") from None


@dataclasses.dataclass(frozen=True)
class _String:
    """One string: its recordings, the silence before each and at the end, speed and noise."""

    pieces: list[tuple[tuple[str, str], int]]
    silence: list[int]
    speed: float
    noise: float
    key: tuple[int, int]


def _strings(
    config: Any,
    spoken: Spoken,
    part: str,
    speakers: list[str],
    numbers: slice,
    lengths: tuple[int, int],
) -> Utterances:
    """Compose the strings of one part from recordings of these speakers and numbers."""
    count, stream = getattr(config, part), STREAMS[part]
    words, texts = spoken.words(), config.words or {word: word for word in spoken.words()}
    low, high = lengths
    strings: list[_String] = []
    draw = lambda top, size, row, use: integers(  # noqa: E731
        top, (size,), config.seed, row, use, stream=stream
    )
    quiet, loud = (round(seconds * spoken.rate) for seconds in config.silence)
    for row in range(count):
        size = low + int(draw(high - low + 1, 1, row, 0)[0])
        speaker = speakers[int(draw(len(speakers), 1, row, 1)[0])]
        pieces = []
        for number, share in zip(draw(len(words), size, row, 2), draw(2**30, size, row, 3)):
            key = speaker, words[int(number)]
            if key not in spoken.recordings:
                raise UserError(f"{config.recordings}: no recording of {key[1]} by {speaker}")
            choices = range(len(spoken.recordings[key]))[numbers]
            pieces.append((key, choices[int(share) % len(choices)]))
        silence = (quiet + draw(loud - quiet + 1, size + 1, row, 4)).tolist()
        changed = uniform((2,), config.seed, row, 5, stream=stream) * (part == "train")
        speed = 1 + config.speed * (2 * changed[0] - 1) if part == "train" else 1.0
        strings.append(
            _String(pieces, silence, float(speed), config.noise * float(changed[1]), (row, stream))
        )
    times = [_times(one, spoken) for one in strings]
    return Utterances(
        [f"{config.recordings}: {part} string {row}" for row in range(count)],
        [" ".join(texts[key[1]] for key, _ in one.pieces) for one in strings],
        np.asarray([_length(one, spoken) / spoken.rate for one in strings]),
        lambda row, rate: resample(
            Sound(_with_noise(_joined(strings[row], spoken), strings[row]), spoken.rate), rate
        ),
        [spoken.content] * count,
        times,
    )


def _times(string: _String, spoken: Spoken) -> Times:
    """Return the start and the end of each word in seconds."""
    at, found = 0, []
    for (key, number), silence in zip(string.pieces, string.silence):
        start = at + silence
        at = start + len(spoken.recordings[key][number])
        found.append((start / spoken.rate / string.speed, at / spoken.rate / string.speed))
    return tuple(found)


def _length(string: _String, spoken: Spoken) -> int:
    """Return the number of samples of a string at its speed."""
    words = (len(spoken.recordings[key][number]) for key, number in string.pieces)
    return int((sum(words) + sum(string.silence)) / string.speed)


def _joined(string: _String, spoken: Spoken) -> Float32[np.ndarray, " n"]:
    """Return the samples of a string at its speed."""
    parts = []
    for (key, number), silence in zip(string.pieces, string.silence):
        parts += [np.zeros(silence, np.float32), spoken.recordings[key][number]]
    whole = np.concatenate([*parts, np.zeros(string.silence[-1], np.float32)])
    if string.speed == 1:
        return whole
    places = np.arange(_length(string, spoken)) * string.speed
    return np.interp(places, np.arange(len(whole)), whole).astype(np.float32)


def _with_noise(samples: Float32[np.ndarray, " n"], string: _String) -> Any:
    """Add uniform noise of the string's standard deviation."""
    if not string.noise:
        return samples
    noise = 2 * uniform(samples.shape, *string.key, stream=40) - 1
    return samples + (string.noise * samples.std() * np.sqrt(3) * noise).astype(np.float32)

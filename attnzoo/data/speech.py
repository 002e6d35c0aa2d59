"""Sounds with their texts: reading tables and folders, and batches of padded samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Float32, Float64, Int64

from attnzoo.data.batching import Batch, BucketPlan
from attnzoo.data.corpus import Report, Splits, add_strings
from attnzoo.data.order import MAX_BUCKETS, Buckets, RowOrder
from attnzoo.data.random_numbers import permutation
from attnzoo.data.sound import ENDINGS, read_sound
from attnzoo.data.sources import read_text, records, text_of
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError
from attnzoo.special_tokens import PAD

STEP = 0.01
"""Seconds in which lengths of sounds are counted: a frame of a spectrogram."""
PROBE_RATE = 8_000
Times = tuple[tuple[float, float], ...]
"""Start and end of each word in seconds."""


@dataclasses.dataclass(frozen=True)
class Utterances:
    """Sounds with their texts, read when they are wanted.

    Attributes:
      names: name of each sound, for messages. texts: what is said.
      seconds: length of each sound.
      sound: function from a row and a rate to samples.
      contents: digest of the samples of each sound, or of all that it is made of.
      times: times of the words of each text (separated by whitespace); None: not known.
    """

    names: list[str]
    texts: list[str]
    seconds: Float64[np.ndarray, " sounds"]
    sound: Callable[[int, int], Float32[np.ndarray, " n"]]
    contents: list[str]
    times: list[Times] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: Sequence[int] | Int64[np.ndarray, " rows"]) -> Utterances:
        """Return the sounds of these rows, in this order."""
        rows = [int(row) for row in rows]
        return Utterances(
            [self.names[row] for row in rows],
            [self.texts[row] for row in rows],
            self.seconds[rows],
            lambda row, rate: self.sound(rows[row], rate),
            [self.contents[row] for row in rows],
            None if self.times is None else [self.times[row] for row in rows],
        )

    def fingerprint(self) -> str:
        """Return the xxh3_128 of names, texts and sounds, the same in every process."""
        digest = xxhash.xxh3_128()
        for strings in (self.names, self.texts, self.contents):
            add_strings(digest, strings)
        digest.update(array_fingerprint(self.seconds).encode())
        return digest.hexdigest()


def load_speech(config: Any) -> Splits[Utterances]:
    """Load the parts of a ``SpeechConfig``.

    Every sound is decoded once. Those that cannot be read, are empty or too long, or have no text,
    are skipped and counted; more than ``config.max_skipped`` of a table or folder is a UserError.
    """
    reports: list[Report] = []
    parts = {}
    for part in ("train", "validation", "test"):
        found = [_read(config, path, reports) for path in getattr(config, part)]
        parts[part] = _joined([row for rows in found for row in rows])
    train = parts["train"]
    order = permutation(len(train), config.split_seed, stream=0)
    first = 0
    for part in ("validation", "test"):
        count = round(getattr(config, f"{part}_share") * len(train))
        if not len(parts[part]) and count:
            parts[part] = train.select(np.sort(order[first : first + count]))
            first += count
    kept = np.sort(order[first:])[: config.limit]
    return Splits(train.select(kept), parts["validation"], parts["test"], reports=reports)


@dataclasses.dataclass(frozen=True)
class _Row:
    """One sound of a table or folder."""

    place: str
    path: Path
    text: str
    start: float
    end: float | None
    seconds: float
    content: str = ""

    def read(self, rate: int) -> Float32[np.ndarray, " n"]:
        return read_sound(self.path, rate, place=self.place, start=self.start, end=self.end)


def _joined(rows: list[_Row]) -> Utterances:
    return Utterances(
        [row.place for row in rows],
        [row.text for row in rows],
        np.asarray([row.seconds for row in rows], np.float64),
        lambda row, rate: rows[row].read(rate),
        [row.content for row in rows],
    )


def _read(config: Any, path: Path, reports: list[Report]) -> list[_Row]:
    """Return the usable sounds of a table or a folder, and report on the others."""
    report = Report(str(path), unit="sounds")
    rows = []
    for place, file, text, times in _listed(config, path):
        report.read += 1
        try:
            start, end = (_second(value, place) for value in times)
            row = _Row(place, file, text, start or 0.0, end, 0.0)
            if not text:
                raise UserError(f"{place}: no text")
            samples = row.read(PROBE_RATE)
            seconds = len(samples) / PROBE_RATE
            if seconds > config.max_seconds:
                raise UserError(f"{place}: longer than data.max_seconds={config.max_seconds:g}")
            rows.append(
                dataclasses.replace(row, seconds=seconds, content=array_fingerprint(samples))
            )
        except UserError as error:
            report.skip(str(error).removeprefix(f"{place}: "), place)
    if not report.read:
        raise UserError(f"{path}: no sound in it; wanted a table, or a folder of {ENDINGS}")
    report.check(config.max_skipped)
    reports.append(report)
    return rows


def _listed(config: Any, path: Path) -> Iterator[tuple[str, Path, str, tuple[str, str]]]:
    """Yield the place, the file, the text, and the start and end, of each sound."""
    if path.is_dir():
        yield from _in_folder(path, config.encoding)
        return
    ending = next((s for s in reversed(path.suffixes) if s in (".tsv", ".csv", ".jsonl")), None)
    if ending is None:
        raise UserError(f"{path}: neither a folder nor a table (.tsv, .csv or .jsonl)")
    wanted = [config.path_column, config.text_column]
    for place, record in records(path, ending[1:], encoding=config.encoding):
        missing = [name for name in wanted if name not in record]
        if missing:
            raise UserError(f"{place}: no column {missing[0]!r}; it has {', '.join(record)}")
        named, text = (text_of(record[name]).strip() for name in wanted)
        times = tuple(text_of(record.get(n)) for n in (config.start_column, config.end_column))
        yield place, path.parent / named, text, times  # ty: ignore[invalid-yield]


def _in_folder(root: Path, encoding: str) -> Iterator[tuple[str, Path, str, tuple[str, str]]]:
    """Yield the sounds below a folder, with the text beside each or in its chapter's file."""
    chapters: dict[Path, dict[str, str]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in ENDINGS or not path.is_file():
            continue
        beside = path.with_suffix(".txt")
        if beside.is_file():
            text = " ".join(read_text(beside, encoding).split())
        else:
            if path.parent not in chapters:
                lines = [
                    line.split(maxsplit=1)
                    for chapter in sorted(path.parent.glob("*.trans.txt"))
                    for line in read_text(chapter, encoding).splitlines()
                ]
                chapters[path.parent] = {line[0]: line[-1] for line in lines if len(line) == 2}
            text = chapters[path.parent].get(path.stem, "")
        yield str(path), path, text, ("", "")


def _second(value: str, place: str) -> float | None:
    """Return a time in seconds; None for an empty field."""
    if not value.strip():
        return None
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{place}: {value!r} is no time in seconds") from None


@final
class SpeechPlan(BucketPlan):
    """Batches of sounds of similar length, with the ids of their texts.

    Args:
      utterances: sounds, and ``ids``: the ids of each text, special tokens included.
      rate: samples in a second.
      spans: start and end in seconds of the word of each id but the first, NaN where there is none;
        None: not known.
    """

    def __init__(
        self,
        utterances: Utterances,
        ids: Sequence[Sequence[int]],
        rate: int,
        batch_size: int,
        *,
        spans: Sequence[np.ndarray] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self.utterances, self.ids, self.rate, self.spans = utterances, ids, rate, spans
        self.batch_size = batch_size
        needs = np.ceil(utterances.seconds / STEP).astype(np.int64) + 1
        self._order = RowOrder(len(utterances), batch_size, seed, shuffle, needs)
        self._buckets = Buckets(needs, None, max_buckets)
        self._longest = max((len(row) for row in ids), default=1)
        sizes = np.asarray([len(row) for row in ids], np.int64)
        flat = np.asarray([i for row in ids for i in row], np.int32)
        about = f"{utterances.fingerprint()} {rate}"
        self._fingerprint = array_fingerprint(flat, sizes, about)

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these rows.

        `source`: float32 `B L`, samples, NaN after the end. `target`: int32 `B T+1`, BOS, ids,
        EOS, PAD. `rows`: int32 `B`, -1 for a row without a sound. `spans`: float32 `B T 2`, if they
        are known.
        """
        samples = round(self._buckets.of(rows) * STEP * self.rate)
        sounds = [self.utterances.sound(row, self.rate)[:samples] for row in rows[rows >= 0]]
        target = np.full((len(rows), self._longest), PAD, np.int32)
        for place, row in enumerate(rows[rows >= 0].tolist()):
            target[place, : len(self.ids[row])] = self.ids[row]
        source = padded_samples(sounds, len(rows), samples)
        batch = {"source": source, "target": target, "rows": rows.astype(np.int32)}
        if self.spans is not None:
            spans = np.full((len(rows), self._longest - 1, 2), np.nan, np.float32)
            for place, row in enumerate(rows[rows >= 0].tolist()):
                spans[place, : len(self.spans[row])] = self.spans[row]
            batch["spans"] = spans
        return batch


def padded_samples(
    sounds: Sequence[np.ndarray], rows: int, width: int
) -> Float32[np.ndarray, "B L"]:
    """Return sounds as a batch, NaN after the end of each and in rows without a sound."""
    batch = np.full((rows, width), np.nan, np.float32)
    for place, sound in enumerate(sounds):
        batch[place, : len(sound)] = sound
    return batch

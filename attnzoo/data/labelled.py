"""Labelled texts, or pairs of texts: reading, tokenizing, and batching by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Bool, Int32, Int64

from attnzoo.data.batching import Batch, BucketPlan
from attnzoo.data.corpus import PARTS, Report, Splits, add_strings
from attnzoo.data.library_tokenizers import between_pair
from attnzoo.data.locations import spelled
from attnzoo.data.order import MAX_BUCKETS, Buckets, RowOrder
from attnzoo.data.random_numbers import permutation
from attnzoo.data.tables import read_records
from attnzoo.data.text import array_fingerprint
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.errors import UserError


@dataclass(frozen=True)
class LabelledCorpus:
    """Examples in order: `first[i]`, perhaps `second[i]`, is of class `names[labels[i]]`."""

    first: list[str]
    second: list[str] | None
    labels: Int32[np.ndarray, " examples"]
    names: tuple[str, ...]
    name: str = ""

    def __len__(self) -> int:
        return len(self.first)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every text and class, the same in every process."""
        digest = xxhash.xxh3_128()
        for strings in (self.first, self.second or (), self.names):
            add_strings(digest, strings)
        digest.update(array_fingerprint(self.labels).encode())
        return digest.hexdigest()


@final
class LabelledPlan(BucketPlan):
    """Batches of labelled texts of similar length: CLS, text, SEP, perhaps the second text, SEP.

    Between two texts are the special tokens of the tokenizer's pairs, which may be several.

    An epoch has every example once (`RowOrder`); without `shuffle` sorted by length. A batch is
    padded with `pad_id` to a bucket; None chooses at most six that waste the least padding.
    Examples longer than `max_length`, special tokens included, are cut at their end, of two texts
    the longer one first; `cut_rows` are the indices of such examples, and `cut` their number.
    """

    def __init__(
        self,
        corpus: LabelledCorpus,
        tokenizer: TextTokenizer,
        batch_size: int,
        max_length: int,
        buckets: Sequence[int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        cls, sep = tokenizer.special("cls"), tokenizer.special("sep")
        between = () if corpus.second is None else between_pair(tokenizer)
        ends = 2 + len(between)
        if max_length <= ends:
            raise ValueError(f"max_length={max_length}, wanted more than the {ends} special tokens")
        self.corpus = corpus
        self.batch_size = batch_size
        self.pad_id = tokenizer.pad_id
        self.cut_rows: list[int] = []
        self._rows: list[np.ndarray] = []
        # Index at which the second text begins.
        self._borders = np.zeros(len(corpus), np.int64)
        for i, text in enumerate(corpus.first):
            first = tokenizer.encode_ids(text)
            second = [] if corpus.second is None else tokenizer.encode_ids(corpus.second[i])
            room = max_length - ends
            if len(first) + len(second) > room:
                self.cut_rows.append(i)
            kept = _shares(len(first), len(second), room)
            row = [cls, *first[: kept[0]], *between]
            # Without a second text, behind SEP.
            self._borders[i] = len(row) + (corpus.second is None)
            self._rows.append(np.asarray([*row, *second[: kept[1]], sep], np.int32))
        self._lengths = np.asarray([len(row) for row in self._rows], np.int64)
        self._order = RowOrder(len(corpus), batch_size, seed, shuffle, self._lengths)
        self._buckets = Buckets(self._lengths, buckets, max_buckets)
        self._fingerprint = array_fingerprint(
            np.concatenate(self._rows), self._lengths, self._borders, corpus.labels
        )

    @property
    def cut(self) -> int:
        """Number of examples that are cut."""
        return len(self.cut_rows)

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these rows.

        `tokens`: int32 `B T`. `segments`: int32 `B T`, 0, and 1 for the second text and its SEP.
        `valid`: bool `B T`, false at padding. `labels`: int32 `B`, 0 for a padding row. `rows`:
        int32 `B`, the example's index, -1 for a padding row.
        """
        tokens, valid = pad_rows(self._rows, rows, self._buckets.of(rows), self.pad_id)
        column = np.arange(tokens.shape[1])
        real = rows >= 0
        return {
            "tokens": tokens,
            "segments": (valid & (column >= self._borders[rows][:, None])).astype(np.int32),
            "valid": valid,
            "labels": np.where(real, self.corpus.labels[rows], 0).astype(np.int32),
            "rows": rows.astype(np.int32),
        }


def pad_rows(
    data: Sequence[np.ndarray],
    rows: Int64[np.ndarray, " B"],
    length: int,
    fill: int,
) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Pad the chosen rows to `length`; return them and their padding mask. -1 is an empty row."""
    padded = np.full((len(rows), length), fill, np.int32)
    valid = np.zeros((len(rows), length), np.bool_)
    for place, row in enumerate(rows):
        if row >= 0:
            ids = data[row]
            padded[place, : len(ids)] = ids
            valid[place, : len(ids)] = True
    return padded, valid


def load_labelled(config: Any, cache_dir: Path | None = None) -> Splits[LabelledCorpus]:
    """Load or draw the parts of a `LabelledText` config; a missing part is empty.

    Examples with a blank text or without a class are skipped and counted; more than the share
    `config.max_skipped`, a missing column, and a class in validation
    or test that training does not have, are a UserError.
    """
    parts: dict[str, list[Example]] = {}
    reports = []
    for part in PARTS:
        parts[part] = []
        sources = _hub(config, part, cache_dir) if config.hub else _files(config, part)
        for name, examples in sources:
            report = Report(name, unit="examples")
            for example in examples:
                report.read += 1
                if not example.first.strip() or (example.second or "-").isspace():
                    report.skip("blank text", example.place)
                elif not example.label:
                    report.skip("no class", example.place)
                else:
                    parts[part].append(example)
            if not report.kept:
                raise UserError(f"{name}: no usable example in {report.read:,}")
            report.check(config.max_skipped)
            reports.append(report)
    parts = split_off_parts(parts, config)
    names = config.labels or class_names(example.label for example in parts["train"])
    return Splits(
        **{part: _corpus(examples, names, config, part) for part, examples in parts.items()},
        reports=reports,
    )


@dataclass(frozen=True)
class Example:
    """One example as it was read; `place` is file:line."""

    place: str
    first: str
    second: str | None
    label: str


def split_off_parts(parts: dict[str, list[Any]], config: Any) -> dict[str, list[Any]]:
    """Draw missing validation and test parts from the training part.

    The remaining examples keep their order. `config` has validation_share, test_share, split_seed
    and limit.
    """
    train = parts["train"]
    drawn = permutation(len(train), config.split_seed, stream=3)
    start = 0
    for part, share in (("validation", config.validation_share), ("test", config.test_share)):
        if share and not parts[part]:
            chosen = np.sort(drawn[start : start + round(share * len(train))])
            parts = {**parts, part: [train[i] for i in chosen]}
            start += len(chosen)
    return {**parts, "train": [train[i] for i in np.sort(drawn[start:])][: config.limit]}


def class_names(labels: Iterator[str]) -> tuple[str, ...]:
    """Return the distinct classes in order: numbers by value, others by their characters."""
    found = set(labels)
    if all(name.removeprefix("-").isdigit() for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def class_numbers(labels: Sequence[str], names: Sequence[str], place: str) -> list[int]:
    """Return the index of each class; an unknown class is a UserError with its name."""
    number = {name: i for i, name in enumerate(names)}
    unknown = sorted(label for label in labels if label not in number)
    if unknown:
        raise UserError(
            f"{place}: class {unknown[0]!r} is none of {', '.join(names) or 'none'} "
            f"({unknown.count(unknown[0]):,} examples have it)"
        )
    return [number[label] for label in labels]


def _corpus(
    examples: list[Example], names: Sequence[str], config: Any, part: str
) -> LabelledCorpus:
    labels = class_numbers([example.label for example in examples], names, part)
    return LabelledCorpus(
        first=[example.first for example in examples],
        second=None
        if config.second_column is None
        else [example.second or "" for example in examples],
        labels=np.asarray(labels, np.int32),
        names=tuple(names),
        name=part,
    )


def _files(config: Any, part: str) -> Iterator[tuple[str, Iterator[Example]]]:
    columns = (config.text_column, config.second_column, config.label_column)

    def examples(path: str) -> Iterator[Example]:
        records = read_records(path, config.format, header=config.header, encoding=config.encoding)
        for place, record in records:
            for column in columns:
                if column is not None and column not in record:
                    raise UserError(f"{place}: no column {column!r}; it has {', '.join(record)}")
            first, second, label = (c if c is None else record[c].strip() for c in columns)
            yield Example(place, first or "", second, label or "")

    for path in map(spelled, getattr(config, part)):
        yield path, examples(path)


def _hub(config: Any, part: str, cache_dir: Path | None) -> Iterator[tuple[str, Iterator[Example]]]:
    from attnzoo.data.hub import hub_label, hub_splits, label_column, load_table, text_column

    split = hub_splits(config.hub).get(part)
    if split is None:
        return
    label = hub_label(config.hub, split)
    table = load_table(config.hub, split, cache_dir)
    first = text_column(table, label, config.text_column)
    second = (
        [None] * len(first)
        if config.second_column is None
        else [text or "" for text in text_column(table, label, config.second_column)]
    )
    classes = label_column(table, label, config.label_column)
    yield (
        label,
        (
            Example(f"row {row}", text or "", other, name)
            for row, (text, other, name) in enumerate(zip(first, second, classes, strict=True))
        ),
    )


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the number of tokens kept of each text; the longer is cut first, then both."""
    if first + second <= room:
        return first, second
    half = room // 2
    if second <= half:
        return room - second, second
    if first <= room - half:
        return first, room - first
    return room - half, half

"""Running text: documents, their ids in one stream, and windows cut from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Int32, Int64

from attnzoo.data.ahead import rows_of
from attnzoo.data.batching import Batch
from attnzoo.data.corpus import Report, Splits, add_strings
from attnzoo.data.order import RowOrder
from attnzoo.data.random_numbers import integers
from attnzoo.data.sources import read_text
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.errors import UserError


@dataclass(frozen=True)
class TextCorpus:
    """Text documents in order."""

    documents: list[str]
    name: str = ""

    def __len__(self) -> int:
        return len(self.documents)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every document, the same in every process."""
        digest = xxhash.xxh3_128()
        add_strings(digest, self.documents)
        return digest.hexdigest()


@dataclass(frozen=True)
class TokenizedText:
    """Documents as ids without special tokens: document `i` is `ids[offsets[i] : offsets[i + 1]]`.

    Ids outside of the vocabulary are a ValueError, because an embedding would silently map them to
    some row.
    """

    ids: Int32[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " ends"]
    vocab_size: int

    def __post_init__(self) -> None:
        if self.ids.size and not (self.ids.min() >= 0 and self.ids.max() < self.vocab_size):
            raise ValueError(
                f"ids contains {self.ids.min()} to {self.ids.max()}, "
                f"wanted 0 to {self.vocab_size - 1}"
            )

    @classmethod
    def from_documents(cls, documents: Sequence[str], tokenizer: TextTokenizer) -> TokenizedText:
        """Tokenize documents; documents without a token are kept, as empty ones."""
        rows = [np.asarray(tokenizer.encode_ids(text), np.int32) for text in documents]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        flat = np.concatenate([np.empty(0, np.int32), *rows])
        return cls(flat, offsets, tokenizer.vocab_size)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> Int64[np.ndarray, " documents"]:
        return np.diff(self.offsets)

    def stream(self, separator: int | None = None) -> Int32[np.ndarray, " tokens"]:
        """Return all documents one after the other, with `separator` (usually EOS) after each."""
        if separator is None:
            return self.ids
        return np.insert(self.ids, self.offsets[1:], separator)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of all ids and offsets, for any byte order of the machine."""
        return array_fingerprint(self.ids, self.offsets, self.vocab_size)


@final
class StreamPlan:
    """Windows of `length` tokens from one long stream of ids, with the next token of each.

    With `shuffle` windows begin anywhere (as in nanoGPT): the positions are a pure function of
    `seed` and the step, and an epoch has as many steps as the stream has batches of windows.
    Without, an epoch has every token but the first as a target exactly once: windows are
    contiguous, the last one is padded with `pad_id` and the last batch filled up with padding rows.

    A stream without a whole window and its next token (with `shuffle`), or without a token to
    predict, is a UserError.
    """

    def __init__(
        self,
        stream: Int32[np.ndarray, " tokens"],
        batch_size: int,
        length: int,
        seed: int = 0,
        shuffle: bool = True,
        pad_id: int = 0,
    ) -> None:
        if length < 1:
            raise ValueError(f"length={length}, wanted at least 1")
        if len(stream) < (length + 1 if shuffle else 2):
            raise UserError(
                f"the text has {len(stream):,} tokens: a window of {length:,} and the token after "
                "it do not fit (is validation_share too small?)"
            )
        self.stream = stream
        self.batch_size = batch_size
        self.length = length
        self.pad_id = pad_id
        windows = -(-(len(stream) - 1) // length)
        self._order = RowOrder(windows, batch_size, seed, shuffle)
        self._fingerprint = array_fingerprint(stream)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Return the batch of a step; steps count from 0 through all epochs.

        `tokens`, `targets`: int32 `B T`, the target is the next token. `counted`: bool `B T`, true
        where there is a target. `rows`: int32 `B`, the window's start in the stream, -1 for a
        padding row.
        """
        if not self._order.shuffle:
            return rows_of(self._side_by_side(self._order.step(step)), rows)
        if step < 0:
            raise ValueError(f"step={step}, wanted 0 or more")
        starts = integers(
            len(self.stream) - self.length, (self.batch_size,), self._order.seed, step, stream=2
        )
        return rows_of(self._cut(starts), rows)

    def batches(self, epoch: int = 0) -> Iterator[Batch]:
        """Yield all batches of one epoch."""
        first = epoch * self.steps_per_epoch
        for step in range(first, first + self.steps_per_epoch):
            yield self.batch(step)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {"data": self._fingerprint, **self._order.fingerprint(), "length": self.length}

    def _side_by_side(self, windows: Int64[np.ndarray, " B"]) -> Batch:
        return self._cut(np.where(windows >= 0, windows * self.length, -1))

    def _cut(self, starts: Int64[np.ndarray, " B"]) -> Batch:
        places = starts[:, None] + np.arange(self.length + 1)
        inside = (starts >= 0)[:, None] & (places < len(self.stream))
        cut = np.where(inside, self.stream[np.where(inside, places, 0)], self.pad_id)
        return {
            "tokens": cut[:, :-1].astype(np.int32),
            "targets": cut[:, 1:].astype(np.int32),
            "counted": inside[:, 1:],
            "rows": starts.astype(np.int32),
        }


def load_text(config: Any, cache_dir: Path | None = None) -> Splits[TextCorpus]:
    """Load the parts of a `Text` config, or cut them off the training part; others are empty."""
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    reports = []
    if config.hub is not None:
        from attnzoo.data.hub import hub_label, hub_splits, load_table, text_column

        for part, split in hub_splits(config.hub).items():
            label = hub_label(config.hub, split)
            column = text_column(load_table(config.hub, split, cache_dir), label, config.field)
            parts[part] = [text or "" for text in column]
            reports.append(_without_empty(label, parts[part]))
    else:
        for part in parts:
            for path in getattr(config, part):
                documents = _cut_documents(read_text(path), config.documents)
                reports.append(_without_empty(str(path), documents))
                parts[part] += documents
    whole = config.hub is None and config.documents == "files"
    for part, share in (("test", config.test_share), ("validation", config.validation_share)):
        if share and not parts[part]:
            # A share of the whole text, not of the rest after the test part.
            left = 1 - config.test_share if part == "validation" else 1.0
            parts["train"], parts[part] = _cut_end(parts["train"], share / left, whole)
    parts["train"] = parts["train"][: config.limit]
    return Splits(
        **{part: TextCorpus(documents, part) for part, documents in parts.items()},
        reports=reports,
    )


def array_fingerprint(*values: np.ndarray | int | str) -> str:
    """Return the xxh3_128 of arrays, numbers and strings, for any byte order of the machine."""
    digest = xxhash.xxh3_128()
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.shape}".encode())
            little = value.astype(value.dtype.newbyteorder("<"), copy=False)
            digest.update(np.ascontiguousarray(little).data)
        else:
            digest.update(f"{value} ".encode())
    return digest.hexdigest()


def _cut_documents(text: str, unit: str) -> list[str]:
    if unit == "files":
        return [text]
    if unit == "lines":
        return text.removesuffix("\n").split("\n") if text else []
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip():
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(lines) for lines in paragraphs if lines]


def _without_empty(name: str, documents: list[str]) -> Report:
    """Remove blank documents from the list in place, and report their number."""
    report = Report(name, read=len(documents), unit="documents")
    for number, document in enumerate(documents, start=1):
        if not document.strip():
            report.skip("blank document", f"{name}:{number}")
    documents[:] = [document for document in documents if document.strip()]
    if not documents:
        raise UserError(f"{name}: there is no text in it")
    return report


def _cut_end(documents: list[str], share: float, whole: bool) -> tuple[list[str], list[str]]:
    """Split off the last `share`; only `whole` files are cut within a document.

    The cut is that of nanoGPT: at `int(n * (1 - share))` characters, or documents.
    """
    if not whole:
        cut = int(len(documents) * (1 - share))
        return documents[:cut], documents[cut:]
    place = int(sum(map(len, documents)) * (1 - share))
    first: list[str] = []
    for number, document in enumerate(documents):
        if place <= len(document):
            head, tail = document[:place], document[place:]
            rest = documents[number + 1 :]
            return [*first, *([head] if head else [])], [*([tail] if tail else []), *rest]
        first.append(document)
        place -= len(document)
    return first, []

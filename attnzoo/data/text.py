"""Running text: documents, their ids in one stream, and windows cut from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Int64, Integer

from attnzoo.data.ahead import rows_of
from attnzoo.data.batching import Batch, RowPlan
from attnzoo.data.order import RowOrder
from attnzoo.data.pairs import add_array, offsets_of
from attnzoo.data.random_numbers import integers
from attnzoo.data.store import Store
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.data.word_cache import Ids
from attnzoo.errors import UserError

# Characters that a tokenizer encodes at once, and the most for one that must not be cut.
ENCODED_AT_ONCE = 2**20
MOST_AT_ONCE = 2**23


@dataclass(frozen=True)
class TokenizedText:
    """Documents as ids without special tokens: document `i` is `ids[offsets[i] : offsets[i + 1]]`.

    With a `separator` each document ends with that id. Arrays may be memory maps of any integers.
    Ids outside of the vocabulary are a ValueError, because an embedding would silently map them to
    some row. `known_fingerprint` is that of the stream of all ids, if it has been computed before;
    `store` is where they are kept.
    """

    ids: Integer[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " ends"]
    vocab_size: int
    separator: int | None = None
    known_fingerprint: str = ""
    store: Store | None = None

    def __post_init__(self) -> None:
        if self.known_fingerprint:  # checked when they were written
            return
        if self.ids.size and not (self.ids.min() >= 0 and self.ids.max() < self.vocab_size):
            raise ValueError(
                f"ids contains {self.ids.min()} to {self.ids.max()}, "
                f"wanted 0 to {self.vocab_size - 1}"
            )

    @classmethod
    def from_documents(cls, documents: Sequence[str], tokenizer: TextTokenizer) -> TokenizedText:
        """Tokenize documents; documents without a token are kept, as empty ones."""
        ids, lengths = encode_documents(documents, tokenizer)
        return cls(ids, offsets_of(lengths), tokenizer.vocab_size)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> Int64[np.ndarray, " documents"]:
        """Return the number of tokens of each document, without the separator."""
        return np.diff(self.offsets) - (self.separator is not None)

    def stream(self, separator: int | None = None) -> TokenStream:
        """Return all documents one after the other, with `separator` (usually EOS) after each."""
        if separator == self.separator:
            return TokenStream(self.ids, self.known_fingerprint)
        if self.separator is None and separator is not None:
            return TokenStream(np.insert(self.ids, self.offsets[1:], separator))
        if separator is None and len(self) == 1:
            return TokenStream(self.ids[:-1], self.known_fingerprint)
        raise ValueError(f"separator={separator} for a text with {self.separator} in it")


@dataclass(frozen=True)
class TokenStream:
    """A long sequence of ids, perhaps a memory map, and its fingerprint if it is known."""

    ids: Integer[np.ndarray, " tokens"]
    known_fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of the ids, for any byte order of the machine."""
        if self.known_fingerprint:
            return self.known_fingerprint
        digest = xxhash.xxh3_128(f"{self.ids.shape}".encode())
        add_array(digest, self.ids, "<i4")
        return digest.hexdigest()


def encode_documents(documents: Sequence[str], tokenizer: TextTokenizer) -> Ids:
    """Return the ids of all documents one after the other, and the number of each one's.

    A library needs 140 bytes of memory for a byte of text, so a long document is cut where this
    changes no id: between lines, if the tokenizer gives the same ids there. Other tokenizers begin
    anew after 8 MB.
    """
    parts = [list(_cut_long(document, tokenizer)) for document in documents]
    ids, lengths = tokenizer.encode_many(part for document in parts for part in document)
    if len(lengths) == len(documents):
        return ids, lengths
    firsts = offsets_of(np.asarray([len(document) for document in parts]))
    return ids, np.diff(offsets_of(lengths)[firsts])


def _cut_long(text: str, tokenizer: TextTokenizer) -> Iterator[str]:
    start, room = 0, ENCODED_AT_ONCE
    while len(text) - start > room:
        end = line_cut(text, start + room // 2, start + room)
        around = text[max(end - 500, start) : end], text[end : end + 500]
        apart = [i for part in around for i in tokenizer.encode_ids(part)]
        if room < MOST_AT_ONCE and apart != tokenizer.encode_ids("".join(around)):
            room = MOST_AT_ONCE
            continue
        yield text[start:end]
        start = end
    yield text[start:]


def in_lines(text: str) -> Iterator[str]:
    """Yield a text in parts of at most `ENCODED_AT_ONCE` characters, cut by `line_cut`."""
    start = 0
    while len(text) - start > ENCODED_AT_ONCE:
        end = line_cut(text, start + ENCODED_AT_ONCE // 2, start + ENCODED_AT_ONCE)
        yield text[start:end]
        start = end
    yield text[start:]


def line_cut(text: str, low: int, high: int) -> int:
    """Return the last place up to `high` after a line end between two visible characters.

    Without one after `low` it is a place after any line end, or `high` itself.
    """
    place = text.rfind("\n", low, high - 1)
    while place > low and (text[place - 1].isspace() or text[place + 1].isspace()):
        place = text.rfind("\n", low, place)
    return (place if place > low else text.rfind("\n", low, high)) + 1 or high


@final
class StreamPlan(RowPlan):
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
        stream: TokenStream | Integer[np.ndarray, " tokens"],
        batch_size: int,
        length: int,
        seed: int = 0,
        shuffle: bool = True,
        pad_id: int = 0,
    ) -> None:
        if length < 1:
            raise ValueError(f"length={length}, wanted at least 1")
        stream = stream if isinstance(stream, TokenStream) else TokenStream(stream)
        if len(stream) < (length + 1 if shuffle else 2):
            raise UserError(
                f"the text has {len(stream):,} tokens: a window of {length:,} and the token after "
                "it do not fit (is validation_share too small?)"
            )
        self.stream = stream.ids
        self.batch_size = batch_size
        self.length = length
        self.pad_id = pad_id
        windows = -(-(len(stream) - 1) // length)
        self._order = RowOrder(windows, batch_size, seed, shuffle)
        self._fingerprint = stream.fingerprint()

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
        return {**super().fingerprint(), "length": self.length}

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


def array_fingerprint(*values: np.ndarray | int | str) -> str:
    """Return the xxh3_128 of arrays, numbers and strings, for any byte order of the machine."""
    digest = xxhash.xxh3_128()
    add_values(digest, *values)
    return digest.hexdigest()


def add_values(digest: xxhash.xxh3_128, *values: np.ndarray | int | str) -> None:
    """Update a digest with arrays and their shapes, numbers and strings."""
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.shape}".encode())
            little = value.astype(value.dtype.newbyteorder("<"), copy=False)
            digest.update(np.ascontiguousarray(little).data)
        else:
            digest.update(f"{value} ".encode())

"""Tokenized corpora in flat arrays, and rows of them padded to one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xxhash
from jaxtyping import Int32, Int64, Integer

from attnzoo.data.corpus import Corpus, Report
from attnzoo.data.tokenizers import Frame, Tokenizer
from attnzoo.special_tokens import BOS, EOS, PAD


@dataclass(frozen=True)
class TokenizedPairs:
    """Sentence pairs as ids without special tokens, each side in one flat array.

    Pair `i` has `source_ids[source_offsets[i] : source_offsets[i + 1]]`, the target likewise, and
    was pair `rows[i]` of its corpus. Arrays may be memory maps of any integers. Ids outside of the
    vocabulary are a ValueError, because an embedding would silently map them to some row.

    `known_fingerprint` is that of the arrays if it has been computed before.
    """

    source_ids: Integer[np.ndarray, " source_tokens"]
    source_offsets: Int64[np.ndarray, " ends"]
    target_ids: Integer[np.ndarray, " target_tokens"]
    target_offsets: Int64[np.ndarray, " ends"]
    rows: Int32[np.ndarray, " pairs"]
    source_vocab_size: int
    target_vocab_size: int
    known_fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.known_fingerprint:  # checked when they were written
            return
        for side, ids, size in (
            ("source_ids", self.source_ids, self.source_vocab_size),
            ("target_ids", self.target_ids, self.target_vocab_size),
        ):
            if ids.size and not (ids.min() >= 0 and ids.max() < size):
                raise ValueError(
                    f"{side} contains {ids.min()} to {ids.max()}, wanted 0 to {size - 1}"
                )

    @classmethod
    def from_corpus(
        cls,
        corpus: Corpus,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        max_length: int | None = None,
        place: Callable[[int], str] = lambda row: f"pair {row + 1}",
    ) -> tuple[TokenizedPairs, Report]:
        """Tokenize a corpus; `max_length` is in tokens of either side, without special tokens.

        Pairs that are longer, or empty, are skipped and counted in the report, with the `place` of
        their index in the corpus.
        """
        report = Report(f"{corpus.name or 'corpus'} as tokens", read=len(corpus))
        source_ids, source_lengths = source_tokenizer.encode_many(corpus.source)
        target_ids, target_lengths = target_tokenizer.encode_beside(corpus.target, corpus.source)
        empty = (source_lengths == 0) | (target_lengths == 0)
        longest = np.maximum(source_lengths, target_lengths)
        bad = empty if max_length is None else empty | (longest > max_length)
        for row in np.flatnonzero(bad).tolist():
            why = "empty sentence" if empty[row] else f"more than {max_length:,} tokens"
            report.skip(why, place(row))
        kept = ~bad
        pairs = cls(
            source_ids=source_ids[np.repeat(kept, source_lengths)],
            source_offsets=offsets_of(source_lengths[kept]),
            target_ids=target_ids[np.repeat(kept, target_lengths)],
            target_offsets=offsets_of(target_lengths[kept]),
            rows=np.flatnonzero(kept).astype(np.int32),
            source_vocab_size=source_tokenizer.vocab_size,
            target_vocab_size=target_tokenizer.vocab_size,
        )
        return pairs, report

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """Return the number of tokens of each source and target, without special tokens."""
        return np.diff(self.source_offsets), np.diff(self.target_offsets)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of all ids, offsets and rows, for any byte order of the machine."""
        return self.known_fingerprint or self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = xxhash.xxh3_128()
        for ids, offsets in (
            (self.source_ids, self.source_offsets),
            (self.target_ids, self.target_offsets),
        ):
            add_array(digest, ids, "<i4")
            add_array(digest, offsets, "<i8")
        add_array(digest, self.rows, "<i4")
        digest.update(f"{self.source_vocab_size} {self.target_vocab_size}".encode())
        return digest.hexdigest()


def add_array(digest: xxhash.xxh3_128, array: np.ndarray, dtype: str) -> None:
    """Update a digest with an array as `dtype`, block by block."""
    for block in array_blocks(array):
        digest.update(np.ascontiguousarray(block, dtype).data)


def array_blocks(array: np.ndarray, rows: int = 2**20) -> Iterator[np.ndarray]:
    """Yield an array in blocks of rows, so that a memory map is never in memory as a whole."""
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def offsets_of(lengths: np.ndarray) -> Int64[np.ndarray, " ends"]:
    """Return 0 and the sums of the first lengths, of the first two, ..."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


@dataclass(frozen=True)
class Marks:
    """Special tokens of a batch: those around the sentences of each side, and the padding."""

    source: Frame = Tokenizer.frames["source"]
    target: Frame = Tokenizer.frames["target"]
    pad: int = PAD

    @classmethod
    def of(cls, source: Tokenizer, target: Tokenizer) -> Marks:
        """Return those of the tokenizers of both sides."""
        return cls(source.frames["source"], target.frames["target"], target.pad_id)


def pad_source(sentences: Sequence[Sequence[int]], length: int) -> Int32[np.ndarray, "B S"]:
    """Return ids, EOS, and PAD up to `length`: a model's input. Longer ones are a ValueError."""
    return _pad([[*ids, EOS] for ids in sentences], length)


def pad_target(sentences: Sequence[Sequence[int]], length: int) -> Int32[np.ndarray, "B L"]:
    """Return BOS, ids, EOS, then PAD up to `length + 1`.

    All but the last column is the model's input, all but the first are its labels; both have
    `length` columns.
    """
    return _pad([[BOS, *ids, EOS] for ids in sentences], length + 1)


def take_rows(
    ids: Integer[np.ndarray, " tokens"],
    offsets: Int64[np.ndarray, " ends"],
    chosen: Int64[np.ndarray, " B"],
    length: int,
    frame: Frame,
    pad: int = PAD,
) -> Int32[np.ndarray, "B T"]:
    """Return rows of a flat array with the special tokens of `frame` around each.

    The array has `length` columns. A row of -1 is all padding.
    """
    out = np.full((len(chosen), length), pad, np.int32)
    real = chosen >= 0
    starts = offsets[chosen]
    counts = np.where(real, offsets[chosen + 1] - starts, 0)
    first = len(frame.before)
    if len(chosen) and counts.max() + first + len(frame.after) > length:
        least = counts.max() + first + len(frame.after)
        raise ValueError(f"length={length}; wanted at least {least}, the longest sentence framed")
    column = np.arange(length) - first
    inside = (column >= 0) & (column < counts[:, None])
    out[inside] = ids[(starts[:, None] + column)[inside]]
    out[real, :first] = frame.before
    for place, token in enumerate(frame.after, first):
        out[np.flatnonzero(real), counts[real] + place] = token
    return out


def _pad(sentences: list[list[int]], length: int) -> Int32[np.ndarray, "B S"]:
    out = np.full((len(sentences), length), PAD, np.int32)
    for row, ids in enumerate(sentences):
        if len(ids) > length:
            raise ValueError(f"sentence {row} needs {len(ids)} columns, there are {length}")
        out[row, : len(ids)] = ids
    return out

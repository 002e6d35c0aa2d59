"""Corpora of token ids in Megatron-LM's format, a pair of files NAME.bin and NAME.idx.

The index has the nine bytes `MMIDIDX`, 0, 0; the version 1 (uint64); a code of the dtype (uint8);
the numbers of sequences and of document marks (uint64 each); the length of each sequence (int32);
its first byte in NAME.bin (int64); and the first sequence of each document, with the number of
sequences at the end (int64). Source: megatron/core/datasets/indexed_dataset.py of Megatron-LM.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from attnzoo.data.pairs import array_blocks, offsets_of
from attnzoo.data.text import TokenizedText
from attnzoo.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<QBQQ")
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
# Documents whose last token is looked at.
LOOKED_AT = 1_000


def open_megatron(path: Path, vocab_size: int, separator: int | None) -> TokenizedText:
    """Open NAME.bin with its NAME.idx as a memory map.

    Files that do not belong together, ids outside of the vocabulary, and several documents that do
    not end with `separator`, if one is given, are a UserError.
    """
    ids, offsets = _read(path)
    largest = max((int(block.max()) for block in array_blocks(ids)), default=0)
    if largest >= vocab_size or (ids.dtype.kind == "i" and len(ids) and int(ids.min()) < 0):
        raise UserError(
            f"{path}: ids up to {largest:,}, but the tokenizer has {vocab_size:,}: give the "
            "tokenizer that the corpus was made with"
        )
    if separator is None or len(offsets) <= 2:
        return TokenizedText(ids, offsets, vocab_size)
    ends = offsets[1:][:: -(-(len(offsets) - 1) // LOOKED_AT)] - 1
    if not (ids[ends] == separator).all():
        raise UserError(
            f"{path}: its documents do not end with {separator}, the end token of the tokenizer: "
            "make it with --append-eod, or train with task.rows=packed"
        )
    return TokenizedText(ids, offsets, vocab_size, separator)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    index = path.with_suffix(".idx")
    try:
        raw = np.memmap(index, np.uint8, "r")
        if bytes(raw[: len(MAGIC)]) != MAGIC:
            raise UserError(f"{index}: not an index of Megatron-LM")
        start = len(MAGIC) + HEADER.size
        version, code, count, marks = HEADER.unpack(bytes(raw[len(MAGIC) : start]))
        if version != 1 or code not in DTYPES:
            raise UserError(f"{index}: version {version}, dtype {code}: wanted 1 and integers")
        dtype = np.dtype(DTYPES[code])
        lengths = np.frombuffer(raw, "<i4", count, start)
        first_bytes = np.frombuffer(raw, "<i8", count, start + 4 * count)
        documents = np.frombuffer(raw, "<i8", marks, start + 12 * count)
        size = path.stat().st_size
    except (OSError, ValueError, struct.error) as error:
        reason = getattr(error, "strerror", None) or f"cut short, or not an index: {error}"
        raise UserError(f"{index} for {path.name}: {reason}") from None
    ends = offsets_of(lengths)
    if size != int(ends[-1]) * dtype.itemsize:
        raise UserError(
            f"{path}: {size:,} bytes, its index says {int(ends[-1]) * dtype.itemsize:,}"
        )
    whole = len(documents) > 1 and documents[0] == 0 and documents[-1] == count
    if not whole or not np.array_equal(first_bytes, ends[:-1] * dtype.itemsize):
        raise UserError(f"{index}: its sequences or documents do not follow one another")
    ids = np.asarray(np.memmap(path, dtype, "r")) if size else np.empty(0, dtype)
    return ids, ends[documents]

"""Packing of short documents into rows of one length, with document numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Int64

from attnzoo.data.batching import Batch, RowPlan
from attnzoo.data.build import About, build_store, store_folder
from attnzoo.data.order import RowOrder
from attnzoo.data.pairs import offsets_of
from attnzoo.data.random_numbers import permutation
from attnzoo.data.store import FORMAT_VERSION, Columns, Store, StoreWriter
from attnzoo.data.text import TokenizedText, add_values
from attnzoo.errors import UserError

# Number of rows that wait for a document that fits; then the oldest is closed.
OPEN_ROWS = 256


@final
class PackPlan(RowPlan):
    """Rows of `length` cells packed with whole documents, numbered for the attention mask.

    A document is `begin`, its ids, `end` (either may be None); a longer one is cut into pieces of
    `length` cells that count as separate documents. With `predict_next` a cell holds a token and
    the next token as target: the last token of a document has no target and takes no cell; pieces
    share the token where they were cut. Without `predict_next` every token takes a cell, for
    encoders.

    Pieces go, in an order drawn from `seed`, each to the first row with room for it, among the last
    256 open rows. So the rows are a pure function of the seed, and their order of seed and epoch.
    Documents in one row do not attend to each other, so the rows need not be packed again for each
    epoch. Without `shuffle` documents are packed, and rows come, in their own order. `fill` is the
    share of cells that hold a token.

    A text without any such cell is a UserError.
    """

    def __init__(
        self,
        text: TokenizedText,
        batch_size: int,
        length: int,
        begin: int | None = None,
        end: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        pad_id: int = 0,
        predict_next: bool = True,
    ) -> None:
        if length < 1:
            raise ValueError(f"length={length}, wanted at least 1")
        self.batch_size = batch_size
        self.length = length
        self.pad_id = pad_id
        self.predict_next = predict_next
        self._flat = _Framed(text, begin, end)
        self._documents, self._starts, self._cells = _pieces(self._flat, length, predict_next)
        if not len(self._cells):
            raise UserError("no document has a token to predict: there is nothing to pack")
        drawn = seed if shuffle else None
        if text.store is None:
            rows, self._fingerprint = self._pack(drawn)
        else:
            settings = {"seed": drawn, "length": length, "begin": begin, "end": end}
            settings["predict_next"] = predict_next
            rows, self._fingerprint = _packed_once(text.store, settings, lambda: self._pack(drawn))
        # Row r has the pieces packed[firsts[r] : firsts[r + 1]].
        self._packed, self._firsts = rows["packed"], rows["firsts"]
        self._order = RowOrder(len(self._firsts) - 1, batch_size, seed, shuffle)

    @property
    def fill(self) -> float:
        return int(self._cells.sum()) / (self._order.total * self.length)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {**super().fingerprint(), "length": self.length}

    def _pack(self, seed: int | None) -> tuple[Columns, str]:
        """Return the pieces row by row, and a digest of them and of all tokens."""
        order = np.arange(len(self._cells))
        if seed is not None:
            order = permutation(len(order), seed, stream=4)
        packed, firsts = _first_fit(self._cells, order, self.length)
        digest = self._flat.digest()
        add_values(digest, self._starts, self._cells, packed)
        return {"packed": packed, "firsts": firsts}, digest.hexdigest()

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these rows.

        `tokens`, `targets` (with `predict_next`): int32 `B T`. `documents`: int32 `B T`, 1, 2, ...
        within a row, 0 at padding. `positions`: int32 `B T`, from 0 in every document. `valid`:
        bool `B T`, false at padding; `counted` (with `predict_next`) is the same. `rows`: int32
        `B`, -1 for a padding row.
        """
        counts = np.where(rows >= 0, self._firsts[rows + 1] - self._firsts[rows], 0)
        within = _counting(counts)
        pieces = self._packed[np.repeat(self._firsts[rows], counts) + within]
        cells = self._cells[pieces]
        # Start of each piece among the cells of its row.
        ends = np.cumsum(cells)
        row_of = np.repeat(np.arange(len(rows)), counts)
        before = np.concatenate([[0], ends])[np.cumsum(counts) - counts]
        places = row_of * self.length + ends - cells - before[row_of]
        positions = _counting(cells)
        at = np.repeat(places, cells) + positions
        source = np.repeat(self._starts[pieces], cells) + positions
        document = np.repeat(self._documents[pieces], cells)

        def laid_out(values: Int64[np.ndarray, " n"], fill: int) -> np.ndarray:
            grid = np.full(len(rows) * self.length, fill, np.int32)
            grid[at] = values
            return grid.reshape(len(rows), self.length)

        documents = laid_out(np.repeat(within + 1, cells), 0)
        batch = {
            "tokens": laid_out(self._flat.take(source, document), self.pad_id),
            "documents": documents,
            "positions": laid_out(positions, 0),
            "valid": documents > 0,
            "rows": rows.astype(np.int32),
        }
        if self.predict_next:
            batch["targets"] = laid_out(self._flat.take(source + 1, document), self.pad_id)
            batch["counted"] = batch["valid"]
        return batch


def _packed_once(
    store: Store, settings: dict[str, Any], pack: Callable[[], tuple[Columns, str]]
) -> tuple[Columns, str]:
    """Return what `pack` does; it is kept beside the store of the text."""
    key = {"kind": "rows", "text": store.folder.name, "files": store.key["files"], **settings}
    key["format"] = FORMAT_VERSION

    def join(writer: StoreWriter, pieces: list[About]) -> tuple[About, Columns]:
        rows, fingerprint = pack()
        return {"fingerprint": fingerprint}, rows

    part = store.folder.name.split("-")[1]
    folder = store_folder(store.folder.parent, f"rows-{part}", key)
    kept = build_store(folder, key, list, lambda block: ({}, {}), join)
    return kept.columns, kept.about["fingerprint"]


class _Framed:
    """All documents one after the other, each between `begin` and `end`, without a copy of them."""

    def __init__(self, text: TokenizedText, begin: int | None, end: int | None) -> None:
        self.ids, self.first, self.lengths = text.ids, text.offsets[:-1], text.lengths()
        self.begin, self.end = begin, end
        extra = (begin is not None) + (end is not None)
        self.offsets = offsets_of(self.lengths + extra)

    def take(
        self, places: Int64[np.ndarray, " n"], documents: Int64[np.ndarray, " n"]
    ) -> Int64[np.ndarray, " n"]:
        """Return the tokens at these places of the whole, each within its document."""
        within = places - self.offsets[documents] - (self.begin is not None)
        out = np.full(len(places), 0 if self.end is None else self.end, np.int64)
        inside = (within >= 0) & (within < self.lengths[documents])
        out[inside] = self.ids[(self.first[documents] + within)[inside]]
        if self.begin is not None:
            out[within < 0] = self.begin
        return out

    def digest(self) -> xxhash.xxh3_128:
        """Return the xxh3_128 of all tokens, from blocks of about a million of them."""
        total = int(self.offsets[-1])
        digest = xxhash.xxh3_128(f"{(total,)}".encode())
        for start in range(0, total, 2**20):
            places = np.arange(start, min(start + 2**20, total))
            documents = np.searchsorted(self.offsets, places, side="right") - 1
            digest.update(self.take(places, documents).astype("<i4").data)
        return digest


def _pieces(
    flat: _Framed, length: int, predict_next: bool
) -> tuple[Int64[np.ndarray, " pieces"], ...]:
    """Return the document, the start among all tokens and the number of cells of each piece."""
    needs = np.maximum(np.diff(flat.offsets) - int(predict_next), 0)
    needs[flat.lengths == 0] = 0  # the document has only begin and end
    counts = -(-needs // length)
    skipped = _counting(counts) * length
    return (
        np.repeat(np.arange(len(counts)), counts),
        np.repeat(flat.offsets[:-1], counts) + skipped,
        np.minimum(np.repeat(needs, counts) - skipped, length),
    )


def _first_fit(
    cells: Int64[np.ndarray, " pieces"], order: Int64[np.ndarray, " pieces"], length: int
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " firsts"]]:
    """Return the pieces row by row, and the start of each row in that list, with its end."""
    row_of = np.empty(len(cells), np.int64)
    room = np.zeros(OPEN_ROWS, np.int64)  # oldest first
    names = np.full(OPEN_ROWS, -1, np.int64)
    rows = 0
    for piece, need in zip(order.tolist(), cells[order].tolist()):
        slot = int((room >= need).argmax())
        if room[slot] < need:
            # Full rows are closed first, at no cost.
            slot = int((room == 0).argmax()) if (room == 0).any() else 0
            room[slot:-1], names[slot:-1] = room[slot + 1 :], names[slot + 1 :]
            slot = OPEN_ROWS - 1
            room[slot], names[slot] = length, rows
            rows += 1
        room[slot] -= need
        row_of[piece] = names[slot]
    # Within a row in the order of packing.
    packed = order[np.argsort(row_of[order], kind="stable")]
    return packed, np.searchsorted(row_of[packed], np.arange(rows + 1))


def _counting(counts: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " total"]:
    """Return 0, 1, ... `count - 1` for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)

"""Batches of sentences of similar length, in an order set only by the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Int64

from attnzoo.data.ahead import rows_of
from attnzoo.data.order import MAX_BUCKETS, Buckets, RowOrder, choose_buckets
from attnzoo.data.pairs import Marks, TokenizedPairs, take_rows
from attnzoo.errors import UserError

Batch = dict[str, np.ndarray]
OWN_MARKS = Marks()
"""Special tokens of the tokenizers that are trained here."""


@runtime_checkable
class Plan(Protocol):
    """Interface of plans, which give the batch of every step.

    A batch is a dict of arrays with `B` rows and a pure function of the step, so a run only has to
    save the step number. `rows`, int32 `B`, is each row's index in its data, -1 for a padding row
    that fills up the last batch of an epoch and does not count in any sum.
    """

    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that show all data once."""
        ...

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Return the batch of a step, or its ``rows``; steps count from 0 through all epochs."""
        ...

    def batches(self, epoch: int = 0) -> Iterator[Batch]:
        """Yield all batches of one epoch."""
        first = epoch * self.steps_per_epoch
        return map(self.batch, range(first, first + self.steps_per_epoch))

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        ...


class RowPlan:
    """Base class of plans whose batches are made of rows of the data.

    A subclass sets `batch_size`, `_order`, and `_fingerprint` of its data.
    """

    batch_size: int
    _order: RowOrder
    _fingerprint: str

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that show all data once."""
        return self._order.steps_per_epoch

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Return the batch of a step, or its ``rows``; steps count from 0 through all epochs."""
        return rows_of(self.collate(self._order.step(step)), rows)

    def batches(self, epoch: int = 0) -> Iterator[Batch]:
        """Yield all batches of one epoch."""
        for rows in self._order.epoch(epoch):
            yield self.collate(rows)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {"data": self._fingerprint, **self._order.fingerprint()}

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these rows."""
        raise NotImplementedError(f"{type(self).__name__}.collate")


class BucketPlan(RowPlan):
    """Base class of plans that pad a batch to the smallest of a few lengths, the buckets."""

    _buckets: Buckets

    @property
    def buckets(self) -> tuple[int, ...]:
        """Padded lengths of batches, the shortest first."""
        return self._buckets.lengths

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {**super().fingerprint(), "buckets": list(self.buckets)}


@final
class BatchPlan(BucketPlan):
    """Batches of sentence pairs of similar length, for every step.

    An epoch has every pair once, pairs of similar length together (`RowOrder`); without `shuffle`
    all are sorted by length, for evaluation. A batch is padded to a bucket: the smallest that holds
    its longest sentence with its EOS. All batches have `batch_size` rows; the last one is filled up
    with rows of PAD. `marks` are special tokens that are not those of this package.

    `buckets` are sentence lengths with EOS; None chooses at most `max_buckets` that waste the least
    padding. With `separate` they are those of sources, and targets are padded to one of two lengths
    of their own: for summaries, which are much shorter than their sources.
    No pairs, or buckets too short for the longest sentence, are a UserError, because they come from
    a config and its data.
    """

    def __init__(
        self,
        pairs: TokenizedPairs,
        batch_size: int,
        buckets: Sequence[int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        max_buckets: int = MAX_BUCKETS,
        separate: bool = False,
        marks: Marks = OWN_MARKS,
    ) -> None:
        if not len(pairs):
            raise UserError(
                "no sentence pair is left to make batches of (is max_length too small?)"
            )
        self.pairs = pairs
        self.batch_size, self.marks = batch_size, marks
        source_lengths, target_lengths = self._columns()
        longer, other = (
            (source_lengths, target_lengths)
            if separate
            else (
                np.maximum(source_lengths, target_lengths),
                np.minimum(source_lengths, target_lengths),
            )
        )
        needs = longer
        # Pairs of equal length are sorted by their other side, too.
        keys = needs * (int(max(needs.max(), other.max())) + 1) + other
        self._order = RowOrder(len(pairs), batch_size, seed, shuffle, keys)
        self._buckets = self._targets = Buckets(needs, buckets, max_buckets)
        if separate:
            needs = target_lengths
            longest = [needs[rows[rows >= 0]].max() for rows in self._order.epoch(0)]
            most = int(needs.max())
            # Two thirds at most: a second length wants a second compilation.
            shorter = [n for n in choose_buckets(np.asarray(longest), 2) if 3 * n <= 2 * most]
            self._targets = Buckets(needs, (*shorter, most))

    @property
    def target_buckets(self) -> tuple[int, ...]:
        """Padded lengths of targets; those of both sides unless they are separate."""
        return self._targets.lengths

    def _columns(self) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """Return the columns of each source, and of each target's input and labels."""
        source, target = self.pairs.lengths()
        around = [len(f.before) + len(f.after) for f in (self.marks.source, self.marks.target)]
        return source + around[0], target + around[1] - 1

    def order(self, epoch: int) -> Int64[np.ndarray, "steps B"]:
        """Return indices into `pairs` for each step of an epoch; -1 pads the last batch."""
        return self._order.epoch(epoch)

    def padding_share(self, epoch: int = 0) -> float:
        """Return the share of padding in all cells of an epoch, source and target."""
        order = self.order(epoch)
        lengths = sum(self._buckets.of(rows) + self._targets.of(rows) for rows in order)
        cells = self.batch_size * lengths
        tokens = sum(int(columns.sum()) for columns in self._columns())
        return 1 - tokens / cells

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        data, buckets = self.pairs.fingerprint(), list(self.buckets)
        found = {"data": data, **self._order.fingerprint(), "buckets": buckets}
        if self._targets is not self._buckets:
            found["target_buckets"] = list(self.target_buckets)
        if self.marks != OWN_MARKS:
            found["marks"] = [*self.marks.source.ends, *self.marks.target.ends, self.marks.pad]
        return found

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these rows.

        `source`: int32 `B S`, ids, EOS, PAD. `target`: int32 `B T+1`, BOS, ids, EOS, PAD; the
        model's input is `target[:, :-1]`, its labels are `target[:, 1:]`. `S = T` is the bucket,
        or each its own.
        `rows`: int32 `B`, each row's index in the corpus, -1 for a row of PAD.
        """
        pairs, length, room = self.pairs, self._buckets.of(rows), self._targets.of(rows) + 1
        source, target, pad = self.marks.source, self.marks.target, self.marks.pad
        return {
            "source": take_rows(pairs.source_ids, pairs.source_offsets, rows, length, source, pad),
            "target": take_rows(pairs.target_ids, pairs.target_offsets, rows, room, target, pad),
            "rows": np.where(rows >= 0, pairs.rows[rows], -1).astype(np.int32),
        }

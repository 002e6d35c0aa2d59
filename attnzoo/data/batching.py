"""Batches of sentences of similar length, in an order that the seed and the step alone decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, final

import numpy as np
from jaxtyping import Int64, UInt64

from attnzoo.data.pairs import TokenizedPairs, pad_source, pad_target, take_rows
from attnzoo.errors import UserError

__all__ = ["Batch", "BatchPlan", "TokenizedPairs", "choose_buckets", "pad_source", "pad_target"]

Batch = dict[str, np.ndarray]

# Bahdanau et al. 2015, A.2.3: fetch 20 batches, sort them by length, split them again.
CHUNK_BATCHES = 20
# Each bucket is one compilation of the train step.
MAX_BUCKETS = 6


@final
class BatchPlan:
    """Which sentences make up the batch of every step, and their arrays.

    An epoch has every pair once. With `shuffle` the pairs are permuted, taken in chunks of 20
    batches, sorted by length within the chunk and cut (Bahdanau et al. 2015, A.2.3), and the
    batches are permuted; without, all are sorted by length and cut, for evaluation. A batch is
    padded to a bucket: the smallest that holds its longest sentence with its EOS. All batches have
    `batch_size` rows; the last one is filled up with rows of PAD.

    The order is a pure function of `seed` and the epoch, so the step number is all that a run has
    to remember to go on. It does not depend on the version of numpy.

    `buckets` are sentence lengths with EOS; None chooses at most six that waste the least padding.
    No pairs, or buckets too short for the longest sentence, are a UserError: they come from a
    config and its data.
    """

    def __init__(
        self,
        pairs: TokenizedPairs,
        batch_size: int,
        buckets: Sequence[int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        if not len(pairs):
            raise UserError(
                "no sentence pair is left to make batches of (is max_length too small?)"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}, wanted at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed}, wanted 0 or more")
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        source_lengths, target_lengths = pairs.lengths()
        self._needs = np.maximum(source_lengths, target_lengths) + 1  # EOS, or BOS in the input
        # Equally long pairs are ordered by the other side, which brings like together.
        self._sort_keys = self._needs * (int(self._needs.max()) + 1) + np.minimum(
            source_lengths, target_lengths
        )
        self.buckets = choose_buckets(self._needs) if buckets is None else tuple(buckets)
        _check_buckets(self.buckets, int(self._needs.max()))
        # The order of the epoch asked for last: computing it takes milliseconds, a batch far less.
        self._epoch_order: tuple[int, Int64[np.ndarray, "steps B"]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.pairs) // self.batch_size)

    def order(self, epoch: int) -> Int64[np.ndarray, "steps B"]:
        """For each step of the epoch the indices into `pairs`; -1 where the last batch is short."""
        if epoch < 0:
            raise ValueError(f"epoch={epoch}, wanted 0 or more")
        size, total = self.batch_size, len(self.pairs)
        if not self.shuffle:
            return self._cut(np.argsort(self._sort_keys, kind="stable"))
        permuted = permutation(total, self.seed, epoch, stream=0)
        chunk = CHUNK_BATCHES * size
        sorted_chunks = []
        for start in range(0, total, chunk):
            part = permuted[start : start + chunk]
            sorted_chunks.append(part[np.argsort(self._sort_keys[part], kind="stable")])
        steps = self._cut(np.concatenate(sorted_chunks))
        return steps[permutation(len(steps), self.seed, epoch, stream=1)]

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 through all epochs.

        `source`: int32 `B S`, ids, EOS, PAD. `target`: int32 `B T+1`, BOS, ids, EOS, PAD; the
        model's input is `target[:, :-1]`, what it predicts `target[:, 1:]`. `S = T` is the bucket.
        `rows`: int32 `B`, each row's place in the corpus, -1 for a row of PAD.
        """
        if step < 0:
            raise ValueError(f"step={step}, wanted 0 or more")
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            self._epoch_order = epoch, self.order(epoch)
        return self._collate(self._epoch_order[1][within])

    def batches(self, epoch: int = 0) -> Iterator[Batch]:
        """All batches of one epoch."""
        for chosen in self.order(epoch):
            yield self._collate(chosen)

    def padding_share(self, epoch: int = 0) -> float:
        """The share of all cells, source and target, that are padding in this epoch."""
        order = self.order(epoch)
        cells = 2 * self.batch_size * sum(self._bucket(chosen) for chosen in order)
        tokens = sum(int(lengths.sum()) + len(self.pairs) for lengths in self.pairs.lengths())
        return 1 - tokens / cells

    def fingerprint(self) -> dict[str, Any]:
        """What decides the batches, to be compared when a run goes on; JSON values only."""
        return {
            "data": self.pairs.fingerprint(),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "buckets": list(self.buckets),
            "shuffle": self.shuffle,
        }

    def _cut(self, indices: Int64[np.ndarray, " pairs"]) -> Int64[np.ndarray, "steps B"]:
        filled = np.full(self.steps_per_epoch * self.batch_size, -1, np.int64)
        filled[: len(indices)] = indices
        return filled.reshape(self.steps_per_epoch, self.batch_size)

    def _bucket(self, chosen: Int64[np.ndarray, " B"]) -> int:
        longest = int(self._needs[chosen[chosen >= 0]].max())
        return next(bucket for bucket in self.buckets if bucket >= longest)

    def _collate(self, chosen: Int64[np.ndarray, " B"]) -> Batch:
        pairs, length = self.pairs, self._bucket(chosen)
        return {
            "source": take_rows(
                pairs.source_ids, pairs.source_offsets, chosen, length, begin=False
            ),
            "target": take_rows(
                pairs.target_ids, pairs.target_offsets, chosen, length + 1, begin=True
            ),
            "rows": np.where(chosen >= 0, pairs.rows[chosen], -1).astype(np.int32),
        }


def choose_buckets(
    needs: Int64[np.ndarray, " pairs"], max_buckets: int = MAX_BUCKETS
) -> tuple[int, ...]:
    """At most `max_buckets` lengths that need the least padding if each sentence goes to its own.

    Exact, by dynamic programming over the distinct lengths.
    """
    lengths, counts = np.unique(needs, return_counts=True)
    up_to = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: padded tokens of the sentences of the j shortest lengths with the buckets so far.
    cost = np.where(np.arange(len(lengths) + 1) == 0, 0.0, np.inf)
    choices = []
    for _ in range(min(max_buckets, len(lengths))):
        through = cost[:, None] + (up_to[None, 1:] - up_to[:, None]) * lengths[None, :]
        allowed = np.arange(len(lengths) + 1)[:, None] <= np.arange(len(lengths))[None, :]
        through = np.where(allowed, through, np.inf)
        choices.append(through.argmin(axis=0))
        cost = np.concatenate([[np.inf], through.min(axis=0)])
    buckets = []
    end = len(lengths)
    for choice in reversed(choices):
        buckets.append(int(lengths[end - 1]))
        end = int(choice[end - 1])
    return tuple(reversed(buckets))


def permutation(size: int, *key: int, stream: int) -> Int64[np.ndarray, " size"]:
    """A permutation that is a pure function of its arguments in every version of numpy."""
    state = np.zeros(1, np.uint64)
    for part in (*key, stream):
        state = _mix(state + np.uint64(part % 2**64) + _GOLDEN)
    random = _mix(state + _GOLDEN * np.arange(1, size + 1, dtype=np.uint64))
    return np.argsort(random, kind="stable")


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """SplitMix64's output function (Steele, Lea and Flood 2014); arrays wrap around silently."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check_buckets(buckets: Sequence[int], longest: int) -> None:
    if not buckets or any(low >= high for low, high in pairwise(buckets)):
        raise ValueError(f"buckets={list(buckets)}, wanted lengths that rise")
    if buckets[-1] < longest:
        raise UserError(
            f"buckets={list(buckets)} end below {longest}, the longest sentence with its EOS: "
            "add a bucket, or lower max_length"
        )

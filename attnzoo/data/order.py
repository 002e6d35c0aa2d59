"""Order of rows in batches, as a function of the seed and the step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from attnzoo.data.random_numbers import permutation
from attnzoo.errors import UserError

# Bahdanau et al. 2015, A.2.3: fetch 20 batches, sort them by length, split them again.
CHUNK_BATCHES = 20
# Each bucket needs one compilation of the train step, which pays if it then takes enough steps.
MAX_BUCKETS = 6
STEPS_PER_BUCKET = 100


@final
class RowOrder:
    """Row indices of the batch of every step; an epoch has each of `total` rows once.

    With `shuffle` the rows are permuted, otherwise in their own order. With `sort_keys` rows of
    similar keys come together: permuted rows are taken in chunks of 20 batches, sorted within the
    chunk and split into batches (Bahdanau et al. 2015, A.2.3), and the batches are permuted;
    without `shuffle` all rows are sorted and split. The last batch of an epoch is filled up with
    -1.

    `total=0` is a UserError, because it comes from a config and its data.
    """

    def __init__(
        self,
        total: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        sort_keys: Int64[np.ndarray, " total"] | None = None,
    ) -> None:
        if not total:
            raise UserError(
                "there is no example to make batches of: this part of the data is empty"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}, wanted at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed}, wanted 0 or more")
        self.total = total
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._sort_keys = sort_keys
        # Cache of the latest epoch's order: computing it takes milliseconds, a batch far less.
        self._latest: tuple[int, Int64[np.ndarray, "steps B"]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.total // self.batch_size)

    def epoch(self, epoch: int) -> Int64[np.ndarray, "steps B"]:
        """Return the rows of each step of an epoch; -1 pads the last batch."""
        if epoch < 0:
            raise ValueError(f"epoch={epoch}, wanted 0 or more")
        keys = self._sort_keys
        if not self.shuffle:
            rows = np.arange(self.total) if keys is None else np.argsort(keys, kind="stable")
            return self._cut(rows)
        permuted = permutation(self.total, self.seed, epoch, stream=0)
        if keys is None:
            return self._cut(permuted)
        chunk = CHUNK_BATCHES * self.batch_size
        sorted_chunks = []
        for start in range(0, self.total, chunk):
            part = permuted[start : start + chunk]
            sorted_chunks.append(part[np.argsort(keys[part], kind="stable")])
        steps = self._cut(np.concatenate(sorted_chunks))
        return steps[permutation(len(steps), self.seed, epoch, stream=1)]

    def step(self, step: int) -> Int64[np.ndarray, " B"]:
        """Return the rows of a step; steps count from 0 through all epochs."""
        if step < 0:
            raise ValueError(f"step={step}, wanted 0 or more")
        epoch, within = divmod(step, self.steps_per_epoch)
        latest = self._latest  # other threads may ask for steps of other epochs
        if latest is None or latest[0] != epoch:
            self._latest = latest = epoch, self.epoch(epoch)
        return latest[1][within]

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the order besides the keys; JSON values only."""
        return {"seed": self.seed, "batch_size": self.batch_size, "shuffle": self.shuffle}

    def _cut(self, rows: Int64[np.ndarray, " total"]) -> Int64[np.ndarray, "steps B"]:
        filled = np.full(self.steps_per_epoch * self.batch_size, -1, np.int64)
        filled[: len(rows)] = rows
        return filled.reshape(self.steps_per_epoch, self.batch_size)


@final
class Buckets:
    """Padded lengths of batches: the smallest bucket that holds the longest row.

    `needs` is the number of cells of each row. None chooses at most `max_buckets` lengths that
    waste the least padding. Lengths too short for the longest row are a UserError.
    """

    def __init__(
        self,
        needs: Int64[np.ndarray, " rows"],
        lengths: Sequence[int] | None,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._needs = needs
        if lengths is None and len(needs):
            lengths = choose_buckets(needs, max_buckets)
        self.lengths = tuple(lengths or ())
        if len(needs):
            _check_buckets(self.lengths, int(needs.max()))

    def of(self, rows: Int64[np.ndarray, " B"]) -> int:
        """Return the padded length of a batch of these rows; -1 is no row."""
        longest = int(self._needs[rows[rows >= 0]].max())
        return next(length for length in self.lengths if length >= longest)


def most_buckets(steps: int) -> int:
    """Return the number of buckets that pay in a training of so many steps."""
    return min(max(steps // STEPS_PER_BUCKET, 1), MAX_BUCKETS)


def choose_buckets(
    needs: Int64[np.ndarray, " pairs"], max_buckets: int = MAX_BUCKETS
) -> tuple[int, ...]:
    """Choose at most `max_buckets` lengths with the least padding, each row in its own bucket.

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


def _check_buckets(buckets: Sequence[int], longest: int) -> None:
    if not buckets or any(low >= high for low, high in pairwise(buckets)):
        raise ValueError(f"buckets={list(buckets)}, wanted lengths that rise")
    if buckets[-1] < longest:
        raise UserError(
            f"buckets={list(buckets)} end below {longest}, the longest sentence with its EOS: "
            "add a bucket, or lower max_length"
        )

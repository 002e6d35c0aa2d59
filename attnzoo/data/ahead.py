"""Batches made in a background thread while the steps before them are computed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, final

import numpy as np

Batch = Mapping[str, np.ndarray]


def rows_of(batch: dict[str, np.ndarray], rows: slice | None) -> dict[str, np.ndarray]:
    """Return some rows of a batch; None: all."""
    return batch if rows is None else {name: array[rows] for name, array in batch.items()}


@final
class Ahead:
    """Iterator over the batches of a plan for the steps from ``start`` to ``stop - 1``.

    One thread makes the next ``depth`` batches in the order of their steps, from the time on when
    two in a row took more than ``costly`` seconds: a cheaper one costs less than the hand-over. The
    batches are the same in either case. An error is raised at its own step. The thread ends with
    the context::

        with Ahead(plan, 0, 100) as batches:
            for batch in batches:
                ...

    Args:
        plan: batches by step, a pure function (`attnzoo.data.batching.Plan`).
        start: first step.
        stop: step after the last one.
        rows: rows of each batch to make; None: all.
        depth: number of batches made ahead; 0: each is made when it is asked for.
        costly: seconds that a batch may take without a thread.
    """

    def __init__(
        self,
        plan: Any,
        start: int,
        stop: int,
        rows: slice | None = None,
        depth: int = 2,
        costly: float = 1e-3,
    ) -> None:
        self._plan = plan
        self._rows = rows
        self._steps = iter(range(start, stop))
        self._depth = depth
        self._costly = costly
        self._costly_in_a_row = 0
        self._made: deque[Future[Batch]] = deque()
        # One thread: plans keep the order of the latest epoch.
        self._thread = ThreadPoolExecutor(1, "batches") if depth else None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._thread is None or self._costly_in_a_row < 2:
            step, began = next(self._steps), time.perf_counter()
            batch = self._make(step)
            costly = time.perf_counter() - began > self._costly
            self._costly_in_a_row = self._costly_in_a_row + 1 if costly else 0
            return batch
        # One more than the depth, since one of them is taken at once.
        while len(self._made) <= self._depth and (step := next(self._steps, None)) is not None:
            self._made.append(self._thread.submit(self._make, step))
        if not self._made:
            raise StopIteration
        return self._made.popleft().result()

    def _make(self, step: int) -> Batch:
        return self._plan.batch(step) if self._rows is None else self._plan.batch(step, self._rows)

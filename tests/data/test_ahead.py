"""Batches made ahead: the same ones in the same order, errors at their step, no thread left."""

import threading
import time

import numpy as np
import pytest

from attnzoo.data.ahead import Ahead


class Counting:
    """Plan of batches with the step alone; a step of ``bad`` raises."""

    batch_size = 3
    steps_per_epoch = 5

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad
        self.asked: list[int] = []

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        self.asked.append(step)
        if step in self.bad:
            raise ValueError(f"step {step}")
        whole = np.arange(self.batch_size) + 10 * step
        return {"x": whole if rows is None else whole[rows]}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
@pytest.mark.parametrize("rows", [None, slice(1, 3)])
def test_the_batches_are_those_of_the_plan(depth: int, rows: slice | None) -> None:
    with Ahead(Counting(), 4, 11, rows, depth, costly=0.0) as batches:
        found = [batch["x"].tolist() for batch in batches]
    kept = slice(None) if rows is None else rows
    assert found == [[10 * step, 10 * step + 1, 10 * step + 2][kept] for step in range(4, 11)]
    assert threads() == []


def test_two_batches_are_made_ahead_and_none_after_the_last() -> None:
    plan = Counting()
    with Ahead(plan, 0, 8, costly=0.0) as batches:
        for _ in range(3):  # from the third one on there is the thread
            next(batches)
        deadline = time.monotonic() + 10
        while len(plan.asked) < 5 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert plan.asked == [0, 1, 2, 3, 4]
        assert len(list(batches)) == 5
    assert plan.asked == [0, 1, 2, 3, 4, 5, 6, 7]


def test_cheap_batches_are_made_when_they_are_asked_for() -> None:
    plan = Counting()
    with Ahead(plan, 0, 9, costly=60.0) as batches:
        for count in range(1, 9):
            next(batches)
            assert plan.asked == list(range(count))
            assert threads() == []


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_an_error_is_raised_at_its_own_step(depth: int) -> None:
    with Ahead(Counting(bad=(4,)), 0, 8, depth=depth, costly=0.0) as batches:
        assert [next(batches)["x"][0] for _ in range(4)] == [0, 10, 20, 30]
        with pytest.raises(ValueError, match="step 4"):
            next(batches)
    assert threads() == []


def test_the_thread_ends_with_an_error_of_the_training() -> None:
    def train() -> None:
        with Ahead(Counting(), 0, 9, costly=0.0) as batches:
            for _ in range(3):
                next(batches)
            assert len(threads()) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert threads() == []

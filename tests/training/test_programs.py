"""Programs are compiled once for each shape, in whichever thread, and long waits are told."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.training import programs as module
from attnzoo.training.programs import Call, Programs, one_of_each_shape


def call(function: Any, length: int, state: Any = 1.0, lengths: int = 3) -> Call:
    batch = {"tokens": np.full((2, length), 3.0, np.float32), "rows": np.arange(2)}
    return Call("the step", function, (jnp.float32(state), batch), lengths)


@pytest.mark.parametrize("prepared", [False, True])
def test_one_program_for_each_shape(prepared: bool) -> None:
    traced: list[tuple[int, bool, str]] = []
    inside = threading.local()

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        inside.here = True
        yield
        inside.here = False

    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        length = batch["tokens"].shape[1]
        traced.append((length, inside.here, threading.current_thread().name))
        return state + batch["tokens"].sum()

    order = (5, 7, 5, 11, 7)
    with Programs(print, context) as programs:
        programs(call(step, 5))
        if prepared:
            programs.prepare(one_of_each_shape(call(step, length) for length in order))
            assert programs._thread is not None
            programs._thread.join()
        results = [float(programs(call(step, length, state=2))) for length in order]
    assert results == [2 + 6 * length for length in order]
    thread = "programs" if prepared else "MainThread"
    assert traced == [(5, True, "MainThread"), (7, True, thread), (11, True, thread)]


def test_a_long_wait_is_told_and_is_no_time_of_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TOLD_SECONDS", 0.15)
    said: list[str] = []
    tracing, told = threading.Event(), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set()

    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        tracing.set()
        assert batch["tokens"].shape[1] == 2 or told.wait(60)  # only a short one is not told
        return state

    with Programs(say, contextlib.nullcontext) as programs:
        monkeypatch.setattr(module, "TOLD_SECONDS", 60.0)
        programs(call(step, 2))
        assert said == []
        monkeypatch.setattr(module, "TOLD_SECONDS", 0.15)
        before, began = programs.waited, programs.clock()
        programs.prepare([call(step, 5)])
        tracing.wait(60)
        programs(call(step, 5))  # begun in the other thread
        assert programs.waited - before >= 0.15
        assert programs.clock() - began < programs.waited - before + 60
        programs(call(step, 5))
    assert said[0] == "compiling the step for length 5 (2 of 3)"
    assert said[1].startswith("compiled the step for length 5 in ")
    assert len(said) == 2


def test_an_error_comes_where_the_program_is_called() -> None:
    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        raise ValueError("no such layer")

    with Programs(print, contextlib.nullcontext) as programs:
        programs.prepare([call(step, 5)])
        for _ in range(2):
            with pytest.raises(ValueError, match="no such layer"):
                programs(call(step, 5))

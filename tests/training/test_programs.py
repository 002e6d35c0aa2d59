"""Programs are compiled once for each shape, and long waits are told."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.training import programs as module
from attnzoo.training.programs import Call, Programs


def call(function: Any, length: int, state: Any = 1.0, lengths: int = 3) -> Call:
    batch = {"tokens": np.full((2, length), 3.0, np.float32), "rows": np.arange(2)}
    return Call("the step", function, (jnp.float32(state), batch), lengths)


def test_one_program_for_each_shape() -> None:
    traced: list[int] = []

    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        traced.append(batch["tokens"].shape[1])
        return state + batch["tokens"].sum()

    programs, order = Programs(print), (5, 7, 5, 11, 7)
    results = [float(programs(call(step, length, state=2))) for length in order]
    assert results == [2 + 6 * length for length in order]
    assert traced == [5, 7, 11]


def test_a_long_wait_is_told_and_is_no_time_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        time.sleep(0.5)
        return state

    programs = Programs(said.append)
    monkeypatch.setattr(module, "TOLD_SECONDS", 60.0)
    programs(call(step, 2))
    assert said == []
    monkeypatch.setattr(module, "TOLD_SECONDS", 0.1)
    clock, began = programs.clock(), time.monotonic()
    programs(call(step, 5))
    assert time.monotonic() - began - (programs.clock() - clock) >= 0.5
    programs(call(step, 5))
    first, second = said
    assert first == "compiling the step for length 5 (2 of 3)"
    assert second.startswith("compiled the step for length 5 in ")
    said.clear()
    programs(call(step, 7, lengths=1)._replace(name="the validation"))
    assert said[0] == "compiling the validation"

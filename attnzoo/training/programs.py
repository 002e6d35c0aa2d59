"""Compiled programs of a training, one for each shape of a batch."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

import jax

TOLD_SECONDS = 2.0
"""A wait for a program that is shorter, such as that for one read from the cache, is not told."""


class Call(NamedTuple):
    """A jitted function that is to be called, its batch, and the number of batches' lengths."""

    name: str
    function: Any
    arguments: tuple[Any, ...]
    """Arrays; the last is the batch, whose shape alone differs between calls."""
    lengths: int = 1

    @property
    def key(self) -> tuple[Any, ...]:
        """The name and the shapes of the batch, which the program is compiled for."""
        batch: Mapping[str, Any] = self.arguments[-1]
        return self.name, *sorted((name, x.shape, str(x.dtype)) for name, x in batch.items())

    @property
    def subject(self) -> str:
        """The name and, where there are several, the length of the batch."""
        if self.lengths == 1:
            return self.name
        lengths = {name: shape[1] for name, shape, _ in self.key[1:] if len(shape) > 1}
        return f"{self.name} for length {lengths.get('source', min(lengths.values()))}"


@final
class Programs:
    """Compiled programs of jitted functions, one for each shape of a batch.

    Waits for the compiler that are long are told to ``say``, and all are added to ``waited``::

        programs = Programs(print)
        state, sums = programs(Call("the step", step, (state, batch)))
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._programs: dict[tuple[Any, ...], Any] = {}
        self.waited = 0.0
        """Seconds for which calls have waited for programs."""

    def clock(self) -> float:
        """Return the time in seconds on a clock that stops while programs are compiled."""
        return time.monotonic() - self.waited

    def __call__(self, call: Call) -> Any:
        """Return the result of a call, after compiling its program if it is the first."""
        program = self._programs.get(call.key)
        if program is None:
            program = self._programs[call.key] = self._compile(call)
        return program(*call.arguments)

    def _compile(self, call: Call) -> Any:
        """Return the program of a call; say what is compiled if it takes long, and how long."""
        number = 1 + sum(key[0] == call.name for key in self._programs)
        place = f" ({number} of {call.lengths})" if call.lengths > 1 else ""
        timer = threading.Timer(TOLD_SECONDS, self._say, (f"compiling {call.subject}{place}",))
        began = time.monotonic()
        timer.start()
        try:
            return call.function.lower(*jax.tree.map(shape_of, call.arguments)).compile()
        finally:
            timer.cancel()
            timer.join()
            seconds = time.monotonic() - began
            self.waited += seconds
            if seconds >= TOLD_SECONDS:
                self._say(f"compiled {call.subject} in {seconds:.0f} s")


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of an array, and its sharding if it is placed on devices."""
    # Not its weak type: a step returns strong ones, and so does a checkpoint.
    placed = isinstance(x, jax.Array) and x.committed
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding if placed else None)

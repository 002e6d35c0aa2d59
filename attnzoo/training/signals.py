"""Graceful stop on SIGTERM and Ctrl-C: finish the step, save, exit with a code of its own."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax

from attnzoo.training.processes import preempted

EXIT_STOPPED = 75
"""Exit status after a stop on request with the state saved (EX_TEMPFAIL: run it again)."""


class StopSignal:
    """A context manager that turns the first SIGTERM or SIGINT into `requested`.

    The loop asks `requested` once per step, saves, waits for the save and exits with
    `EXIT_STOPPED`. A second signal ends the process at once with 128 + its number, without saving.
    Python handles signals between two bytecodes, so a long compilation delays them. Several
    processes must stop at the same step: there jax's runtime receives SIGTERM and chooses it.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def heard(self) -> bool:
        """True if a signal was handled by this process itself, not by jax's runtime."""
        return self._received is not None

    def requested(self, step: int) -> bool:
        """Return whether a signal has requested a stop, in all processes after the same step."""
        if jax.distributed.is_initialized() and preempted(step):
            self._received = signal.SIGTERM
        return self._received is not None

    @property
    def name(self) -> str:
        """Name of the signal, for instance "SIGTERM"; empty if there was none."""
        return self._received.name if self._received else ""

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("StopSignal must be entered in the main thread")
        # A handler of ours would take the signal from jax's.
        numbers = () if jax.distributed.is_initialized() else (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # None: a handler that was not installed from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._received is not None:
            _say("second signal: leaving at once, without saving\n")
            os._exit(128 + number)
        self._received = signal.Signals(number)
        _say(f"{self._received.name}: finishing this step and saving; again to leave at once\n")


def _say(message: str) -> None:
    # os.write, because print may be interrupted inside itself and is not re-entrant.
    with contextlib.suppress(OSError):  # standard error is closed or full
        os.write(2, message.encode())

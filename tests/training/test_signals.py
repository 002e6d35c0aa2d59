"""SIGTERM and Ctrl-C: a durable step and a code of its own; twice: out at once."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from attnzoo.training.checkpoint import verify
from attnzoo.training.signals import EXIT_STOPPED, StopSignal

TRAIN = """
import sys, time
import numpy as np
from attnzoo.training.checkpoint import CheckpointStore
from attnzoo.training.signals import EXIT_STOPPED, StopSignal

with StopSignal() as stop, CheckpointStore(sys.argv[1]) as store:
    for step in range(1, 100_000):
        time.sleep(0.01)
        if step == 1:
            print("training", flush=True)
        if stop.requested(0):
            store.save(step, {"x": np.full(3, step)}, {"signal": stop.name})
            break
sys.exit(EXIT_STOPPED)
"""

STUCK = """
import time
from attnzoo.training.signals import StopSignal
with StopSignal():
    print("stuck", flush=True)
    while True:
        time.sleep(0.01)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_sigterm_ends_with_a_durable_step_and_its_own_code(tmp_path: Path) -> None:
    with start(TRAIN, str(tmp_path)) as process:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_STOPPED == 75
    assert "SIGTERM: finishing this step and saving" in errors
    (report,) = verify(tmp_path)
    assert report.ok
    assert not report.unfinished


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_at_once(number: signal.Signals) -> None:
    with start(STUCK) as process:
        process.send_signal(number)
        assert process.stderr is not None
        assert number.name in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(timeout=5) == 128 + number


def test_a_signal_is_remembered_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert not stop.requested(0)
        assert stop.name == ""
        signal.raise_signal(signal.SIGINT)
        assert stop.requested(0)
        assert stop.name == "SIGINT"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_only_the_main_thread_can_listen() -> None:
    errors: list[Exception] = []

    def enter() -> None:
        try:
            StopSignal().__enter__()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert len(errors) == 1

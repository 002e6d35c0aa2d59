"""`benchmark start`: how long a training takes from its command to its first step.

The same command is started twice with empty caches: the second time everything that was compiled,
and an embedded corpus that was built, is read. Both are stopped as soon as they say that step 1 is
done.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attnzoo.errors import UserError
from child_process import environment


def add_parser(workloads: Any, positive: Any) -> None:
    """The command line of `benchmark start`."""
    parser = workloads.add_parser(
        "start",
        help="from the command to step 1, without and with a compilation cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "configs", nargs="*", type=Path, metavar="CONFIG", help="(configs/demo.yaml)"
    )
    parser.add_argument("--rounds", type=positive, default=3, help="of both starts (default: 3)")


def measure(arguments: argparse.Namespace) -> int:
    """Measure every config and print one line of each."""
    print(f"{'':<20}{'':<6}{'first start':>13}{'second start':>14}{'second / first':>16}")
    for config in arguments.configs or [Path("configs/demo.yaml")]:
        rounds = []
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as home:
                rounds.append([_start(config, Path(home), name) for name in ("first", "second")])
        for which, name in enumerate(("CPU s", "s")):
            first, second = (statistics.median(one[i][which] for one in rounds) for i in (0, 1))
            row = f"{config.stem:<20}{name:<6}{first:>13.2f}{second:>14.2f}"
            print(f"{row}{second / first:>16.2f}", flush=True)
    return 0


def _start(config: Path, home: Path, name: str) -> tuple[float, float]:
    """Seconds of CPU and by the clock until a training has told its first step."""
    settings = ["training.log_every=1", "training.tensorboard=false"]
    command = [sys.executable, "-m", "attnzoo.cli", "train", str(config), *settings]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--run-dir", str(home / name)],
        env=environment(
            JAX_COMPILATION_CACHE_DIR=str(home / "cache"), XDG_CACHE_HOME=str(home / "cache")
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as lines:
        last = ""
        for last in lines:
            if last.startswith("step 1/"):
                break
        seconds = time.monotonic() - began
        # Not `process.kill`, which reaps a child that has ended: its CPU time comes with its end.
        os.kill(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not last.startswith("step 1/"):
        raise UserError(f"{config}: ended before step 1: {last.strip()}")
    return usage.ru_utime + usage.ru_stime, seconds

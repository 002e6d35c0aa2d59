"""`verify RUN_DIR`: read every checkpoint of a run and say which leaf of which step differs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from attnzoo.cli.common import run


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="verify", description=__doc__)
    parser.add_argument(
        "path", type=Path, help="a run directory, a directory of steps, or one step; only read"
    )
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per step; exit code 0: all are whole; 1: one is damaged; 2: misuse."""
    return run(lambda: _verify(parse(argv)))


def _verify(arguments: argparse.Namespace) -> int:
    # Imported late, so that --help does not wait for jax.
    from attnzoo.training.checkpoint import verify

    reports = verify(arguments.path)
    print(f"{'where':<12} {'step':>9}  state")
    for report in reports:
        if report.unfinished:
            state = "unfinished: no commit file (a save going on, or one that was interrupted)"
        else:
            state = "; ".join(report.problems) if report.problems else "ok"
        state = state if report.ok else f"DAMAGED: {state}"
        print(f"{report.path.parent.name:<12} {report.step:>9}  {state}")
    damaged = sum(not report.ok for report in reports)
    print(f"{len(reports)} read, {damaged} damaged")
    return 1 if damaged else 0

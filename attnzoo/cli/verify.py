"""`verify RUN_DIR`: read every checkpoint of a run and say which leaf of which step differs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from attnzoo.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per step; return 0 when all are whole, 1 when one is damaged, 2 on misuse."""
    parser = argparse.ArgumentParser(prog="verify", description=__doc__)
    parser.add_argument(
        "path", type=Path, help="a run directory, a directory of steps, or one step; only read"
    )
    arguments = parser.parse_args(argv)
    # Imported late, so that --help does not wait for jax.
    from attnzoo.training.checkpoint import verify

    try:
        reports = verify(arguments.path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
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

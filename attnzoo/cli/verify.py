"""`verify RUN_DIR`: check every checkpoint and file of a run, and say what differs."""

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
    parser.add_argument(
        "--accept",
        metavar="FILE",
        help="a file of the run that was changed on purpose, such as config.yaml: record its "
        "present content as right",
    )
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per step and file; exit code 0: all are whole; 1: one is damaged; 2: misuse."""
    return run(lambda: _verify(parse(argv)))


def _verify(arguments: argparse.Namespace) -> int:
    # Imported late, so that --help does not wait for jax.
    from attnzoo.training.checkpoint import verify
    from attnzoo.training.manifest import Manifest, accept, step_problem

    if arguments.accept is not None:
        accept(arguments.path, arguments.accept)
        print(f"{arguments.path / arguments.accept}: accepted as it is now")
    reports = verify(arguments.path)
    print(f"{'where':<12} {'step':>9}  state")
    manifest = Manifest.read(arguments.path.expanduser().resolve())
    files = manifest.problems(arguments.path) if manifest else {}
    if manifest is None and (arguments.path / "config.yaml").exists():
        print("no manifest.json: the run's files cannot be checked")
    for name, problem in files.items():
        print(f"{name:<22}  {f'DAMAGED: {problem}' if problem else 'ok'}")
    damaged = sum(map(bool, files.values()))
    for report in reports:
        foreign = step_problem(arguments.path, manifest, report.files)
        damaged += not report.ok or bool(foreign)
        if report.unfinished:
            state = "unfinished: no commit file (a save going on, or one that was interrupted)"
        else:
            state = "; ".join(report.problems) or foreign or "ok"
        state = f"DAMAGED: {state}" if report.problems or foreign else state
        print(f"{report.path.parent.name:<12} {report.step:>9}  {state}")
    print(f"{len(reports) + len(files)} read, {damaged} damaged")
    return 1 if damaged else 0

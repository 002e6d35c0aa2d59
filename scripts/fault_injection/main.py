"""`torture NAME ... [--count N]`: hurt runs on purpose and count what survives.

Each fault is tried as often as its promise says, or --count times; "all" stands for all of them.
What fails is told as it happens, then a table; exit code 1 if anything did.
"""

import argparse
import collections
import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from attnzoo.cli.common import require_positive, run
from attnzoo.errors import UserError
from fault_injection import disk, kills, rules
from fault_injection.trials import Fault

FAULTS: dict[str, Fault] = {
    "kill": Fault(kills.kill, 50, "SIGKILL at a random instant of a training, then resumed"),
    "save": Fault(kills.save, 100, "SIGKILL inside a save in the background"),
    "stop": Fault(kills.stop, 30, "SIGTERM at a random instant of a training"),
    "flip": Fault(disk.flip, 1000, "one bit flipped in a step"),
    "damage": Fault(disk.damage, 20, "ten kinds of damage to the newest step, in turn"),
    "full": Fault(disk.full, 40, "disk full at 20 levels, saves in the background and waiting"),
    "lock": Fault(rules.lock, 20, "a second run in the directory of one that trains"),
    "nan": Fault(rules.nan, 20, "metrics with NaN and infinity, in random order"),
    "change": Fault(rules.change, 25, "resumed with another config"),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    listed = "\n".join(
        f"  {name:<8} {fault.count:>5}  {fault.what}" for name, fault in FAULTS.items()
    )
    parser = argparse.ArgumentParser(
        prog="torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"faults and how often they are tried:\n{listed}",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help='a fault, or "all"')
    parser.add_argument("--count", type=int, help="trials of each (default: as listed)")
    parser.add_argument("--seed", type=int, default=0, help="of instants, bits, ... (default: 0)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: all survived; 1: something did not; 2: something to mend."""
    return run(lambda: _torture(parse(argv)))


def _torture(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "count")
    names = list(FAULTS) if "all" in arguments.names else list(dict.fromkeys(arguments.names))
    if unknown := [name for name in names if name not in FAULTS]:
        raise UserError(f"{unknown[0]}: no such fault; wanted all or some of {', '.join(FAULTS)}")
    # What is broken on purpose need not be warned about.
    warnings = logging.getLogger("attnzoo.training")
    level = warnings.level
    warnings.setLevel(logging.ERROR)
    try:
        return _run(arguments, names)
    finally:
        warnings.setLevel(level)


def _run(arguments: argparse.Namespace, names: Sequence[str]) -> int:
    print(f"{'fault':<8} {'count':>6} {'passed':>7} {'seconds':>8}  seen", flush=True)
    failed = 0
    for name in names:
        fault, began = FAULTS[name], time.monotonic()
        count = arguments.count or fault.count
        seen: collections.Counter[str] = collections.Counter()
        tried = passed = 0
        # A fault alone draws the same numbers as among all.
        draws = random.Random(f"{arguments.seed} {name}")
        with tempfile.TemporaryDirectory(prefix="torture-") as work:
            for trial in fault.trials(count, draws, Path(work)):
                tried, passed = tried + 1, passed + trial.passed
                seen[trial.seen if trial.passed else f"FAILED: {trial.seen}"] += 1
                if not trial.passed:
                    print(f"{name} {tried}: FAILED: {trial.seen}", file=sys.stderr, flush=True)
        failed += count - passed
        told = ", ".join(f"{n} {what}" for what, n in seen.most_common())
        seconds = time.monotonic() - began
        print(f"{name:<8} {tried:>6} {passed:>7} {seconds:>8.0f}  {told}", flush=True)
    return 1 if failed else 0

"""`reproduce list | run NAME ... | report`: claims of papers, measured.

`run` keeps its trainings and numbers, and goes on where it was stopped.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attnzoo.cli.common import compilation_cache, require_positive, run
from attnzoo.errors import UserError
from reproductions.claim import Claim, Measured, Setting
from reproductions.store import RESULTS, ROOT, Record, check_numbers, machine, read, rounded, write


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reproduce", description=__doc__)
    parts = parser.add_subparsers(dest="command", required=True)
    parts.add_parser("list", help="claims with their papers, cost and verdicts")
    measure = parts.add_parser("run", help="measure claims")
    measure.add_argument("names", nargs="+", metavar="NAME", help="claims, or all")
    measure.add_argument("--seeds", type=int, help="how many (default: as each claim says)")
    measure.add_argument(
        "--quick",
        action="store_true",
        help="a small form of each, one seed, in seconds; never reported",
    )
    measure.add_argument("--again", action="store_true", help="forget what was measured before")
    measure.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)"
    )
    measure.add_argument(
        "--runs", type=Path, default=Path("runs/reproductions"), help="folder of the trainings"
    )
    report = parts.add_parser("report", help="make the page of verdicts and its figures")
    report.add_argument("--check", action="store_true", help="say what is not up to date instead")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three commands; return its exit status."""
    return run(lambda: _main(parse(argv)))


def _main(arguments: argparse.Namespace) -> int:
    from reproductions.claims import claims

    known = claims()
    if arguments.command == "list":
        return _list(known)
    if arguments.command == "report":
        return _report(known, check=arguments.check)
    require_positive(arguments, "seeds")
    if arguments.quick and arguments.seeds is not None:
        raise UserError("--seeds with --quick: the quick form has one seed")
    unknown = [name for name in arguments.names if name not in {*known, "all"}]
    if unknown:
        raise UserError(f"{unknown[0]}: no such claim; there are {', '.join(known)}, and all")
    names = list(known) if "all" in arguments.names else list(dict.fromkeys(arguments.names))
    compilation_cache()
    failed = []
    for name in names:
        claim = known[name]
        absent = [one for one in claim.needs if not (arguments.data / one).exists()]
        if absent:
            print(f"{name}: left out, {arguments.data / absent[0]} is missing", file=sys.stderr)
            failed.append(name)
            continue
        _measure(claim, arguments)
    if failed:
        raise UserError(f"{len(failed)} of {len(names)} were left out: {', '.join(failed)}")
    return 0


def _list(known: dict[str, Claim]) -> int:
    for name, claim in known.items():
        results = read(claim).results
        verdict = claim.verdict(results) if results.seeds else "not measured"
        minutes = claim.minutes * claim.seeds
        print(f"{name:28} {verdict:14} {claim.seeds} seeds, {minutes:5.1f} minutes of a core")
        print(f"    {claim.title}\n    {claim.source}")
        for number, value in claim.published.items():
            print(f"    published: {number} {value:g}")
    return 0


def _measure(claim: Claim, arguments: argparse.Namespace) -> None:
    import jax

    quick = arguments.quick
    folder = arguments.runs / "quick" if quick else RESULTS
    seeds = 1 if quick else arguments.seeds or claim.seeds
    fresh = Record([check.text for check in claim.criterion], {})
    record = fresh if quick or arguments.again else read(claim, folder)
    for seed in range(seeds):
        if seed in record.seeds:
            print(f"{claim.name}: seed {seed} was measured before", flush=True)
            continue
        home = arguments.runs / ("quick" if quick else "full") / claim.name / str(seed)
        started, cpu = time.perf_counter(), time.process_time()
        print(f"{claim.name}: seed {seed}, about {claim.minutes:g} minutes", flush=True)
        found = claim.measure(Setting(seed, quick, home, arguments.data))
        values = {name: rounded(number) for name, number in found.items()}
        first = next(iter(record.seeds.values()))["values"] if record.seeds else values
        check_numbers(f"{claim.name}: seed {seed}", values, first)
        record.seeds[seed] = {
            "values": values,
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "machine": machine(),
        }
        write(claim, record, folder)
        told = ", ".join(f"{name} {_brief(one)}" for name, one in found.items())
        print(
            f"{claim.name}: seed {seed}, {time.perf_counter() - started:.0f} s: {told}", flush=True
        )
        jax.clear_caches()
    if not quick:
        results = read(claim, folder).results
        print(f"{claim.name}: {claim.verdict(results)}. {claim.came(results)}", flush=True)


def _brief(value: Measured) -> str:
    return f"{value[0] if isinstance(value, tuple) else value:.4g}"


def _report(known: dict[str, Claim], *, check: bool) -> int:
    from reproductions import report

    if check:
        wrong = report.stale(known)
        for line in wrong:
            print(line)
        return 1 if wrong else 0
    for claim in known.values():
        results = read(claim).results
        if results.seeds:
            print(report.save_figure(claim, results).relative_to(ROOT), flush=True)
    report.PAGE.write_text(report.page(known), encoding="utf-8")
    print(report.PAGE.relative_to(ROOT))
    return 0

"""Sentence pairs and reference links for `align --aligner`, from files or standard input."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from attnzoo.errors import UserError

if TYPE_CHECKING:  # not imported at run time, so that --help does not load jax
    from attnzoo.data.corpus import Report

SEPARATOR = "|||"


class Pair(NamedTuple):
    """Words of one line, and the text of its links, if its file has them."""

    source: list[str]
    target: list[str]
    links: str | None


def add_input_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the arguments that name pairs and reference links."""
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="'source ||| target' on every line, or a table with --columns; - is standard input",
    )
    parser.add_argument(
        "--columns",
        metavar="S,T[,LINKS]",
        help="columns of source, target and perhaps links in a table with tabs, from 0",
    )
    parser.add_argument("--text", metavar="FILE", help="more pairs to train on, like --pairs")
    for name, what in (("skipped", "malformed lines"), ("unread", "pairs too long to be read")):
        parser.add_argument(
            f"--max-{name}",
            type=float,
            default=0.01,
            metavar="SHARE",
            help=f"a larger share of {what} is an error in the end (default: 0.01)",
        )
    parser.add_argument("--gold", metavar="FILE", help="reference links of the pairs")
    parser.add_argument(
        "--gold-format",
        choices=("pharaoh", "talp", "naacl", "blinker", "a3"),
        default="pharaoh",
        help="format of --gold; XL-WA is --columns 0,1,2 (default: pharaoh)",
    )
    parser.add_argument(
        "--one-based",
        action=argparse.BooleanOptionalAction,
        help="reference links count from 1 (default: as is usual for the format)",
    )
    parser.add_argument(
        "--target-first", action="store_true", help="reference links name the target word first"
    )


def columns_of(arguments: argparse.Namespace) -> tuple[int, ...] | None:
    """Return the columns of a table; None without --columns."""
    if arguments.columns is None:
        return None
    try:
        columns = tuple(int(column) for column in arguments.columns.split(","))
    except ValueError:
        columns = ()
    if len(columns) not in (2, 3) or min(columns) < 0:
        raise UserError(
            f"--columns {arguments.columns}: wanted two or three numbers from 0, as 0,1"
        )
    return columns


def read_text(
    name: str | Path, encoding: str, faults: Report | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line of a file, compressed or not; - is standard input.

    A line that is not in the encoding is a UserError, or empty and one of the ``faults``.
    """
    from attnzoo.data.locations import unpacked
    from attnzoo.data.sources import decode, open_stream, reading, stream_lines

    shown = "standard input" if str(name) == "-" else str(name)
    with reading(shown), ExitStack() as stack:
        if str(name) == "-":
            stream = unpacked(sys.stdin.buffer)
        else:
            stream = stack.enter_context(open_stream(name))
        for number, line in enumerate(stream_lines(stream, encoding, shown), start=1):
            try:
                text = decode(line)
            except UnicodeDecodeError:
                fault = f"not {encoding.upper()}, see --encoding"
                if faults is None:
                    raise UserError(f"{shown}:{number}: {fault}") from None
                faults.skip(fault, str(number))
                text = ""
            yield f"{shown}:{number}", text


def read_pairs(
    name: str, columns: tuple[int, ...] | None, encoding: str, faults: Report
) -> Iterator[Pair]:
    """Yield the pair of every line of a table, or of 'source ||| target'.

    A malformed line is an empty pair, and counted among the ``faults``.
    """
    if columns is None:
        separator, wanted, needed = SEPARATOR, "source ||| target", 2
    else:
        separator, needed = "\t", max(columns) + 1
        wanted = f"columns {', '.join(map(str, columns))}, from 0"
    for place, line in read_text(name, encoding, faults):
        faults.read += 1
        fields = line.split(separator) if line.strip() else [""] * needed
        if len(fields) < needed or (columns is None and len(fields) > needed):
            hint = "" if columns or "\t" not in line else "; a table needs --columns"
            count = f"{len(fields)} field{'s' * (len(fields) > 1)}"
            faults.skip(f"{count}, wanted {wanted}{hint}", place.rpartition(":")[2])
            fields = [""] * needed
        chosen = fields if columns is None else [fields[column] for column in columns]
        yield Pair(chosen[0].split(), chosen[1].split(), chosen[2] if len(chosen) > 2 else None)


def read_sides(source: Path, target: Path, encoding: str, faults: Report) -> Iterator[Pair]:
    """Yield the pair of every line of two files; different lengths are a UserError."""
    sides = (read_text(path, encoding, faults) for path in (source, target))
    for number, (left, right) in enumerate(itertools.zip_longest(*sides), start=1):
        if left is None or right is None:
            shorter, longer = (source, target) if left is None else (target, source)
            raise UserError(f"{longer}:{number}: {shorter} has only {number - 1} lines")
        faults.read += 1
        yield Pair(left[1].split(), right[1].split(), None)


def input_pairs(arguments: argparse.Namespace, faults: Report) -> Iterator[Pair]:
    """Yield the pairs that the arguments name."""
    encoding = arguments.encoding
    if arguments.pairs is not None:
        return read_pairs(arguments.pairs, columns_of(arguments), encoding, faults)
    return read_sides(arguments.source, arguments.target, encoding, faults)


def training_text(arguments: argparse.Namespace) -> tuple[list[list[str]], list[list[str]]] | None:
    """Return the words of --text, both sides; None without it."""
    from attnzoo.data.corpus import Report

    if arguments.text is None:
        return None
    faults = Report(arguments.text, unit="lines")
    some = read_pairs(arguments.text, columns_of(arguments), arguments.encoding, faults)
    pairs = [(p.source, p.target) for p in some]
    tell(faults, "malformed")
    check_share(faults, "malformed", arguments.max_skipped, "--max-skipped")
    return [p[0] for p in pairs], [p[1] for p in pairs]


def tell(report: Report, state: str) -> None:
    """Print on standard error how many lines are in a state, why, and the first of them."""
    if report.skipped:
        print(f"{report.name}: {_described(report, state)}", file=sys.stderr)


def check_share(report: Report, state: str, most: float, option: str) -> None:
    """Raise a UserError if more than the share ``most`` of the lines is in a state."""
    count = sum(report.skipped.values())
    if count > most * report.read:
        raise UserError(
            f"{report.name}: {_described(report, state)}; {count:,} of {report.read:,} lines are "
            f"more than {option} {most:g}"
        )


def _described(report: Report, state: str) -> str:
    reasons = []
    for reason, count in report.skipped.items():
        places = report.places[reason]
        lines = ", ".join(places) + ", ..." * (count > len(places))
        reasons.append(f"{count:,} {state} ({reason}): lines {lines}")
    return "; ".join(reasons)

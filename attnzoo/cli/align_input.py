"""Sentence pairs and reference links for `align --aligner`, from files or standard input."""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from attnzoo.errors import UserError

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


def read_text(name: str | Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line of a file, packed or not; - is standard input."""
    from attnzoo.data.sources import decode, open_stream, reading, stream_lines

    shown = "standard input" if str(name) == "-" else str(name)
    standard = str(name) == "-"
    with (
        reading(shown),
        contextlib.nullcontext(sys.stdin.buffer) if standard else open_stream(name) as stream,
    ):
        for number, line in enumerate(stream_lines(stream, name=shown), start=1):
            try:
                yield f"{shown}:{number}", decode(line)
            except UnicodeDecodeError:
                raise UserError(f"{shown}:{number}: not UTF-8") from None


def read_pairs(name: str, columns: tuple[int, ...] | None) -> Iterator[Pair]:
    """Yield the pair of every line of a table, or of 'source ||| target'."""
    for place, line in read_text(name):
        if columns is None:
            fields = line.split(SEPARATOR) if line.strip() else ["", ""]
            wanted, needed = "source ||| target", 2
            if len(fields) > 2:
                raise UserError(f"{place}: {len(fields)} fields, wanted {wanted}")
        else:
            fields = line.split("\t") if line else [""] * (max(columns) + 1)
            wanted, needed = f"columns {', '.join(map(str, columns))}, from 0", max(columns) + 1
        if len(fields) < needed:
            hint = "" if columns else "; a table needs --columns"
            raise UserError(
                f"{place}: {len(fields)} field{'s' * (len(fields) > 1)}, wanted {wanted}{hint}"
            )
        chosen = fields if columns is None else [fields[column] for column in columns]
        yield Pair(chosen[0].split(), chosen[1].split(), chosen[2] if len(chosen) > 2 else None)


def read_sides(source: Path, target: Path) -> Iterator[Pair]:
    """Yield the pair of every line of two files; different lengths are a UserError."""
    ends = itertools.zip_longest(read_text(source), read_text(target))
    for number, (left, right) in enumerate(ends, start=1):
        if left is None or right is None:
            shorter, longer = (source, target) if left is None else (target, source)
            raise UserError(f"{longer}:{number}: {shorter} has only {number - 1} lines")
        yield Pair(left[1].split(), right[1].split(), None)


def input_pairs(arguments: argparse.Namespace) -> Iterator[Pair]:
    """Yield the pairs that the arguments name."""
    if arguments.pairs is not None:
        return read_pairs(arguments.pairs, columns_of(arguments))
    return read_sides(arguments.source, arguments.target)


def training_text(arguments: argparse.Namespace) -> tuple[list[list[str]], list[list[str]]] | None:
    """Return the words of --text, both sides; None without it."""
    if arguments.text is None:
        return None
    pairs = [(p.source, p.target) for p in read_pairs(arguments.text, columns_of(arguments))]
    return [p[0] for p in pairs], [p[1] for p in pairs]

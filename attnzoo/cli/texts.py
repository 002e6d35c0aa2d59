"""Sentence pairs for commands that use a run: a split of its data, or files."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnzoo.cli.common import Failures, require_positive
from attnzoo.errors import UserError

if TYPE_CHECKING:  # not imported at run time, so that --help does not load jax
    from attnzoo.data.corpus import Corpus
    from attnzoo.training.run import Run


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """Add the option --encoding, of the texts that a command is given."""
    parser.add_argument(
        "--encoding",
        default="utf-8",
        help="encoding of the texts given (latin-1, cp1252, ...); a byte order mark overrides it "
        "(default: utf-8)",
    )


def decoded(line: bytes, place: str, encoding: str, failures: Failures) -> str | None:
    """Return the text of a line, UTF-8 whatever the encoding of its file; None if it has none."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        failures.add(place, f"not {encoding.upper()}; set --encoding")
        return None


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments --split, or --source and --target (and --links, --encoding)."""
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="part of the data the run was trained on (default: test)",
    )
    parser.add_argument("--source", type=Path, help="a file of source sentences instead of a split")
    parser.add_argument("--target", type=Path, help="the file of their translations")
    parser.add_argument(
        "--links", type=Path, help="Pharaoh links of these pairs: i-j sure, i?j possible"
    )
    add_encoding(parser)
    parser.add_argument("--limit", type=int, help="only so many pairs, evenly spread over the text")


def check_pair_arguments(arguments: argparse.Namespace) -> None:
    """Check the arguments, as far as possible without loading the run."""
    require_positive(arguments, "limit", most=10**9)
    if (arguments.source is None) != (arguments.target is None):
        raise UserError("wanted both --source and --target, or neither")
    if arguments.source is None and arguments.links is not None:
        raise UserError("--links goes with --source and --target")


def read_pairs(run: "Run", arguments: argparse.Namespace) -> tuple["Corpus", str]:
    """Return the pairs that the arguments name, and a name for file names and tables."""
    from attnzoo.data.files import Reading, read_pair

    if arguments.source is None:
        corpus, name = run.corpus(arguments.split), arguments.split
        if not len(corpus):
            raise UserError(
                f"the data of {run.directory.path} has no {arguments.split} part; wanted --source "
                "FILE --target FILE, or another --split"
            )
    else:
        # Line i of an output belongs to line i of the files.
        files = (arguments.source, arguments.target, arguments.links)
        data: Any = run.config.data
        languages = data.languages
        reading = Reading(
            keep_all=True,
            source_language=languages[0],
            target_language=languages[1],
            encoding=arguments.encoding,
        )
        corpus, report = read_pair(*files, reading)
        if report.skipped:
            print(*report.lines(), sep="\n", file=sys.stderr)
        name = arguments.source.name.split(".")[0]
    if arguments.limit is not None:
        corpus = corpus.select(evenly(len(corpus), arguments.limit))
    return corpus, name


def evenly(count: int, limit: int) -> list[int]:
    """Return at most ``limit`` of ``count`` rows, evenly spread: a text's beginning may be easy."""
    most = min(count, limit)
    return [row * count // most for row in range(most)]

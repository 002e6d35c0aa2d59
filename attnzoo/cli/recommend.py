"""`recommend RUN_DIR [FILE]`: the next items of each history, from a file or standard input.

A line is a history: names of items, oldest first, between tabs if there are any, else spaces. For
every history lines are written with its number from 1, an item, its score and its title if it has
one, separated by tabs, best first. Scores can be compared within a history. Its own items are left
out.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from attnzoo.cli.common import (
    add_trust,
    add_which,
    compilation_cache,
    open_model,
    require_positive,
    run,
)
from attnzoo.data.interactions import names_in
from attnzoo.data.sources import decode, lines_as_they_come, read_lines
from attnzoo.errors import UserError

CHUNK = 1024  # most histories that are read before they are answered


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="recommend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("file", nargs="?", type=Path, help="one history a line, compressed or not")
    parser.add_argument("--count", type=int, default=10, help="items a history (default: 10)")
    parser.add_argument("--seen", action="store_true", help="items of the history too")
    add_which(parser)
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write recommendations; return 0 even if histories or items were not known (counted)."""
    return run(lambda: _recommend(parse(argv)))


def _recommend(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "count")
    if arguments.file is not None and not arguments.file.exists():
        raise UserError(f"{arguments.file}: no such file")
    from attnzoo.tasks.recommendation import RecommendationTask

    compilation_cache()
    trained = open_model(arguments.run, arguments)
    task = trained.wanted(RecommendationTask)
    source = str(arguments.file or "standard input")
    unknown: list[str] = []
    empty: list[str] = []
    first = 1
    for lines in _chunks(arguments.file):
        histories = []
        for number, line in enumerate(lines, start=first):
            place = f"{source}:{number}"
            names = _names(line, place)
            ids = task.items.numbers(names)
            unknown += [f"{place} {name}" for name, i in zip(names, ids) if i < 0]
            histories.append(ids[ids >= 0])
            empty += [] if len(histories[-1]) else [place]
        found = task.recommend(trained.model, histories, arguments.count, seen=arguments.seen)
        for number, best in enumerate(found, start=first):
            for item, score in best:
                title = [task.items.title(item)] if task.items.titles else []
                print(number, task.items.names[item], f"{score:.4f}", *title, sep="\t")
        sys.stdout.flush()
        first += len(lines)
    _note(unknown, "items are not known to the run and were left out")
    _note(empty, "histories without a known item have no recommendation")
    return 0


def _chunks(file: Path | None) -> Iterator[list[bytes]]:
    """Yield lines: chunks of a file, or of standard input as they come."""
    if file is None:
        yield from lines_as_they_come(sys.stdin.buffer, CHUNK)
    else:
        lines = read_lines(file)
        yield from (lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK))


def _names(line: bytes, place: str) -> list[str]:
    try:
        return names_in(decode(line))
    except UnicodeDecodeError:
        raise UserError(f"{place}: not UTF-8") from None


def _note(places: list[str], what: str) -> None:
    """Print one line on standard error with the count and the first places, if there are any."""
    if places:
        more = ", ..." if len(places) > 3 else ""
        print(f"{len(places):,} {what}: {', '.join(places[:3])}{more}", file=sys.stderr)

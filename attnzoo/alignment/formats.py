"""File formats of word alignments: Pharaoh, NAACL (WPT 2003), TALP, BLINKER and GIZA++ A3.

Readers take the lines of a file and a name for errors, and return links by sentence pair; they know
which side comes first and where counting starts. XL-WA and similar tables hold Pharaoh links in a
column of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from attnzoo.alignment.aligner import Alignment
from attnzoo.alignment.links import Link, Links, format_pharaoh, parse_pharaoh
from attnzoo.errors import UserError

_A3_PAIR = re.compile(r"# Sentence pair \((\d+)\) source length (\d+) target length (\d+)")
_A3_WORD = re.compile(r"(\S+) \(\{((?:\s+\d+)*)\s*\}\)")
_SENTENCE = re.compile(r'<s(?:ent)? (?:snum|num|id)="?0*(\d+)"?>', re.IGNORECASE)
Value = TypeVar("Value")


def read_pharaoh(
    lines: Iterable[str], name: str, *, one_based: bool = False, target_first: bool = False
) -> list[Links]:
    """Read one pair per line, `i-j` sure, `i?j` or `ipj` possible, each perhaps with `:score`."""
    return [
        _placed(f"{name}:{number}", parse_links, line, one_based, target_first)
        for number, line in enumerate(lines, start=1)
    ]


def parse_links(text: str, one_based: bool = False, target_first: bool = False) -> Links:
    """Read one line of Pharaoh links, without their scores; ValueError for anything else."""
    plain = re.sub(r":[0-9.eE+-]+(?=\s|$)", "", text)
    links = parse_pharaoh(plain, one_based=one_based)
    return links.inverse() if target_first else links


def read_naacl(
    lines: Iterable[str], name: str, *, one_based: bool = True, target_first: bool = False
) -> list[Links]:
    """Read `pair source target [S|P] [score]` on every line (Mihalcea and Pedersen, WPT 2003).

    Pairs count from 1. Words count from 1, and 0 stands for no word: such a line is no link.
    """
    found: dict[int, tuple[set[Link], set[Link]]] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        kind = fields[3].upper() if len(fields) > 3 else "S"
        if len(fields) < 3 or not all(f.isdecimal() for f in fields[:3]):
            raise UserError(
                f"{name}:{number}: {line[:60]!r}, wanted pair, source word, target word"
            )
        if kind not in ("S", "P") and not _is_number(kind):
            raise UserError(f"{name}:{number}: {fields[3]!r}, wanted S (sure) or P (possible)")
        pair, i, j = (int(field) for field in fields[:3])
        if pair < 1:
            raise UserError(f"{name}:{number}: pair 0, pairs count from 1")
        sides = found.setdefault(pair - 1, (set(), set()))
        _add(sides[kind == "P"], i, j, one_based, target_first)
    return _in_order(found)


def read_blinker(
    lines: Iterable[str], name: str, *, one_based: bool = True, target_first: bool = False
) -> list[Links]:
    """Read `source target` on every line (Melamed 1998); 0 stands for no word.

    Pairs are separated by an empty line, or begin with `<s snum="1">`, counted from 1.
    """
    found: dict[int, tuple[set[Link], set[Link]]] = {}
    pair, open_pair = -1, False
    for number, line in enumerate(lines, start=1):
        if tag := _SENTENCE.match(line.strip()):
            pair, open_pair = int(tag[1]) - 1, True
            found.setdefault(pair, (set(), set()))
            continue
        fields = line.split()
        if not fields or line.strip().lower() in ("</s>", "</sent>"):
            open_pair = False
            continue
        if len(fields) < 2 or not all(field.isdecimal() for field in fields[:2]):
            raise UserError(f"{name}:{number}: {line[:60]!r}, wanted source word and target word")
        if not open_pair:
            pair, open_pair = pair + 1, True
        sides = found.setdefault(pair, (set(), set()))
        _add(sides[0], int(fields[0]), int(fields[1]), one_based, target_first)
    return _in_order(found)


def read_a3(
    lines: Iterable[str], name: str, *, one_based: bool = True, target_first: bool = False
) -> list[Links]:
    """Read the three lines a pair that GIZA++ writes: a comment, one side, the other with numbers.

    The words of the last line, after NULL, are those of the source unless `target_first`.
    """
    del one_based  # GIZA++ always counts from 1
    found: dict[int, tuple[set[Link], set[Link]]] = {}
    numbered = ((n, line) for n, line in enumerate(lines, start=1))
    for number, line in numbered:
        if not line.strip():
            continue
        head = _A3_PAIR.match(line)
        some = [line, *(text for _, text in islice(numbered, 2))]
        if head is None or len(some) < 3:
            raise UserError(
                f"{name}:{number}: {line[:60]!r}, wanted '# Sentence pair (n) source length' and "
                "two lines of words"
            )
        words = _A3_WORD.findall(some[2])
        if len(words) != int(head[2]) + 1:
            raise UserError(
                f"{name}:{number + 2}: {len(words)} words with numbers, wanted NULL and {head[2]}, "
                "the source length"
            )
        sides = found.setdefault(int(head[1]) - 1, (set(), set()))
        for i, (_, places) in enumerate(words):
            for j in map(int, places.split()):
                _add(sides[0], i, j, True, target_first)
    return _in_order(found)


READERS: dict[str, Callable[..., list[Links]]] = {
    "pharaoh": read_pharaoh,
    "talp": lambda lines, name, **order: read_pharaoh(lines, name, **{**order, "one_based": True}),
    "naacl": read_naacl,
    "blinker": read_blinker,
    "a3": read_a3,
}
"""Reader of a file of links by format."""


def write_pharaoh(alignments: Iterable[Alignment], *, one_based: bool = False) -> Iterator[str]:
    """Yield a line of links for each pair."""
    for one in alignments:
        yield format_pharaoh(Links.of(one.links), one_based=one_based)


def write_scores(alignments: Iterable[Alignment], *, one_based: bool = False) -> Iterator[str]:
    """Yield a line of links with their scores for each pair, `i-j:0.93`."""
    base = int(one_based)
    for one in alignments:
        yield " ".join(f"{i + base}-{j + base}:{one.links[i, j]:.4g}" for i, j in sorted(one.links))


def write_a3(alignments: Iterable[Alignment], *, one_based: bool = False) -> Iterator[str]:
    """Yield the three lines of each pair that GIZA++ writes, its score the mean of the links'."""
    del one_based
    for number, one in enumerate(alignments, start=1):
        linked: dict[int, list[int]] = {}
        for i, j in sorted(one.links):
            linked.setdefault(i, []).append(j + 1)
        free = [j + 1 for j in range(len(one.target)) if j not in {j for _, j in one.links}]
        rows = [("NULL", free), *((word, linked.get(i, [])) for i, word in enumerate(one.source))]
        mean = sum(one.links.values()) / len(one.links) if one.links else 0.0
        yield (
            f"# Sentence pair ({number}) source length {len(one.source)} target length "
            f"{len(one.target)} alignment score : {mean:.6g}"
        )
        yield " ".join(one.target)
        yield " ".join(f"{word} ({{{''.join(f' {j}' for j in found)} }})" for word, found in rows)


WRITERS: dict[str, Callable[..., Iterator[str]]] = {
    "pharaoh": write_pharaoh,
    "scores": write_scores,
    "a3": write_a3,
}
"""Writer of lines by format; matrices are written by the command (npz)."""


def _placed(place: str, parse: Callable[..., Value], *arguments: object) -> Value:
    try:
        return parse(*arguments)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def _add(links: set[Link], i: int, j: int, one_based: bool, target_first: bool) -> None:
    i, j = i - int(one_based), j - int(one_based)
    if i >= 0 and j >= 0:
        links.add((j, i) if target_first else (i, j))


def _in_order(found: dict[int, tuple[set[Link], set[Link]]]) -> list[Links]:
    last = max(found, default=-1)
    return [Links.of(*found.get(pair, ((), ()))) for pair in range(last + 1)]


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False


def check_links(links: Sequence[Links], lengths: Sequence[tuple[int, int]], name: str) -> None:
    """Raise UserError unless there are links for every pair, within its sentences."""
    if len(links) != len(lengths):
        raise UserError(f"{name}: links of {len(links):,} pairs, the text has {len(lengths):,}")
    for number, (one, size) in enumerate(zip(links, lengths), start=1):
        _placed(f"{name}: pair {number}, (counted from 1? the other side first?)", one.check, *size)

"""Word links between a sentence and its translation, and the Pharaoh text format for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Link = tuple[int, int]

_PHARAOH = re.compile(r"([0-9]+)([-?p])([0-9]+)")


@dataclass(frozen=True)
class Links:
    """The reference links of one sentence pair.

    A link `(i, j)` joins source word `i` and target word `j`, both counted from 0. `sure` are the
    links every annotator would draw, `possible` those that are also acceptable. Every sure link is
    possible (Och and Ney 2003); a `sure` that is not within `possible` raises ValueError, as does a
    negative index. For a reference without the distinction use `Links.of(pairs)`.
    """

    sure: frozenset[Link]
    possible: frozenset[Link]

    def __post_init__(self) -> None:
        if not self.sure <= self.possible:
            stray = sorted(self.sure - self.possible)[:3]
            raise ValueError(f"sure links {stray} are not among the possible links")
        for i, j in self.possible:
            if i < 0 or j < 0:
                raise ValueError(f"link ({i}, {j}) has a negative index, words count from 0")

    @classmethod
    def of(cls, sure: Iterable[Link], possible: Iterable[Link] = ()) -> Links:
        """Build links from any iterables; `possible` need not repeat the links in `sure`."""
        sure = frozenset(sure)
        return cls(sure, sure | frozenset(possible))

    def inverse(self) -> Links:
        """Swap the sides: source becomes target and target becomes source."""
        return Links(
            frozenset((j, i) for i, j in self.sure), frozenset((j, i) for i, j in self.possible)
        )

    def check(self, source_words: int, target_words: int) -> Links:
        """Return the links unchanged, or raise ValueError if one points past either sentence.

        `source_words` and `target_words` are the sentences' word counts.
        """
        outside = sorted((i, j) for i, j in self.possible if i >= source_words or j >= target_words)
        if outside:
            i, j = outside[0]
            raise ValueError(
                f"link {i}-{j} is outside a pair of {source_words} source words and "
                f"{target_words} target words (0-based)"
            )
        return self


def parse_pharaoh(text: str, *, one_based: bool = False) -> Links:
    """Read one line of links: `i-j` is sure, `i?j` and `ipj` are possible, separated by spaces.

    With `one_based` both indices count from 1 in the text. A link written both as sure and as
    possible is sure. An empty line is a pair without links. Raises ValueError with the first token
    that is not a link.
    """
    base = int(one_based)
    sure: set[Link] = set()
    possible: set[Link] = set()
    for position, token in enumerate(text.split(), start=1):
        match = _PHARAOH.fullmatch(token)
        if match is None:
            raise ValueError(f"link {position} is {token!r}, wanted i-j (sure) or i?j (possible)")
        link = (int(match[1]) - base, int(match[3]) - base)
        if min(link) < 0:
            raise ValueError(f"link {position} is {token!r}, but words count from 1 here")
        (sure if match[2] == "-" else possible).add(link)
    return Links.of(sure, possible)


def format_pharaoh(links: Links, *, one_based: bool = False) -> str:
    """Write links as one line that `parse_pharaoh` reads, sorted by source, then target word."""
    base = int(one_based)
    return " ".join(
        f"{i + base}{'-' if (i, j) in links.sure else '?'}{j + base}"
        for i, j in sorted(links.possible)
    )

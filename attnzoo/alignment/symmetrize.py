"""Symmetrization: an aligner's links from both directions combined into one alignment.

`forward` and `reverse` are both sets of (source word, target word); swap the links of a model
that aligns in the other direction first. The growing heuristics follow the `symal` program of Moses
(Koehn, Och and Marcu 2003; Och and Ney 2003) link by link. The result depends on the order in which
links are visited: by target word, then by source word; a link that was added is visited in the same
pass if it comes later.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Set

from attnzoo.alignment.links import Link

# (target, source) steps in symal's order: the four sides first, then the corners.
_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def intersection(forward: Set[Link], reverse: Set[Link]) -> set[Link]:
    """Return the links in both directions: the most precise combination."""
    return set(forward) & set(reverse)


def union(forward: Set[Link], reverse: Set[Link]) -> set[Link]:
    """Return the links in either direction: the combination with the highest recall."""
    return set(forward) | set(reverse)


def grow_diag(forward: Set[Link], reverse: Set[Link]) -> set[Link]:
    """Grow the intersection by neighbouring links of the union.

    A link of the union is added if one of its eight neighbours is linked and at least one of its
    two words has no link yet; repeated until nothing changes.
    """
    return _grow(forward, reverse, _either_is_free).links


def grow_diag_final(forward: Set[Link], reverse: Set[Link]) -> set[Link]:
    """Apply `grow_diag`, then add remaining links of `forward`, then of `reverse`.

    A link is added if at least one of its words has no link yet.
    """
    return _final(_grow(forward, reverse, _either_is_free), forward, reverse, _either_is_free)


def grow_diag_final_and(forward: Set[Link], reverse: Set[Link]) -> set[Link]:
    """Apply `grow_diag`, then add remaining links between two words without any link."""
    return _final(_grow(forward, reverse, _either_is_free), forward, reverse, _both_are_free)


def strict_grow_diag(forward: Set[Link], reverse: Set[Link]) -> set[Link]:
    """Apply `grow_diag`, but add a link only if both its words are free (lilt's alignment-scripts).

    Gives fewer links than Moses. Their script visits source words first and neighbours in no stated
    order; the order here is that of the other heuristics.
    """
    return _grow(forward, reverse, _both_are_free).links


def strict_grow_diag_final(forward: Set[Link], reverse: Set[Link]) -> set[Link]:
    """Apply lilt's "grow-diagonal-final": both words of a new link are free, in both stages."""
    return _final(_grow(forward, reverse, _both_are_free), forward, reverse, _both_are_free)


HEURISTICS: dict[str, Callable[[Set[Link], Set[Link]], set[Link]]] = {
    "intersection": intersection,
    "union": union,
    "grow-diag": grow_diag,
    "grow-diag-final": grow_diag_final,
    "grow-diag-final-and": grow_diag_final_and,
    "strict-grow-diag": strict_grow_diag,
    "strict-grow-diag-final": strict_grow_diag_final,
}


def symmetrize(
    forward: Set[Link], reverse: Set[Link], heuristic: str = "grow-diag-final-and"
) -> set[Link]:
    """Combine two directions by the name of a heuristic in `HEURISTICS`."""
    if heuristic not in HEURISTICS:
        raise ValueError(f"heuristic={heuristic!r} is none of {', '.join(HEURISTICS)}")
    return HEURISTICS[heuristic](forward, reverse)


class _Alignment:
    """Links, and the sets of words that they cover."""

    def __init__(self, links: Set[Link]):
        self.links: set[Link] = set()
        self.source: set[int] = set()
        self.target: set[int] = set()
        for link in links:
            self.add(link)

    def add(self, link: Link) -> None:
        self.links.add(link)
        self.source.add(link[0])
        self.target.add(link[1])


_Test = Callable[[_Alignment, Link], bool]


def _either_is_free(alignment: _Alignment, link: Link) -> bool:
    return link[0] not in alignment.source or link[1] not in alignment.target


def _both_are_free(alignment: _Alignment, link: Link) -> bool:
    return link[0] not in alignment.source and link[1] not in alignment.target


def _grow(forward: Set[Link], reverse: Set[Link], may_join: _Test) -> _Alignment:
    candidates = union(forward, reverse)
    grown = _Alignment(intersection(forward, reverse))
    changed = True
    while changed:
        changed = False
        waiting = [(j, i) for i, j in grown.links]
        heapq.heapify(waiting)
        while waiting:
            here = heapq.heappop(waiting)
            for step in _NEIGHBOURS:
                there = (here[0] + step[0], here[1] + step[1])
                link = (there[1], there[0])
                if link in candidates and may_join(grown, link):
                    grown.add(link)
                    changed = True
                    if there > here:
                        heapq.heappush(waiting, there)
    return grown


def _final(grown: _Alignment, forward: Set[Link], reverse: Set[Link], may_join: _Test) -> set[Link]:
    for direction in (forward, reverse):
        for link in sorted(direction, key=lambda link: (link[1], link[0])):
            if link not in grown.links and may_join(grown, link):
                grown.add(link)
    return grown.links

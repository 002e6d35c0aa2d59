"""Which layer and head aligns: by links that are known, or by whether two directions agree."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

from attnzoo.alignment.links import Link, Links
from attnzoo.alignment.scores import score_corpus

Place = TypeVar("Place", bound=Hashable)
"""Whatever names an alignment: a layer, head and timing."""

Corpus = Sequence[Set[Link]]


class Pair(NamedTuple):
    """A place of each direction, and how well the two agree."""

    forward: Hashable
    reverse: Hashable
    agreement: float


def agreement(forward: Corpus, reverse: Corpus) -> float:
    """2 |F∩B| / (|F| + |B|) over a corpus, both as links (source word, target word).

    1 less the alignment error rate of one against the other; NaN where neither has a link.
    """
    return 1 - score_corpus(forward, [Links.of(links) for links in reverse]).aer


def by_error_rate(
    found: Mapping[Place, Corpus], references: Sequence[Links], *, restrict: bool = False
) -> dict[Place, float]:
    """The alignment error rate of each place, the best first; of equal ones the first given."""
    rates = {
        place: score_corpus(links, references, restrict=restrict).aer
        for place, links in found.items()
    }
    return dict(sorted(rates.items(), key=lambda item: item[1]))


def by_agreement(forward: Mapping[Place, Corpus], reverse: Mapping[Place, Corpus]) -> list[Pair]:
    """Every pair of places of the two directions, those that agree best first.

    No reference is needed: Chen et al., EMNLP 2020 (arXiv 2004.14837) choose their layer so. Links
    of both are (source word, target word) of the forward direction.
    """
    pairs = [
        Pair(a, b, agreement(links, others))
        for a, links in forward.items()
        for b, others in reverse.items()
    ]
    return sorted(pairs, key=lambda pair: -pair.agreement)

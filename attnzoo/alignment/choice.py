"""Choice of the layer and head that align best, by reference links or by agreement."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

from attnzoo.alignment.links import Link, Links
from attnzoo.alignment.scores import score_corpus

AlignmentKey = TypeVar("AlignmentKey", bound=Hashable)
"""Key of an alignment, for instance a layer, a head and a timing."""

Corpus = Sequence[Set[Link]]


class Pair(NamedTuple):
    """A key of each direction, and the agreement between their links."""

    forward: Hashable
    reverse: Hashable
    agreement: float


def agreement(forward: Corpus, reverse: Corpus) -> float:
    """Return 2 |F∩B| / (|F| + |B|) over a corpus, both as links (source word, target word).

    This is 1 minus the alignment error rate of one against the other; NaN if neither has a link.
    """
    return 1 - score_corpus(forward, [Links.of(links) for links in reverse]).aer


def by_error_rate(
    found: Mapping[AlignmentKey, Corpus], references: Sequence[Links], *, restrict: bool = False
) -> dict[AlignmentKey, float]:
    """Return the alignment error rate by key, lowest first; ties keep the order of `found`."""
    rates = {
        place: score_corpus(links, references, restrict=restrict).aer
        for place, links in found.items()
    }
    return dict(sorted(rates.items(), key=lambda item: item[1]))


def by_agreement(
    forward: Mapping[AlignmentKey, Corpus], reverse: Mapping[AlignmentKey, Corpus]
) -> list[Pair]:
    """Return every pair of a forward and a reverse key, highest agreement first.

    No reference is needed; Chen et al., EMNLP 2020 (arXiv 2004.14837) choose their layer this way.
    Links of both are (source word, target word) of the forward direction.
    """
    pairs = [
        Pair(a, b, agreement(links, others))
        for a, links in forward.items()
        for b, others in reverse.items()
    ]
    return sorted(pairs, key=lambda pair: -pair.agreement)

"""Scores of links by groups: sentence length, word frequency, distance from the diagonal, ..."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set

from attnzoo.alignment.aligner import Words
from attnzoo.alignment.links import Link, Links
from attnzoo.alignment.scores import Counts, count_links

Group = Callable[[int, Link], str]
"""Function from a pair's number and a link to the name of its group."""


def counts_by(
    group: Group,
    hypotheses: Sequence[Set[Link]],
    references: Sequence[Links],
    *,
    restrict: bool = False,
) -> dict[str, Counts]:
    """Return the counts of links by group, sorted by name; every link counts in its own group."""
    found: dict[str, Counts] = {}
    for pair, (links, reference) in enumerate(zip(hypotheses, references, strict=True)):
        sources = {i for i, _ in reference.possible}
        targets = {j for _, j in reference.possible}
        if restrict:
            links = {(i, j) for i, j in links if i in sources and j in targets}
        parts: dict[str, tuple[set[Link], set[Link], set[Link]]] = {}
        for number, some in enumerate((links, reference.sure, reference.possible)):
            for link in some:
                parts.setdefault(group(pair, link), (set(), set(), set()))[number].add(link)
        for name, (own, sure, possible) in parts.items():
            counts = count_links(own, Links(frozenset(sure), frozenset(possible)))
            found[name] = found.get(name, Counts()) + counts
    return dict(sorted(found.items()))


def by_length(sources: Sequence[Words], targets: Sequence[Words]) -> Group:
    """Group links by the number of words of the longer side."""
    return lambda pair, link: _bucket(max(len(sources[pair]), len(targets[pair])), LENGTHS)


def by_frequency(sentences: Sequence[Words], side: int) -> Group:
    """Group links by how often their word of a side (0: source, 1: target) occurs in its text."""
    counts = Counter(word.lower() for words in sentences for word in words)
    return lambda pair, link: _bucket(counts[sentences[pair][link[side]].lower()], FREQUENCIES)


def by_distance(sources: Sequence[Words], targets: Sequence[Words]) -> Group:
    """Group links by their distance from the diagonal, both sides scaled to length 1."""

    def group(pair: int, link: Link) -> str:
        source, target = (link[0] + 0.5) / len(sources[pair]), (link[1] + 0.5) / len(targets[pair])
        distance = abs(source - target)
        edge = bisect.bisect_right(DISTANCES, distance)
        return f"{DISTANCES[edge - 1]} .. {(*DISTANCES, '')[edge]}".rstrip()

    return group


def by_tag(tags: Sequence[Words], side: int) -> Group:
    """Group links by the tag of their word of a side; `tags` has one for every word."""
    return lambda pair, link: tags[pair][link[side]]


def by_partners(references: Sequence[Links]) -> Group:
    """Group links by the reference links of both words: none, one each, or one word of many."""
    degrees = [
        (Counter(i for i, _ in one.possible), Counter(j for _, j in one.possible))
        for one in references
    ]

    def group(pair: int, link: Link) -> str:
        both = degrees[pair][0][link[0]], degrees[pair][1][link[1]]
        if min(both) == 0:
            return "a word without a link"
        return "one to one" if both == (1, 1) else "many"

    return group


LENGTHS = (10, 20, 30, 40, 60)
FREQUENCIES = (1, 5, 20, 100, 1000)
DISTANCES = (0.0, 0.05, 0.1, 0.2, 0.4)


def _bucket(number: int, ends: Sequence[int]) -> str:
    """Return a range that sorts by its start."""
    start = 0 if number == 0 else 1
    for end in ends:
        if number <= end:
            return f"{start:4d} .. {end:4d}"
        start = end + 1
    return f"{start:4d} .."


def tables(
    sources: Sequence[Words],
    targets: Sequence[Words],
    references: Sequence[Links],
    tags: Sequence[Words] | None = None,
) -> Mapping[str, Group]:
    """Return every grouping by the title of its table."""
    found = {
        "words of the longer side": by_length(sources, targets),
        "distance from the diagonal": by_distance(sources, targets),
        "source word's count here": by_frequency(sources, 0),
        "target word's count here": by_frequency(targets, 1),
        "reference links of its words": by_partners(references),
    }
    return found if tags is None else {**found, "tag of the target word": by_tag(tags, 1)}

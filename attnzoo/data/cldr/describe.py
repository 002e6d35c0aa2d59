"""Statistics of a corpus with links: lengths, reordering, unaligned words."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from attnzoo.data.corpus import Corpus


@dataclass(frozen=True)
class Description:
    """Statistics of a corpus; shares are between 0 and 1, of all words or links."""

    pairs: int
    source_words: int
    target_words: int
    source_vocabulary: int
    target_vocabulary: int
    longest: int
    """Words of the longest sentence of either side."""
    sure_links: int
    possible_links: int
    """Possible links that are not sure."""
    reordered_pairs: float
    """Share of pairs in which two sure links cross: i < i' but j > j'."""
    source_unaligned: float
    target_unaligned: float
    fertility: dict[int, float]
    """Share of source words with 0, 1, 2, ... sure or possible links."""

    def lines(self) -> list[str]:
        """Return one `name: value` per line."""
        return [f"{name}: {value}" for name, value in asdict(self).items()]


def describe(corpus: Corpus) -> Description:
    """Count words, links and crossings of a corpus; one without links is a ValueError."""
    if corpus.links is None:
        raise ValueError(f"corpus {corpus.name!r} has no links to describe")
    sides = [Counter(word for line in side for word in line.split()) for side in _sides(corpus)]
    linked_targets = 0
    fertility: Counter[int] = Counter()
    for line, links in zip(corpus.source, corpus.links, strict=True):
        per_word = Counter(i for i, _ in links.possible)
        fertility.update(per_word[i] for i in range(len(line.split())))
        linked_targets += len({j for _, j in links.possible})
    words = [sum(side.values()) for side in sides]
    sure = sum(len(links.sure) for links in corpus.links)
    return Description(
        pairs=len(corpus),
        source_words=words[0],
        target_words=words[1],
        source_vocabulary=len(sides[0]),
        target_vocabulary=len(sides[1]),
        longest=max((len(line.split()) for side in _sides(corpus) for line in side), default=0),
        sure_links=sure,
        possible_links=sum(len(links.possible) for links in corpus.links) - sure,
        reordered_pairs=_share(sum(_crosses(links.sure) for links in corpus.links), len(corpus)),
        source_unaligned=_share(fertility[0], words[0]),
        target_unaligned=_share(words[1] - linked_targets, words[1]),
        fertility={count: _share(fertility[count], words[0]) for count in sorted(fertility)},
    )


def _sides(corpus: Corpus) -> tuple[list[str], list[str]]:
    return corpus.source, corpus.target


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _crosses(links: frozenset[tuple[int, int]]) -> bool:
    """Return whether two links cross: i < i' but j > j'."""
    furthest = -1  # the rightmost target word of all source words before
    for word in sorted({i for i, _ in links}):
        targets = [j for i, j in links if i == word]
        if min(targets) < furthest:
            return True
        furthest = max(furthest, *targets)
    return False

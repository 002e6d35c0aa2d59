"""Interface of word aligners: tokenized sentence pairs in, one `Alignment` per pair out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from attnzoo.alignment.links import Link
from attnzoo.alignment.symmetrize import HEURISTICS

Words = Sequence[str]
Text = tuple[Sequence[Words], Sequence[Words]]
"""Sentences of the source language, and their translations, as words."""


@dataclass(frozen=True)
class Alignment:
    """Word alignment of one sentence pair of S source and T target words.

    `forward[t, s]` is the probability that target word t translates source word s; a row sums to 1
    less the probability of a target word without a source. `backward[s, t]` is that of the other
    direction. Either is None for an aligner that gives links alone. `links` maps the link (source
    word, target word), counted from 0, to its score between 0 and 1. `unread` is the reason why the
    aligner did not read the pair, which then has no links; None for a pair that it has read, with
    links or without.
    """

    source: Words
    target: Words
    links: Mapping[Link, float] = field(default_factory=dict)
    forward: Float[np.ndarray, "T S"] | None = None
    backward: Float[np.ndarray, "S T"] | None = None
    unread: str | None = None

    @classmethod
    def of_unread(cls, source: Words, target: Words, reason: str) -> Alignment:
        """Return the alignment of a pair that was not read: no links, matrices of zeros."""
        S, T = len(source), len(target)
        forward, backward = np.zeros((T, S), np.float32), np.zeros((S, T), np.float32)
        return cls(source, target, {}, forward, backward, reason)


class Aligner(ABC):
    """Word aligner: built from its config, it aligns any number of sentence pairs."""

    learns: bool = False
    """True if `align` trains on the pairs that it is given, so that it needs all of them at once;
    False if it may be called again and again with a part of them."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any, text: Text | None = None) -> Aligner:
        """Build the aligner; `text` is further parallel text to train on, if it `learns`."""

    @abstractmethod
    def align(self, sources: Sequence[Words], targets: Sequence[Words]) -> Iterator[Alignment]:
        """Yield the alignment of each pair, in order, without keeping it.

        A pair with an empty side gets no links, and matrices without rows or columns, if any. A
        pair that the aligner cannot read, such as one longer than its model, is `unread`.
        Different numbers of sources and targets are a ValueError.
        """


class TextAligner(Aligner):
    """Base class of aligners that are trained on the pairs they align, and on further text."""

    learns = True
    config_class: ClassVar[type]

    def __init__(self, config: Any = None, text: Text | None = None):
        self.config = config or self.config_class()
        self._text = ([], []) if text is None else text
        check_pairs(*self._text)

    @classmethod
    def from_config(cls, config: Any, text: Text | None = None) -> TextAligner:
        """Build the aligner; `text` is further parallel text to train on."""
        return cls(config, text)


def check_pairs(sources: Sequence[Words], targets: Sequence[Words]) -> None:
    """Raise ValueError unless there are as many sources as targets."""
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources for {len(targets)} targets")


RULES = ("product", "mutual", "forward", "backward", *HEURISTICS)
"""Rules for links from the matrices of two directions, as in `links_from_posteriors`."""


def links_from_posteriors(
    forward: Float[np.ndarray, "T S"] | None,
    backward: Float[np.ndarray, "S T"] | None,
    rule: str,
    threshold: float = 0.5,
) -> dict[Link, float]:
    """Return links (source word, target word) with scores from alignment probabilities.

    "product" links the cells whose score, the geometric mean of both probabilities, is at least
    `threshold` (posterior decoding, Liang et al. 2006, section 4.1). "mutual" links the cells whose
    score is the largest of both their words, and at least `threshold`. "forward" links each target
    word with its likeliest source word, "backward" each source word with its likeliest target word,
    unless that probability is below `threshold` (the word is then likelier to have no partner).
    Other rules are those of `symmetrize`, and combine these two. A matrix that is None follows from
    the other by Bayes' rule with even words; "forward" and "backward" of the given matrix alone
    have its probabilities for scores. ValueError for an unknown rule, or if both are None.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is none of {', '.join(RULES)}")
    alone = (backward is None and rule == "forward") or (forward is None and rule == "backward")
    forward, backward = _inverted(backward, forward), _inverted(forward, backward)
    scores = (forward if rule == "forward" else backward.T) if alone else _scores(forward, backward)
    if rule == "product":
        found = {(int(i), int(j)) for j, i in zip(*np.nonzero(scores >= threshold))}
    elif rule == "mutual":
        found = _best(scores, threshold) & {(i, j) for j, i in _best(scores.T, threshold)}
    elif rule == "forward":
        found = _best(forward, threshold)
    else:
        back = {(i, j) for j, i in _best(backward, threshold)}
        found = back if rule == "backward" else HEURISTICS[rule](_best(forward, threshold), back)
    return {(i, j): float(scores[j, i]) for i, j in sorted(found)}


def _inverted(matrix: Any, known: Any) -> Float[np.ndarray, "A B"]:
    """Return ``known``, or else the columns of ``matrix`` (B A) as rows that sum to 1, or to 0."""
    if known is not None:
        return known
    if matrix is None:
        raise ValueError("links_from_posteriors: both matrices are None, wanted at least one")
    columns = np.asarray(matrix, np.float64).T
    return columns / np.maximum(columns.sum(axis=1, keepdims=True), 1e-30)


def _scores(forward: Any, backward: Any) -> Float[np.ndarray, "T S"]:
    return np.sqrt(np.asarray(forward, np.float64) * backward.T)


def _best(rows: Any, threshold: float) -> set[Link]:
    """Return (column, row) of the largest entry of each row that is large enough."""
    if not rows.size:
        return set()
    best = rows.argmax(axis=1)
    return {(int(c), r) for r, c in enumerate(best) if rows[r, c] >= max(threshold, 1e-30)}

"""Votes of several word aligners, and their weights from validation data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from attnzoo.alignment.aligner import (
    Aligner,
    Alignment,
    Text,
    Words,
    check_pairs,
    links_from_posteriors,
)
from attnzoo.alignment.links import Links
from attnzoo.alignment.scores import score_corpus
from attnzoo.config.alignment import VoteConfig

STEPS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
RULES = ("mutual", "product", "forward", "backward", "intersection", "grow-diag-final-and")
THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


class VoteAligner(Aligner):
    """Align words by the weighted mean of the probabilities of several aligners.

    A member that did not read a pair has no vote on it; a pair that none has read is unread.
    """

    config_class = VoteConfig

    def __init__(self, config: VoteConfig, members: Sequence[Aligner]):
        self.config, self.members = config, members
        self.learns = any(member.learns for member in members)

    @classmethod
    def from_config(cls, config: Any, text: Text | None = None) -> VoteAligner:
        """Build the aligner and its members."""
        raise NotImplementedError("members are built by attnzoo.training.aligners.build_aligner")

    def align(self, sources: Sequence[Words], targets: Sequence[Words]) -> Iterator[Alignment]:
        """Yield the alignments of the weighted mean."""
        check_pairs(sources, targets)
        found = [member.align(sources, targets) for member in self.members]
        for one in zip(*found, strict=True):
            yield combine(one, self.config)


Matrices = tuple[Float[np.ndarray, "T S"], Float[np.ndarray, "S T"]]


def vote_matrices(alignment: Alignment) -> Matrices:
    """Return the probabilities of both directions; an unknown one is made of the links.

    A word's links then share its probability evenly.
    """
    linked = np.zeros((len(alignment.target), len(alignment.source)), np.float32)
    for i, j in alignment.links:
        linked[j, i] = 1
    forward, backward = (
        known if known is not None else links / np.maximum(links.sum(axis=1, keepdims=True), 1)
        for known, links in ((alignment.forward, linked), (alignment.backward, linked.T))
    )
    return np.asarray(forward, np.float32), np.asarray(backward, np.float32)


def _with_matrices(alignment: Alignment) -> Alignment:
    forward, backward = vote_matrices(alignment)
    return dataclasses.replace(alignment, forward=forward, backward=backward)


def combine(members: Sequence[Alignment], config: VoteConfig) -> Alignment:
    """Return the alignment of one pair by the weighted mean of all members that have read it."""
    weights = config.weights or [1.0] * len(members)
    voters = [(one, w) for one, w in zip(members, weights, strict=True) if one.unread is None and w]
    pair = members[0]
    if not voters:
        reason = next((one.unread for one in members if one.unread), "no member with a weight")
        return Alignment.of_unread(pair.source, pair.target, reason)
    total = sum(weight for _, weight in voters)
    forward, backward = (
        sum(np.float32(weight / total) * matrix for (_, weight), matrix in zip(voters, some))
        for some in zip(*(vote_matrices(one) for one, _ in voters), strict=True)
    )
    links = links_from_posteriors(forward, backward, config.rule, config.threshold)
    return Alignment(pair.source, pair.target, links, forward, backward)


def fit_vote(
    config: VoteConfig,
    alignments: Sequence[Sequence[Alignment]],
    references: Sequence[Links],
    *,
    restrict: bool = False,
) -> tuple[VoteConfig, float]:
    """Return the config whose weights, rule and threshold have the lowest error, and that error.

    `alignments` has those of every member, of the same pairs. One setting is changed at a time, as
    long as the alignment error rate falls (coordinate descent from equal weights).
    """
    rows = [[_with_matrices(one) for one in pair] for pair in zip(*alignments, strict=True)]

    def error(candidate: VoteConfig) -> float:
        found = [set(combine(pair, candidate).links) for pair in rows]
        return score_corpus(found, references, restrict=restrict).aer

    best = dataclasses.replace(config, weights=config.weights or (1.0,) * len(alignments))
    lowest = error(best)
    improved = True
    while improved:
        improved = False
        for candidate in _neighbours(best):
            rate = error(candidate)
            if rate < lowest - 1e-9:
                best, lowest, improved = candidate, rate, True
    return best, lowest


def _neighbours(config: VoteConfig) -> Iterator[VoteConfig]:
    for rule in RULES:
        yield dataclasses.replace(config, rule=rule)
    for threshold in THRESHOLDS:
        yield dataclasses.replace(config, threshold=threshold)
    for k in range(len(config.weights)):
        for step in STEPS:
            weights = (*config.weights[:k], step, *config.weights[k + 1 :])
            if sum(weights) > 0:
                yield dataclasses.replace(config, weights=weights)

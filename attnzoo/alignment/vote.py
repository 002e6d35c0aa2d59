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
    """Align words by the weighted mean of the probabilities of several aligners."""

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
            yield combine([vote_matrices(member) for member in one], one[0], self.config)


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


def combine(members: Sequence[Matrices], pair: Alignment, config: VoteConfig) -> Alignment:
    """Return the alignment of one pair by the weighted mean of all members."""
    weights = np.asarray(config.weights or [1.0] * len(members), np.float32)
    weights /= weights.sum()
    forward, backward = (
        sum(weight * matrix for weight, matrix in zip(weights, some, strict=True))
        for some in zip(*members, strict=True)
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
    matrices = [[vote_matrices(pair) for pair in member] for member in alignments]
    pairs = alignments[0]

    def error(candidate: VoteConfig) -> float:
        found = [
            set(combine(one, pair, candidate).links)
            for pair, *one in zip(pairs, *matrices, strict=True)
        ]
        return score_corpus(found, references, restrict=restrict).aer

    best = dataclasses.replace(config, weights=config.weights or (1.0,) * len(matrices))
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

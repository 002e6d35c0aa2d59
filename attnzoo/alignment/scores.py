"""Scores of links against a reference, and statistics of matrices of attention weights.

The score of a corpus is computed from counts summed over its sentences; it is not a mean of
sentence scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import astuple, dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from attnzoo.alignment.links import Link, Links

Metric = Literal["aer", "precision", "recall", "f1"]


@dataclass(frozen=True)
class Counts:
    """Link counts of one sentence, or summed over a corpus, from which every score is computed.

    With hypothesis A, sure reference S and possible reference P (Och and Ney 2003):
    precision = |A∩P| / |A|, recall = |A∩S| / |S|, AER = 1 - (|A∩S| + |A∩P|) / (|A| + |S|), and F1
    the harmonic mean of precision and recall (1 - AER where S = P). A score whose denominator is
    zero is NaN.
    """

    hypothesis: int = 0
    """|A|"""
    sure: int = 0
    """|S|"""
    in_possible: int = 0
    """|A∩P|"""
    in_sure: int = 0
    """|A∩S|"""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other))))

    @property
    def precision(self) -> float:
        return self._score("precision")

    @property
    def recall(self) -> float:
        return self._score("recall")

    @property
    def f1(self) -> float:
        return self._score("f1")

    @property
    def aer(self) -> float:
        return self._score("aer")

    def _score(self, metric: Metric) -> float:
        return float(_scores(np.array([astuple(self)], np.float64), metric)[0])


def count_links(hypothesis: Set[Link], reference: Links, *, restrict: bool = False) -> Counts:
    """Compare one sentence pair's links (source word, target word) with the reference.

    With `restrict` a hypothesis link is left out unless its source word and its target word each
    have a reference link (sure or possible, to any word of the other side). Use it for references
    that leave whole classes of words unlinked although they have counterparts, such as articles in
    a corpus linked by dictionary number: a link of such a word can be neither right nor wrong.
    Recall is the same either way.
    """
    if restrict:
        source = {i for i, _ in reference.possible}
        target = {j for _, j in reference.possible}
        hypothesis = {(i, j) for i, j in hypothesis if i in source and j in target}
    return Counts(
        hypothesis=len(hypothesis),
        sure=len(reference.sure),
        in_possible=len(hypothesis & reference.possible),
        in_sure=len(hypothesis & reference.sure),
    )


def count_corpus(
    hypotheses: Sequence[Set[Link]], references: Sequence[Links], *, restrict: bool = False
) -> list[Counts]:
    """Apply `count_links` to every sentence pair; ValueError if the lengths differ."""
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    return [count_links(a, r, restrict=restrict) for a, r in zip(hypotheses, references)]


def score_corpus(
    hypotheses: Sequence[Set[Link]], references: Sequence[Links], *, restrict: bool = False
) -> Counts:
    """Return the counts of a corpus; `.aer`, `.precision`, `.recall` and `.f1` are its scores."""
    return sum(count_corpus(hypotheses, references, restrict=restrict), Counts())


def bootstrap_interval(
    counts: Sequence[Counts],
    metric: Metric = "aer",
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of a corpus score over sentences (Efron 1979).

    `counts` has one entry per sentence (`count_corpus`), resampled with replacement `samples`
    times. Samples whose score is undefined are left out; if all are, both ends are NaN.
    """
    if not counts:
        raise ValueError("counts is empty, wanted those of at least one sentence")
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1")
    table = np.array([astuple(c) for c in counts], np.float64)
    generator = np.random.default_rng(seed)
    n = len(counts)
    sums = np.stack([table[generator.integers(n, size=n)].sum(axis=0) for _ in range(samples)])
    scores = _scores(sums, metric)
    scores = scores[np.isfinite(scores)]
    if not scores.size:
        return (float("nan"), float("nan"))
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class Difference(NamedTuple):
    """Difference of a corpus score between two aligners, from the same sentences resampled."""

    mean: float
    """Score of the first less that of the second."""
    low: float
    high: float
    p_value: float
    """Share of the samples whose difference has the other sign or is zero, times two."""


def paired_bootstrap(
    first: Sequence[Counts],
    second: Sequence[Counts],
    metric: Metric = "aer",
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two aligners on the same sentences by resampling these (Koehn, EMNLP 2004).

    ValueError if there are not as many counts of one as of the other, or none.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} counts, wanted as many of both, above 0")
    tables = [np.array([astuple(c) for c in counts], np.float64) for counts in (first, second)]
    generator = np.random.default_rng(seed)
    rows = generator.integers(len(first), size=(samples, len(first)))
    a, b = (_scores(np.stack([table[r].sum(axis=0) for r in rows]), metric) for table in tables)
    differences = (a - b)[np.isfinite(a - b)]
    whole = [float(_scores(table.sum(axis=0, keepdims=True), metric)[0]) for table in tables]
    if not differences.size:
        return Difference(float("nan"), float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    other = min(np.mean(differences <= 0), np.mean(differences >= 0))
    return Difference(whole[0] - whole[1], float(low), float(high), min(1.0, 2 * float(other)))


def diagonal_links(source_words: int, target_words: int) -> set[Link]:
    """Link each target word to the source word at the same relative position.

    A baseline that knows only the lengths: target word j takes the source word that contains the
    point (j + 1/2) / target_words of the sentence.
    """
    if source_words < 1:
        return set()
    return {((2 * j + 1) * source_words // (2 * target_words), j) for j in range(target_words)}


def diagonality(weights: Float[np.ndarray, "T S"]) -> float:
    """Return 1 minus the weighted mean distance from the diagonal, both sides scaled to length 1.

    1 for weights on the diagonal, about 2/3 for uniform weights, 1/2 for the other diagonal (in
    long sentences); NaN if all weights are zero.
    """
    T, S = weights.shape
    target = (np.arange(T)[:, None] + 0.5) / max(T, 1)
    source = (np.arange(S)[None, :] + 0.5) / max(S, 1)
    total = weights.sum(dtype=np.float64)
    return float(1 - _divide((weights * np.abs(source - target)).sum(), total))


def row_entropy(weights: Float[np.ndarray, "T S"]) -> Float[np.ndarray, " T"]:
    """Return the entropy of each row in nats, after scaling to sum 1; NaN for a row of zeros.

    0 if one source word has all the weight, log S if all have the same.
    """
    rows = weights.astype(np.float64)
    p = _divide(rows, rows.sum(axis=1, keepdims=True))
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)


def coverage(weights: Float[np.ndarray, "T S"]) -> Float[np.ndarray, " S"]:
    """Return the attention that each source word received, summed over target words.

    This is the last coverage vector of See et al. 2017 (equation 10). A value far from 1 means a
    word that was skipped or translated twice.
    """
    return weights.sum(axis=0, dtype=np.float64)


def covered(weights: Float[np.ndarray, "T S"]) -> float:
    """Return the share of source words that are the arg max of some row; NaN without source words.

    Of equal weights the first counts; a row of zeros has no arg max.
    """
    T, S = weights.shape
    if not S:
        return float("nan")
    looking = weights.max(axis=1) > 0 if T else np.zeros(0, bool)
    return len(set(weights[looking].argmax(axis=1).tolist())) / S


class AttentionStatistics(NamedTuple):
    """Statistics of attention matrices, as means over the sentences for which each is defined."""

    diagonality: float
    entropy: float
    """Mean over a sentence's rows, in nats."""
    relative_entropy: float
    """Entropy divided by log S, the entropy of uniform weights; undefined for one source word."""
    covered: float


def attention_statistics(matrices: Iterable[Float[np.ndarray, "_ _"]]) -> AttentionStatistics:
    """Average `diagonality`, mean `row_entropy` and `covered` of word matrices over sentences.

    NaN for a statistic that no sentence defines. Rows of zeros have no entropy and do not count.
    """
    rows: list[AttentionStatistics] = []
    for weights in matrices:
        entropies = row_entropy(weights)
        entropies = entropies[np.isfinite(entropies)]
        entropy = float(entropies.mean()) if entropies.size else float("nan")
        S = weights.shape[1]
        relative = entropy / np.log(S) if S > 1 else float("nan")
        rows.append(
            AttentionStatistics(diagonality(weights), entropy, float(relative), covered(weights))
        )
    means = []
    for column in zip(*rows, strict=True) if rows else [()] * len(AttentionStatistics._fields):
        known = [value for value in column if np.isfinite(value)]
        means.append(float(np.mean(known)) if known else float("nan"))
    return AttentionStatistics(*means)


def _scores(table: Float[np.ndarray, "rows 4"], metric: Metric) -> Float[np.ndarray, " rows"]:
    """Return the score of every row of |A|, |S|, |A∩P|, |A∩S|."""
    hypothesis, sure, in_possible, in_sure = table.T
    if metric == "aer":
        return 1 - _divide(in_sure + in_possible, hypothesis + sure)
    precision = _divide(in_possible, hypothesis)
    recall = _divide(in_sure, sure)
    if metric == "precision":
        return precision
    if metric == "recall":
        return recall
    if metric == "f1":
        both = precision + recall
        return np.where(both == 0, 0.0, _divide(2 * precision * recall, both))
    raise ValueError(f"metric={metric!r} is none of aer, precision, recall, f1")


def _divide(top: np.ndarray | np.floating, bottom: np.ndarray | np.floating) -> np.ndarray:
    """Return the quotient, NaN for division by zero without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(bottom) == 0, np.nan, np.divide(top, bottom))

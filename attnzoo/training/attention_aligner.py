"""Word alignment by the cross-attention of trained translators."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import attnzoo
from attnzoo.alignment.aligner import (
    Aligner,
    Alignment,
    Text,
    Words,
    check_pairs,
    links_from_posteriors,
)
from attnzoo.config.alignment import AttentionConfig

PAIRS = 512
"""Pairs that are read at a time."""


class AttentionAligner(Aligner):
    """Align words by the attention of a translator, or of one for each direction.

    ``forward`` holds attention from target words to source words; what lies on the end of the
    sentence is the probability of no partner. A pair that is too long for the model gets no links.
    """

    config_class = AttentionConfig

    def __init__(self, config: AttentionConfig, translator: Any, reverse: Any = None):
        self.config, self._forward, self._backward = config, translator, reverse

    @classmethod
    def from_config(cls, config: Any, text: Text | None = None) -> "AttentionAligner":
        """Load the models, and build the aligner."""
        names = config.source_language, config.target_language

        def opened(path: Path, source: str | None, target: str | None) -> Any:
            return attnzoo.open(path, source_language=source, target_language=target)

        translator = opened(config.run, *names).translator(layer=config.layer, head=config.head)
        reverse = None
        if config.reverse is not None:
            reverse = opened(config.reverse, *reversed(names)).translator()
        return cls(config, translator, reverse)

    def align(self, sources: Sequence[Words], targets: Sequence[Words]) -> Iterator[Alignment]:
        """Yield the alignments; memory does not grow with the number of pairs."""
        check_pairs(sources, targets)
        config = self.config
        for start in range(0, len(sources), PAIRS):
            some = sources[start : start + PAIRS], targets[start : start + PAIRS]
            forward = self._read(self._forward, *some)
            backward: list[Any] = [None] * len(forward)
            if self._backward is not None:
                backward = self._read(self._backward, some[1], some[0])
            for source, target, f, b in zip(*some, forward, backward, strict=True):
                links = links_from_posteriors(f, b, config.rule, config.threshold)
                yield Alignment(source, target, links, f, b)

    def _read(
        self, translator: Any, sources: Sequence[Words], targets: Sequence[Words]
    ) -> list[np.ndarray]:
        """Return the matrix of each pair, of zeros where the translator has none."""
        lines = [[" ".join(words) for words in side] for side in (sources, targets)]
        found = translator.force(*lines)
        timing = self.config.timing
        matrices = []
        for one, source, target in zip(found, sources, targets, strict=True):
            matrix = np.zeros((len(target), len(source)), np.float32)
            if one is not None:
                read = translator.word_matrix(one, timing=timing)
                matrix[: read.shape[0], : read.shape[1]] = read
            matrices.append(matrix)
        return matrices

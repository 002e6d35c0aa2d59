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
from attnzoo.tasks.alignment_reader import Reader

PAIRS = 512
"""Pairs that are read at a time."""
TOO_LONG = "longer than the model reads"


class AttentionAligner(Aligner):
    """Align words by the attention of a translator, or of one for each direction.

    ``forward`` holds attention from target words to source words; what lies on the end of the
    sentence is the probability of no partner. A pair that is too long for a model is unread.
    """

    config_class = AttentionConfig

    def __init__(self, config: AttentionConfig, translator: Any, reverse: Any = None):
        self.config = config
        self._forward = Reader(translator, config.by, config.timing)
        self._backward = None if reverse is None else Reader(reverse, config.by, config.timing)

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
            sides = [_read(self._forward, *some)]
            if self._backward is not None:
                sides.append(_read(self._backward, some[1], some[0]))
            for source, target, *matrices in zip(*some, *sides, strict=True):
                if any(matrix is None for matrix in matrices):
                    yield Alignment.of_unread(source, target, TOO_LONG)
                    continue
                forward, backward = (*matrices, None)[:2]
                links = links_from_posteriors(forward, backward, config.rule, config.threshold)
                yield Alignment(source, target, links, forward, backward)


def _read(reader: Reader, sources: Sequence[Words], targets: Sequence[Words]) -> list[Any]:
    """Return the matrix of each pair, without entries if a side is empty, None if not read."""
    found = reader.read(*([" ".join(words) for words in side] for side in (sources, targets)))
    matrices: list[Any] = []
    for one, source, target in zip(found, sources, targets, strict=True):
        matrix = np.zeros((len(target), len(source)), np.float32)
        if one is not None:
            read = reader.matrix(one)
            matrix[: read.shape[0], : read.shape[1]] = read
        matrices.append(None if one is None and matrix.size else matrix)
    return matrices

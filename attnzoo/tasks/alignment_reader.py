"""Alignment readers: links from attention or from erasure, in either direction."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

METHODS = ("attention", "posterior", "erasure")


@dataclasses.dataclass(frozen=True)
class Reader:
    """Translator with the settings for reading links from its attention.

    Attributes:
      method: "attention", or "posterior" (``attnzoo.tasks.posterior``) and "erasure"
        (``attnzoo.tasks.erasure``), whose rows always belong to the predicted word, whatever
        ``timing`` is.
      timing: "auto", "predicted" or "input".
      level: "word" or "token".
      fill: replacement of an erased word.
      null: leave words without a link whose attention is on the end of the source.
    """

    translator: Any
    method: str = "attention"
    timing: str = "auto"
    level: str = "word"
    fill: str = "zero"
    null: bool = False

    def read(self, sources: Sequence[str], targets: Sequence[str]) -> list[Any]:
        """Read known pairs; None for a pair that is empty or too long."""
        if self.method == "attention":
            return self.translator.force(sources, targets)
        if self.method == "posterior":
            from attnzoo.tasks.posterior import read_posterior

            return read_posterior(self.translator, sources, targets)
        from attnzoo.tasks.erasure import erase_words

        return erase_words(self.translator, sources, targets, fill=self.fill)

    def links(self, results: Sequence[Any]) -> list[set[tuple[int, int]]]:
        """Return the links (source word, target word) of each result; no links for None."""
        return [
            set()
            if result is None
            else self.translator.links(
                result, timing=self._credit, level=self.level, eos_is_null=self.null
            )
            for result in results
        ]

    def matrix(self, result: Any) -> np.ndarray:
        """Return the matrix between words; rows of erasure are shares of the word's loss."""
        from attnzoo.alignment.extract import row_shares

        matrix = self.translator.word_matrix(result, timing=self._credit)
        return row_shares(matrix) if self.method == "erasure" else matrix

    @property
    def _credit(self) -> str:
        return self.timing if self.method == "attention" else "predicted"


def transposed(links: Sequence[set[tuple[int, int]]]) -> list[set[tuple[int, int]]]:
    """Convert links of the other direction to (source word, target word) of this one."""
    return [{(i, j) for j, i in pair} for pair in links]

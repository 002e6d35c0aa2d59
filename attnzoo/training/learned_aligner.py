"""Trained word aligner behind the interface of all aligners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from attnzoo.alignment.aligner import (
    Aligner,
    Alignment,
    Text,
    Words,
    check_pairs,
    links_from_posteriors,
)
from attnzoo.config.alignment import LearnedConfig
from attnzoo.errors import UserError
from attnzoo.tasks.align_words import WordReader
from attnzoo.tasks.word_alignment import WordAlignmentTask
from attnzoo.training.run import Run, load_run


class LearnedAligner(Aligner):
    """Align words by a run of ``task.kind: word_alignment``."""

    config_class = LearnedConfig

    def __init__(self, run: Run, rule: str = "product", threshold: float = 0.3):
        if not isinstance(run.task, WordAlignmentTask):
            raise UserError(
                f"{run.directory.path} is a run of task.kind={run.config.task.kind}; wanted "
                "word_alignment"
            )
        self.rule, self.threshold = rule, threshold
        self._reader = WordReader(run.model, *run.task.both)

    @classmethod
    def from_config(cls, config: Any, text: Text | None = None) -> LearnedAligner:
        """Load the run; ``text`` is not used, since it is trained already."""
        return cls(load_run(config.run.expanduser()), config.rule, config.threshold)

    def align(self, sources: Sequence[Words], targets: Sequence[Words]) -> Iterator[Alignment]:
        """Yield the alignments in order; a side longer than the model is unread."""
        check_pairs(sources, targets)
        found = self._reader.matrices(sources, targets)
        for source, target, read in zip(sources, targets, found, strict=True):
            if read is None:
                reason = f"longer than the model's {self._reader.max_length} tokens"
                yield Alignment.of_unread(source, target, reason)
            else:
                links = links_from_posteriors(*read, self.rule, self.threshold)
                yield Alignment(source, target, links, *read)

"""Links of the training pairs that teach an aligner or a head, and batches with these links."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from attnzoo.alignment.aligner import Aligner, links_from_posteriors
from attnzoo.alignment.eflomal import EflomalAligner
from attnzoo.alignment.hmm import HmmAligner
from attnzoo.alignment.links import Link, Links, format_pharaoh, parse_pharaoh
from attnzoo.config.alignment import EflomalConfig, HmmConfig
from attnzoo.data.batching import BatchPlan, Plan
from attnzoo.data.corpus import Corpus, add_strings
from attnzoo.data.sources import decode, read_lines
from attnzoo.data.tokenizers import Tokenizer
from attnzoo.errors import UserError
from attnzoo.files import write_text
from attnzoo.tasks.run_file import RunFile

FORWARD, BACKWARD = 1, 2
"""Bits of a link: it teaches the target word its source, or the source word its target."""


class TeacherLinks:
    """Links of all pairs of a corpus, kept as Pharaoh lines and parsed when they are wanted.

    A line has the links of both directions, or those of target words, a tab, and those of source
    words.
    """

    def __init__(self, lines: Sequence[str], name: str = "teacher"):
        self.lines, self.name = list(lines), name

    @classmethod
    def of(cls, links: Sequence[set[Link]], backward: Sequence[set[Link]] | None = None):
        """Return the links of a corpus; ``backward`` are those of source words, if others."""
        lines = [format_pharaoh(Links.of(pair)) for pair in links]
        if backward is not None:
            both = zip(lines, backward, strict=True)
            lines = [f"{line}\t{format_pharaoh(Links.of(pair))}" for line, pair in both]
        return cls(lines)

    @classmethod
    def read(cls, path: Path) -> "TeacherLinks":
        """Read a file of links, gzip or not."""
        return cls([decode(line) for line in read_lines(path)], str(path))

    def __len__(self) -> int:
        return len(self.lines)

    def matrix(self, row: int, source_words: int, target_words: int, length: int) -> np.ndarray:
        """Return the bits of each pair of words, uint8 ``target source``, both ``length`` long.

        Raises:
          UserError: a line that is not Pharaoh, or a link outside of the sentences.
        """
        bits = np.zeros((length, length), np.uint8)
        columns = self.lines[row].split("\t")
        for bit, text in zip((FORWARD, BACKWARD), columns * (3 - len(columns))):
            try:
                links = parse_pharaoh(text).check(source_words, target_words)
            except ValueError as error:
                raise UserError(f"{self.name}:{row + 1}: {error}") from None
            for i, j in links.possible:
                bits[j, i] |= bit
        return bits

    def fingerprint(self) -> str:
        """Return the xxh3_128 of all lines."""
        digest = xxhash.xxh3_128()
        add_strings(digest, self.lines)
        return digest.hexdigest()


def _write(links: TeacherLinks, path: Path) -> None:
    write_text(path, "".join(f"{line}\n" for line in links.lines))


TEACHER_LINKS = RunFile("teacher.links", TeacherLinks.read, _write)
"""File of a run with the links of its training pairs."""

LEAST = 1e-3
"""Least probability of a teacher's link."""


def teach(config: Any, corpus: Corpus) -> TeacherLinks:
    """Return the links of a teacher for a corpus, of which nothing else is read.

    ``config`` is one of ``attnzoo.config.teachers``, but not ``kind: own``, which has no links.

    Raises:
      UserError: no links in the corpus, a file with another number of lines, eflomal missing.
    """
    if config.kind == "corpus":
        if corpus.links is None:
            raise UserError(
                "teacher.kind=corpus: the training data has no links; wanted data.links_column, or "
                "another teacher"
            )
        return TeacherLinks([format_pharaoh(links) for links in corpus.links])
    if config.kind == "file":
        path = config.path.expanduser()
        if not path.is_file():
            raise UserError(f"teacher.path={path}: there is no such file")
        links = TeacherLinks.read(path)
        if len(links) != len(corpus):
            raise UserError(f"{path}: {len(links):,} lines for {len(corpus):,} training pairs")
        return links
    words = [[line.split() for line in side] for side in (corpus.source, corpus.target)]
    rules = ("forward", "backward") if config.rule == "each" else (config.rule,)
    found: list[list[set[Link]]] = [[] for _ in rules]
    for pair in _aligner(config).align(*words):
        for links, rule in zip(found, rules, strict=True):
            links.append(set(links_from_posteriors(pair.forward, pair.backward, rule, LEAST)))
    return TeacherLinks.of(*found)


def _aligner(config: Any) -> Aligner:
    if config.kind == "hmm":
        return HmmAligner(HmmConfig())
    return EflomalAligner(EflomalConfig(samplers=config.samplers))


class LinkedPlan(Plan):
    """Batches of a ``BatchPlan`` with the words of their tokens, and with links between words.

    A batch has in addition ``source_words`` and ``target_words`` (int32 ``B S`` and ``B T``: the
    word of each token of ``source`` and of ``target[:, 1:]``, -1 for its end and padding) and, with
    ``links``, ``links`` (uint8 ``B T S`` between words: ``FORWARD`` and ``BACKWARD``).
    """

    def __init__(
        self,
        plan: BatchPlan,
        corpus: Corpus,
        tokenizers: tuple[Tokenizer, Tokenizer],
        links: TeacherLinks | None,
    ):
        self.plan, self.corpus, self.tokenizers, self.links = plan, corpus, tokenizers, links
        self.pairs, self.batch_size = plan.pairs, plan.batch_size

    @property
    def buckets(self) -> tuple[int, ...]:
        """Lengths that batches are padded to."""
        return self.plan.buckets

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that show all data once."""
        return self.plan.steps_per_epoch

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        """Return the batch of a step, or its ``rows``."""
        return self._linked(self.plan.batch(step, rows))

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values."""
        links = {} if self.links is None else {"links": self.links.fingerprint()}
        return self.plan.fingerprint() | links

    def _linked(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.links is not None and len(self.links) != len(self.corpus):
            raise UserError(
                f"{TEACHER_LINKS.name} has {len(self.links):,} lines for {len(self.corpus):,} "
                "training pairs; wanted the data that the links were made of"
            )
        B, length = batch["source"].shape
        words = np.full((2, B, length), -1, np.int32)
        bits = np.zeros((B, length, length), np.uint8)
        for place, row in enumerate(batch["rows"]):
            if row < 0:
                continue
            counts = []
            texts = self.corpus.source[row], self.corpus.target[row]
            for side, (tokenizer, text) in enumerate(zip(self.tokenizers, texts)):
                encoding = tokenizer.encode(text)
                words[side, place, : len(encoding.ids)] = encoding.word_ids
                counts.append(len(encoding.words))
            if self.links is not None:
                bits[place] = self.links.matrix(int(row), *counts, length)
        linked = {} if self.links is None else {"links": bits}
        return {**batch, "source_words": words[0], "target_words": words[1], **linked}

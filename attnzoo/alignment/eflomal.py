"""The statistical aligner eflomal (Östling and Tiedemann 2016), a baseline for neural aligners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from attnzoo.alignment.aligner import (
    Alignment,
    TextAligner,
    Words,
    check_pairs,
    links_from_posteriors,
)
from attnzoo.alignment.links import Link, parse_pharaoh
from attnzoo.config.alignment import EflomalConfig
from attnzoo.errors import UserError

MOST_WORDS = 1_023
"""Words of a sentence that eflomal reads; it leaves out longer ones without a word."""


class EflomalAligner(TextAligner):
    """Align words by `align` of this module; its probabilities are 0 and 1."""

    config_class = EflomalConfig

    def align(self, sources: Sequence[Words], targets: Sequence[Words]) -> Iterator[Alignment]:
        """Train on these pairs and the aligner's own text, then yield the alignments."""
        check_pairs(sources, targets)
        lines = [
            [" ".join(words) for words in (*own, *new)]
            for own, new in zip(self._text, (sources, targets), strict=True)
        ]
        both = align(*lines, samplers=self.config.samplers)
        first = len(self._text[0])
        for source, target, *found in zip(sources, targets, *(side[first:] for side in both)):
            if max(len(source), len(target)) > MOST_WORDS:
                reason = f"longer than eflomal's {MOST_WORDS:,} words"
                yield Alignment.of_unread(source, target, reason)
                continue
            matrices = [np.zeros((len(target), len(source)), np.float32) for _ in found]
            for matrix, links in zip(matrices, found, strict=True):
                for i, j in links:
                    matrix[j, i] = 1
            forward, backward = matrices[0], matrices[1].T
            links = links_from_posteriors(forward, backward, self.config.rule, 0.5)
            yield Alignment(source, target, dict.fromkeys(links, 1.0), forward, backward)


def align(
    source_lines: Sequence[str], target_lines: Sequence[str], *, samplers: int = 3
) -> tuple[list[set[Link]], list[set[Link]]]:
    """Align a corpus without any reference: (forward, reverse) links of every sentence pair.

    Words are separated by whitespace and compared in lower case. Both directions are sets of
    (source word, target word): a target word has at most one forward link, a source word at most
    one reverse link; `attnzoo.alignment.symmetrize` combines them. The aligner is trained on these
    lines and aligns them in the same run, so pass all available text, the test set included.

    eflomal takes no seed (it reads the system's randomness), so two runs differ a little; more
    `samplers` average the difference out. It is an optional package that is compiled on
    installation; UserError if it is missing. A pair with an empty side, or one
    of more than `MOST_WORDS` words, gets no links.
    """
    if len(source_lines) != len(target_lines):
        raise ValueError(f"{len(source_lines)} source lines for {len(target_lines)} target lines")
    try:
        eflomal = import_module("eflomal")
    except ImportError as error:
        raise UserError(
            "eflomal is not installed: `pip install eflomal` builds it (a C compiler is needed)"
        ) from error

    pairs = [(" ".join(s.split()), " ".join(t.split())) for s, t in zip(source_lines, target_lines)]
    sizes = [(len(source.split()), len(target.split())) for source, target in pairs]
    kept = [n for n, size in enumerate(sizes) if min(size) and max(size) <= MOST_WORDS]
    forward: list[set[Link]] = [set() for _ in pairs]
    reverse: list[set[Link]] = [set() for _ in pairs]
    if not kept:
        return forward, reverse
    with TemporaryDirectory() as directory:
        files = [Path(directory) / name for name in ("forward", "reverse")]
        eflomal.Aligner(n_samplers=samplers).align(
            [pairs[n][0] + "\n" for n in kept],
            [pairs[n][1] + "\n" for n in kept],
            links_filename_fwd=str(files[0]),
            links_filename_rev=str(files[1]),
        )
        for links, file in zip((forward, reverse), files):
            lines = file.read_text(encoding="utf-8").splitlines()
            if len(lines) != len(kept):
                raise RuntimeError(f"eflomal aligned {len(lines)} of {len(kept)} sentence pairs")
            for n, line in zip(kept, lines):
                links[n] = set(parse_pharaoh(line).sure)
    return forward, reverse

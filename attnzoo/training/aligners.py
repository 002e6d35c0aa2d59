"""Registry of word aligners, and their construction from configs."""

from typing import Any

from attnzoo.alignment.aligner import Aligner, Text
from attnzoo.alignment.eflomal import EflomalAligner
from attnzoo.alignment.hmm import HmmAligner
from attnzoo.config.external import import_class, is_external
from attnzoo.training.learned_aligner import LearnedAligner

ALIGNERS: dict[str, type[Aligner]] = {
    "hmm": HmmAligner,
    "eflomal": EflomalAligner,
    "learned": LearnedAligner,
}
"""Aligner class by the ``kind`` of its config."""


def build_aligner(config: Any, text: Text | None = None) -> Aligner:
    """Build the aligner of a config of ``attnzoo.config.alignment``, or a user's own class.

    ``text`` is further parallel text to train on, for aligners that learn from text.
    """
    kind = config.kind
    cls = import_class(kind, Aligner) if is_external(kind) else ALIGNERS[kind]
    return cls.from_config(config, text)

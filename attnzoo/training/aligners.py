"""Registry of word aligners, and their construction from configs."""

from collections.abc import Callable
from typing import Any

from attnzoo.alignment.aligner import Aligner, Text
from attnzoo.alignment.eflomal import EflomalAligner
from attnzoo.alignment.hmm import HmmAligner
from attnzoo.alignment.similarity import SimilarityAligner
from attnzoo.alignment.vote import VoteAligner
from attnzoo.config.external import import_class, is_external
from attnzoo.training.attention_aligner import AttentionAligner
from attnzoo.training.learned_aligner import LearnedAligner
from attnzoo.training.word_vectors import encoder_of

Build = Callable[[Any, Text | None], Aligner]


def build_aligner(config: Any, text: Text | None = None) -> Aligner:
    """Build the aligner of a config of ``attnzoo.config.alignment``, or a user's own class.

    ``text`` is further parallel text to train on, for aligners that learn from text.
    """
    kind = config.kind
    if is_external(kind):
        return import_class(kind, Aligner).from_config(config, text)
    return ALIGNERS[kind](config, text)


def _similarity(config: Any, text: Text | None) -> Aligner:
    return SimilarityAligner(config, encoder_of(config))


def _vote(config: Any, text: Text | None) -> Aligner:
    return VoteAligner(config, [build_aligner(member, text) for member in config.members])


ALIGNERS: dict[str, Build] = {
    "attention": AttentionAligner.from_config,
    "hmm": HmmAligner.from_config,
    "eflomal": EflomalAligner.from_config,
    "similarity": _similarity,
    "learned": LearnedAligner.from_config,
    "vote": _vote,
}
"""Function that builds an aligner, by the ``kind`` of its config."""

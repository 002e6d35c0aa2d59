"""Architectures, one per file; each takes its config from ``attnzoo.config.model``."""

from attnzoo.models.resnet import ResidualNetwork
from attnzoo.models.rnn_seq2seq import BahdanauSeq2Seq, LuongSeq2Seq

MODELS = {
    "bahdanau": BahdanauSeq2Seq,
    "luong": LuongSeq2Seq,
}
"""The translators: ``MODELS[config.kind](config, source_vocab, target_vocab, rngs=rngs)``."""

CLASSIFIERS = {
    "resnet": ResidualNetwork,
}
"""The image classifiers: ``CLASSIFIERS[config.kind](config, rngs=rngs)``."""

__all__ = ["CLASSIFIERS", "MODELS", "BahdanauSeq2Seq", "LuongSeq2Seq", "ResidualNetwork"]

"""Architectures, one per file; each takes its config from ``attnzoo.config.model``."""

from attnzoo.models.rnn_seq2seq import BahdanauSeq2Seq, LuongSeq2Seq

MODELS = {
    "bahdanau": BahdanauSeq2Seq,
    "luong": LuongSeq2Seq,
}

__all__ = ["MODELS", "BahdanauSeq2Seq", "LuongSeq2Seq"]

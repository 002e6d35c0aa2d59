"""Data: corpora, tokenizers and batches, from sentences or images to arrays."""

from attnzoo.data.corpus import Corpus, Report, Splits, load_corpus

__all__ = ["Corpus", "Report", "Splits", "load_corpus"]

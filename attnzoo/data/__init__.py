"""Parallel corpora, tokenizers and batches: from sentences to arrays of ids."""

from attnzoo.data.corpus import Corpus, Report, Splits, load_corpus

__all__ = ["Corpus", "Report", "Splits", "load_corpus"]

"""Parallel corpora, tokenizers and batches: where sentences come from and how they become arrays."""

from attnzoo.data.corpus import Corpus, Report, Splits, load_corpus

__all__ = ["Corpus", "Report", "Splits", "load_corpus"]

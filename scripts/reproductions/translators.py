"""Small translators: phrases and captions as arrays, training and scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from sacrebleu.metrics.bleu import BLEU

from attnzoo.alignment.extract import links_from_weights
from attnzoo.alignment.links import Links
from attnzoo.alignment.scores import score_corpus
from attnzoo.config.data import FilePartConfig, FilesConfig
from attnzoo.config.model import Model as ModelConfig
from attnzoo.data.cldr import build_cldr
from attnzoo.data.corpus import Corpus, Splits, load_corpus
from attnzoo.data.tokenizers import Tokenizer, train_word_tokenizer
from attnzoo.decoding.greedy import greedy_search
from attnzoo.models import TRANSLATORS
from attnzoo.special_tokens import BOS, EOS, PAD
from attnzoo.tasks.losses import mean_loss
from attnzoo.tasks.scores import score_translations

MULTI30K = "multi30k/tok"
"""Folder of the captions, tokenised and in lower case."""

Pair = tuple[Int[Array, "B S"], Int[Array, "B T"]]
"""Sources, and targets from BOS to EOS; 0 is padding."""


class Part(NamedTuple):
    """One part of a corpus: ids, texts, and the true links where they are known."""

    source: Int[np.ndarray, "N S"]
    target: Int[np.ndarray, "N T"]
    texts: tuple[list[str], list[str]]
    links: list[Links]

    def batch(self, key: Array, rows: int = 64) -> Pair:
        """Draw pairs with replacement."""
        drawn = jax.random.randint(key, (rows,), 0, len(self.source))
        return jnp.asarray(self.source)[drawn], jnp.asarray(self.target)[drawn]

    def first(self, rows: int) -> Part:
        """Return the first pairs."""
        source, target = self.texts
        return Part(
            self.source[:rows], self.target[:rows], (source[:rows], target[:rows]),
            self.links[:rows],
        )  # fmt: skip


class Phrases(NamedTuple):
    """Parts of a parallel corpus; words are tokens."""

    train: Part
    test: Part
    tokenizers: tuple[Tokenizer, Tokenizer]

    @property
    def sizes(self) -> tuple[int, int]:
        """Vocabulary sizes of both sides."""
        return self.tokenizers[0].vocab_size, self.tokenizers[1].vocab_size


@functools.cache
def phrases(
    target: str, train: int, test: int, longest: int, vocabulary: int | None = None
) -> Phrases:
    """Return English phrases of at most ``longest`` words and their translations, always the same.

    Longer phrases are left out, so that fewer than ``train`` and ``test`` remain. ``vocabulary`` is
    the number of most frequent words that each side knows; None: all.
    """
    splits = build_cldr("en", target, train=train, validation=0, test=test)
    return _phrases(splits, longest, vocabulary)


@functools.cache
def captions(data: Path, target: str, longest: int, vocabulary: int, most: int | None) -> Phrases:
    """Return the pairs of Multi30k, from English, of at most ``longest`` words a side.

    ``vocabulary`` is the number of most frequent words that each side knows, ``most`` the largest
    number of pairs of a part; None: all.
    """

    def part(name: str) -> FilePartConfig:
        sides = (data / MULTI30K / f"{name}.lc.norm.tok.{side}.gz" for side in ("en", target))
        return FilePartConfig(**dict(zip(("source", "target"), sides, strict=True)))

    files = FilesConfig(train=part("train"), test=part("test_2016_flickr"))
    found = _phrases(load_corpus(files), longest, vocabulary)
    return found if most is None else Phrases(*(one.first(most) for one in found[:2]), found[2])


def _phrases(splits: Splits[Corpus], longest: int, vocabulary: int | None) -> Phrases:
    kinds = (
        train_word_tokenizer(splits.train.source, max_size=vocabulary),
        train_word_tokenizer(splits.train.target, max_size=vocabulary),
    )
    return Phrases(*(_part(one, kinds, longest) for one in (splits.train, splits.test)), kinds)


def _part(corpus: Corpus, kinds: tuple[Tokenizer, Tokenizer], longest: int) -> Part:
    known = corpus.links or [Links.of(())] * len(corpus)
    pairs = zip(corpus.source, corpus.target, known, strict=True)
    kept = [one for one in pairs if max(len(text.split()) for text in one[:2]) <= longest]
    sources, targets, links = (list(column) for column in zip(*kept, strict=True))
    return Part(
        padded([[*kinds[0].encode_ids(text), EOS] for text in sources], longest + 1),
        padded([[BOS, *kinds[1].encode_ids(text), EOS] for text in targets], longest + 2),
        (sources, targets),
        links,
    )


def padded(rows: Sequence[Sequence[int]], width: int) -> Int[np.ndarray, "N L"]:
    """Return rows of ids, padded with 0 to a width."""
    out = np.zeros((len(rows), width), np.int32)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def loss(model: Any, made: Pair) -> Float[Array, ""]:
    """Return the cross-entropy of a batch, in nats a word."""
    source, target = made
    labels = target[:, 1:]
    return mean_loss(model(source, target[:, :-1]), labels, labels != PAD)[0]


def build(config: ModelConfig, sizes: tuple[int, int], seed: int) -> Any:
    """Return a translator with first weights of a seed."""
    kind: Any = TRANSLATORS[config.kind]
    return kind(config, *sizes, rngs=nnx.Rngs(seed))


@functools.partial(nnx.jit, static_argnames=("longest",))
def decode(
    model: Any, source: Int[Array, "B S"], longest: int
) -> tuple[Int[Array, "B T"], Float[Array, "B T S"]]:
    """Translate greedily, up to ``longest`` tokens; return the tokens and the weights."""
    memory, state = model.start(source, max_length=longest)
    B, S = source.shape
    found = greedy_search(
        model.step, state, memory, batch=B, source_length=S, max_length=longest
    )  # fmt: skip
    return found.tokens[:, 0], found.weights[:, 0]


def bleu(found: Sequence[str], part: Part) -> float:
    """Return BLEU of translations, over the words of the corpus."""
    return score_translations(found, *part.texts, (), tokenize="none")["bleu"]


def bleu_samples(
    found: Sequence[str], part: Part, num_samples: int = 1_000
) -> Float[np.ndarray, " num_samples"]:
    """Return BLEU of pairs drawn with replacement, the same pairs for every list of translations.

    Their quantiles are an interval; those of the difference of two lists one that is paired.
    """
    score = BLEU(tokenize="none", effective_order=True, force=True)
    each = [score.sentence_score(a, [b]) for a, b in zip(found, part.texts[1], strict=True)]
    counts = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in each])
    rows = np.random.default_rng(0).integers(len(each), size=(num_samples, len(each)))
    sums = counts[rows].sum(axis=1).tolist()
    return np.array([BLEU.compute_bleu(one[:4], one[4:8], one[8], one[9]).score for one in sums])


@nnx.jit
def _judged(model: Any, source: Array, target: Array) -> tuple[Array, Array]:
    labels = target[:, 1:]
    logits, weights = model(source, target[:, :-1], return_weights=True)
    return mean_loss(logits, labels, labels != PAD)[0], weights.mean(axis=1)


def judge(model: Any, part: Part) -> tuple[float, Float[np.ndarray, "B T S"]]:
    """Return the loss of known targets, in nats a word, and the weights, the mean over heads."""
    value, weights = _judged(model, jnp.asarray(part.source), jnp.asarray(part.target))
    return float(value), np.asarray(weights, np.float32)


def alignment_error(weights: Float[np.ndarray, "B T S"], part: Part) -> float:
    """Return the alignment error rate of weights, those of each step credited to the next word."""
    sides = [[range(len(text.split())) for text in side] for side in part.texts]
    links = [links_from_weights(*one) for one in zip(weights, *sides, strict=True)]
    return score_corpus(links, part.links, restrict=True).aer

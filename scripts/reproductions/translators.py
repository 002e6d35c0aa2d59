"""Small translators on the embedded corpus: its phrases as arrays, their training and scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.alignment.extract import links_from_weights
from attnzoo.alignment.links import Links
from attnzoo.alignment.scores import score_corpus
from attnzoo.config.model import Model as ModelConfig
from attnzoo.data.cldr import build_cldr
from attnzoo.data.corpus import Corpus
from attnzoo.data.tokenizers import Tokenizer, train_word_tokenizer
from attnzoo.decoding.greedy import greedy_search
from attnzoo.models import TRANSLATORS
from attnzoo.special_tokens import BOS, EOS, PAD
from attnzoo.tasks.losses import mean_loss
from attnzoo.tasks.scores import score_translations

Pair = tuple[Int[Array, "B S"], Int[Array, "B T"]]
"""Sources, and targets from BOS to EOS; 0 is padding."""


class Part(NamedTuple):
    """One part of a corpus: ids, texts, and the true links."""

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
    """Phrases of the embedded corpus; all words are tokens."""

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
    kinds = (
        train_word_tokenizer(splits.train.source, max_size=vocabulary),
        train_word_tokenizer(splits.train.target, max_size=vocabulary),
    )
    return Phrases(*(_part(one, kinds, longest) for one in (splits.train, splits.test)), kinds)


def _part(corpus: Corpus, kinds: tuple[Tokenizer, Tokenizer], longest: int) -> Part:
    assert corpus.links is not None
    pairs = zip(corpus.source, corpus.target, corpus.links, strict=True)
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

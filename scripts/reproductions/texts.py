"""Classified sentences for claims, and readers of them that several claims share."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.config.data import LabelledTextConfig
from attnzoo.config.rnn_classifier import RnnClassifierConfig
from attnzoo.data.labelled import load_labelled
from attnzoo.models import RnnClassifier
from attnzoo.training.checkpoint import CheckpointStore, restore
from attnzoo.training.run_directory import RunDirectory
from reproductions.claim import Setting
from reproductions.training import fit

PAD, UNKNOWN, CLS = 0, 1, 2
LENGTH, TEST, ROWS = 36, 1_000, 32
FILES = {
    "sentiment": ("sentence_polarity", "rt-polarity.pos", "rt-polarity.neg"),
    "subjectivity": ("subjectivity", "plot.tok.gt9.5000", "quote.tok.gt9.5000"),
}
"""Film reviews (Pang and Lee 2005), and sentences of plots and of reviews (Pang and Lee 2004)."""

Encoder = Literal["lstm", "words"]
Pooling = Literal["attention", "mean"]
Loss = Callable[[Any, Any], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Sentences of one part, cut to ``LENGTH`` words."""

    tokens: Int[Array, "n L"]
    labels: Int[Array, " n"]

    @property
    def valid(self) -> Bool[Array, "n L"]:
        """False at padding."""
        return self.tokens != PAD

    def some(self, count: int) -> "Sentences":
        """Return the first sentences."""
        return Sentences(self.tokens[:count], self.labels[:count])


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Sentences to train on and to test on, the same for every seed, and the number of words."""

    train: Sentences
    test: Sentences
    vocabulary: int


def corpus(setting: Setting, name: str, *, cls: bool = False) -> Corpus:
    """Read a corpus; words that occur once are unknown, ``cls`` puts a class token before each."""
    package, *files = FILES[name]
    home = setting.data / "text" / f"{package}.zip" / package
    paths = tuple(home / file for file in files)
    config = LabelledTextConfig(train=paths, format="lines", encoding="latin-1")
    read = load_labelled(config).train
    order = np.random.default_rng(0).permutation(len(read))
    texts = [read.first[i].lower().split()[: LENGTH - cls] for i in order]
    labels = jnp.asarray(read.labels[order])
    counts = Counter(word for text in texts[TEST:] for word in text)
    known = [word for word, count in counts.most_common() if count > 1]
    number = {word: 3 + i for i, word in enumerate(known)}
    tokens = np.full((len(texts), LENGTH), PAD, np.int32)
    for row, text in enumerate(texts):
        ids = [CLS] * cls + [number.get(word, UNKNOWN) for word in text]
        tokens[row, : len(ids)] = ids
    first, last = (
        Sentences(jnp.asarray(tokens[part]), labels[part])
        for part in (slice(TEST, setting.pick(None, TEST + 200)), slice(None, TEST))
    )
    return Corpus(first, last.some(setting.pick(TEST, 16)), 3 + len(known))


def train(
    setting: Setting,
    model: Any,
    data: Sentences,
    *,
    steps: int,
    seed: int,
    learning_rate: float = 2e-3,
    loss: Loss | None = None,
    beside: Array | None = None,
) -> None:
    """Train a classifier on batches of sentences drawn with replacement.

    ``beside`` has one row for each sentence, which ``loss`` finds in ``batch["beside"]``.
    """

    def batch(key: Array) -> dict[str, Any]:
        first, second = jax.random.split(key)
        rows = jax.random.randint(first, (ROWS,), 0, data.tokens.shape[0])
        found = {"tokens": data.tokens[rows], "labels": data.labels[rows], "key": second}
        return found if beside is None else found | {"beside": beside[rows]}

    steps = setting.pick(steps, 2)
    fit(model, loss or cross_entropy, batch, steps=steps, seed=seed, learning_rate=learning_rate)


def cross_entropy(model: Any, batch: dict[str, Any]) -> Float[Array, ""]:
    """Return the mean cross-entropy of the classes of a batch, with dropout."""
    tokens = batch["tokens"]
    return of_logits(
        model(tokens, valid=tokens != PAD, rngs=nnx.Rngs(dropout=batch["key"])), batch["labels"]
    )


def of_logits(logits: Float[Array, "B V"], labels: Int[Array, " B"]) -> Float[Array, ""]:
    """Return the mean cross-entropy."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -jnp.mean(chosen)


def reader(
    setting: Setting,
    name: str,
    encoder: Encoder,
    *,
    seed: int | None = None,
    pooling: Pooling = "attention",
) -> tuple[RnnClassifier, Corpus]:
    """Return a trained reader of a corpus, and the corpus; it is trained once for all claims.

    Words and states of 64 units, additive attention with a learned query, Adam, dropout 0.3.
    """
    seed, data = setting.seed if seed is None else seed, corpus(setting, name)
    hidden = {"lstm": 32, "words": 64}[encoder]
    config = RnnClassifierConfig(
        encoder=encoder, pooling=pooling, embedding=64, hidden=hidden, dropout=0.3
    )
    model = RnnClassifier(config, data.vocabulary, rngs=nnx.Rngs(seed))
    home = setting.folder.parents[1] / "text-readers" / f"{name}-{encoder}-{pooling}-{seed}"
    if home.exists():
        state = nnx.state(model, nnx.Param)
        nnx.replace_by_pure_dict(state, restore(home).state["params"])
        nnx.update(model, state)
        return model, data
    train(setting, model, data.train, steps=1_200, seed=seed, learning_rate=5e-3)
    # Another claim may train the same one: the folder appears at once, as it is whole.
    made = home.with_name(f"{home.name}.{os.getpid()}")
    with CheckpointStore(RunDirectory.create(made).checkpoints) as store:
        store.save(1, {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}, {})
    if not home.exists():
        made.rename(home)
    return model, data


@nnx.jit
def classified(model: Any, tokens: Int[Array, "n L"]) -> Float[Array, "n V"]:
    """Return the probabilities of the classes."""
    return jax.nn.softmax(model(tokens, valid=tokens != PAD), axis=-1)


def accuracy(model: Any, data: Sentences) -> float:
    """Return the share of sentences whose class is the most probable one."""
    return float(jnp.mean(classified(model, data.tokens).argmax(axis=-1) == data.labels))

"""Attention is not not explanation: four diagnostics of an attention that was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.config.rnn_classifier import RnnClassifierConfig
from attnzoo.explain import capture_attention
from attnzoo.explain.adversarial import divergence, total_variation, train_adversary
from attnzoo.explain.attention_modules import perturb
from attnzoo.models import RnnClassifier
from reproductions.claim import Claim, Measured, Results, Setting, ahead, below, close, headline
from reproductions.texts import (
    PAD,
    ROWS,
    Corpus,
    Sentences,
    accuracy,
    classified,
    of_logits,
    reader,
    train,
)

CORPUS = "sentiment"
STRENGTH, STEPS = 0.3, 400
"""Of the adversary: the weight of its divergence, and its number of updates."""


class OneInput(nnx.Module):
    """Reader whose only input are the words."""

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, tokens: Int[Array, "B L"], *, capture: Any = False) -> Any:
        """Return the logits, and the maps if they are asked for."""
        return self.model(tokens, valid=tokens != PAD, capture=capture)


def weights_of(model: Any, data: Sentences) -> Float[Array, "n L"]:
    """Return the weights of the words of all sentences."""
    parts = [
        capture_attention(model, part, valid=part != PAD)[1]["attention"][:, 0, 0]
        for part in np.array_split(np.asarray(data.tokens), max(1, len(data.tokens) // 1000))
    ]
    return jnp.concatenate(parts)


def guided_logits(model: Any, tokens: Array, weights: Float[Array, "B L"]) -> Float[Array, "B V"]:
    """Return the logits of a reader with these weights in place of its own."""
    graph, state = nnx.split(model)
    copy: Any = nnx.merge(graph, state)
    _, maps = copy(tokens, valid=tokens != PAD, capture=True)
    perturb(copy, {"attention": weights[:, None, None] - maps["attention"]})
    return copy(tokens, valid=tokens != PAD)


def guided_accuracy(
    setting: Setting, data: Corpus, of_train: Float[Array, "n L"], of_test: Float[Array, "m L"]
) -> float:
    """Train a reader of words by themselves whose weights are given; return its accuracy."""
    config = RnnClassifierConfig(encoder="words", embedding=64, hidden=64)
    model = RnnClassifier(config, data.vocabulary, rngs=nnx.Rngs(setting.seed))

    def loss(model: Any, batch: dict[str, Any]) -> Float[Array, ""]:
        logits = guided_logits(model, batch["tokens"], batch["beside"])
        return of_logits(logits, batch["labels"])

    train(setting, model, data.train, steps=600, seed=setting.seed, loss=loss, beside=of_train)
    logits = nnx.jit(guided_logits)(model, data.test.tokens, of_test)
    return float(jnp.mean(logits.argmax(axis=-1) == data.test.labels))


def adversary(setting: Setting, model: Any, data: Sentences) -> Any:
    """Train a copy of a reader to answer alike with other weights."""
    rng = np.random.default_rng(setting.seed)
    steps, tokens = setting.pick(STEPS, 2), np.asarray(data.tokens)
    batches = (jnp.asarray(tokens[rng.integers(len(tokens), size=ROWS)]) for _ in range(steps))
    other: Any = train_adversary(OneInput(model), batches, "attention", STRENGTH)
    return other.model


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Compare with uniform weights, another seed, guided readers, and an adversary."""
    model, data = reader(setting, CORPUS, "lstm")
    even, _ = reader(setting, CORPUS, "lstm", pooling="mean")
    again, _ = reader(setting, CORPUS, "lstm", seed=setting.seed + 10)
    words, _ = reader(setting, CORPUS, "words")
    other = adversary(setting, model, data.train)
    guides = {
        "BiLSTM": model,
        "adversary": other,
    }
    parts: Sequence[Sentences] = (data.train, data.test)
    weights = {name: [weights_of(guide, part) for part in parts] for name, guide in guides.items()}
    weights["uniform"] = [
        part.valid / jnp.maximum(part.valid.sum(axis=1, keepdims=True), 1) for part in parts
    ]
    found: dict[str, Measured] = {
        "accuracy, BiLSTM, attention": accuracy(model, data.test),
        "accuracy, BiLSTM, uniform weights": accuracy(even, data.test),
        "accuracy, BiLSTM, adversary": accuracy(other, data.test),
        "accuracy, words, own attention": accuracy(words, data.test),
    }
    for name, pair in weights.items():
        found[f"accuracy, words, weights of {name}"] = guided_accuracy(setting, data, *pair)
    base, test = weights["BiLSTM"][1], data.test
    seeds, apart = weights_of(again, test), weights["adversary"][1]
    found["divergence of weights, another seed"] = float(jnp.mean(divergence(base, seeds)))
    found["divergence of weights, adversary"] = float(jnp.mean(divergence(base, apart)))
    before = classified(model, test.tokens)
    for name, one in {"another seed": again, "adversary": other}.items():
        change = total_variation(classified(one, test.tokens), before)
        found[f"change of the answer, {name}"] = float(jnp.mean(change))
    return found


def _came(results: Results) -> str:
    mean = results.mean
    return (
        f"The BiLSTM is right for {mean('accuracy, BiLSTM, attention'):.1%} with its attention and "
        f"for {mean('accuracy, BiLSTM, uniform weights'):.1%} with uniform weights; a reader of "
        f"words for {mean('accuracy, words, weights of BiLSTM'):.1%} with the BiLSTM's weights, "
        f"{mean('accuracy, words, weights of uniform'):.1%} with uniform ones and "
        f"{mean('accuracy, words, weights of adversary'):.1%} with those of an adversary, which "
        f"are "
        f"{mean('divergence of weights, adversary'):.2f} nats apart (another seed's "
        f"{mean('divergence of weights, another seed'):.2f})."
    )


CLAIMS = (
    Claim(
        name="attention-diagnosed",
        title="Trained attention carries information that an adversary's has not",
        source="Wiegreffe and Pinter 2019, arXiv 1908.04626, sections 3 and 4, tables 2 to 4",
        claimed="Uniform weights do nearly as well on some tasks; an adversary can be trained "
        "whose "
        "weights are farther apart than those of another seed while its answers stay; yet a reader "
        "of words by themselves does better with the weights of the trained model than with "
        "uniform "
        "ones or with the adversary's.",
        setup="film reviews by sentiment, 1,000 of 10,662 for tests; word vectors and states of "
        "64, a "
        "BiLSTM and additive attention with a learned query, 1,200 steps of 32 sentences; the "
        "adversary "
        f"begins as a copy, with {STEPS} steps of total variation less {STRENGTH} times the "
        "divergence. The paper has six data sets, begins its adversaries afresh and reports F1.",
        criterion=(
            close("accuracy, BiLSTM, attention", "accuracy, BiLSTM, uniform weights", 0.03),
            ahead("divergence of weights, adversary", "divergence of weights, another seed"),
            below("change of the answer, adversary", 0.15),
            ahead("accuracy, words, weights of BiLSTM", "accuracy, words, weights of uniform"),
            headline(
                ahead("accuracy, words, weights of BiLSTM", "accuracy, words, weights of adversary")
            ),
        ),
        measure=measure,
        came=_came,
        meaning="That other weights give the same answer in one model does not make them as good: "
        "trained weights name words that help a model that never saw the others.",
        otherwise="On average trained weights help a reader of words most, but by no more than "
        "seeds differ; an adversary that begins as a copy may also never leave it, since the "
        "divergence has no slope there.",
        minutes=1.3,
        axes=("accuracy, nats, or total variation", ""),
        needs=("text/sentence_polarity.zip",),
    ),
)

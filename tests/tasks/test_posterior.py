"""Posterior attention: Bayes' rule over source positions, for every recurrent translator."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.alignment import AttentionConfig
from attnzoo.data.tokenizers import train_word_tokenizer
from attnzoo.errors import UserError
from attnzoo.models import TRANSLATORS
from attnzoo.models.rnn_seq2seq import RecurrentTranslator
from attnzoo.tasks.alignment_reader import Reader
from attnzoo.tasks.posterior import read_posterior
from attnzoo.tasks.translation import Translator
from attnzoo.training.attention_aligner import AttentionAligner
from tests.models.products import (
    close,
    computed,
    config_of,
    drawn_model,
    pairs,
    traced,
    unless_refused,
)

RECURRENT = [kind for kind, cls in TRANSLATORS.items() if issubclass(cls, RecurrentTranslator)]
SOURCE = np.array([[4, 9, 5, 10, 6, 2], [7, 8, 2, 0, 0, 0]], np.int32)
TARGET = np.array([[1, 4, 12, 5, 2], [1, 7, 2, 0, 0]], np.int32)


def read(model: Any, source: Any, target: Any) -> dict[str, Any]:
    logits, weights = model(source, target[:, :-1], return_weights=True)
    log_probs, posterior = model.posterior(source, target)
    return {"logits": logits, "prior": jnp.mean(weights, axis=1), "words": log_probs} | {
        "1": posterior,
        "0": model.posterior(source, target, exponent=0.0)[1],
    }


@pytest.mark.parametrize(("kind", "attention"), pairs(*RECURRENT))
def test_every_attention_has_a_posterior_or_says_why_not(kind: str, attention: str) -> None:
    model = unless_refused(config_of(kind, attention))
    if model is None:
        return
    if type(model).posterior is not RecurrentTranslator.posterior:
        with pytest.raises(NotImplementedError, match=f"posterior: .* {kind} "):
            traced(read, model, SOURCE, TARGET)
        return
    if not model.attention.takes_perturbation:
        with pytest.raises(NotImplementedError, match=r"posterior: .* does not weight values"):
            traced(read, model, SOURCE, TARGET)
        return
    found = traced(read, model, SOURCE, TARGET)
    assert found["1"].shape == (2, 4, 6)
    assert found["words"].shape == (2, 4)


# A single head, several, weights that are exactly one, and positions.
@pytest.mark.parametrize(
    ("kind", "attention"),
    [("bahdanau", "additive"), ("luong", "general"), ("luong", "multi_head"), ("luong", "none")],
)
def test_the_posterior_is_bayes_rule(kind: str, attention: str) -> None:
    model = drawn_model(config_of(kind, attention))
    found = computed(read, model, SOURCE, TARGET)
    logits = found["logits"].astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=2, keepdims=True))
    rows = np.take_along_axis(logits, TARGET[:, 1:, None], axis=2)[:, :, 0]
    close(found["words"], rows)
    real = (SOURCE != 0)[:, None, :]
    np.testing.assert_allclose(found["1"].sum(axis=2), 1, rtol=1e-5)
    assert (found["1"][np.broadcast_to(~real, found["1"].shape)] == 0).all()
    # Exponent 0 is the likelihood alone: times the prior it is the posterior.
    joint = found["prior"] * found["0"]
    close(found["1"], joint / joint.sum(axis=2, keepdims=True))
    if attention == "none":  # one certain position: nothing is left to infer
        close(found["1"], found["prior"])


def test_pairs_are_read_as_the_translator_reads_them() -> None:
    lines = ["a b c", "", "c c a b", "b"]
    tokenizer = train_word_tokenizer(lines)
    model = TRANSLATORS["luong"]
    config = config_of("luong", "general")
    size = tokenizer.vocab_size
    translator = Translator(model(config, size, size, rngs=nnx.Rngs(0)), tokenizer, tokenizer)
    found = read_posterior(translator, lines, lines[::-1])
    plain = translator.force(lines, lines[::-1])
    assert [one is None for one in found] == [one is None for one in plain]
    for one, other in zip(found, plain):
        if one is not None and other is not None:
            close(one.log_probs, other.log_probs)
            assert one.weights.shape == other.weights.shape
            np.testing.assert_allclose(one.weights.sum(axis=1), 1, rtol=1e-5)


def test_a_transformer_has_none() -> None:
    tokenizer = train_word_tokenizer(["a b"])
    size = tokenizer.vocab_size
    transformer = TRANSLATORS["transformer"](config_of("transformer"), size, size, rngs=nnx.Rngs(0))
    translator = Translator(transformer, tokenizer, tokenizer)
    with pytest.raises(UserError, match="posterior: Transformer has no readout of one source"):
        read_posterior(translator, ["a"], ["b"])


@pytest.mark.parametrize("by", ["attention", "posterior", "erasure"])
def test_the_aligner_reads_as_align_reads_a_run(by: str) -> None:
    tokenizer = train_word_tokenizer(["a b c", "x y z"])
    size, config = tokenizer.vocab_size, config_of("bahdanau", "additive")
    model = TRANSLATORS["bahdanau"](config, size, size, rngs=nnx.Rngs(0))
    translator = Translator(model, tokenizer, tokenizer, max_source=6)
    lines = ["a b c", "", "c a", "b " * 9], ["x y", "z", "z x y", "x"]
    reader = Reader(translator, by)
    wanted = reader.links(reader.read(*lines))
    aligner = AttentionAligner(AttentionConfig(run=Path("run"), by=by), translator)
    found = list(aligner.align(*([line.split() for line in side] for side in lines)))
    assert [set(one.links) for one in found] == wanted
    assert [one.unread is not None for one in found] == [False, False, False, True]
    assert all(found[row].links for row in (0, 2))

"""Recurrent classifiers: every encoder with every pooling, padding, ends, and numpy beside them."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config.attention import AdditiveConfig, CoverageConfig, LocationConfig
from attnzoo.config.rnn_classifier import RnnClassifierConfig
from attnzoo.models import RnnClassifier

V = 13
TEXT = np.asarray([3, 7, 5, 11, 2], np.int32)
WAYS = [
    *itertools.product(("lstm", "lstmn", "words"), ("attention",), ("learned", "last")),
    *itertools.product(("lstm",), ("structured", "mean", "max"), ("learned",)),
]


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "max", "attention": CoverageConfig()},
        {"pooling": "mean", "query": "last"},
        {"pooling": "mean", "hops": 3},
        {"hops": 3},
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no effect with pooling="):
        RnnClassifierConfig(**settings)


def made(**settings: Any) -> RnnClassifier:
    if settings.get("pooling") == "structured":
        settings["hops"] = 2
    config = RnnClassifierConfig(embedding=5, hidden=3, num_classes=2, **settings)
    return drawn(lambda: RnnClassifier(config, V, rngs=nnx.Rngs(0)), 0, 0.5)


@pytest.mark.parametrize(("encoder", "pooling", "query"), WAYS)
def test_padding_on_either_side_changes_nothing(encoder: Any, pooling: Any, query: Any) -> None:
    model = made(encoder=encoder, pooling=pooling, query=query, ends=False)
    rows = np.asarray([[1, 1, *TEXT], [*TEXT, 9, 1]])
    valid = np.asarray([[False, False, *[True] * 5], [*[True] * 5, False, False]])
    alone, maps = model(jnp.asarray(TEXT[None]), capture=True)
    padded, wide = model(jnp.asarray(rows), valid=jnp.asarray(valid), capture=True)
    np.testing.assert_allclose(padded, np.repeat(alone, 2, axis=0), rtol=1e-5, atol=1e-6)
    assert ("attention" in maps) == (pooling in ("attention", "structured"))
    assert ("encoder" in maps) == (encoder == "lstmn")
    if "attention" in maps:
        weights = np.asarray(wide["attention"])
        assert (weights[0, :, 0, [0, 1, 2, 6]] == 0).all()  # padding and ends
        assert (weights[0, :, 0, 3:6] > 0).all()
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_attention_pools_as_its_formula_does() -> None:
    model = made(encoder="words", attention=AdditiveConfig(width=4))
    attention: Any = model.attention
    p = lambda x: np.asarray(x[...], np.float64)  # noqa: E731
    words = p(model.tokens.table)[TEXT]
    h = np.tanh(words @ p(model.encoder.kernel) + p(model.encoder.bias))
    query = p(model.query) @ p(attention.query_kernel)
    scores = np.tanh(query + h @ p(attention.key_kernel)) @ p(attention.score_kernel)
    weights = np.exp(scores) / np.exp(scores).sum()
    wanted = weights @ h @ p(model.classifier.kernel) + p(model.classifier.bias)
    logits, maps = model(jnp.asarray(TEXT[None]), capture=True)
    np.testing.assert_allclose(maps["attention"][0, 0, 0], weights, rtol=1e-5)
    np.testing.assert_allclose(logits[0], wanted, rtol=1e-5, atol=1e-6)


def test_pooling_without_an_attention() -> None:
    for pooling, reduce in (("mean", np.mean), ("max", np.max)):
        model = made(encoder="words", pooling=pooling, ends=False)
        p = lambda x: np.asarray(x[...], np.float64)  # noqa: E731
        h = np.tanh(p(model.tokens.table)[TEXT] @ p(model.encoder.kernel) + p(model.encoder.bias))
        wanted = reduce(h[1:-1], axis=0) @ p(model.classifier.kernel) + p(model.classifier.bias)
        logits = model(jnp.asarray(TEXT[None]))
        np.testing.assert_allclose(logits[0], wanted, rtol=1e-5, atol=1e-6)


def test_a_text_without_words_between_its_ends_has_an_answer() -> None:
    for pooling in ("attention", "structured", "mean", "max"):
        model = made(encoder="words", pooling=pooling, ends=False)
        logits = model(jnp.asarray([[3, 2]], jnp.int32))
        np.testing.assert_allclose(logits[0], model.classifier.bias[...], rtol=1e-6)


def test_an_attention_with_slots_bounds_the_text() -> None:
    assert made(attention=LocationConfig(max_length=7)).max_length == 7
    assert made(pooling="mean").max_length is None
    assert made().max_length is None

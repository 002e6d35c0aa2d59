"""Vectors of words from an encoder's states: means over tokens, whatever batch and length."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.bert import BertConfig
from attnzoo.config.gpt2 import GPT2Config
from attnzoo.errors import UserError
from attnzoo.models import GPT2
from attnzoo.models.bert import Bert
from attnzoo.training.word_vectors import StateVectors

SIZES = {"attention": MultiHeadConfig(num_heads=2), "dim": 12, "layers": 2, "max_length": 16}


def bert() -> Bert:
    return Bert(BertConfig(**SIZES, hidden=14), 31, rngs=nnx.Rngs(0))


def tokenize(words):
    """A token for each letter, between two special tokens."""
    pairs = [(4 + ord(letter) % 23, n) for n, word in enumerate(words) for letter in word]
    return [1, *(token for token, _ in pairs), 2], [None, *(n for _, n in pairs), None]


def test_a_word_is_the_mean_of_its_tokens_in_its_sentence() -> None:
    model = bert()
    encode = StateVectors(model, tokenize)
    sentences = [["ab", "", "cde"], [], ["x"]]
    found = encode(sentences)
    assert [v.shape for v in found] == [(3, 12), (0, 12), (1, 12)]
    states = np.asarray(model.states(jnp.array([tokenize(sentences[0])[0]]))[0][0])
    wanted = [states[1:3].mean(axis=0), np.zeros(12), states[3:6].mean(axis=0)]
    np.testing.assert_allclose(found[0], wanted, atol=2e-5)
    (alone,) = encode([sentences[0]])
    np.testing.assert_allclose(alone, found[0], atol=2e-5)


def test_a_layer_is_the_states_after_so_many_blocks() -> None:
    first = StateVectors(bert(), tokenize, layer=0)([["ab"]])[0]
    embedded = np.asarray(bert().embed(jnp.array([tokenize(["ab"])[0]])))[0]
    np.testing.assert_allclose(first[0], embedded[1:3].mean(axis=0), atol=2e-5)
    last, whole = (StateVectors(bert(), tokenize, layer=k)([["ab"]])[0] for k in (2, None))
    np.testing.assert_allclose(last, whole, atol=1e-6)
    assert np.abs(first - last).max() > 1e-3


def test_a_sentence_longer_than_the_model_is_read_in_parts() -> None:
    words = ["abc"] * 7 + ["z" * 40]  # the last word alone is too long: it has no vector
    (found,) = StateVectors(bert(), tokenize)([words])
    assert found.shape == (8, 12)
    assert [bool(np.abs(row).max()) for row in found] == [True] * 7 + [False]


def test_what_has_no_such_states_is_refused() -> None:
    decoder = GPT2(GPT2Config(**SIZES), 31, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="a GPT2 has no stack of encoder blocks"):
        StateVectors(decoder, tokenize)
    with pytest.raises(UserError, match="layer=3: the encoder of tiny has 2 blocks"):
        StateVectors(bert(), tokenize, layer=3, name="tiny")

"""The pointer-generator against a float64 oracle written in numpy, and its mixture by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config.attention import CoverageConfig
from attnzoo.config.pointer_generator import PointerGeneratorConfig
from attnzoo.models.pointer_generator import LEAST, PointerGenerator, mixture
from attnzoo.special_tokens import BOS, EOS, PAD, UNK

WORDS, EXTRA = 11, 3
CONFIG = PointerGeneratorConfig(
    attention=CoverageConfig(width=7), hidden=5, embedding=3, source_words=EXTRA
)
SOURCE = np.array([[5, 12, 7, 12, EOS, PAD], [11, 4, 4, 13, 9, EOS]])
TARGET = np.array([[BOS, 12, 6, 5], [BOS, 4, 13, UNK]])


def build() -> PointerGenerator:
    """A model with random float64 parameters."""
    size = WORDS + EXTRA
    model = drawn(lambda: PointerGenerator(CONFIG, size, size, rngs=nnx.Rngs(0)), 0, 0.7)
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.float64), state))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(cell, x, state):
    c, h = state
    gates = x @ cell.input_kernel[...] + cell.bias[...] + h @ cell.recurrent_kernel[...]
    i, f, g, o = np.split(np.asarray(gates), 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def affine(layer, *parts):
    return np.concatenate(parts) @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def oracle(model, source, target):
    """P(w) over the extended vocabulary, weights and p_gen of one pair, word by word."""
    table = np.asarray(model.source_embedding.embedding[...])
    ids = [i for i in source if i != PAD]
    x = [table[i if i < WORDS else UNK] for i in ids]
    forward, backward, state = [], [], (np.zeros(5), np.zeros(5))
    for one in x:
        state = lstm(model.forward_encoder, one, state)
        forward.append(state)
    state = (np.zeros(5), np.zeros(5))
    for one in reversed(x):
        state = lstm(model.backward_encoder, one, state)
        backward.insert(0, state)
    h = np.array([np.concatenate([f[1], b[1]]) for f, b in zip(forward, backward, strict=True)])
    ends = [np.concatenate(pair) for pair in zip(forward[-1], backward[0], strict=True)]
    c = np.maximum(affine(model.initial_cell, ends[0]), 0)
    s = np.maximum(affine(model.initial_hidden, ends[1]), 0)
    context, covered, rows = np.zeros(10), np.zeros(len(ids)), []
    attention = model.attention
    for token in target:
        fed = affine(model.feed, table[token if token < WORDS else UNK], context)
        c, s = lstm(model.decoder, fed, (c, s))
        scores = [
            np.tanh(
                np.concatenate([c, s]) @ attention.query_kernel[...]
                + h[i] @ attention.key_kernel[...]
                + covered[i] * attention.coverage_kernel[...]
                + attention.bias[...]
            )
            @ attention.score_kernel[...]
            for i in range(len(ids))
        ]
        a = softmax(np.asarray(scores))
        covered = covered + a
        context = a @ h
        p_gen = sigmoid(affine(model.gate, context, c, s, fed))[0]
        written = softmax(affine(model.output, affine(model.combine, s, context)))
        p = np.concatenate([p_gen * written, np.zeros(EXTRA)])
        for weight, i in zip(a, ids, strict=True):
            p[i] += (1 - p_gen) * weight
        rows.append((p, a, p_gen))
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_the_network_is_the_oracle(x64: None) -> None:
    model = build()
    arrays = jnp.asarray(SOURCE), jnp.asarray(TARGET)
    logits, weights, p_gen = jax.jit(lambda m, s, t: m.pointing(s, t))(model, *arrays)
    np.testing.assert_allclose(jnp.sum(jnp.exp(logits), axis=-1), 1, rtol=1e-12)
    for row in range(2):
        p, a, gate = oracle(model, SOURCE[row], TARGET[row])
        real = np.maximum(np.log(np.maximum(p, 1e-300)), LEAST)
        np.testing.assert_allclose(logits[row], real, rtol=1e-9)
        np.testing.assert_allclose(weights[row, 0, :, : a.shape[1]], a, rtol=1e-9)
        np.testing.assert_allclose(p_gen[row], gate, rtol=1e-9)
        # A word that the source has, and the vocabulary not, is copied; others are impossible.
        assert (p[:, WORDS:] > 0).tolist() == [
            [i in SOURCE[row] for i in range(WORDS, WORDS + EXTRA)]
        ] * 4
    np.testing.assert_allclose(model.p_gen(*arrays), p_gen, rtol=1e-12)


def test_the_mixture_by_hand() -> None:
    """p_gen 1/2, P_vocab uniform over 2, and weights 0.5, 0.3, 0.2 of words 2, 0 and 2."""
    logits, gate = jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 1))
    found = mixture(logits, gate, jnp.asarray([[[0.5, 0.3, 0.2]]]), jnp.asarray([[2, 0, 2]]), 2)
    np.testing.assert_allclose(jnp.exp(found[0, 0]), [0.25 + 0.15, 0.25, 0.35, 0], atol=1e-6)
    assert found[0, 0, 3] == LEAST
    # Written with certainty it is the softmax, and a word that is only in the source has P near 0.
    sure = mixture(
        logits, gate + 200, jnp.asarray([[[0.5, 0.3, 0.2]]]), jnp.asarray([[2, 0, 2]]), 2
    )
    np.testing.assert_allclose(sure[0, 0], [np.log(0.5)] * 2 + [LEAST] * 2, rtol=1e-6)


def test_gradients_are_finite_where_nothing_can_be_copied() -> None:
    def loss(gate, weights):
        logits = jnp.zeros((1, 1, 3))
        return -mixture(logits, gate, weights, jnp.asarray([[1, 4]]), 2)[0, 0, jnp.asarray([3, 4])]

    for gate in (0.0, 500.0, -500.0):
        jacobian = jax.jacrev(loss, (0, 1))(jnp.full((1, 1, 1), gate), jnp.asarray([[[1.0, 0.0]]]))
        assert all(np.all(np.isfinite(leaf)) for leaf in jacobian)


def test_a_vocabulary_is_wanted_and_only_one() -> None:
    with pytest.raises(ValueError, match="shared_vocabulary=true"):
        PointerGenerator(CONFIG, 14, 15, rngs=nnx.Rngs(0))
    many = dataclasses.replace(CONFIG, source_words=14)
    with pytest.raises(ValueError, match="source_words=14 of 14 ids"):
        PointerGenerator(many, 14, 14, rngs=nnx.Rngs(0))

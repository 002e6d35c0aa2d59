"""The word aligner: words are means of their tokens, padding and other pairs do not matter."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from products import close, computed, config_of, pairs, traced, unless_refused

from attnzoo.models import ALIGNERS
from attnzoo.models.aligner import WordScores, _words

SOURCE = np.array([[4, 9, 5, 10, 2], [7, 8, 2, 0, 0]], np.int32)
SOURCE_WORDS = np.array([[0, 0, 1, 2, -1], [0, 1, -1, -1, -1]], np.int32)
TARGET = np.array([[6, 4, 2, 0, 0], [12, 11, 5, 2, 0]], np.int32)
TARGET_WORDS = np.array([[0, 1, -1, -1, -1], [0, 0, 0, -1, -1]], np.int32)
BATCH = SOURCE, TARGET, SOURCE_WORDS, TARGET_WORDS


def probabilities(model: Any, *batch: Any) -> dict[str, Any]:
    forward, backward = model(*batch).log_probs()
    return {"forward": jnp.exp(forward), "backward": jnp.exp(backward)}


@pytest.mark.parametrize(("kind", "attention"), pairs(*ALIGNERS))
def test_pairs_are_aligned_alike_alone_and_padded(kind: str, attention: str) -> None:
    model = unless_refused(config_of(kind, attention))
    if model is None:
        return
    wide = [np.pad(x, ((0, 0), (0, 3)), constant_values=-1 if x.min() < 0 else 0) for x in BATCH]

    def everything(model: Any, batch: Any, wide: Any) -> dict[str, Any]:
        return {"batch": probabilities(model, *batch), "wide": probabilities(model, *wide)}

    if attention != "multi_head":  # one is compiled, the others are traced
        traced(everything, model, BATCH, wide)
        return
    found = computed(everything, model, BATCH, wide)
    for (name, words), others in zip(
        (("forward", TARGET_WORDS), ("backward", SOURCE_WORDS)), (SOURCE_WORDS, TARGET_WORDS)
    ):
        narrow, padded = found["batch"][name], found["wide"][name]
        for row in range(2):
            T, S = words[row].max() + 1, others[row].max() + 1
            np.testing.assert_allclose(narrow[row, :T].sum(axis=1), 1, rtol=1e-5)
            assert (narrow[row, :T, S:-1] == 0).all()
            close(padded[row, :T, :S], narrow[row, :T, :S])
            close(padded[row, :T, -1], narrow[row, :T, -1])


def test_a_word_is_the_mean_of_its_tokens() -> None:
    states = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    words, known = _words(jnp.asarray(states), jnp.asarray([[0, 0, 2, 2, -1]], jnp.int32))
    wanted = np.zeros((5, 8), np.float32)
    wanted[0], wanted[2] = states[0, :2].mean(axis=0), states[0, 2:4].mean(axis=0)
    close(words[0], wanted)
    assert known[0].tolist() == [True, False, True, False, False]


def test_probabilities_by_hand() -> None:
    """Two target and one source word: softmax over each axis, with the null word."""
    scores = np.log(np.array([[[1.0, 9, 3], [2, 9, 2], [1, 9, 9]]], np.float32))
    found = WordScores(
        jnp.asarray(scores), jnp.asarray([[True, False]]), jnp.asarray([[True, True]])
    )
    forward, backward = map(functools.partial(np.exp, dtype=np.float64), found.log_probs())
    np.testing.assert_allclose(forward[0], [[1 / 4, 0, 3 / 4], [1 / 2, 0, 1 / 2]], atol=1e-6)
    np.testing.assert_allclose(backward[0, 0], [1 / 4, 1 / 2, 1 / 4], atol=1e-6)

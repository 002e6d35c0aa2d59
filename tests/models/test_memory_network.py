"""End-to-end memory networks beside their equations in numpy float64."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config.stories import MemoryNetworkConfig
from attnzoo.models import MemoryNetwork

V, D = 13, 5
STORY = np.int32([[[4, 5, 6], [7, 8, 0], [9, 4, 2]], [[3, 0, 0], [5, 2, 0], [0, 0, 0]]])
VALID = np.asarray([[True] * 3, [True, True, False]])
ASKED = np.int32([[2, 3, 11, 4], [6, 2, 0, 0]])


def encoded(table: np.ndarray, words: Any, position: bool) -> np.ndarray:
    """Section 4.1: the sum of word vectors, each weighted by its place in the sentence."""
    words = [word for word in words if word]
    J, total = len(words), np.zeros(D)
    for j, word in enumerate(words, start=1):
        k = np.arange(1, D + 1)
        weight = (1 - j / J) - (k / D) * (1 - 2 * j / J) if position else 1.0
        total += weight * table[word]
    return total


@pytest.mark.parametrize("tying", ["adjacent", "layer_wise"])
@pytest.mark.parametrize("linear", [False, True])
def test_hops_are_those_of_the_equations(tying: Any, linear: bool) -> None:
    config = MemoryNetworkConfig(
        dim=D, hops=3, tying=tying, memory=4, nonlinear=linear,
        sentence="position" if tying == "adjacent" else "bag",
    )  # fmt: skip
    model = drawn(lambda: MemoryNetwork(config, V, rngs=nnx.Rngs(0)), 0, 0.5)
    w: Any = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    table = lambda part: np.asarray(part["table"], np.float64)  # noqa: E731
    logits, maps = model(
        jnp.asarray(STORY),
        jnp.asarray(ASKED),
        valid=jnp.asarray(VALID),
        linear=jnp.full(2, linear),
        capture=True,
    )
    assert logits.shape == (2, V)
    position = config.sentence == "position"
    for b in range(2):
        first = w["words"][0] if tying == "adjacent" else w["question"]
        u = encoded(table(first), ASKED[b], position)
        for hop in range(3):
            i, o = (hop, hop + 1) if tying == "adjacent" else (0, 1)
            m, c = (
                np.asarray(
                    [
                        encoded(table(w["words"][n]), STORY[b, s], position)
                        + table(w["ages"][n])[s]
                        for s in np.flatnonzero(VALID[b])
                    ]
                )
                for n in (i, o)
            )
            p = m @ u
            if not linear:
                p = np.exp(p) / np.exp(p).sum()
            found = maps[f"hop/{hop}"]
            assert found.shape == (2, 1, 1, 3)
            np.testing.assert_allclose(found[b, 0, 0, : len(p)], p, rtol=1e-4, atol=1e-5)
            assert (np.asarray(found[b, 0, 0, len(p) :]) == 0).all()
            if tying == "layer_wise" and hop:
                u = u @ np.asarray(w["between"]["kernel"], np.float64)
            u = u + p @ c
            if linear and hop < 2:
                u[: D // 2] = np.maximum(u[: D // 2], 0)
        last = w["words"][3] if tying == "adjacent" else w["answer"]
        np.testing.assert_allclose(logits[b], table(last) @ u, rtol=1e-4, atol=1e-4)


def test_more_sentences_than_memories_are_refused() -> None:
    model = MemoryNetwork(MemoryNetworkConfig(memory=2), V, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"3 sentences.*memory=2"):
        model(jnp.asarray(STORY), jnp.asarray(ASKED))

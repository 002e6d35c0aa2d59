"""Bidirectional attention flow beside its equations in numpy float64."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config.question_answering import BidafConfig
from attnzoo.models import Bidaf

V, D = 13, 3
TOKENS = np.int32([[1, 4, 5, 2, 7, 8, 9, 6, 5, 2, 0], [1, 6, 2, 3, 7, 2, 0, 0, 0, 0, 0]])
SEGMENTS = np.int32([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]])
VALID = TOKENS > 0


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max())
    return x / x.sum()


def lstm(w: Any, x: np.ndarray) -> np.ndarray:
    cell, hidden, found = np.zeros(D), np.zeros(D), []
    for step in x:
        gates = step @ w["input_kernel"] + w["bias"] + hidden @ w["recurrent_kernel"]
        entry, forget, candidate, output = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(entry) * np.tanh(candidate)
        hidden = sigmoid(output) * np.tanh(cell)
        found.append(hidden)
    return np.asarray(found)


def both(w: Any, x: np.ndarray) -> np.ndarray:
    return np.concatenate([lstm(w["forward"], x), lstm(w["backward"], x[::-1])[::-1]], axis=1)


def reader(w: Any, config: BidafConfig, question: Any, document: Any) -> Any:
    """The logits of one document's tokens, and the weights of both directions."""

    def words(ids: Any) -> np.ndarray:
        x = w["tokens"]["table"][ids]
        for layer in w["highway"].values() if config.highway else ():
            share = sigmoid(x @ layer["gate"]["kernel"] + layer["gate"]["bias"])
            up = np.maximum(x @ layer["up"]["kernel"] + layer["up"]["bias"], 0)
            x = share * up + (1 - share) * x
        return x

    u, h = both(w["reader"], words(question)), both(w["reader"], words(document))
    maps = {}
    if config.flow == "none":
        summary = np.concatenate([u[-1, :D], u[0, D:]])
        g = np.concatenate([h, np.tile(summary, (len(h), 1)), h * summary], axis=1)
    else:
        vector = np.concatenate([w["of_document"], w["of_question"], w["of_both"]])
        S = np.asarray([[vector @ np.concatenate([a, b, a * b]) for b in u] for a in h])
        rows = maps["context_to_query"] = np.asarray([softmax(row) for row in S])
        parts = [h, rows @ u, h * (rows @ u)]
        if config.flow == "both":
            column = maps["query_to_context"] = softmax(S.max(axis=1))
            parts.append(h * (column @ h))
        g = np.concatenate(parts, axis=1)
    m = g
    for layer in w["model_layers"].values():
        m = both(layer, m)
    later = both(w["end_reader"], m)
    start = np.concatenate([g, m], axis=1) @ w["start"]["kernel"][:, 0]
    end = np.concatenate([g, later], axis=1) @ w["end"]["kernel"][:, 0]
    return np.stack([start, end], axis=1), maps


@pytest.mark.parametrize("flow", ["both", "context_to_query", "none"])
def test_logits_and_weights_are_those_of_the_equations(flow: Any) -> None:
    config = BidafConfig(flow=flow, hidden=D, highway=1 if flow == "both" else 0, layers=2)
    model = drawn(lambda: Bidaf(config, V, rngs=nnx.Rngs(0)), 0, 0.5)
    w = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    w = nnx.traversals.unflatten_mapping(
        {k: np.asarray(v, np.float64) for k, v in nnx.traversals.flatten_mapping(w).items()}
    )
    logits, maps = model(
        jnp.asarray(TOKENS), segments=jnp.asarray(SEGMENTS), valid=jnp.asarray(VALID), capture=True
    )
    assert logits.shape == (2, 11, 2)
    assert len(maps) == {"both": 2, "context_to_query": 1, "none": 0}[flow]
    for b in range(2):
        inside = np.flatnonzero(VALID[b] & (SEGMENTS[b] == 1))
        asked = np.flatnonzero(VALID[b] & (SEGMENTS[b] == 0))
        wanted, weights = reader(w, config, TOKENS[b][asked], TOKENS[b][inside])
        np.testing.assert_allclose(logits[b][inside], wanted, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(logits[b, 0], w["no_answer"], rtol=1e-6)
        for name, found in maps.items():
            one = np.asarray(found[b, 0])
            rows, columns = (inside, asked) if name == "context_to_query" else ([0], inside)
            kept = one[np.ix_(rows, columns)]
            np.testing.assert_allclose(np.squeeze(kept), weights[name], rtol=2e-4, atol=2e-6)
            np.testing.assert_allclose(one.sum(axis=-1), 1, rtol=1e-5)

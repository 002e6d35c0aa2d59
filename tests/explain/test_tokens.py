"""Scores of tokens: the reader of given vectors, erasure by hand, and what causality forbids."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.bert import Bert as BertConfig
from attnzoo.config.gpt2 import GPT2 as GPT2Config
from attnzoo.config.loader import load
from attnzoo.explain.faithfulness import deletion, leave_one_out
from attnzoo.explain.tokens import explain_tokens, reading, token_table, tokens_score
from attnzoo.models.bert import Bert
from attnzoo.models.gpt2 import GPT2

TOKENS = jnp.int32([[3, 7, 5, 2, 7]])
METHODS = ("attention", "rollout", "gradient_rollout", "relevance", "cdam", "gradient_x_input")


@cache
def bert(*overrides: str) -> Bert:
    settings = ["dim=6", "hidden=5", "layers=2", "max_length=7", "attention.num_heads=3"]
    settings += ["head=sequence", "num_classes=3", "dropout=0", *overrides]
    model = Bert(load(BertConfig, None, settings), 11, rngs=nnx.Rngs(1))
    return louder(model)


@cache
def gpt() -> GPT2:
    settings = ["dim=6", "hidden=5", "layers=2", "max_length=7", "attention.num_heads=2"]
    return louder(GPT2(load(GPT2Config, None, [*settings, "dropout=0"]), 11, rngs=nnx.Rngs(2)))


def louder(model: Any) -> Any:
    """Weights that start at 0.02 say nothing."""
    graph, state = nnx.split(model)
    keys = iter(jax.random.split(jax.random.key(4), 99))
    return nnx.merge(
        graph, jax.tree.map(lambda x: x + 0.4 * jax.random.normal(next(keys), x.shape), state)
    )


def logit(output: Any) -> Any:
    return output[:, 2]


def explained(model: Any, answer: Any, row: int, **settings: Any) -> dict[str, Any]:
    """All compiled together, which is faster than one operation after another."""
    graph, state = nnx.split(model)
    run = jax.jit(lambda s: explain_tokens(nnx.merge(graph, s), answer, row, TOKENS, **settings))
    return run(state)


def test_the_tokens_own_vectors_give_the_models_answer() -> None:
    for model in (bert("scan=true"), gpt()):
        _, table = token_table(model)
        np.testing.assert_allclose(
            reading(model, table(TOKENS), TOKENS), model(TOKENS), rtol=1e-4, atol=1e-5
        )
        # The vectors of other tokens, whatever the ids say.
        other = jnp.int32([[1, 1, 4, 9, 0]])
        np.testing.assert_allclose(
            reading(model, table(other), TOKENS), model(other), rtol=1e-4, atol=1e-5
        )
    with pytest.raises(ValueError, match="Linear has none of tokens, embedding"):
        token_table(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


def test_a_score_without_a_token_is_the_answer_with_the_other_vector() -> None:
    model = bert()
    table = model.tokens.table[...]
    score = tokens_score(model, logit, TOKENS, jnp.int32([1, 2, 3]), table[4])
    keep = jnp.asarray([[True, True, True], [True, False, True], [False, False, True]])
    texts = jnp.int32([[3, 7, 5, 2, 7], [3, 7, 4, 2, 7], [3, 4, 4, 2, 7]])
    np.testing.assert_allclose(score(keep), model(texts)[:, 2], rtol=1e-4, atol=1e-5)
    alone = leave_one_out(score, (1, 3))
    erased = jnp.int32([[3, 4, 5, 2, 7], [3, 7, 4, 2, 7], [3, 7, 5, 4, 7]])
    falls = model(TOKENS)[0, 2] - model(erased)[:, 2]
    np.testing.assert_allclose(alone[0], falls, rtol=1e-4, atol=1e-5)
    # Many orders of one text are read as a batch.
    area = deletion(score, jnp.asarray([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])).area
    steps = [[True, True, True], [False, True, True], [False, False, True], [False] * 3]
    whole, first, last, none = (float(score(jnp.asarray([kept]))[0]) for kept in steps)
    want = (whole / 2 + first + last + none / 2) / 3
    assert float(area[0]) == pytest.approx(want, rel=1e-4)


def test_every_method_scores_every_token_and_gradients_add_up() -> None:
    model = bert()
    found = explained(model, logit, 0, steps=200)
    assert set(found) == {*METHODS, "integrated_gradients"}
    assert all(scores.shape == (1, 5) for scores in found.values())
    _, maps = model(TOKENS, capture=True)
    np.testing.assert_allclose(
        found["attention"][0], maps["encoder/1/self"][0].mean(axis=0)[0], rtol=1e-4, atol=1e-6
    )
    head = explained(model, logit, 0, steps=1, layer=0, head=2, gradients=False)
    np.testing.assert_allclose(
        head["attention"][0], maps["encoder/0/self"][0, 2, 0], rtol=1e-4, atol=1e-6
    )
    assert set(head) == {"attention", "rollout", "cdam", "gradient_x_input", "integrated_gradients"}
    # Completeness: f(x) - f(0). A norm follows the embedding, so that steps near 0 are steep.
    zeros = jnp.zeros((1, 5, 6))
    change = float((model(TOKENS) - reading(model, zeros, TOKENS))[0, 2])
    assert float(found["integrated_gradients"].sum()) == pytest.approx(change, abs=0.05)


def test_later_tokens_of_a_causal_model_have_no_part_in_an_answer() -> None:
    found = explained(gpt(), lambda output: output[:, 1, 8], 1, steps=3)
    for name, scores in found.items():
        assert (np.asarray(scores)[0, 2:] == 0).all(), name
        assert (np.asarray(scores)[0, :2] != 0).any(), name

"""Logits of one row, as in decoding: a product of its own, that reads the table once."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from attnzoo.attention.projection import LayerNorm
from attnzoo.layers.embedding import Embedding


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA:CPU")
def test_logits_of_one_row_do_not_transpose_the_table() -> None:
    rngs = nnx.Rngs(0)
    graph, state = nnx.split((LayerNorm(64, rngs=rngs), Embedding(512, 64, rngs=rngs)))

    def step(state: nnx.State, x: jax.Array) -> jax.Array:
        norm, embedding = nnx.merge(graph, state)
        return jnp.argmax(embedding.logits(norm(x)), axis=-1)

    text = jax.jit(step).lower(state, jnp.ones((1, 64))).compile().as_text()
    assert not re.search(r"f32\[64,512\]\S* copy\(", text)

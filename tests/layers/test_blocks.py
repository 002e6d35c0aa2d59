"""Embeddings, feed-forward layers, dropout and blocks against formulas written out here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import MultiHeadAttention
from attnzoo.attention.projection import LayerNorm, RMSNorm
from attnzoo.layers.block import Block
from attnzoo.layers.dropout import drop_path, dropout
from attnzoo.layers.embedding import Embedding, sinusoidal_positions
from attnzoo.layers.feed_forward import FeedForward
from attnzoo.layers.self_attention import SelfAttention
from attnzoo.layers.stack import Stack
from attnzoo.ops import masks

RNG = np.random.default_rng(0)
X = jnp.float32(RNG.normal(size=(2, 5, 6)))


def block(order: str = "pre", **settings) -> Block:
    rngs = nnx.Rngs(0)
    attention = SelfAttention(MultiHeadAttention(6, 2, rngs=rngs), is_causal=True)
    feed = FeedForward(6, 7, rngs=rngs)
    return Block(6, attention, feed, norm=LayerNorm, order=order, rngs=rngs, **settings)


def test_positions_by_hand() -> None:
    """Vaswani et al. 2017, section 3.5: position 3, width 4."""
    row = sinusoidal_positions(jnp.int32([3]), 4)[0]
    wanted = [np.sin(3), np.cos(3), np.sin(0.03), np.cos(0.03)]
    np.testing.assert_allclose(row, wanted, rtol=1e-6)
    halves = sinusoidal_positions(jnp.int32([3]), 4, halves=True)[0]
    np.testing.assert_allclose(halves, np.array(wanted)[[0, 2, 1, 3]], rtol=1e-6)
    with pytest.raises(ValueError, match="dim=5 is odd"):
        sinusoidal_positions(jnp.int32([3]), 5)


def test_an_embedding_reads_rows_and_is_its_own_output_layer() -> None:
    table = Embedding(7, 3, rngs=nnx.Rngs(0))
    values = np.asarray(table.table[...])
    np.testing.assert_array_equal(table(jnp.int32([[4, 0]])), values[[[4, 0]]])
    x = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(table.logits(jnp.asarray(x)), x @ values.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
def test_a_feed_forward_layer_by_hand(gated: bool) -> None:
    layer = FeedForward(6, 7, "silu", gated=gated, rngs=nnx.Rngs(1))
    x = np.asarray(X, np.float64)
    read = lambda p: np.asarray(p.kernel[...], np.float64)  # noqa: E731
    silu = lambda y: y / (1 + np.exp(-y))  # noqa: E731
    up = x @ read(layer.up)
    hidden = silu(x @ read(layer.gate)) * up if gated else silu(up)
    np.testing.assert_allclose(layer(X), hidden @ read(layer.down), rtol=1e-5, atol=1e-6)


def test_dropout_keeps_the_mean() -> None:
    x = jnp.ones((200, 50))
    dropped = dropout(x, 0.3, jax.random.key(0))
    assert set(np.unique(dropped).round(4)) == {0.0, np.float32(1 / 0.7).round(4)}
    # 10,000 draws: the deviation of the mean is 0.0065.
    assert abs(float(dropped.mean()) - 1) < 0.03
    assert dropout(x, 0.3, None) is x
    branches = drop_path(x, 0.3, jax.random.key(0))
    assert all(len(np.unique(row)) == 1 for row in np.asarray(branches))
    assert 0.5 < float((branches[:, 0] > 0).mean()) < 0.9


def test_pre_and_post_norm_by_their_formulas() -> None:
    pre, post = block("pre"), block("post")
    h = X + pre.attention(pre.attention_norm(X))
    wanted = h + pre.feed_forward(pre.feed_forward_norm(h))
    np.testing.assert_allclose(pre(X)[0], wanted, atol=1e-6)
    h = post.attention_norm(X + post.attention(X))
    wanted = post.feed_forward_norm(h + post.feed_forward(h))
    np.testing.assert_allclose(post(X)[0], wanted, atol=1e-6)


def test_layer_scale_and_whole_branches_dropped() -> None:
    scaled = block(layer_scale=0.0)
    np.testing.assert_array_equal(scaled(X)[0], X)
    dropped, _ = block()(X, key=jax.random.key(3), branch_rate=1 - 1e-7)
    np.testing.assert_array_equal(dropped, X)


def test_documents_in_one_row_do_not_see_each_other() -> None:
    one = block()
    documents = jnp.int32([[1, 1, 2, 2, 2], [1, 1, 1, 1, 2]])
    packed, _ = one(X, mask=masks.document(documents))
    apart, _ = one(X[:1, 2:])
    np.testing.assert_allclose(packed[0, 2:], apart[0], atol=1e-6)


def test_a_block_remembers_what_it_read() -> None:
    one = block()
    whole, _ = one(X)
    cache = one.empty_cache(2, 5)
    first, cache, _ = one.decode(X[:, :2], cache)
    rest, cache, maps = one.decode(X[:, 2:], cache, return_weights=True)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, atol=1e-6)
    assert maps["self"].shape == (2, 2, 3, 5)
    # Padding on the left, which nobody reads.
    padded = jnp.concatenate([jnp.full((2, 2, 6), 9.0), X], axis=1)
    visible = jnp.bool_([[False] * 2 + [True] * 5] * 2)
    read, _, _ = one.decode(padded, one.empty_cache(2, 7), visible=visible)
    np.testing.assert_allclose(read[:, 2:], whole, atol=1e-6)


def test_stacks_grow_their_branch_rate_and_refuse_unlike_blocks() -> None:
    stack = Stack([block(), block(), block()], branch_rate=0.5)
    key = jax.random.key(0)
    scanned = Stack([block(), block(), block()], scan=True, branch_rate=0.5)
    # A rate that is traced divides where a constant one is multiplied by its inverse.
    np.testing.assert_allclose(stack(X, key=key)[0], scanned(X, key=key)[0], atol=1e-5)
    with pytest.raises(ValueError, match="alike"):
        Stack([block("pre"), block("post")], scan=True)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_norms_take_their_epsilon(norm) -> None:
    made = functools.partial(norm, eps=0.5)(6, rngs=nnx.Rngs(0))
    x = np.asarray(X, np.float64)
    x = x - x.mean(-1, keepdims=True) if norm is LayerNorm else x
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.5)
    np.testing.assert_allclose(made(X), wanted, rtol=1e-5, atol=1e-6)

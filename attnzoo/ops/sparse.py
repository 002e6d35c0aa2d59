"""Attention to chosen blocks of keys, as in native sparse attention (arXiv 2502.11089).

Keys lie by their position in the text, so that padding is in no block.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.ops.dot_product import dot_product_attention
from attnzoo.ops.weights import BLOCK, row_blocks, unblock


def select_blocks(
    importance: Float[Array, "B N T M"],
    at: Int[Array, "B T"],
    num_kv_heads: int,
    block: int,
    count: int,
) -> Int[Array, "B T K n"]:
    """Return the numbers of the blocks that each query reads, M where there is no further one.

    Yuan et al. 2025, equations 10 and 11: ``importance`` is summed over the heads that share keys.
    The block of the query (at position ``at``), the one before and the first one come first.
    """
    B, N, T, M = importance.shape
    groups = importance.reshape(B, num_kv_heads, N // num_kv_heads, T, M).sum(axis=2)
    groups = jax.lax.stop_gradient(groups)
    number = jnp.arange(M, dtype=jnp.int32)[None, None, None]
    own = (at // block)[:, None, :, None]
    # A sum of weights is at most N.
    for rank, here in ((2, number == 0), (3, number == own - 1), (4, number == own)):
        groups = jnp.where(here, jnp.full_like(groups, rank * N), groups)
    seen = (number <= own) & (at[:, None, :, None] >= 0)
    groups = jnp.where(seen, groups, jnp.full_like(groups, -1))
    scores, chosen = jax.lax.top_k(groups, min(count, M))
    return jnp.moveaxis(jnp.where(scores < 0, M, chosen), 1, 2)


def read_blocks(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    chosen: Int[Array, "B T K n"],
    at: Int[Array, "B T"],
    block: int,
    return_weights: bool,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[Any, ...]:
    """Read the tokens of the chosen blocks up to the query; also the weights if requested.

    A block with a number behind the last one is not read. At most ``ops.weights.BLOCK`` queries
    gather their keys at once.
    """
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    width = chosen.shape[3] * block
    inside = jnp.arange(block, dtype=jnp.int32)[None, None, None, None]
    row = jnp.arange(B, dtype=jnp.int32)[:, None, None, None]
    head = jnp.arange(K, dtype=jnp.int32)[None, None, :, None]

    def read(rows: Int[Array, " R"]) -> tuple[Array, ...]:
        R = rows.shape[0]
        place = (chosen[:, rows, :, :, None] * block + inside).reshape(B, R, K, width)
        near = jnp.minimum(place, S - 1)
        keys, values = (x[row, near, head].reshape(B * R * K, width, 1, x.shape[3]) for x in (k, v))
        seen = (place <= at[:, rows, None, None]) & (place < S)
        found = dot_product_attention(
            q[:, rows].reshape(B * R * K, 1, N // K, H),
            keys,
            values,
            seen.reshape(B * R * K, 1, 1, width),
            return_weights=return_weights,
            dropout_rate=dropout_rate,
            dropout_key=None if dropout_key is None else jax.random.fold_in(dropout_key, rows[0]),
        )
        out, *weights = found if return_weights else (found,)
        out = out.reshape(B, R, N, v.shape[3])
        if not return_weights:
            return (out,)
        spread = jax.vmap(lambda w, i: jnp.zeros((N // K, S), w.dtype).at[:, i].add(w))
        whole = spread(weights[0][:, :, 0], near.reshape(B * R * K, width))
        return out, jnp.moveaxis(whole.reshape(B, R, N, S), 2, 1)

    if T <= BLOCK:
        return read(jnp.arange(T, dtype=jnp.int32))
    out, *weights = jax.lax.map(jax.checkpoint(read), row_blocks(T))
    return unblock(out, 1, T), *(unblock(x, 2, T) for x in weights)


def branch_weights(weights: Float[Array, "B N T M"], block: int, length: int) -> Any:
    """Return the weights of blocks as weights of their tokens, each an equal share."""
    return jnp.repeat(weights / block, block, axis=3)[..., :length]


def places_of(mask: Bool[Array, "#B 1 1 S"] | None, B: int, S: int) -> Int[Array, "B S"]:
    """Return the number of real positions before each one, 1 less at padding."""
    if mask is None:
        return jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32), (B, S))
    real = jnp.broadcast_to(mask[:, 0, 0], (B, S))
    return jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1


def put_rows(
    held: Float[Array, "B L *F"], new: Float[Array, "B T *F"], places: Int[Array, "B T"]
) -> Any:
    """Write rows at their places; those with a place behind the end are dropped."""
    rows = jnp.arange(held.shape[0], dtype=jnp.int32)[:, None]
    return held.at[rows, places].set(new.astype(held.dtype), mode="drop")


def unpack_columns(
    weights: Float[Array, "B N T S"],
    mask: Bool[Array, "#B 1 1 S"] | None,
    places: Int[Array, "B S"],
) -> Float[Array, "B N T S"]:
    """Return weights with a column for each position of the row, 0 at padding."""
    if mask is None:
        return weights
    columns = jnp.broadcast_to(places[:, None, None], weights.shape)
    found = jnp.take_along_axis(weights, columns, axis=3, mode="clip")
    return jnp.where(mask, found, jnp.zeros_like(found))

"""Reference that every faster implementation is tested against: whole rows of weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnzoo.ops.dropout import AnyKey, dropout_keep_mask, seed_of
from attnzoo.ops.guards import any_visible, finite_or_zero, has_non_finite, poison
from attnzoo.ops.index_functions import index_grid
from attnzoo.ops.logits import Scoring, non_finite_rows, repeat_for_query_heads
from attnzoo.ops.weights import row_blocks, unblock
from attnzoo.ops.wide_sums import wide


def attend_with_weights(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float = 0.0,
    dropout_key: AnyKey | None = None,
    rows: Int[Array, " R"] | None = None,
) -> tuple[Float[Array, "B R N Hv"], Float[Array, "B N R S"], Float[Array, "B N R"]]:
    """Compute output, weights and log-sum-exp of the chosen query rows (None: all)."""
    B, T, N, _ = q.shape
    S, K, Hv = v.shape[1:]
    logits, visible = settings.logits(q, k, rows)
    weights, lse = settings.normalise(logits, visible)
    rows = jnp.arange(T, dtype=jnp.int32) if rows is None else rows

    used = weights
    if dropout_key is not None:
        b, n, _, s = index_grid(B, N, 1, S)
        keep = dropout_keep_mask(
            seed_of(dropout_key), dropout_rate, b, n, rows.reshape(1, 1, -1, 1), s
        )
        used = jnp.where(keep, weights / (1 - dropout_rate), jnp.zeros_like(weights))
    grouped = used.reshape(B, K, N // K * rows.shape[0], S)
    values = jnp.moveaxis(finite_or_zero(v).astype(used.dtype), 2, 1)
    out = jnp.einsum("bkrs,bksh->bkrh", grouped, values)
    out = jnp.moveaxis(out.reshape(B, N, rows.shape[0], Hv), 1, 2)

    row = non_finite_rows(q, k, visible, rows)
    weights, lse = poison(weights, row[..., None]), poison(lse, row)
    row = row | any_visible(repeat_for_query_heads(has_non_finite(v), N), visible)
    row = jnp.broadcast_to(row, (B, N, rows.shape[0]))
    return poison(out, jnp.moveaxis(row, 1, 2)[..., None]).astype(q.dtype), weights, lse


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float = 0.0,
    dropout_key: AnyKey | None = None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """Compute output and log-sum-exp."""
    out, _, lse = attend_with_weights(q, k, v, settings, dropout_rate, dropout_key)
    return out, lse


def attend_in_blocks(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float = 0.0,
    dropout_key: AnyKey | None = None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """Compute :func:`attend` a block of rows at a time, without ``T x S`` weights in memory."""
    T = q.shape[1]
    if T == 0:  # there is no row to look at
        return attend(q, k, v, settings, dropout_rate, dropout_key)

    def block(rows: Int[Array, " R"]) -> tuple[Array, Array]:
        out, _, lse = attend_with_weights(q, k, v, settings, dropout_rate, dropout_key, rows)
        return out, lse

    rows = row_blocks(T)
    # Without a checkpoint the backward pass would keep every block's weights.
    outs, lses = jax.lax.map(jax.checkpoint(wide(block, rows[0])), rows)
    return unblock(outs, 1, T), unblock(lses, 2, T)

"""Chunked form of the linear family's recurrence, as matrix products (METHODS §6.4, §6.5).

Inside a chunk of C positions that starts with memory M, with A = stril(diag(beta) K K^T * Gamma):

    [U, W] = (I + A)^-1 diag(beta) [V, K e^G]      the chunk writes the values U - W M
    O  = (Q e^G) M + P (U - W M),                  P = tril(Q K^T * Gamma)
    M' = e^{G_C} M + (K e^{G_C - G})^T (U - W M)

Without beta, U = V and W = 0. Terms without M are computed for all chunks at once; the scan over
chunks computes only U - W M and M'. The log-decay between two positions is a sum over the positions
between them, never a difference: nothing overflows, and a decay of e^-inf = 0 is exact.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnzoo.ops.linear.triangular import unit_lower_inverse

SUB_BLOCK = 16


class Chunks(NamedTuple):
    """Terms of every chunk that do not depend on the memory; c is the number of chunks."""

    scores: Float[Array, "B N c C C"]
    """P, the weights of the values written in the chunk for its outputs."""
    reading: Float[Array, "B N c C H"]
    """Q e^G, the queries that read the memory at the start of the chunk."""
    writing: Float[Array, "B N c C H"]
    """K e^{G_C - G}, the keys of the chunk's values in the memory at its end."""
    values: Float[Array, "B N c C Hv"]
    """U, the values written if the memory is empty."""
    taken: Float[Array, "B N c C H"] | None
    """W, with which a memory M changes the values written to U - W M."""
    decay: Float[Array, "B N c #H 1"] | None


def chunked(
    q: Float[Array, "B N T H"],
    k: Float[Array, "B N T H"],
    v: Float[Array, "B N T Hv"],
    beta: Float[Array, "B N T"] | None,
    log_decay: Float[Array, "B N T #H"] | None,
    state: Float[Array, "B N H Hv"],
    chunk_size: int,
) -> tuple[Float[Array, "B N T Hv"], Float[Array, "B N H Hv"]]:
    """Compute outputs and the last state in chunks, with memory linear in T.

    A single chunk of all T positions is the parallel form.
    """
    B, N, T, _ = q.shape
    count = -(-T // chunk_size)

    def split(x: Array | None) -> Any:
        # Zeros are neutral: nothing written, beta 0 erases nothing, log-decay 0 forgets nothing.
        if x is None:
            return None
        x = jnp.pad(x, [(0, 0), (0, 0), (0, -T % chunk_size), *[(0, 0)] * (x.ndim - 3)])
        return x.reshape(B, N, count, chunk_size, *x.shape[3:])

    chunks = _chunks(*(split(x) for x in (q, k, v, beta, log_decay)))

    def decayed(state: Array, decay: Array | None) -> Array:
        return state if decay is None else decay * state

    def add(state: Array, chunk: Any) -> tuple[Array, Array]:
        written, decay = chunk
        return decayed(state, decay) + written, state

    def correct(state: Array, chunk: Any) -> tuple[Array, tuple[Array, Array]]:
        values, taken, writing, decay = chunk
        values = values - jnp.einsum("bnth,bnhv->bntv", taken, state)
        written = jnp.einsum("bnth,bntv->bnhv", writing, values)
        return decayed(state, decay) + written, (state, values)

    def each(*arrays: Array | None) -> Any:
        return jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), arrays)

    if chunks.taken is None:
        values = chunks.values
        written = jnp.einsum("bncth,bnctv->bnchv", chunks.writing, values)
        state, starts = jax.lax.scan(add, state, each(written, chunks.decay))
    else:
        steps = each(chunks.values, chunks.taken, chunks.writing, chunks.decay)
        state, (starts, values) = jax.lax.scan(correct, state, steps)
        values = jnp.moveaxis(values, 0, 2)
    out = jnp.einsum("bncts,bncsv->bnctv", chunks.scores, values)
    out = out + jnp.einsum("bncth,cbnhv->bnctv", chunks.reading, starts)
    return out.reshape(B, N, count * chunk_size, v.shape[3])[:, :, :T], state


def effective_weights(
    q: Float[Array, "B N T H"],
    k: Float[Array, "B N T H"],
    beta: Float[Array, "B N T"] | None,
    log_decay: Float[Array, "B N T #H"] | None,
) -> Float[Array, "B N T T"]:
    """Return the matrix that turns values into outputs, starting from an empty memory.

    o_t = sum_s weights_ts v_s: P for the sum rule, P (I + A)^-1 diag(beta) for the delta rule.
    Needs ``T x T`` memory.
    """
    scores = _products(q, k, log_decay)
    if beta is None:
        return scores
    return scores @ unit_lower_inverse(_erase(k, beta, log_decay)) * beta[..., None, :]


def _chunks(
    q: Float[Array, "B N c C H"],
    k: Float[Array, "B N c C H"],
    v: Float[Array, "B N c C Hv"],
    beta: Float[Array, "B N c C"] | None,
    log_decay: Float[Array, "B N c C #H"] | None,
) -> Chunks:
    scores = _products(q, k, log_decay)
    reading, writing, decayed_k, decay = q, k, k, None
    if log_decay is not None:
        since_start = jnp.exp(jnp.cumsum(log_decay, axis=-2))
        reading, decayed_k = q * since_start, k * since_start
        writing = k * jnp.exp(_until_end(log_decay))
        decay = jnp.swapaxes(since_start[..., -1:, :], -1, -2)
    if beta is None:
        return Chunks(scores, reading, writing, v, None, decay)
    both = beta[..., None] * jnp.concatenate([v, decayed_k], axis=-1)
    both = unit_lower_inverse(_erase(k, beta, log_decay)) @ both
    values, taken = both[..., : v.shape[-1]], both[..., v.shape[-1] :]
    return Chunks(scores, reading, writing, values, taken, decay)


def _erase(
    k: Float[Array, "*batch C H"],
    beta: Float[Array, "*batch C"],
    log_decay: Float[Array, "*batch C #H"] | None,
) -> Float[Array, "*batch C C"]:
    """Return A, with entries on the diagonal that ``unit_lower_inverse`` does not read."""
    return beta[..., None] * _products(k, k, log_decay)


def _products(
    q: Float[Array, "*batch C H"],
    k: Float[Array, "*batch C H"],
    log_decay: Float[Array, "*batch C #H"] | None,
) -> Float[Array, "*batch C C"]:
    """Return tril(sum_h q_th k_sh e^{G_th - G_sh}): products with the decay between positions."""
    if log_decay is not None and log_decay.shape[-1] > 1:
        return _products_by_channel(q, k, log_decay)
    products = jnp.einsum("...th,...sh->...ts", q, k)
    if log_decay is None:
        return jnp.tril(products)
    return products * jnp.exp(_between(log_decay))[..., 0]


def _products_by_channel(
    q: Float[Array, "*batch C H"],
    k: Float[Array, "*batch C H"],
    log_decay: Float[Array, "*batch C H"],
) -> Float[Array, "*batch C C"]:
    """Return the products of ``_products`` where every channel has its own decay (GLA).

    Between different sub-blocks the exponent is split at their borders into sums that are all
    decays, so that no factor exceeds 1. Within a sub-block it is computed for each pair.
    """
    *batch, C, H = q.shape
    pad = -C % SUB_BLOCK
    blocks = (C + pad) // SUB_BLOCK
    order = tuple(x.reshape(math.prod(batch), C, H) for x in (q, k, log_decay))

    @jax.checkpoint  # the pairwise exponents of one chunk are recomputed, not kept for all chunks
    def one(chunk: tuple[Array, Array, Array]) -> Float[Array, "C C"]:
        q, k, g = (jnp.pad(x, [(0, pad), (0, 0)]).reshape(blocks, SUB_BLOCK, H) for x in chunk)
        reading, writing = q * jnp.exp(jnp.cumsum(g, axis=-2)), k * jnp.exp(_until_end(g))
        # [I, J]: the decay of the whole sub-blocks strictly between I and J, 0 unless J < I.
        whole = _between(jnp.sum(g, axis=-2))
        skipped = jnp.pad(jnp.exp(whole), [(1, 0), (0, 0), (0, 0)])[:-1]
        across = jnp.einsum("ith,ijh,jsh->itjs", reading, skipped, writing)
        within = jnp.einsum("ith,itsh,ish->its", q, jnp.exp(_between(g)), k)
        same = jnp.eye(blocks, dtype=q.dtype)[:, None, :, None]
        products = across + same * within[:, :, None, :]
        return products.reshape(C + pad, C + pad)[:C, :C]

    return jax.lax.map(one, order).reshape(*batch, C, C)


def _between(log_decay: Float[Array, "*batch C G"]) -> Float[Array, "*batch C C G"]:
    """Return at [t, s] the sum of log-decays after s up to t; -inf where s > t."""
    C = log_decay.shape[-2]
    later = jnp.tril(jnp.ones((C, C), bool), -1)[..., None]
    later = jnp.expand_dims(later, tuple(range(log_decay.ndim - 2)))
    terms = jnp.where(later, log_decay[..., :, None, :], jnp.zeros((), log_decay.dtype))
    total = jnp.cumsum(terms, axis=-3)
    past = jnp.expand_dims(jnp.tril(jnp.ones((C, C), bool)), -1)
    past = jnp.expand_dims(past, tuple(range(log_decay.ndim - 2)))
    return jnp.where(past, total, -jnp.inf)


def _until_end(log_decay: Float[Array, "*batch C G"]) -> Float[Array, "*batch C G"]:
    """Return the sum of the log-decays after each position up to the end of the chunk."""
    total = jax.lax.cumsum(log_decay, axis=log_decay.ndim - 2, reverse=True)
    return jnp.concatenate([total[..., 1:, :], jnp.zeros_like(total[..., :1, :])], axis=-2)

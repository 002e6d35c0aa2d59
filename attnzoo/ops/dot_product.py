"""Scaled dot-product attention: the reference that every faster implementation is held to.

a = softmax(cap(q k^T / sqrt(H)) + bias),  o = a v        Vaswani et al. 2017, equation 1
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.ops.guards import finite_or_zero, has_non_finite, poison, sees
from attnzoo.ops.logits import (
    ScoreFunction,
    Scoring,
    non_finite_rows,
    of_query_heads,
    scoring,
)
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.weights import WeightRequest, report, row_blocks, unblock

IMPLEMENTATIONS = ("reference",)


def dot_product_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    mask: Bool[Array, "..."] | MaskFunction | None = None,
    bias: Float[Array, "..."] | None = None,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    implementation: str | None = None,
    return_weights: bool | WeightRequest = False,
    return_lse: bool = False,
    *,
    score_mod: ScoreFunction | None = None,
    sinks: Float[Array, " N"] | None = None,
    softcap: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Any:
    """Softmax attention of Vaswani et al. 2017 (arXiv 1706.03762), equation 1.

    Grouped-query: N must be a multiple of K, and query head n reads key head n // (N // K).
    Logits, softmax and the value product run in float32 (or wider); the result has q's dtype.

    Args:
      mask: bool, True = may attend, broadcastable to ``B N T S``; or a mask function of
        ``attnzoo.ops.masks``, which costs no memory. Padding is ``valid[:, None, None, :]``.
      bias: added to the logits, broadcastable to ``B N T S``. -inf gives weight 0.
      scale: factor on q . k, 1/sqrt(H) if None.
      is_causal: query i sees keys j <= i + S - T: the last query is aligned with the last key.
      implementation: None chooses; a name forces it. Only "reference" exists so far.
      return_weights: also return the weights ``B N T S``, float32, as they are before dropout; or
        a ``WeightRequest``: rows, heads, top-k or statistics, in memory for what is asked only.
      return_lse: also return the log-sum-exp of each row's logits, ``B N T``, float32.
      score_mod: ``score_mod(logits, b, n, q, k)``, applied after bias and before the mask.
      sinks: one logit per head that joins the softmax without a value: a row's weights then sum
        to less than 1, and the lse includes it.
      softcap: logits become c tanh(logits / c), before bias and mask (Gemma 2).
      dropout_rate, dropout_key: drop weights with this probability; a rate above 0 needs the key.

    Returns:
      ``out`` (``B T N Hv``), or the tuple ``(out, weights, lse)`` without those not asked for.

    A row that may attend nowhere has zero weights, zero output, zero gradients and an lse of -inf
    (with sinks: the sink). NaN or inf in a key or value makes exactly the rows NaN that may attend
    to it, and reaches no other row and no gradient.

    Raises:
      ValueError: shapes, dtypes, rates or names that do not fit, by argument.
    """
    check_shapes(q, k, v)
    check_dropout(dropout_rate, dropout_key)
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(
            f"implementation={implementation!r} does not exist; "
            f"wanted None or one of {', '.join(IMPLEMENTATIONS)}"
        )
    settings = scoring(
        (q.shape[0], q.shape[2], q.shape[1], k.shape[1]),
        mask=mask,
        bias=bias,
        scale=scale,
        softcap=softcap,
        score_mod=score_mod,
        sinks=sinks,
        is_causal=is_causal,
    )
    key = dropout_key if dropout_rate > 0 else None
    if isinstance(return_weights, WeightRequest):
        out, lse = attend_in_blocks(q, k, v, settings, dropout_rate, key)
        seen: Any = report(q, k, settings, return_weights)
    else:
        out, seen, lse = attend(q, k, v, settings, dropout_rate, key)
    results = (out, *([seen] if return_weights else []), *([lse] if return_lse else []))
    return results if len(results) > 1 else out


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    rows: Int[Array, " R"] | None = None,
) -> tuple[Float[Array, "B R N Hv"], Float[Array, "B N R S"], Float[Array, "B N R"]]:
    """Output, weights and lse of the chosen query rows (None: all), with ``R x S`` weights."""
    B, T, N, _ = q.shape
    S, K, Hv = v.shape[1:]
    logits, visible = settings.logits(q, k, rows)
    weights, lse = settings.normalise(logits, visible)
    rows = jnp.arange(T, dtype=jnp.int32) if rows is None else rows

    kept = weights
    if dropout_key is not None:
        # One key per row: whoever computes a row, alone or among others, drops the same weights.
        keys = jax.vmap(lambda row: jax.random.fold_in(dropout_key, row))(rows)
        draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - dropout_rate, (B, N, S)))
        keep = jnp.moveaxis(draw(keys), 0, 2)
        kept = jnp.where(keep, weights / (1 - dropout_rate), jnp.zeros_like(weights))
    grouped = kept.reshape(B, K, N // K, rows.shape[0], S)
    out = jnp.einsum("bkgts,bskh->btkgh", grouped, finite_or_zero(v).astype(kept.dtype))
    out = out.reshape(B, rows.shape[0], N, Hv)

    row = non_finite_rows(q, k, visible, rows)
    weights, lse = poison(weights, row[..., None]), poison(lse, row)
    row = row | sees(of_query_heads(has_non_finite(v), N), visible)
    row = jnp.broadcast_to(row, (B, N, rows.shape[0]))
    return poison(out, jnp.moveaxis(row, 1, 2)[..., None]).astype(q.dtype), weights, lse


def attend_in_blocks(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float,
    dropout_key: Key[Array, ""] | None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """The same rows as :func:`attend`, a block at a time: never ``T x S`` weights in memory."""
    T = q.shape[1]

    @jax.checkpoint  # or the backward pass would keep every block's weights
    def block(rows: Int[Array, " R"]) -> tuple[Array, Array]:
        out, _, lse = attend(q, k, v, settings, dropout_rate, dropout_key, rows)
        return out, lse

    outs, lses = jax.lax.map(block, row_blocks(T))
    return unblock(outs, 1, T), unblock(lses, 2, T)


def check_shapes(q: Array, k: Array, v: Array) -> None:
    """Raise ValueError unless q, k, v are ``B T N H``, ``B S K H``, ``B S K Hv``."""
    for name, x, wanted in (("q", q, "B T N H"), ("k", k, "B S K H"), ("v", v, "B S K Hv")):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {x.shape}; wanted four axes {wanted}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {x.dtype}; wanted floating point")
    B, _, N, H = q.shape
    _, S, K, _ = k.shape
    if k.shape[0] != B or k.shape[3] != H:
        raise ValueError(f"k has shape {k.shape}; wanted B S K H with B={B} and H={H} as in q")
    if v.shape[:3] != (B, S, K):
        raise ValueError(f"v has shape {v.shape}; wanted B S K Hv with {(B, S, K)} as in k")
    if K == 0 or N % K != 0:
        raise ValueError(f"num_heads={N} of q is not a multiple of num_kv_heads={K} of k and v")


def check_dropout(rate: float, key: Key[Array, ""] | None) -> None:
    """Raise ValueError unless the rate is a probability below 1 and has the key it needs."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout_rate={rate}; wanted 0 <= dropout_rate < 1")
    if rate > 0 and key is None:
        raise ValueError(f"dropout_rate={rate} needs dropout_key, a jax.random.key")

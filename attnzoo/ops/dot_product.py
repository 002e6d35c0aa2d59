"""Scaled dot-product attention: one call, computed by whichever implementation fits it.

a = softmax(cap(q k^T / sqrt(H)) + bias),  o = a v        Vaswani et al. 2017, equation 1
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from attnzoo.ops.choice import Call, Choice, choose, compute
from attnzoo.ops.logits import ScoreFunction, scoring
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.weights import WeightRequest


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
        ``attnzoo.ops.masks``, which costs no memory, or a ``BlockMask`` of one. Padding is
        ``valid[:, None, None, :]``.
      bias: added to the logits, broadcastable to ``B N T S``. -inf gives weight 0.
      scale: factor on q . k, 1/sqrt(H) if None.
      is_causal: query i sees keys j <= i + S - T: the last query is aligned with the last key.
      implementation: None chooses; a name forces it: "reference", "blockwise", "xla", "cudnn".
        ``explain_choice`` says which, and why not another.
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
      NotImplementedError: the implementation that is forced cannot take an argument, or is not
        built yet; the message names the argument and an implementation that would take it.
    """
    call = _checked(
        q,
        k,
        v,
        mask=mask,
        bias=bias,
        scale=scale,
        is_causal=is_causal,
        return_weights=return_weights,
        return_lse=return_lse,
        score_mod=score_mod,
        sinks=sinks,
        softcap=softcap,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )
    out, seen, lse = compute(call, implementation)
    results = (out, *([seen] if return_weights else []), *([lse] if return_lse else []))
    return results if len(results) > 1 else out


def explain_choice(
    q: Float[Array, "B T N H"] | Float[jax.ShapeDtypeStruct, "B T N H"],
    k: Float[Array, "B S K H"] | Float[jax.ShapeDtypeStruct, "B S K H"],
    v: Float[Array, "B S K Hv"] | Float[jax.ShapeDtypeStruct, "B S K Hv"],
    *,
    implementation: str | None = None,
    mask_mod: MaskFunction | None = None,
    block_mask: MaskFunction | None = None,
    **arguments: Any,
) -> Choice:
    """Which implementation a call would get, and why each other was refused: ``print`` it.

    Takes the arguments of ``dot_product_attention`` and of ``flex_attention`` and computes nothing;
    q, k, v may be ``jax.ShapeDtypeStruct``.
    """
    for mask in (mask_mod, block_mask):
        if mask is not None:
            arguments["mask"] = mask
    return choose(_checked(q, k, v, **arguments), implementation)


def _checked(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Bool[Array, "..."] | MaskFunction | None = None,
    bias: Float[Array, "..."] | None = None,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    return_weights: bool | WeightRequest = False,
    return_lse: bool = False,
    score_mod: ScoreFunction | None = None,
    sinks: Float[Array, " N"] | None = None,
    softcap: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Call:
    check_shapes(q, k, v)
    check_dropout(dropout_rate, dropout_key)
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
    return Call(q, k, v, settings, dropout_rate, key, return_weights, return_lse)


def check_shapes(q: Any, k: Any, v: Any) -> None:
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

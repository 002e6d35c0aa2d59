"""Scaled dot-product attention, computed by the implementation that fits the call.

a = softmax(cap(q k^T / sqrt(H)) + bias),  o = a v        Vaswani et al. 2017, equation 1
"""

from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Key

from attnzoo.ops.checks import check_dropout, check_shapes
from attnzoo.ops.choice import Call, Choice, choose
from attnzoo.ops.logits import ScoreFunction, scoring
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.sharded import compute
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
    """Compute softmax attention (Vaswani et al. 2017, arXiv 1706.03762, equation 1).

    Grouped-query: N must be a multiple of K, and query head n reads key head n // (N // K).
    Logits, softmax and the value product run in float32 (or wider); the result has q's dtype.

    Args:
      mask: bool, True = may attend, broadcastable to ``B N T S``; or a mask function of
        ``attnzoo.ops.masks``, which costs no memory; or a ``BlockMask``. A padding mask is
        ``valid[:, None, None, :]``.
      bias: added to the logits, broadcastable to ``B N T S``. -inf gives weight 0.
      scale: factor on q . k, 1/sqrt(H) if None.
      is_causal: query i sees keys j <= i + S - T: the last query is aligned with the last key.
      implementation: None chooses; a name of ``attnzoo.ops.choice.IMPLEMENTATIONS`` forces it, such
        as "reference" or "blockwise". ``explain_choice`` shows the choice with its reasons.
      return_weights: True also returns the weights ``B N T S``, float32, before dropout. A
        ``WeightRequest`` returns a ``WeightReport`` of rows, heads, top-k or statistics, and takes
        memory only for these.
      return_lse: also return the log-sum-exp of each row's logits, ``B N T``, float32.
      score_mod: ``score_mod(logits, b, n, q, k)``, applied after bias and before the mask.
      sinks: one extra logit per head in the softmax, without a value: a row's weights then sum to
        less than 1, and the lse includes the sink.
      softcap: logits become c tanh(logits / c), before bias and mask (Gemma 2).
      dropout_rate, dropout_key: probability of dropping a weight; a rate above 0 needs the key.

    Returns:
      ``out`` (``B T N Hv``), or a tuple of ``out`` and the requested ones of ``weights``, ``lse``.

    A row that may attend nowhere has zero weights, zero output, zero gradients and an lse of -inf
    (with sinks: the sink). NaN or inf in a key or value makes exactly those rows NaN that may
    attend to it, and reaches no other row and no gradient.

    Raises:
      ValueError: a shape, dtype, rate or name does not fit; the message names the argument.
      NotImplementedError: the forced implementation cannot take an argument; the message names the
        argument and an implementation that can take the call.
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
    """Return the implementation that a call would use, and why each other is not used.

    ``print`` shows the result as a table. Takes the arguments of ``dot_product_attention`` and of
    ``flex_attention`` and computes nothing; q, k, v may be ``jax.ShapeDtypeStruct``.
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

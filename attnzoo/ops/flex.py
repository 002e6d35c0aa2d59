"""Attention with a score modifier and a mask, both given as functions of indices."""

from typing import Any

from jaxtyping import Array, Float, Key

from attnzoo.ops.block_mask import BlockMask
from attnzoo.ops.dot_product import dot_product_attention
from attnzoo.ops.logits import ScoreFunction
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.weights import WeightRequest


def flex_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    score_mod: ScoreFunction | None = None,
    mask_mod: MaskFunction | None = None,
    block_mask: BlockMask | None = None,
    *,
    scale: float | Float[Array, ""] | None = None,
    implementation: str | None = None,
    return_weights: bool | WeightRequest = False,
    return_lse: bool = False,
    sinks: Float[Array, " N"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Any:
    """Compute attention with a score modifier and a mask given as functions of indices.

    out = softmax(score_mod(scale q k^T, b, n, i, j) + mask) v    Dong et al. 2024, arXiv 2412.05496

    ``score_mod(score, b, n, q, k)`` changes logits after scaling and before masking.
    ``mask_mod(b, n, q, k)`` is True where query q may attend to key k. Both get absolute indices,
    counted from 0 in the arrays given, as arrays that broadcast; ``mask.offset`` shifts the
    queries. ``attnzoo.ops.score_mods`` and ``attnzoo.ops.masks`` have ready ones. Gradients flow to
    the arrays that they capture.

    ``block_mask``, made by ``BlockMask.from_mask(mask_mod, B, N, T, S)``, replaces ``mask_mod`` and
    knows its empty and full tiles. Make it once if the mask serves many calls. Without it the tiles
    are classified in every call (under jit once per compilation, unless the mask is traced).

    Results, other arguments (also ``sinks``, ``dropout_rate`` and ``dropout_key``) and errors are
    those of ``dot_product_attention``.
    """
    for name, function in (("score_mod", score_mod), ("mask_mod", mask_mod)):
        if function is not None and not callable(function):
            raise ValueError(
                f"{name} is a {type(function).__name__}; wanted a function of indices "
                "(masks.from_array and score_mods.dense_bias make one of an array)"
            )
    if block_mask is not None and not isinstance(block_mask, BlockMask):
        raise ValueError(
            f"block_mask is a {type(block_mask).__name__}; wanted BlockMask.from_mask(...)"
        )
    if mask_mod is not None and block_mask is not None:
        raise ValueError(
            "mask_mod and block_mask are both given; a block mask has its own mask_mod"
        )
    return dot_product_attention(
        q,
        k,
        v,
        mask=mask_mod if block_mask is None else block_mask,
        score_mod=score_mod,
        scale=scale,
        implementation=implementation,
        return_weights=return_weights,
        return_lse=return_lse,
        sinks=sinks,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )

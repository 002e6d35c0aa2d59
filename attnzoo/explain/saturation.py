"""Saturation of gradients: the answer as tokens at an attention's input are scaled or averaged.

CDAM of a token is the slope of its curve in :func:`scaled` at 1. If the curve is flat there, as in
a model that is certain, sign and size of the slope mean little, even if the answer needs the token.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.explain.attention_modules import before_attention
from attnzoo.explain.target import Target, chosen


def scaled(
    model: nnx.Module,
    target: Target,
    *inputs: Any,
    tokens: Int[Array, " B"],
    factors: Sequence[float],
    layer: str | None = None,
    **keywords: Any,
) -> Float[Array, "B K"]:
    """Return the target's value with one token of each example multiplied by each of ``factors``.

    Tokens are those at the input of the attention ``layer`` (``cdam``'s X; None: the last).
    """
    x, tail = before_attention(model, layer, *inputs, **keywords)
    here = jnp.arange(x.shape[1])[None] == tokens[:, None]
    values = [
        chosen(tail(jnp.where(here[:, :, None], factor * x, x)), target) for factor in factors
    ]
    return jnp.stack(values, axis=1)


def averaged(
    model: nnx.Module, *inputs: Any, skip: int = 0, layer: str | None = None, **keywords: Any
) -> Any:
    """Return the output with the batch mean at every token that the attention ``layer`` reads.

    The first ``skip`` tokens keep their values. An answer that does not change does not depend on
    this layer.
    """
    x, tail = before_attention(model, layer, *inputs, **keywords)
    mean = jnp.broadcast_to(jnp.mean(x, axis=0, keepdims=True), x.shape)
    return tail(jnp.concatenate([x[:, :skip], mean[:, skip:]], axis=1))

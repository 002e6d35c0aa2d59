"""Has a gradient anything to say? What the answer does when tokens before an attention are changed.

CDAM of a token is the slope of its curve in :func:`scaled` at 1. Where the curve is flat there, as
in a model that is sure, its sign and size are an accident, however much the answer needs the token.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.explain.places import before_attention
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
    """The target's value when one token of each example is multiplied by each of ``factors``.

    Tokens are those that the attention ``layer`` reads (``cdam``'s X; None: the last).
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
    """The output when the attention ``layer`` reads at every token, but the first ``skip``, the
    batch's mean there. Answers that stay do not come through this layer.
    """
    x, tail = before_attention(model, layer, *inputs, **keywords)
    mean = jnp.broadcast_to(jnp.mean(x, axis=0, keepdims=True), x.shape)
    return tail(jnp.concatenate([x[:, :skip], mean[:, skip:]], axis=1))

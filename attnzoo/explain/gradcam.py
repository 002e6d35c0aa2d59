"""GradCAM for token models, after Selvaraju et al., ICCV 2017 (arXiv 1610.02391)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float

from attnzoo.explain.places import before_attention
from attnzoo.explain.target import Target, chosen


def gradcam(
    model: nnx.Module,
    target: Target,
    *inputs: Any,
    skip: int = 0,
    layer: str | None = None,
    **keywords: Any,
) -> Float[Array, "B T"]:
    """relu(sum_e w_e X_te) with w_e the mean over tokens of df/dX_te; 0 at the first ``skip``.

    X is what the last attention reads (behind its norm). Behind the last attention a model that
    reads a class token has a gradient of exactly 0 at all others, so nothing later would do.

    Args:
      skip: tokens that are no patches (``ViT.config.prefix``); they do not join the mean.
      layer: the attention in front of which X is taken, "encoder/3/self"; None: the last.

    Raises:
      ValueError: the gradient is exactly 0 at all these tokens (not under jit, which cannot look).
    """
    x, tail = before_attention(model, layer, *inputs, **keywords)
    gradient = jax.grad(lambda x: jnp.sum(chosen(tail(x), target)))(x)[:, skip:]
    if not isinstance(gradient, Tracer) and not bool(jnp.any(gradient != 0)):
        raise ValueError(
            "the gradient is exactly 0 at every token: the target does not depend on them through "
            "this attention (a head that still has its first weights, 0, or a layer of which "
            "nothing is read later); train the model, or take another layer"
        )
    channels = jnp.mean(gradient, axis=1)
    scores = jnp.maximum(jnp.einsum("btd,bd->bt", x[:, skip:], channels), 0)
    return jnp.pad(scores, ((0, 0), (skip, 0)))


def attention_gradcam(
    weights: Float[Array, "B N T S"], gradients: Float[Array, "B N T S"], row: int = 0
) -> Float[Array, "B S"]:
    """GradCAM on the weights of one layer: relu(mean over heads of g_n A_n[row]), g_n the mean of
    the row's gradient (the baseline of Chefer et al. 2021, arXiv 2012.09838).
    """
    by_head = jnp.mean(gradients[:, :, row], axis=-1, keepdims=True)
    return jnp.maximum(jnp.mean(by_head * weights[:, :, row], axis=1), 0)

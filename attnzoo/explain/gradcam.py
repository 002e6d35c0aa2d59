"""GradCAM for token models, after Selvaraju et al., ICCV 2017 (arXiv 1610.02391)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from attnzoo.explain.attention_modules import before_attention
from attnzoo.explain.target import Target, chosen


def gradcam(
    model: nnx.Module,
    target: Target,
    *inputs: Any,
    skip: int = 0,
    real: Bool[Array, "B T"] | None = None,
    layer: str | None = None,
    **keywords: Any,
) -> Float[Array, "B T"]:
    """Return relu(sum_e w_e X_te) with w_e the mean over tokens of df/dX_te.

    X is the input of the last attention, after its norm. After the last attention a model that
    reads only a class token has gradient 0 at all other tokens, so no later X would work.

    Args:
      skip: number of tokens before the patches (``ViT.config.prefix``), which are left out of the
        mean and score 0.
      real: False at padding, which is also left out; None: no padding.
      layer: attention whose input is X, "encoder/3/self"; None: the last.

    Raises:
      ValueError: the gradient is exactly 0 at all these tokens (not detected under jit).
    """
    x, tail = before_attention(model, layer, *inputs, **keywords)
    counted = _counted(x.shape[0], x.shape[1], skip, real)
    gradient = jax.grad(lambda x: jnp.sum(chosen(tail(x), target)))(x)
    gradient = jnp.where(counted[..., None], gradient, 0)
    if not isinstance(gradient, Tracer) and not bool(jnp.any(gradient != 0)):
        raise ValueError(
            "the gradient is exactly 0 at every token: the target does not depend on them through "
            "this attention (a head that still has its first weights, 0, or a layer of which "
            "nothing is read later); train the model, or take another layer"
        )
    channels = jnp.sum(gradient, axis=1) / _count(counted, x.dtype)
    scores = jnp.maximum(jnp.einsum("btd,bd->bt", x, channels), 0)
    return jnp.where(counted, scores, 0)


def attention_gradcam(
    weights: Float[Array, "B N T S"],
    gradients: Float[Array, "B N T S"],
    row: int = 0,
    *,
    skip: int = 1,
    real: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B S"]:
    """Return GradCAM on the weights of one row: relu(mean over heads of g_n A_n[row]).

    g_n is the mean of the row's gradient. This is the baseline "GradCAM" of Chefer et al., CVPR
    2021 (arXiv 2012.09838). Their code takes row 0, leaves the class token's column out of the mean
    and of the scores, and scales the scores to 0 .. 1, which is not done here.

    Args:
      skip: number of columns before the patches (``ViT.config.prefix``), which are left out of the
        mean and score 0.
      real: False at padding, which is also left out; None: no padding.
    """
    B, _, _, S = weights.shape
    counted = _counted(B, S, skip, real)
    gradient = jnp.where(counted[:, None], gradients[:, :, row], 0)
    by_head = jnp.sum(gradient, axis=-1) / _count(counted, gradient.dtype)
    scores = jnp.mean(by_head[..., None] * weights[:, :, row], axis=1)
    return jnp.where(counted, jnp.maximum(scores, 0), 0)


def _counted(B: int, T: int, skip: int, real: Bool[Array, "B T"] | None) -> Bool[Array, "B T"]:
    behind = jnp.broadcast_to(jnp.arange(T) >= skip, (B, T))
    return behind if real is None else behind & real


def _count(counted: Bool[Array, "B T"], dtype: Any) -> Float[Array, "B 1"]:
    return jnp.maximum(jnp.sum(counted, axis=1, keepdims=True), 1).astype(dtype)

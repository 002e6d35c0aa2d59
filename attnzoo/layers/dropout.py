"""Dropout of features and of whole residual branches, with an explicit random key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from attnzoo.ops.checks import check_dropout


def dropout(
    x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "*shape"]:
    """Zero elements with probability ``rate`` and rescale (Srivastava et al. 2014), given a key."""
    if key is None or rate == 0.0:
        return x
    check_dropout(rate, key)
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros_like(x))


def drop_path(
    x: Float[Array, "B *rest"], rate: float | Float[Array, ""], key: Key[Array, ""] | None
) -> Float[Array, "B *rest"]:
    """Drop the branch of whole examples: stochastic depth (Huang et al. 2016, arXiv 1603.09382).

    ``rate`` may be traced, so that it can grow with depth under a scan over layers.
    """
    if key is None:
        return x
    rate = jnp.asarray(rate, jnp.float32)
    kept = jax.random.uniform(key, (x.shape[0],) + (1,) * (x.ndim - 1)) >= rate
    return jnp.where(kept, x / (1 - rate).astype(x.dtype), jnp.zeros_like(x))

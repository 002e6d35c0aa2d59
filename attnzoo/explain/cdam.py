"""Class-discriminative attention maps, Brocki, Binda and Chung 2023 (arXiv 2312.02364).

Raw attention does not depend on the head's weights, so it is the same for all classes; the gradient
of a class's logit does. Scores are of the tokens at the input of the last attention, after its
norm.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnzoo.explain.attention_modules import before_attention
from attnzoo.explain.target import Target, chosen

Scores = Float[Array, "B T"]


def cdam(
    model: nnx.Module, target: Target, *inputs: Any, layer: str | None = None, **keywords: Any
) -> Scores:
    """Return sum_e X_te df/dX_te, signed; 0 for a token that gets no attention.

    X is the input of the attention ``layer`` ("encoder/3/self"; None: the last). A target that is a
    similarity to a concept vector gives the paper's concept maps.
    """
    x, gradient = _at(model, target, layer, inputs, keywords)
    return jnp.sum(x * gradient(x), axis=-1)


def smooth_cdam(
    model: nnx.Module,
    target: Target,
    *inputs: Any,
    key: Key[Array, ""],
    num_samples: int = 50,
    spread: float = 0.05,
    real: Bool[Array, "B T"] | None = None,
    layer: str | None = None,
    **keywords: Any,
) -> Scores:
    """Return the mean of CDAM over ``num_samples`` noisy X.

    The noise has ``spread`` times the range of each example's X as its standard deviation. It is
    added at ``real`` tokens only (None: all), and is the same draw for all examples, so that they
    do not depend on each other.
    """
    x, gradient = _at(model, target, layer, inputs, keywords)

    def one(key: Key[Array, ""]) -> Scores:
        noisy = x + _noise(x, spread, key, real)
        return jnp.sum(noisy * gradient(noisy), axis=-1)

    return jnp.mean(jax.lax.map(one, jax.random.split(key, num_samples)), axis=0)


def integrated_cdam(
    model: nnx.Module,
    target: Target,
    *inputs: Any,
    steps: int = 50,
    spread: float = 0.0,
    key: Key[Array, ""] | None = None,
    real: Bool[Array, "B T"] | None = None,
    layer: str | None = None,
    **keywords: Any,
) -> Scores:
    """Return the mean of CDAM over X scaled by 0, 1/steps, ..., 1.

    If ``spread`` is above 0, noise is added as in ``smooth_cdam``; this needs ``key``.
    """
    if spread > 0 and key is None:
        raise ValueError(f"spread={spread} needs key, a jax.random.key")
    x, gradient = _at(model, target, layer, inputs, keywords)

    def one(i: Array) -> Scores:
        scaled = x * (i.astype(x.dtype) / steps)
        if key is not None:
            scaled = scaled + _noise(x, spread, jax.random.fold_in(key, i), real)
        return jnp.sum(scaled * gradient(scaled), axis=-1)

    return jnp.mean(jax.lax.map(one, jnp.arange(steps + 1)), axis=0)


def _at(
    model: nnx.Module, target: Target, layer: str | None, inputs: Any, keywords: Any
) -> tuple[Float[Array, "B T D"], Callable[[Array], Float[Array, "B T D"]]]:
    """Return X, and a function from X to the gradient of the target."""
    x, tail = before_attention(model, layer, *inputs, **keywords)
    return x, jax.grad(lambda x: jnp.sum(chosen(tail(x), target)))


def _noise(
    x: Float[Array, "B T D"], spread: float, key: Key[Array, ""], real: Bool[Array, "B T"] | None
) -> Float[Array, "B T D"]:
    where = None if real is None else jnp.broadcast_to(real[..., None], x.shape)
    high = jnp.max(x, axis=(1, 2), keepdims=True, initial=-jnp.inf, where=where)
    low = jnp.min(x, axis=(1, 2), keepdims=True, initial=jnp.inf, where=where)
    return spread * (high - low) * jax.random.normal(key, x.shape[1:], x.dtype)[None]

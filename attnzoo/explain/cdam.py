"""Class-discriminative attention maps, Brocki, Binda and Chung 2023 (arXiv 2312.02364).

Raw attention does not know the head's weights, so it is alike for all classes; the gradient of a
class's logit does. Scores are of the tokens that the last attention reads, behind its norm.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnzoo.explain.places import before_attention
from attnzoo.explain.target import Target, chosen

Scores = Float[Array, "B T"]


def cdam(
    model: nnx.Module, target: Target, *inputs: Any, layer: str | None = None, **keywords: Any
) -> Scores:
    """sum_e X_te df/dX_te, signed: 0 for a token to which no token that is read attends.

    ``layer`` ("encoder/3/self"; None: the last) is the attention whose input X is. A target that is
    a similarity to a concept vector gives the paper's concept maps.
    """
    x, gradient = _at(model, target, layer, inputs, keywords)
    return jnp.sum(x * gradient(x), axis=-1)


def smooth_cdam(
    model: nnx.Module,
    target: Target,
    *inputs: Any,
    key: Key[Array, ""],
    draws: int = 50,
    spread: float = 0.05,
    real: Bool[Array, "B T"] | None = None,
    layer: str | None = None,
    **keywords: Any,
) -> Scores:
    """Return the mean of CDAM over ``draws`` noisy X.

    The noise deviates by ``spread`` of each example's range of X, at ``real`` tokens alone (None:
    all are), and is the same draw for all examples: none depends on the others of its batch.
    """
    x, gradient = _at(model, target, layer, inputs, keywords)

    def one(key: Key[Array, ""]) -> Scores:
        noisy = x + _noise(x, spread, key, real)
        return jnp.sum(noisy * gradient(noisy), axis=-1)

    return jnp.mean(jax.lax.map(one, jax.random.split(key, draws)), axis=0)


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

    With noise as in ``smooth_cdam`` if ``spread`` is above 0, which needs ``key``.
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
    """X, and the gradient of the target at any X."""
    x, tail = before_attention(model, layer, *inputs, **keywords)
    return x, jax.grad(lambda x: jnp.sum(chosen(tail(x), target)))


def _noise(
    x: Float[Array, "B T D"], spread: float, key: Key[Array, ""], real: Bool[Array, "B T"] | None
) -> Float[Array, "B T D"]:
    where = None if real is None else jnp.broadcast_to(real[..., None], x.shape)
    high = jnp.max(x, axis=(1, 2), keepdims=True, initial=-jnp.inf, where=where)
    low = jnp.min(x, axis=(1, 2), keepdims=True, initial=jnp.inf, where=where)
    return spread * (high - low) * jax.random.normal(key, x.shape[1:], x.dtype)[None]

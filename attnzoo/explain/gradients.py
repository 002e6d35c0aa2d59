"""Attribution by gradients of the input, as baselines that do not use attention.

The input is anything with a gradient: images, or the embeddings of tokens. ``f(x)`` is one number
per example, such as ``lambda x: chosen(model(x), target)``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Function = Callable[[Array], Float[Array, " B"]]


def gradient(f: Function, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Return the gradient df/dx."""
    return jax.grad(lambda x: jnp.sum(f(x)))(x)


def gradient_times_input(f: Function, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Return the input times the gradient, x df/dx (Shrikumar et al. 2016, arXiv 1605.01713)."""
    return x * gradient(f, x)


def integrated_gradients(
    f: Function,
    x: Float[Array, "B ..."],
    *,
    baseline: Float[Array, "B ..."] | None = None,
    steps: int = 50,
) -> Float[Array, "B ..."]:
    """Return (x - x') times the mean gradient on the line from x' to x; it sums to f(x) - f(x').

    Sundararajan et al., ICML 2017 (arXiv 1703.01365), equation 1, at the midpoints of ``steps``
    equal parts. The baseline x' is 0 if None.
    """
    start = jnp.zeros_like(x) if baseline is None else baseline

    def at(i: Array) -> Array:
        share = (i.astype(x.dtype) + 0.5) / steps
        return gradient(f, start + share * (x - start))

    return (x - start) * jnp.mean(jax.lax.map(at, jnp.arange(steps)), axis=0)


def smooth_grad(
    f: Function,
    x: Float[Array, "B ..."],
    *,
    key: Key[Array, ""],
    num_samples: int = 50,
    spread: float = 0.15,
) -> Float[Array, "B ..."]:
    """Return the mean gradient at noisy inputs (Smilkov et al. 2017, arXiv 1706.03825).

    The noise has ``spread`` times the range of each example's values as its standard deviation. It
    is the same draw for all examples, so that they do not depend on each other.
    """
    axes = tuple(range(1, x.ndim))
    reach = jnp.max(x, axis=axes, keepdims=True) - jnp.min(x, axis=axes, keepdims=True)

    def one(key: Key[Array, ""]) -> Array:
        return gradient(f, x + spread * reach * jax.random.normal(key, x.shape[1:], x.dtype)[None])

    return jnp.mean(jax.lax.map(one, jax.random.split(key, num_samples)), axis=0)


def by_patch(values: Float[Array, "B h w C"], patch: int) -> Float[Array, "B P"]:
    """Sum over each patch's pixels and channels; patches run left to right, then down."""
    B, h, w, C = values.shape
    if h % patch or w % patch:
        raise ValueError(f"values of {h} x {w} pixels do not divide into patches of patch={patch}")
    cut = values.reshape(B, h // patch, patch, w // patch, patch, C)
    return jnp.sum(cut, axis=(2, 4, 5)).reshape(B, -1)

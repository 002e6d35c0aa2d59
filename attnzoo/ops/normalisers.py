"""Alternatives to softmax: sparse ones, exact by sorting with exact derivatives, and a smooth one.

All are called like ``masked_softmax``, ``normalise(logits, mask=None, axis=-1)``, and follow the
same rules: at least float32, masked entries exactly 0, a row without a permitted entry all 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.ops.softmax import compute_dtype, masked_softmax

Normalise = Callable[..., Float[Array, "..."]]
"""``normalise(logits, mask)`` returns weights over the last axis, like ``masked_softmax``."""


def sparsemax(
    logits: Float[Array, "..."], mask: Bool[Array, "..."] | None = None, axis: int = -1
) -> Float[Array, "..."]:
    """Compute sparsemax, the point of the simplex nearest to the logits: max(z - tau, 0).

    Martins and Astudillo 2016 (arXiv 1602.02068), algorithm 1; derivative from their equation 9.
    Entries more than 1 below the largest are exactly 0.
    """
    return _on_last_axis(_sparsemax, logits, mask, axis)


def entmax15(
    logits: Float[Array, "..."], mask: Bool[Array, "..."] | None = None, axis: int = -1
) -> Float[Array, "..."]:
    """Compute 1.5-entmax, between softmax and sparsemax: max(z / 2 - tau, 0)^2.

    Peters, Niculae and Martins 2019 (arXiv 1905.05702), algorithm 2; derivative from their
    proposition 2. Entries more than 2 below the largest are exactly 0.
    """
    return _on_last_axis(_entmax15, logits, mask, axis)


def smoothing(
    logits: Float[Array, "..."], mask: Bool[Array, "..."] | None = None, axis: int = -1
) -> Float[Array, "..."]:
    """Compute softmax with the sigmoid in the place of exp: sigmoid(e) / sum of sigmoid(e).

    Chorowski et al. 2015 (arXiv 1506.07503), section 2.3: several keys may have large weights.
    """
    return masked_softmax(jax.nn.log_sigmoid(logits), mask, axis)


def _on_last_axis(
    function: Normalise, logits: Array, mask: Bool[Array, "..."] | None, axis: int
) -> Array:
    logits = logits.astype(compute_dtype(logits))
    if 0 in logits.shape:
        return logits
    mask = jnp.ones_like(logits, bool) if mask is None else jnp.broadcast_to(mask, logits.shape)
    hidden = jnp.where(mask, logits, -jnp.inf)
    weights = jnp.moveaxis(function(jnp.moveaxis(hidden, axis, -1)), -1, axis)
    return jnp.where(mask, weights, jnp.zeros_like(weights))


def _from_maximum(z: Float[Array, "*rows S"]) -> Float[Array, "*rows S"]:
    """Subtract the row maximum from the logits, and clip them at -2.

    Clipping makes masked entries finite. It does not change the solution, in which entries at or
    below -1 have no weight.
    """
    maximum = jnp.max(z, axis=-1, keepdims=True)
    maximum = jnp.where(jnp.isneginf(maximum), jnp.zeros_like(maximum), maximum)
    return jnp.maximum(z - maximum, -2.0)


def _sorted(z: Float[Array, "*rows S"]) -> tuple[Float[Array, "*rows S"], Float[Array, "..."]]:
    """Return the entries in descending order, and the number of entries up to each."""
    count = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    return -jnp.sort(-z, axis=-1), count.reshape((1,) * (z.ndim - 1) + (-1,))


@jax.custom_jvp
def _sparsemax(z: Float[Array, "*rows S"]) -> Float[Array, "*rows S"]:
    z = _from_maximum(z)
    falling, count = _sorted(z)
    total = jnp.cumsum(falling, axis=-1)
    support = jnp.sum(1 + count * falling > total, axis=-1, keepdims=True)
    tau = (jnp.take_along_axis(total, support - 1, axis=-1) - 1) / support.astype(z.dtype)
    return jnp.maximum(z - tau, 0)


@_sparsemax.defjvp
def _sparsemax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights, tangent = _sparsemax(*primals), tangents[0]
    support = (weights > 0).astype(weights.dtype)
    mean = jnp.sum(support * tangent, axis=-1, keepdims=True)
    return weights, support * (tangent - mean / jnp.sum(support, axis=-1, keepdims=True))


@jax.custom_jvp
def _entmax15(z: Float[Array, "*rows S"]) -> Float[Array, "*rows S"]:
    z = _from_maximum(z / 2)
    falling, count = _sorted(z)
    mean = jnp.cumsum(falling, axis=-1) / count
    variance_sum = jnp.cumsum(falling**2, axis=-1) - count * mean**2
    tau = mean - jnp.sqrt(jnp.maximum((1 - variance_sum) / count, 0))
    support = jnp.sum(tau <= falling, axis=-1, keepdims=True)
    return jnp.maximum(z - jnp.take_along_axis(tau, support - 1, axis=-1), 0) ** 2


@_entmax15.defjvp
def _entmax15_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights, tangent = _entmax15(*primals), tangents[0]
    slope = jnp.sqrt(weights)
    mean = jnp.sum(slope * tangent, axis=-1, keepdims=True)
    return weights, slope * (tangent - mean / jnp.sum(slope, axis=-1, keepdims=True))


NORMALISERS: dict[str, Normalise] = {
    "softmax": masked_softmax,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
    "smoothing": smoothing,
}
"""Normalisers by their names in configs."""

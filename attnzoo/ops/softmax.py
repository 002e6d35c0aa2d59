"""Masked softmax and the weighted sum: the two steps every attention mechanism shares.

These rules hold for every mechanism of the zoo:

- the softmax runs in float32 (or wider, if the logits are);
- a row that may attend nowhere has zero weights, zero gradients and a log-sum-exp of -inf;
- NaN or inf in a masked key or value never reaches the output or a gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def compute_dtype(
    *arrays: Float[Array, "..."] | Float[jax.ShapeDtypeStruct, "..."],
) -> jnp.dtype:
    """Return the dtype of logits, softmax and states: float64 if any array has it, else float32.

    Not ``jnp.promote_types``, which raises for different dtypes under strict promotion.
    """
    wide = any(array.dtype == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def _at_least_float32(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    return logits.astype(compute_dtype(logits))


def _finite_maximum(logits: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Return the row maximum with -inf (nothing to attend to) replaced by 0, for subtraction."""
    maximum = jax.lax.stop_gradient(jnp.max(logits, axis=axis, keepdims=True, initial=-jnp.inf))
    return jnp.where(maximum == -jnp.inf, jnp.zeros_like(maximum), maximum)


def _hide(logits: Float[Array, "..."], mask: Bool[Array, "..."] | None) -> Float[Array, "..."]:
    return logits if mask is None else jnp.where(mask, logits, -jnp.inf)


def masked_softmax(
    logits: Float[Array, "..."], mask: Bool[Array, "..."] | None = None, axis: int = -1
) -> Float[Array, "..."]:
    """Compute the softmax over the entries of ``axis`` that ``mask`` permits (True = may attend).

    ``mask`` broadcasts to ``logits``. Masked entries are exactly 0, and so is every entry of a row
    without a permitted one. The result is at least float32.
    """
    logits = _hide(_at_least_float32(logits), mask)
    # exp(-inf) is an exact 0 with an exact 0 gradient: no second `where` is needed.
    unnormalised = jnp.exp(logits - _finite_maximum(logits, axis))
    total = jnp.sum(unnormalised, axis=axis, keepdims=True)
    return unnormalised / jnp.where(total == 0, jnp.ones_like(total), total)


def masked_logsumexp(
    logits: Float[Array, "..."], mask: Bool[Array, "..."] | None = None, axis: int = -1
) -> Float[Array, "..."]:
    """Compute the log-sum-exp over the permitted entries of ``axis``; -inf for an empty row."""
    logits = _hide(_at_least_float32(logits), mask)
    maximum = _finite_maximum(logits, axis)
    total = jnp.sum(jnp.exp(logits - maximum), axis=axis)
    some = total != 0  # a NaN total is not an empty row
    # The guarded argument keeps the gradient of an empty row at 0 instead of NaN.
    lse = jnp.log(jnp.where(some, total, jnp.ones_like(total))) + jnp.squeeze(maximum, axis)
    return jnp.where(some, lse, -jnp.inf)


def weighted_values(
    weights: Float[Array, "B N T S"], values: Float[Array, "B S Dv"]
) -> Float[Array, "B T Dv"]:
    """Return weighted sums of values that all heads share, averaged over the heads.

    The average over n of sum_s weights[b, n, t, s] values[b, s], in the dtype of ``values``.
    """
    heads = weights.shape[1]
    context = jnp.einsum("bnts,bsd->btd", weights.astype(values.dtype), values)
    return context if heads == 1 else context / heads


def zero_unattended(
    x: Float[Array, "B S D"], mask: Bool[Array, "#B #N #T #S"] | None
) -> Float[Array, "B S D"]:
    """Zero the keys or values that no query may attend to (padding).

    0 * NaN is NaN: the content of padding stays out of the output and of every gradient only if it
    is removed *before* the products.
    """
    if mask is None:
        return x
    attended = jnp.any(mask, axis=(1, 2))[:, :, None]  # B S 1
    return jnp.where(attended, x, jnp.zeros_like(x))

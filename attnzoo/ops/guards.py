"""Guards that keep NaN and inf out of results that may not attend to them.

0 * NaN is NaN, so a zero weight does not keep a masked key's NaN out of a matrix product, nor a
zero cotangent out of its gradient. Attention therefore computes on finite arrays only, and at the
end overwrites with NaN exactly those results that may see a non-finite entry.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def finite_or_zero(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Replace NaN and inf by 0; their gradient is 0."""
    return jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x))


def has_non_finite(x: Float[Array, "*shape H"]) -> Bool[Array, "*shape"]:
    """Return True where any entry of the last axis is NaN or inf."""
    return ~jnp.all(jnp.isfinite(x), axis=-1)


def any_visible(
    keys: Bool[Array, "B N S"], visible: Bool[Array, "#B #N #T #S"] | None
) -> Bool[Array, "#B #N #T"]:
    """Return True where a query may attend to a marked key; size 1 where this does not vary."""
    marked = keys[:, :, None, :]
    return jnp.any(marked if visible is None else marked & visible, axis=-1)


def poison(x: Float[Array, "*shape"], where: Bool[Array, "..."]) -> Float[Array, "*shape"]:
    """Replace ``x`` by NaN where ``where`` (which broadcasts) is True; no gradient passes there."""
    return jnp.where(where, jnp.full_like(x, jnp.nan), x)

"""Continuous Hopfield networks: Ramsauer et al. 2020 (arXiv 2008.02217)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.ops.guards import any_visible, finite_or_zero, has_non_finite, poison
from attnzoo.ops.softmax import compute_dtype, masked_logsumexp, masked_softmax


def hopfield_retrieve(
    state: Float[Array, "B T N H"],
    patterns: Float[Array, "B S N H"],
    *,
    beta: float,
    steps: int = 1,
    tolerance: float = 1e-4,
    mask: Bool[Array, "#B #N #T #S"] | None = None,
) -> Float[Array, "B T N H"]:
    """Return states after at most ``steps`` updates xi <- X softmax(beta X^T xi) (equation 3).

    X are the stored patterns, in each head its own. One update is attention with scale ``beta`` and
    patterns as keys and values. A state that an update moves by less than ``tolerance`` has
    converged and stays. ``mask`` is True where a state may see a pattern; a state that sees none
    becomes 0. The result is float32, or wider.
    """
    dtype = compute_dtype(state, patterns)
    stored = finite_or_zero(patterns).astype(dtype)

    def update(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        xi, moving = carry
        weights = masked_softmax(beta * jnp.einsum("btnh,bsnh->bnts", xi, stored), mask)
        new = jnp.where(moving, jnp.einsum("bnts,bsnh->btnh", weights, stored), xi)
        far = jnp.sum((new - xi) ** 2, axis=-1, keepdims=True) > tolerance**2
        return (new, moving & far), None

    start = state.astype(dtype), jnp.ones((*state.shape[:3], 1), bool)
    (found, _), _ = jax.lax.scan(update, start, None, length=steps)
    seen = any_visible(jnp.moveaxis(has_non_finite(patterns), 1, 2), mask)
    seen = jnp.broadcast_to(seen, (state.shape[0], state.shape[2], state.shape[1]))
    return poison(found, jnp.moveaxis(seen, 1, 2)[..., None])


def hopfield_energy(
    state: Float[Array, "B T N H"], patterns: Float[Array, "B S N H"], *, beta: float
) -> Float[Array, "B T N"]:
    """Return the energy of states, which no update raises (equation 2).

    E = -lse(beta, X^T xi) + xi . xi / 2 + log(S) / beta + M^2 / 2, with lse(beta, z) = log(sum
    exp(beta z)) / beta and M the largest norm of a pattern. It is at least 0.
    """
    dtype = compute_dtype(state, patterns)
    xi, stored = state.astype(dtype), patterns.astype(dtype)
    lse = masked_logsumexp(beta * jnp.einsum("btnh,bsnh->btns", xi, stored)) / beta
    norms = jnp.sum(stored**2, axis=-1)  # B S N
    constant = jnp.log(jnp.asarray(patterns.shape[1], dtype)) / beta
    largest = jnp.max(norms, axis=1)[:, None] / 2
    return jnp.sum(xi**2, axis=-1) / 2 - lse + constant + largest

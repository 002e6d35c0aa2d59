"""Inverse of many small unit lower triangular matrices.

Blocks of 16 are inverted by triangular solves, and then joined in pairs by products,

    [[A, 0], [C, B]]^-1 = [[A^-1, 0], [-B^-1 C A^-1, B^-1]].

A triangular solve of a whole 64 x 64 chunk has the same errors, but is several times slower.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

BLOCK = 16


@jax.custom_jvp
def unit_lower_inverse(A: Float[Array, "*batch C C"]) -> Float[Array, "*batch C C"]:
    """Return (I + stril(A))^-1; entries on and above the diagonal of ``A`` are not read."""
    shape, C = A.shape, A.shape[-1]
    size = BLOCK
    while size < C:
        size *= 2
    A = jnp.tril(A, -1).reshape(math.prod(shape[:-2]), C, C)
    A = jnp.pad(A, [(0, 0), (0, size - C), (0, size - C)])
    blocks = _diagonal_blocks(A, BLOCK)
    unit = jnp.broadcast_to(jnp.eye(BLOCK, dtype=A.dtype), blocks.shape)
    inverse = solve_triangular(blocks, unit, lower=True, unit_diagonal=True)
    width = BLOCK
    while width < size:
        below = _diagonal_blocks(A, 2 * width)[..., width:, :width]
        first, second = inverse[:, 0::2], inverse[:, 1::2]
        corner = -(second @ below @ first)
        top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverse = jnp.concatenate([top, jnp.concatenate([corner, second], axis=-1)], axis=-2)
        width *= 2
    return inverse[:, 0, :C, :C].reshape(shape)


@unit_lower_inverse.defjvp
def _unit_lower_inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = unit_lower_inverse(*primals)
    return inverse, -(inverse @ jnp.tril(tangents[0], -1) @ inverse)


def _diagonal_blocks(A: Float[Array, "M D D"], width: int) -> Float[Array, "M b w w"]:
    starts = range(0, A.shape[-1], width)
    return jnp.stack([A[:, i : i + width, i : i + width] for i in starts], axis=1)

"""Bilateral filter: Tomasi and Manduchi 1998 (ICCV, doi 10.1109/ICCV.1998.710815)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnzoo.ops.softmax import compute_dtype


def bilateral_filter(
    image: Float[Array, "B h w C"],
    *,
    sigma_space: float,
    sigma_range: float,
    radius: int | None = None,
) -> Float[Array, "B h w C"]:
    """Return the mean of each pixel's neighbours, weighted by distance in place and in value.

    Equations 5 and 6 of the paper: weights are exp(-|p - p'|^2 / (2 sigma_space^2) - |x - x'|^2 /
    (2 sigma_range^2)), normalised over the window of ``2 radius + 1`` pixels, cut at the border.
    They are attention with a fixed score and the pixels as values: noise is averaged, but not
    across an edge much higher than ``sigma_range``. Distances are in pixels and in units of the
    image, over all channels at once. ``radius`` is 2 sigma_space, rounded up, if None;
    ``sigma_range=inf`` is a Gaussian filter.

    Time is O(h w (2 radius + 1)^2 C), memory O(h w C). ValueError for a sigma that is not positive.
    """
    for name, sigma in (("sigma_space", sigma_space), ("sigma_range", sigma_range)):
        if not sigma > 0:
            raise ValueError(f"{name}={sigma}; wanted a positive number")
    reach = -int(-2 * sigma_space // 1) if radius is None else radius
    if reach < 0:
        raise ValueError(f"radius={radius}; wanted at least 0")
    B, h, w, _ = image.shape
    x = image.astype(compute_dtype(image))
    edges = ((0, 0), (reach, reach), (reach, reach))
    padded = jnp.pad(x, (*edges, (0, 0)))
    inside = jnp.pad(jnp.ones((1, h, w), x.dtype), edges)
    size = 2 * reach + 1

    def add(sums: tuple[Array, Array], place: Array) -> tuple[tuple[Array, Array], None]:
        row, column = place // size, place % size
        zero = jnp.zeros_like(row)
        shifted = jax.lax.dynamic_slice(padded, (zero, row, column, zero), x.shape)
        real = jax.lax.dynamic_slice(inside, (zero, row, column), (1, h, w))
        away = ((row - reach) ** 2 + (column - reach) ** 2).astype(x.dtype)
        apart = jnp.sum((shifted - x) ** 2, axis=-1)
        weight = real * jnp.exp(-away / (2 * sigma_space**2) - apart / (2 * sigma_range**2))
        return (sums[0] + weight[..., None] * shifted, sums[1] + weight), None

    start = jnp.zeros_like(x), jnp.zeros((B, h, w), x.dtype)
    (total, weights), _ = jax.lax.scan(add, start, jnp.arange(size**2, dtype=jnp.int32))
    return (total / weights[..., None]).astype(image.dtype)

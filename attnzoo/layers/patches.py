"""Patch embeddings of images, and position grids that can be resampled to another size."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.projection import Initializer, Projection
from attnzoo.layers.embedding import sinusoidal_positions
from attnzoo.module import Module

Grid = tuple[int, int]


class PatchEmbedding(Module):
    """Embedding of non-overlapping square patches by one matrix (Dosovitskiy et al. 2021, eq. 1).

    The matrix reads a patch row by row, pixel by pixel, channel by channel. Images are cast to its
    dtype.
    """

    def __init__(
        self,
        patch: int,
        channels: int,
        dim: int,
        *,
        use_bias: bool = True,
        kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        self.patch, self.channels = patch, channels
        init = jax.nn.initializers.lecun_normal() if kernel_init is None else kernel_init
        width = patch * patch * channels
        self.projection = Projection(width, dim, use_bias=use_bias, kernel_init=init, rngs=rngs)

    def __call__(self, images: Float[Array, "B h w C"]) -> Float[Array, "B P D"]:
        """Embed the patches, from left to right and then from top to bottom."""
        rows, columns = self.grid(images)
        B, p = images.shape[0], self.patch
        x = images.astype(self.projection.kernel[...].dtype)
        x = x.reshape(B, rows, p, columns, p, self.channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return self.projection(x.reshape(B, rows * columns, p * p * self.channels))

    def grid(self, images: Float[Array, "..."]) -> Grid:
        """Return the rows and columns of patches; ValueError if they do not fit the images."""
        if images.ndim != 4 or images.shape[3] != self.channels:
            raise ValueError(
                f"images has shape {images.shape}; wanted B h w C with channels={self.channels}"
            )
        rows, columns = images.shape[1] // self.patch, images.shape[2] // self.patch
        if (rows * self.patch, columns * self.patch) != images.shape[1:3] or not rows * columns:
            raise ValueError(
                f"images of {images.shape[1]} x {images.shape[2]} pixels do not divide into "
                f"patches of patch={self.patch}; crop or resize them"
            )
        return rows, columns


def resize_grid(
    table: Float[Array, "r c D"], grid: Grid, *, antialias: bool = False
) -> Float[Array, "r2 c2 D"]:
    """Resample a grid of vectors by bicubic interpolation, in the table's dtype.

    Both grids cover the same image: corners of cells are aligned, not their centres. With
    ``antialias``, a smaller grid averages values instead of sampling them.
    """
    wide = table.astype(jnp.float32)
    rows, columns = (
        jnp.asarray(_bicubic(old, new, antialias))
        for old, new in zip(table.shape[:2], grid, strict=True)
    )
    return jnp.einsum("ir,jc,rcd->ijd", rows, columns, wide).astype(table.dtype)


def _bicubic(old: int, new: int, antialias: bool) -> np.ndarray:
    """Return the matrix ``new x old`` of Keys' cubic convolution (1981) along one axis.

    Two conventions of PyTorch, which differ at equal sizes too: without antialiasing a = -0.75, and
    values beyond the border equal the border; with it a = -0.5 (as in Pillow), and they have weight
    0.
    """
    a = -0.5 if antialias else -0.75
    width = max(old / new, 1.0) if antialias else 1.0
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    reach = int(np.ceil(2 * width))
    taps = np.floor(centre)[:, None] + np.arange(1 - reach, reach + 1)
    x = np.abs(taps - centre[:, None]) / width
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    if antialias:
        weights *= (taps >= 0) & (taps < old)
        weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((new, old))
    places = np.clip(taps, 0, old - 1).astype(int)
    np.add.at(matrix, (np.arange(new)[:, None], places), weights)
    return matrix.astype(np.float32)


def sinusoidal_grid(grid: Grid, dim: int) -> Float[Array, "P D"]:
    """Return sinusoidal embeddings of the rows, followed by those of the columns.

    Vaswani et al. 2017, section 3.5, along each axis; as in He et al. 2022 (arXiv 2111.06377),
    which puts columns first.
    """
    rows, columns = grid
    if dim % 4:
        raise ValueError(f"dim={dim} is not divisible by 4: two axes, each with sine and cosine")
    each = [
        sinusoidal_positions(jnp.arange(length, dtype=jnp.int32), dim // 2, halves=True)
        for length in (rows, columns)
    ]
    of_row = jnp.broadcast_to(each[0][:, None], (rows, columns, dim // 2))
    of_column = jnp.broadcast_to(each[1][None], (rows, columns, dim // 2))
    return jnp.concatenate([of_row, of_column], axis=-1).reshape(rows * columns, dim)

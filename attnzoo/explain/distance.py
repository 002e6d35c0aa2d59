"""Mean attention distance: Dosovitskiy et al., ICLR 2021 (arXiv 2010.11929), figure 7 right."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def attention_distance(
    weights: Float[Array, "B N T T"],
    grid: tuple[int, int],
    *,
    prefix: int = 0,
    pixels: int | float = 1.0,
) -> Float[Array, "B N"]:
    """Return the mean over patches q of sum_k a[q, k] |place of q - place of k| for each head.

    Tokens before the patches are left out, and rows normalised again. A row that attends only to
    those tokens is left out of the mean (NaN if all are).

    Args:
      grid: rows and columns of patches.
      prefix: number of tokens before the patches (``ViT.config.prefix``).
      pixels: side of a patch, the unit of the result.
    """
    rows, columns = grid
    if prefix + rows * columns != weights.shape[-1]:
        raise ValueError(
            f"grid={grid} and prefix={prefix} make {prefix + rows * columns} tokens, the weights "
            f"have {weights.shape[-1]}"
        )
    places = np.stack(np.divmod(np.arange(rows * columns), columns), axis=-1) * pixels
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    patches = weights[:, :, prefix:, prefix:]
    mass = jnp.sum(patches, axis=-1)
    looks = mass > 0
    total = jnp.einsum("bnts,ts->bnt", patches, jnp.asarray(apart, patches.dtype))
    each = jnp.where(looks, total / jnp.where(looks, mass, jnp.ones_like(mass)), 0)
    return jnp.sum(each, axis=-1) / jnp.sum(looks, axis=-1).astype(each.dtype)

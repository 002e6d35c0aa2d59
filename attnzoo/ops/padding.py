"""Checks of keys, values and their mask, and removal of the content of padding."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.ops.softmax import zero_unattended


def check_and_zero_padding(
    keys: Float[Array, "B S D"],
    values: Float[Array, "B S Dv"] | None,
    mask: Bool[Array, "#B #N #T #S"] | None,
) -> tuple[Float[Array, "B S D"], Float[Array, "B S Dv"]]:
    """Check keys, values and mask against each other, and set padding to zero.

    ``values`` are the keys if None. Raises ValueError if lengths, or the mask's shape or dtype, do
    not fit.
    """
    values = keys if values is None else values
    if values.shape[:2] != keys.shape[:2]:
        raise ValueError(
            f"values has batch and length {values.shape[:2]}, keys has {keys.shape[:2]}: "
            "each key needs its value"
        )
    if mask is not None:
        if mask.dtype != bool:
            raise ValueError(
                f"mask has dtype {mask.dtype}; wanted bool, True = may attend "
                "(something that is added to the scores is a bias)"
            )
        if mask.ndim != 4 or mask.shape[3] not in (1, keys.shape[1]):
            raise ValueError(
                f"mask has shape {mask.shape}; wanted B N T S (1 where it does not vary) with "
                f"S={keys.shape[1]}; a padding mask is valid[:, None, None, :]"
            )
    return zero_unattended(keys, mask), zero_unattended(values, mask)


def broadcast_mask(
    mask: Bool[Array, "#B #N #T #S"] | None, keys: Float[Array, "B S D"]
) -> Bool[Array, "B N T S"] | None:
    """Broadcast the batch and key axes of a mask to the sizes of the keys.

    Gathering rows of a memory, and counting the keys of a sentence in local attention, need this.
    """
    if mask is None:
        return None
    return jnp.broadcast_to(mask, (keys.shape[0], *mask.shape[1:3], keys.shape[1]))

"""Extraction of the arrays of masks and score modifiers, as operands of a ``shard_map``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def extract_arrays(function: Any) -> tuple[tuple[Array, ...], Callable[[Any], Any]]:
    """Return the arrays of a mask or modifier, and a function that rebuilds it from such arrays.

    A plain function keeps the arrays that it closes over: jit makes operands of them.
    """
    leaves, structure = jax.tree.flatten(function)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    arrays = tuple(jnp.asarray(leaf) for leaf, taken in zip(leaves, is_array) if taken)

    def rebuild(arrays: Any) -> Any:
        given = iter(arrays)
        parts = (next(given) if taken else leaf for leaf, taken in zip(leaves, is_array))
        return structure.unflatten(parts)

    return arrays, rebuild

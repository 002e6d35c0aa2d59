"""Models whose parameters are drawn: no norm or bias at a special value, nothing to compile."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx


def drawn(
    make: Callable[[], Any], seed: int, deviation: float, of_scales: float | None = None
) -> Any:
    """What ``make()`` makes, normal around 0, and scales around 1 (their own deviation, if any)."""
    graph, state = nnx.split(nnx.eval_shape(make))
    random = np.random.default_rng(seed)
    of_scales = deviation if of_scales is None else of_scales

    def draw(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        middle, width = (1.0, of_scales) if "scale" in name else (0.0, deviation)
        numbers = random.normal(middle, width, leaf.shape)
        numbers = np.abs(numbers) if "'var'" in name else numbers  # of a batch norm
        return jax.device_put(numbers.astype(leaf.dtype))  # jnp.asarray compiles a conversion

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))

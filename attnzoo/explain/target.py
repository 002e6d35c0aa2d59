"""Target of an explanation: the number in a model's output that is explained."""

from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

Classes = int | Int[Array, ""] | Int[Array, " B"] | Int[np.ndarray, " B"]
Target = Classes | Callable[[Any], Float[Array, " B"]]
"""One class for all, a class per example, or a function from the output to a number per example."""


def chosen(output: Any, target: Target) -> Float[Array, " B"]:
    """Return the explained number of each example: a logit, or the value of the function.

    Raises:
      ValueError: the output is not ``B V`` and there is no function, or a class is out of range.
    """
    if callable(target):
        return cast(Array, target(output))
    check_output(output, target)
    B = output.shape[0]
    classes = jnp.broadcast_to(jnp.asarray(target, jnp.int32), (B,))
    return jnp.take_along_axis(output, classes[:, None], axis=1)[:, 0]


def check_output(output: Any, target: Classes) -> None:
    """Raise a ValueError for an output (or its shape) that is not ``B V``, or an invalid class.

    The class can be checked only where its value is known, not under jit.
    """
    shape = getattr(output, "shape", type(output).__name__)
    if isinstance(shape, str) or len(shape) != 2:
        raise ValueError(
            f"the output has shape {shape}; a target that is a class wants B V, so wanted a "
            "function of the output instead, such as lambda logits: logits[:, -1, token]"
        )
    V = shape[1]
    if isinstance(target, Tracer):
        return
    wrong = [int(c) for c in np.ravel(np.asarray(target)) if not 0 <= int(c) < V]
    if wrong:
        raise ValueError(f"target={wrong[0]}; there are {V} classes, 0 to {V - 1}")

"""Weights of a trained model in fewer bits, for inference."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnzoo.errors import UserError
from attnzoo.ops.int8 import Int8Matrix
from attnzoo.training.parameters import describe, path_of

FORMATS = ("float32", "bfloat16", "int8")


def with_weights(model: Any, weights: str) -> Any:
    """Return the model with its weights in another format.

    "bfloat16" and "float32" convert all floating parameters, and with them what is computed. "int8"
    keeps matrices and tables as integers with a float for each output channel; filters of
    convolutions, biases, norms and everything that is computed keep their dtype.

    Raises:
      UserError: an unknown format; for "int8" no matrix, or one with NaN or inf.
    """
    if weights not in FORMATS:
        raise UserError(f"weights={weights!r}: wanted one of {', '.join(FORMATS)}")
    graph, state = nnx.split(model)
    leaves, structure = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    if weights == "int8":
        changed = [_int8(where, leaf) for where, leaf in leaves]
        if not any(isinstance(leaf, Int8Matrix) for leaf in changed):
            raise UserError(f"weights='int8': a {type(model).__name__} has no matrices to store so")
    else:
        changed = [
            leaf.astype(weights) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            for _, leaf in leaves
        ]
    return nnx.merge(graph, structure.unflatten(changed))


def with_weights_of(opened: Any, weights: str | None) -> Any:
    """Return an opened model with its weights in another format; None: as they are."""
    if weights is None:
        return opened
    return dataclasses.replace(opened, model=with_weights(opened.model, weights))


def has_int8(model: Any) -> bool:
    """Return whether parameters of a model are in int8."""
    leaves = jax.tree.leaves(nnx.state(model), is_leaf=lambda x: isinstance(x, Int8Matrix))
    return any(isinstance(leaf, Int8Matrix) for leaf in leaves)


def _int8(where: Any, leaf: Any) -> Any:
    """Return a parameter in int8 if it is a matrix or a table, else as it is."""
    parameter, path = describe(where, leaf.shape), path_of(where)
    if parameter.role not in ("matrix", "table") or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    if leaf.ndim - parameter.stacked != 2:  # windows of a convolution
        return leaf
    if not jnp.isfinite(leaf).all():
        raise UserError(f"weights='int8': {path} has NaN or inf, which int8 cannot hold")
    # A table has one output channel in each row, a matrix in each column.
    by_rows = parameter.role == "table" and not path.endswith("kernel")
    return Int8Matrix.of(leaf, axis=-1 if by_rows else -2)

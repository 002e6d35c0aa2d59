"""Matrices in int8 with a scale for each output channel, for inference."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8

from attnzoo.ops.softmax import compute_dtype

FEW_ROWS = 64
"""Rows up to which a CPU multiplies them by the matrix from the left."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Matrix:
    """Array ``values * scale`` in a quarter of the memory of float32, in the place of a parameter.

    Symmetric: values are -127 .. 127. ``scale`` has size 1 along the axis that a product sums over.
    Indexing returns floats. :meth:`multiply` and :meth:`rows` read the int8 values alone. Leading
    axes (layers, heads) may be sliced with ``jax.tree.map``. With ``turned`` the last two axes of
    ``values`` are exchanged, so that the numbers of one sum lie together.
    """

    values: Int8[Array, "*stack _ _"]
    scale: Float[Array, "*stack #D #F"]
    turned: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def of(cls, x: Float[Array, "*stack D F"], axis: int) -> "Int8Matrix":
        """Quantise along ``axis``; the error is at most half a step, 1/254 of the largest."""
        wide = x.astype(compute_dtype(x))
        scale = jnp.max(jnp.abs(wide), axis=axis, keepdims=True) / 127
        whole = jnp.round(wide / jnp.where(scale == 0, 1, scale))
        values, turned = whole.astype(jnp.int8), axis % x.ndim == x.ndim - 2
        values = jnp.swapaxes(values, -1, -2) if turned else values
        return cls(values, scale.astype(x.dtype), turned)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        *stack, D, F = self.values.shape
        return (*stack, F, D) if self.turned else (*stack, D, F)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.values.ndim

    @property
    def dtype(self) -> Any:
        """Dtype of the floats that indexing returns."""
        return self.scale.dtype

    def __getitem__(self, index: Any) -> Float[Array, "..."]:
        values = jnp.swapaxes(self.values, -1, -2) if self.turned else self.values
        return (values.astype(self.dtype) * self.scale)[index]

    def __jax_array__(self) -> Float[Array, "*stack D F"]:
        return self[...]

    def astype(self, dtype: Any) -> "Int8Matrix":
        """Return the matrix with floats of another dtype."""
        return dataclasses.replace(self, scale=self.scale.astype(dtype))

    def multiply(self, x: Float[Array, "R D"], axis: int = 0) -> Float[Array, "R F"]:
        """Return the product of x and ``axis`` of a matrix, in the dtype of x.

        The scale has size 1 along ``axis``. On a CPU each row of x is rounded to int8 as well,
        because XLA:CPU would write a converted matrix to memory first; elsewhere the conversion is
        part of the product. The gradient is that of the unrounded product.
        """
        axis = 1 - axis if self.turned else axis
        return _multiply(axis, x, self.values, self.scale.reshape(1, -1))

    def rows(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch F"]:
        """Return rows of a table with one scale for each; ids outside read the nearest row.

        The table must have been quantised along its rows.
        """
        values, scale = (jnp.take(a, ids, axis=0, mode="clip") for a in (self.values, self.scale))
        return values.astype(self.dtype) * scale


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _multiply(
    axis: int, x: Float[Array, "R D"], values: Int8[Array, "_ _"], scale: Float[Array, "1 F"]
) -> Float[Array, "R F"]:
    return jax.lax.platform_dependent(
        x,
        values,
        scale,
        cpu=functools.partial(_multiply_integers, axis),
        default=functools.partial(_multiply_floats, axis),
    )


@_multiply.defjvp
def _multiply_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _multiply(axis, *primals), _multiply_floats(axis, tangents[0], *primals[1:])


def _multiply_floats(
    axis: int, x: Float[Array, "R D"], values: Int8[Array, "_ _"], scale: Float[Array, "1 F"]
) -> Float[Array, "R F"]:
    y = jax.lax.dot_general(x, values.astype(x.dtype), (((1,), (axis,)), ((), ())))
    return y * jnp.broadcast_to(scale.astype(x.dtype), y.shape)


def _multiply_integers(
    axis: int, x: Float[Array, "R D"], values: Int8[Array, "_ _"], scale: Float[Array, "1 F"]
) -> Float[Array, "R F"]:
    count, wide = x.shape[0], x.astype(compute_dtype(x))
    rounded = Int8Matrix.of(wide, axis=1)
    # XLA:CPU multiplies a single row of integers four times as slowly as two.
    one = not (isinstance(count, int) and count > 1)
    left = jnp.pad(rounded.values, ((0, 1), (0, 0))) if one else rounded.values
    multiply = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.int32)
    if axis == 1 and isinstance(count, int) and count <= FEW_ROWS:
        # With the matrix on the left it takes two thirds of the time; the result is small.
        whole = multiply(values, left, (((1,), (1,)), ((), ()))).T[:count]
    else:
        whole = multiply(left, values, (((1,), (axis,)), ((), ())))[:count]
    step = rounded.scale * jnp.broadcast_to(scale.astype(wide.dtype), whole.shape)
    return (whole.astype(wide.dtype) * step).astype(x.dtype)

"""Computation inside one tile of queries and keys, shared by the fused kernels.

Values per query have shape ``t 1``, values per key ``1 s``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attnzoo.ops.dropout import dropout_keep_mask
from attnzoo.ops.kernels.fused import FusedPlan, Pass
from attnzoo.ops.kernels.traced import HEAD, KEYS, QUERIES, Load, Read, Traced


class TileContext(NamedTuple):
    """Context of a kernel program: its plan, its head, and loaders of captured arrays."""

    plan: FusedPlan
    step: Pass
    b: Any
    n: Any
    modify: Load
    visible: Load
    seed: Any
    """Two integers, for dropout."""


class ReadGradient(NamedTuple):
    """Summation of the gradient of a floating read, by the axes that the gradient keeps."""

    read: Read
    kind: str
    """"head", "queries", "keys" or "tile"."""
    sizes: tuple[int, ...]
    """Sizes of the operand's axes that are not HEAD."""


class Row(NamedTuple):
    """Values per query in the backward pass, each ``t 1``."""

    maximum: Array
    inverse: Array
    """1 / sum of exp(logits - maximum)."""
    delta: Array
    """d_out . out - d_lse."""


def positions(work: TileContext, r: Any, c: Any) -> tuple[Array, Array, Array]:
    """Return query and key positions clipped to the last one, and key positions not clipped."""
    (bt, bs), (T, S) = work.step.tile, work.plan.shape[3:]
    q = jnp.minimum(r * bt + jax.lax.broadcasted_iota(jnp.int32, (bt, 1), 0), T - 1)
    k = c * bs + jax.lax.broadcasted_iota(jnp.int32, (1, bs), 1)
    return q, jnp.minimum(k, S - 1), k


def product(plan: FusedPlan, a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """Multiply two matrices over one axis of each, in the plan's dtypes."""
    exact = jax.lax.Precision.HIGHEST if plan.low.itemsize > 2 else None
    numbers = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(
        a.astype(plan.low), b, numbers, precision=exact, preferred_element_type=plan.wide
    )


def apply_modifier_and_mask(
    work: TileContext, logits: Array, r: Any, c: Any, is_partial: bool
) -> Array:
    """Return the logits after modifier and mask."""
    q, k, k_far = positions(work, r, c)
    if work.step.modify is not None:
        logits = work.step.modify(work.modify, logits, work.b, work.n, q, k)
    return _hidden(work, logits, q, k, k_far) if is_partial else logits


def _hidden(work: TileContext, logits: Array, q: Array, k: Array, k_far: Array) -> Array:
    visible = None
    if work.step.visible is not None:
        visible = work.step.visible(work.visible, None, work.b, work.n, q, k)
    if work.plan.is_ragged:
        inside = jnp.broadcast_to(k_far, logits.shape) < work.plan.shape[4]
        visible = inside if visible is None else visible & inside
    return logits if visible is None else jnp.where(visible, logits, -jnp.inf)


def apply_dropout(work: TileContext, weights: Array, r: Any, c: Any) -> Array:
    """Apply dropout to weights, or to gradients of weights."""
    rate = work.plan.dropout_rate
    if rate == 0:
        return weights
    q, k, _ = positions(work, r, c)
    keep = jnp.broadcast_to(dropout_keep_mask(work.seed, rate, work.b, work.n, q, k), weights.shape)
    return jnp.where(keep, weights * (1 / (1 - rate)), jnp.zeros_like(weights))


def gradients(
    work: TileContext, logits: Array, d_weights: Array, row: Row, r: Any, c: Any, is_partial: bool
) -> tuple[Array, Array, list[Array]]:
    """Return the weights after dropout, and the gradients of the scaled logits and of the reads."""
    q, k, k_far = positions(work, r, c)
    pull = None
    if work.step.modify is not None:
        logits, pull = work.step.modify.vjp(work.modify, logits, work.b, work.n, q, k)
    if is_partial:
        logits = _hidden(work, logits, q, k, k_far)
    weights = jnp.exp(logits - row.maximum) * row.inverse
    d_logits = weights * (apply_dropout(work, d_weights, r, c) - row.delta)
    read = apply_dropout(work, weights, r, c)
    return (read, d_logits, []) if pull is None else (read, *pull(d_logits))


def tables_of(traced: Traced | None, shapes: tuple[tuple[int, ...], ...]) -> list[ReadGradient]:
    """Return a table for each floating read; ``shapes`` are the shapes of the operands."""
    tables = []
    for read in () if traced is None else traced.floating:
        sizes = tuple(s for s, axis in zip(shapes[read.operand], read.axes) if axis != HEAD)
        axes = [axis for axis in read.axes if axis != HEAD]
        kind = "tile" if len(axes) > 1 else axes[0] if axes else "head"
        tables.append(ReadGradient(read, kind, sizes))
    return tables


def partial_of(table: ReadGradient, found: Array) -> Array:
    """Give a gradient (``B N``, padded queries, padded keys) the axes of the operand."""
    if [axis for axis in table.read.axes if axis != HEAD] == [KEYS, QUERIES]:
        found = jnp.swapaxes(found, 2, 3)
    for axis, size in enumerate(table.sizes, start=2):
        found = resize_axis(found, axis, size)
    return found


def resize_axis(x: Array, axis: int, size: int) -> Array:
    """Cut an axis to a size, or pad it with zeros to that size."""
    if x.shape[axis] >= size:
        return jax.lax.slice_in_dim(x, 0, size, axis=axis)
    room = [(0, 0)] * x.ndim
    room[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, room)

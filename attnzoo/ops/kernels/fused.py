"""Common part of fused kernels: padding to tiles, lists of tiles, custom gradient, contract.

A kernel is a :class:`Backend`: a forward and a backward pass over padded, finite arrays. The rules
of all attention here (rows that may attend nowhere, sinks, NaN only where it may be seen) are
applied around it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnzoo.ops.block_mask import BlockMask, tile_lists
from attnzoo.ops.dropout import AnyKey, ShardedKey, seed_of
from attnzoo.ops.guards import finite_or_zero, has_non_finite, poison
from attnzoo.ops.kernels import interpreting
from attnzoo.ops.kernels.blockwise import logsumexp, nonzero, scale_of, with_sinks
from attnzoo.ops.kernels.traced import Traced, mask_of, sum_read_gradients, trace_mask, trace_modify
from attnzoo.ops.logits import Scoring
from attnzoo.ops.softmax import compute_dtype

Tile = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """One pass over the tiles: their size, and the functions traced for it."""

    tile: Tile
    modify: Traced | None
    visible: Traced | None


@dataclasses.dataclass(frozen=True, eq=False)
class FusedPlan:
    """Static plan that a fused kernel is compiled for."""

    shape: tuple[int, int, int, int, int]
    """Sizes B, N, K, T, S, without padding."""
    cell: Tile
    """Queries and keys of a tile of the mask; the tile of a pass divides it."""
    forward: Pass
    backward: Pass
    masked: bool
    has_full: bool
    has_partial: bool
    dropout_rate: float
    low: Any
    """Dtype of the operands of matrix products."""
    wide: Any
    """Dtype of sums."""
    interpret: bool

    @property
    def padded(self) -> Tile:
        """Numbers of queries and keys with padding."""
        T, S = self.shape[3:]
        return -(-T // self.cell[0]) * self.cell[0], -(-S // self.cell[1]) * self.cell[1]

    @property
    def is_ragged(self) -> bool:
        """True if the last keys are padding."""
        return self.padded[1] != self.shape[4]


class Lists(NamedTuple):
    """Counts and positions of the tiles in each row (or in each column) of the mask."""

    full: tuple[Array, Array] | None
    partial: tuple[Array, Array] | None


class Fixed(NamedTuple):
    """Operands without a gradient."""

    modify: tuple[Array, ...]
    """Operands in the forward pass; those of the backward pass get the gradients."""
    visible: tuple[Array, ...]
    visible_backward: tuple[Array, ...]
    rows: Lists | None
    columns: Lists | None
    seed: Array | None


class Backend(NamedTuple):
    """A kernel's forward and backward pass, and its sizes.

    Arrays are ``B T N H`` with padded lengths and sizes, ``maximum`` is ``B N T``.
    """

    forward: Callable[..., tuple[Array, Array, Array]]
    """(plan, q, k, v, scale, fixed): out, row maximum, row sum."""
    backward: Callable[..., tuple[Array, Array, Array, list[Array]]]
    """(plan, q, k, v, scale, modify, fixed, d_out, maximum, inverse, delta): dq, dk, dv, without
    the scale, and gradients of floating reads for ``traced.sum_read_gradients``."""
    tiles: Callable[[int, Any], tuple[Tile, Tile]]
    """(head size, dtype): tiles of the forward and of the backward pass, powers of two."""
    width: Callable[[int], int]
    """Head size after padding, for a given head size."""
    smallest: int
    """Smallest number of queries or keys of a tile."""


def attend(
    backend: Backend,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float = 0.0,
    dropout_key: AnyKey | None = None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """Compute output and log-sum-exp, with gradients for q, k, v and arrays in ``settings``."""
    B, T, N, H = q.shape
    S, K, Hv = v.shape[1:]
    wide = compute_dtype(q, k, v)
    if 0 in (B, T, S):
        out, lse = jnp.zeros((B, T, N, Hv), wide), jnp.full((B, N, T), -jnp.inf, wide)
        return with_sinks(out, lse, settings.sinks, q.dtype)
    same = q.dtype == k.dtype == v.dtype
    low = q.dtype if same and q.dtype.itemsize == 2 else wide

    plan, modify, fixed = plan_of(backend, q.shape, (S, K, max(H, Hv)), settings, low, wide)
    if isinstance(dropout_key, ShardedKey):
        raise NotImplementedError(
            "dropout_rate: this kernel drops no weights of a batch that is spread over devices; "
            "'blockwise' does"
        )
    seed = None if dropout_key is None else seed_of(dropout_key)
    plan = dataclasses.replace(plan, dropout_rate=0.0 if seed is None else dropout_rate)
    fixed = fixed._replace(seed=seed)
    rows, keys = plan.padded

    def padded(x: Array, length: int) -> Array:
        room = [
            (0, 0),
            (0, length - x.shape[1]),
            (0, 0),
            (0, backend.width(x.shape[3]) - x.shape[3]),
        ]
        return jnp.pad(finite_or_zero(x).astype(low), room)

    scale = scale_of(settings, H, wide)
    arrays = (padded(q, rows), padded(k, keys), padded(v, keys))
    out, lse = _attend(backend, plan, *arrays, scale, modify, fixed)
    out, lse = with_sinks(out[:, :T, :, :Hv], lse[:, :, :T], settings.sinks, wide)

    bad_q, bad_k, bad_v = (has_non_finite(x) for x in (q, k, v))
    bad_keys, bad_values, anything = jax.lax.cond(
        jnp.any(bad_q) | jnp.any(bad_k) | jnp.any(bad_v),
        lambda: _rows_that_see(backend, plan, fixed, bad_k, bad_v),
        lambda: jnp.zeros((3, B, N, T), bool),
    )
    bad_weights = bad_keys | (jnp.moveaxis(bad_q, 1, 2) & anything)
    bad_rows = jnp.moveaxis(bad_weights | bad_values, 1, 2)[..., None]
    return poison(out, bad_rows).astype(q.dtype), poison(lse, bad_weights)


def plan_of(
    backend: Backend,
    q_shape: tuple[int, ...],
    keys: tuple[int, int, int],
    settings: Scoring,
    low: Any,
    wide: Any,
) -> tuple[FusedPlan, tuple[Array, ...], Fixed]:
    """Return the plan, the modifier's operands in the backward pass, and the other operands.

    Raises NotImplementedError, naming the argument, for a function that cannot run on a tile.
    """
    (B, T, N, _), (S, K, width) = q_shape, keys
    shape = (B, N, T, S)
    wanted = backend.tiles(backend.width(width), low)
    rows, columns = (
        min(_power(length, backend.smallest), max(sizes))
        for length, sizes in zip((T, S), zip(*wanted))
    )
    mask, cell = _mask_of(settings, shape, (rows, columns), backend.smallest)
    passes, modified, masked = [], [], []
    for tile in wanted:
        tile = math.gcd(tile[0], cell[0]), math.gcd(tile[1], cell[1])
        modify, operands = trace_modify(settings, shape, tile, wide)
        visible, arrays = (None, ()) if mask is None else trace_mask(mask.mask_mod, shape, tile)
        passes.append(Pass(tile, modify, visible))
        modified.append(operands)
        masked.append(arrays)
    by_row, by_column = (None, None) if mask is None else lists_by_row_and_column(mask)
    plan = FusedPlan(
        (B, N, K, T, S),
        cell,
        *passes,
        masked=mask is not None,
        has_full=by_row is None or by_row.full is not None,
        has_partial=by_row is None or by_row.partial is not None,
        dropout_rate=0.0,
        low=low,
        wide=wide,
        interpret=interpreting(),
    )
    return plan, modified[1], Fixed(modified[0], *masked, by_row, by_column, None)


def _power(length: int, smallest: int) -> int:
    return max(1 << (length - 1).bit_length(), smallest)


def _mask_of(
    settings: Scoring, shape: tuple[int, int, int, int], cell: Tile, smallest: int
) -> tuple[BlockMask | None, Tile]:
    """Return the mask in tiles whose size powers of two divide, and this size."""
    mask = mask_of(settings)
    if isinstance(mask, BlockMask):
        if all(math.gcd(x, own) >= min(own, smallest) for x, own in zip(mask.block_size, cell)):
            return mask, mask.block_size
        mask = mask.mask_mod
    return None if mask is None else BlockMask.from_mask(mask, *shape, block_size=cell), cell


def lists_by_row_and_column(mask: BlockMask) -> tuple[Lists, Lists]:
    """List the tiles of a mask by row and by column."""
    with jax.ensure_compile_time_eval():
        marks = mask.tiles()
    if mask.is_concrete:
        marks = tuple(np.asarray(x) for x in marks)

    def listed(full: Any, partial: Any) -> Lists:
        lists = (tile_lists(x) for x in (full, partial))
        return Lists(*(None if at.shape[-1] == 0 else (count, at) for count, at in lists))

    return listed(*marks), listed(*(x.swapaxes(2, 3) for x in marks))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    backend: Backend,
    plan: FusedPlan,
    q: Array,
    k: Array,
    v: Array,
    scale: Array,
    modify: Any,
    fixed: Any,
) -> tuple[Array, Array]:
    return _attend_forward(backend, plan, q, k, v, scale, modify, fixed)[0]


def _attend_forward(
    backend: Backend,
    plan: FusedPlan,
    q: Array,
    k: Array,
    v: Array,
    scale: Array,
    modify: Any,
    fixed: Any,
) -> Any:
    out, maximum, total = backend.forward(plan, q, k, v, scale, fixed)
    saved = (q, k, v, scale, modify, fixed, out, maximum, total)
    return (out, logsumexp(maximum, total)), saved


def _attend_backward(
    backend: Backend, plan: FusedPlan, saved: Any, cotangents: tuple[Array, Array]
) -> Any:
    q, k, v, scale, modify, fixed, out, maximum, total = saved
    d_out, d_lse = cotangents
    B, N, K, _, _ = plan.shape
    # Weights are exp(logits - maximum) / total: at logits of 1e4 the lse is rounded to 1e-3.
    inverse = jnp.where(total == 0, jnp.zeros_like(total), 1 / nonzero(total))
    d_lse = jnp.where(total == 0, jnp.zeros_like(d_lse), d_lse)
    delta = jnp.moveaxis(jnp.sum(d_out * out, axis=-1), 1, 2) - d_lse
    dq, dk, dv, partials = backend.backward(
        plan, q, k, v, scale, modify, fixed, d_out.astype(plan.low), maximum, inverse, delta
    )
    d_modify = ()
    if plan.backward.modify is not None:
        d_modify = sum_read_gradients(plan.backward.modify, modify, partials, B, N)
    dk, dv = (x.reshape(B, -1, K, N // K, x.shape[3]).sum(3) for x in (dk, dv))
    d_scale = jnp.sum(dq * q.astype(plan.wide))
    dq, dk = scale * dq, scale * dk
    return *(x.astype(plan.low) for x in (dq, dk, dv)), d_scale, d_modify, None


_attend.defvjp(_attend_forward, _attend_backward)


def _rows_that_see(
    backend: Backend,
    plan: FusedPlan,
    fixed: Fixed,
    bad_k: Bool[Array, "B S K"],
    bad_v: Bool[Array, "B S K"],
) -> Bool[Array, "3 B N T"]:
    """Return the rows that may attend to a marked key, to a marked value, and to anything.

    This is attention with logits of 0 and the marks as values: True where the mean is above 0.
    (Weights of 1 are exact in any dtype.)
    """
    B, N, K, T, S = plan.shape
    rows, keys = plan.padded
    low, wide = plan.low, plan.wide
    marks = jnp.stack([bad_k, bad_v, jnp.ones_like(bad_k)], axis=-1).astype(low)
    width = backend.width(3)
    marks = jnp.pad(marks, ((0, 0), (0, keys - S), (0, 0), (0, width - 3)))
    plain = dataclasses.replace(
        plan, forward=dataclasses.replace(plan.forward, modify=None), dropout_rate=0.0
    )
    q, k = (jnp.zeros((B, L, heads, width), low) for L, heads in ((rows, N), (keys, K)))
    fixed = fixed._replace(modify=(), seed=None)
    seen, _, _ = backend.forward(plain, q, k, marks, jnp.zeros((), wide), fixed)
    return jnp.moveaxis(seen[:, :T, :, :3] > 0, (3, 2), (0, 2))

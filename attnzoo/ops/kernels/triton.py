"""Flexible attention in Pallas through Triton: for Ampere, and for modifiers that gather.

An interim: jax has deprecated this backend of Pallas; on Hopper ``mosaic_gpu`` succeeds it.

A program of the forward pass owns a tile of queries and walks the list of key tiles of its row with
an online softmax (Dao 2023, arXiv 2307.08691); where there are few of them, as in decoding, several
share a row, and their results are merged by maximum and sum. Backward, one kernel walks rows for dq
and another columns for dk and dv, so nothing is added atomically to what another program adds to.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from attnzoo.ops.kernels import fused
from attnzoo.ops.kernels.blockwise import finite_maximum, nonzero
from attnzoo.ops.kernels.fused import Fixed, Lists, Plan, Tile
from attnzoo.ops.kernels.in_tile import (
    Row,
    Table,
    Work,
    gradients,
    partial_of,
    product,
    scored,
    surviving,
    tables_of,
)
from attnzoo.ops.kernels.traced import GATHER, HEAD, KEYS, QUERIES, Load, Read

PROGRAMS = 264
"""Two for each of the 132 multiprocessors of a Hopper: with fewer, keys are split."""


def tiles(width: int, dtype: Any) -> tuple[Tile, Tile]:
    """Tiles that fit into registers and shared memory."""
    if jnp.dtype(dtype).itemsize > 2:
        return ((64, 32), (32, 32)) if width <= 128 else ((32, 32), (16, 16))
    if width <= 64:
        return (128, 64), (64, 64)
    return ((128, 64), (64, 64)) if width <= 128 else ((64, 32), (32, 32))


def _width(size: int) -> int:
    return max(1 << (size - 1).bit_length(), 16)


def _loader(refs: Any, shapes: Any, seen: dict[Read, list[Any]] | None = None) -> Load:
    def load(read: Read, indices: Any) -> Array:
        shape = shapes[read.operand]
        indices = [
            jnp.minimum(jnp.maximum(index, 0), size - 1) if axis == GATHER else index
            for index, size, axis in zip(indices, shape, read.axes)
        ]
        if seen is not None:
            seen[read] = indices
        flat = _flat(indices, shape)
        return plt.load(refs[read.operand].at[flat])

    return load


def _flat(indices: Any, shape: tuple[int, ...]) -> Any:
    flat: Any = 0
    for index, stride in zip(indices, _strides(shape)):
        flat = flat + index * stride
    return flat


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]


def _walk(
    lists: Lists | None,
    b: Any,
    n: Any,
    line: Any,
    ratio: int,
    bounds: tuple[int, int],
    visit: Callable[..., Any],
    carry: Any,
    part: tuple[Any, int] = (0, 1),
) -> Any:
    """``carry = visit(tile, is_partial, carry)`` for the tiles of a line that are not empty.

    Without lists, those before the first bound are full and those up to the second partial.
    ``part`` = (i, of): only the i-th of equal parts of each list.
    """
    i, parts = part

    def loop(first: Any, last: Any, at: Callable[[Any], Any], is_partial: bool, carry: Any) -> Any:
        count = last - first
        if parts > 1:
            first, last = first + count * i // parts, first + count * (i + 1) // parts
        return jax.lax.fori_loop(
            first, last, lambda j, carry: visit(at(j), is_partial, carry), carry
        )

    if lists is None:
        for first, last, is_partial in ((0, bounds[0], False), (bounds[0], bounds[1], True)):
            if last > first:
                carry = loop(jnp.int32(first), jnp.int32(last), lambda j: j, is_partial, carry)
        return carry
    for listed, is_partial in ((lists.full, False), (lists.partial, True)):
        if listed is None:
            continue
        count, positions = listed
        mine = (b if count.shape[0] > 1 else 0, n if count.shape[1] > 1 else 0, line)

        def at(j: Any, positions: Any = positions, mine: Any = mine) -> Any:
            if ratio == 1:
                return positions[(*mine, j)]
            return positions[(*mine, j // ratio)] * ratio + j % ratio

        carry = loop(jnp.int32(0), count[mine] * ratio, at, is_partial, carry)
    return carry


def _seed(fixed: Fixed) -> Any:
    return None if fixed.seed is None else (fixed.seed[0], fixed.seed[1])


def _rows_of(ref: Any, tile: Any, size: int) -> Array:
    return ref[pl.ds(tile * size, size), :]


def _forward_kernel(
    plan: Plan, shapes: Any, parts: int, q_ref: Any, k_ref: Any, v_ref: Any, scale_ref: Any,
    fixed: Fixed, out_ref: Any, maximum_ref: Any, total_ref: Any,
) -> None:  # fmt: skip
    r, n, b = (pl.program_id(axis) for axis in range(3))
    r, part = (r // parts, r % parts) if parts > 1 else (r, 0)
    step, wide = plan.forward, plan.wide
    bt, bs = step.tile
    work = Work(
        plan, step, b, n,
        _loader(fixed.modify, shapes.modify), _loader(fixed.visible, shapes.visible), _seed(fixed),
    )  # fmt: skip
    q_tile, scale = q_ref[...], scale_ref[0]

    def visit(c: Any, is_partial: bool, carry: Any) -> Any:
        maximum, total, out = carry
        logits = scale * product(plan, q_tile, _rows_of(k_ref, c, bs), (1, 1))
        logits = scored(work, logits, r, c, is_partial)
        larger = jnp.maximum(maximum, jnp.max(logits, axis=1))
        finite = finite_maximum(larger)
        weights = jnp.exp(logits - finite[:, None])
        shrink = jnp.exp(maximum - finite)
        total = total * shrink + jnp.sum(weights, axis=1)
        weights = surviving(work, weights, r, c)
        read = product(plan, weights, _rows_of(v_ref, c, bs), (1, 0))
        return larger, total, out * shrink[:, None] + read

    carry = (
        jnp.full((bt,), -jnp.inf, wide),
        jnp.zeros((bt,), wide),
        jnp.zeros((bt, v_ref.shape[-1]), wide),
    )
    S = plan.shape[4]
    bounds, line = (S // bs, -(-S // bs)), r // (plan.cell[0] // bt)
    maximum, total, out = _walk(
        fixed.rows, b, n, line, plan.cell[1] // bs, bounds, visit, carry, (part, parts)
    )
    out_ref[...] = out / nonzero(total)[:, None]
    maximum_ref[...] = finite_maximum(maximum) if parts == 1 else maximum
    total_ref[...] = total


class _Shapes(NamedTuple):
    """Of captured arrays, which a kernel gets with one axis, as pointers have."""

    modify: tuple[tuple[int, ...], ...]
    visible: tuple[tuple[int, ...], ...]


def _shapes(modify: tuple[Array, ...], visible: tuple[Array, ...]) -> _Shapes:
    return _Shapes(tuple(x.shape for x in modify), tuple(x.shape for x in visible))


def _flat_arrays(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(x.reshape(-1) for x in arrays)


def _whole(tree: Any) -> Any:
    return jax.tree.map(lambda _: pl.BlockSpec(), tree)


def _tile_spec(length: int, width: int, group: int = 1) -> pl.BlockSpec:
    """A tile of ``B L N H`` by the first program index."""
    return pl.BlockSpec((None, length, None, width), lambda i, n, b: (b, i, n // group, 0))


def _all_spec(length: int, width: int, group: int = 1) -> pl.BlockSpec:
    return pl.BlockSpec((None, length, None, width), lambda i, n, b: (b, 0, n // group, 0))


def _line_spec(length: int, whole: bool = False) -> pl.BlockSpec:
    """A tile of ``B N L``."""
    return pl.BlockSpec((None, None, length), lambda i, n, b: (b, n, 0 if whole else i))


def _call(plan: Plan, kernel: Any, width: int, **arguments: Any) -> Any:
    params = plt.CompilerParams(num_warps=4 if width <= 64 else 8, num_stages=2)
    return pl.pallas_call(kernel, compiler_params=params, interpret=plan.interpret, **arguments)


def _parts(plan: Plan, R: int) -> int:
    """How many programs share a row of tiles: so many that all multiprocessors have work."""
    B, N, _, _, S = plan.shape
    columns = -(-S // plan.forward.tile[1])
    return max(1, min(PROGRAMS // (B * N * R), columns // 4, 64))


def forward(
    plan: Plan, q: Array, k: Array, v: Array, scale: Array, fixed: Fixed
) -> tuple[Array, Array, Array]:
    """Output, row maximum and row sum of exp(logits - maximum)."""
    B, rows, N, width = q.shape
    keys, K, value_width = v.shape[1:]
    bt = plan.forward.tile[0]
    R = rows // bt
    parts = _parts(plan, R)
    shapes = _shapes(fixed.modify, fixed.visible)
    fixed = Fixed(
        _flat_arrays(fixed.modify), _flat_arrays(fixed.visible), (), fixed.rows, None, fixed.seed
    )
    line = jax.ShapeDtypeStruct((B, N, parts * rows), plan.wide)

    def split(i: Any) -> Any:  # parts of a row lie whole rows of tiles apart
        return i % parts * R + i // parts if parts > 1 else i

    line_spec = pl.BlockSpec((None, None, bt), lambda i, n, b: (b, n, split(i)))
    out, maximum, total = _call(
        plan,
        functools.partial(_forward_kernel, plan, shapes, parts),
        width,
        grid=(R * parts, N, B),
        in_specs=[
            pl.BlockSpec((None, bt, None, width), lambda i, n, b: (b, i // parts, n, 0)),
            _all_spec(keys, width, N // K),
            _all_spec(keys, value_width, N // K),
            pl.BlockSpec(),
            _whole(fixed),
        ],
        out_specs=[
            pl.BlockSpec((None, bt, None, value_width), lambda i, n, b: (b, split(i), n, 0)),
            line_spec,
            line_spec,
        ],
        out_shape=[
            jax.ShapeDtypeStruct((B, parts * rows, N, value_width), plan.wide), line, line
        ],
        name="attention_forward",
    )(q, k, v, scale.reshape(1), fixed)  # fmt: skip
    if parts == 1:
        return out, maximum, total
    out = out.reshape(B, parts, rows, N, value_width)
    maximum, total = (x.reshape(B, N, parts, rows) for x in (maximum, total))
    largest = finite_maximum(jnp.max(maximum, axis=2))
    share = total * jnp.exp(maximum - largest[:, :, None])
    total = jnp.sum(share, axis=2)
    share = share / nonzero(total)[:, :, None]
    return jnp.einsum("bptnh,bnpt->btnh", out, share), largest, total


def _dq_kernel(
    plan: Plan, shapes: Any, tables: list[Table], q_ref: Any, k_ref: Any, v_ref: Any,
    scale_ref: Any, modify_refs: Any, fixed: Fixed, d_out_ref: Any, maximum_ref: Any,
    inverse_ref: Any, delta_ref: Any, zeros: Any, dq_ref: Any, d_reads: Any,
) -> None:  # fmt: skip
    r, n, b = (pl.program_id(axis) for axis in range(3))
    step, wide = plan.backward, plan.wide
    bt, bs = step.tile
    seen: dict[Read, list[Any]] = {}
    load = _loader(modify_refs, shapes.modify, seen)
    work = Work(
        plan,
        step,
        b,
        n,
        load,
        _loader(fixed.visible_backward, shapes.visible),
        _seed(fixed),
    )
    q_tile, d_out, scale = q_ref[...], d_out_ref[...], scale_ref[0]
    row = Row(*(ref[...][:, None] for ref in (maximum_ref, inverse_ref, delta_ref)))

    def visit(c: Any, is_partial: bool, carry: Any) -> Any:
        dq, sums = carry
        k_tile = _rows_of(k_ref, c, bs)
        raw = scale * product(plan, q_tile, k_tile, (1, 1))
        d_weights = product(plan, d_out, _rows_of(v_ref, c, bs), (1, 1))
        _, d_logits, parts = gradients(work, raw, d_weights, row, r, c, is_partial)
        dq = dq + product(plan, d_logits, k_tile, (1, 0))
        sums = list(sums)
        for i, (table, part, ref) in enumerate(zip(tables, parts, d_reads)):
            part = part.astype(wide)
            if table.kind == "head":
                sums[i] = sums[i] + jnp.sum(part)
            elif table.kind == QUERIES:
                sums[i] = sums[i] + jnp.sum(jnp.broadcast_to(part, (bt, part.shape[1])), axis=1)
            elif table.kind == "tile":
                ref[pl.ds(r * bt, bt), pl.ds(c * bs, bs)] = jnp.broadcast_to(part, (bt, bs))
            elif table.kind == "gather":
                _add_entries(table, ref, seen[table.read], part)
        return dq, tuple(sums)

    nothing = tuple(jnp.zeros((bt,) if table.kind == QUERIES else (), wide) for table in tables)
    S = plan.shape[4]
    bounds, line = (S // bs, -(-S // bs)), r // (plan.cell[0] // bt)
    dq, sums = _walk(
        fixed.rows, b, n, line, plan.cell[1] // bs, bounds, visit,
        (jnp.zeros((bt, q_ref.shape[-1]), wide), nothing),
    )  # fmt: skip
    dq_ref[...] = dq
    for table, ref, total in zip(tables, d_reads, sums):
        if table.kind == "head":
            ref[0] = total
        elif table.kind == QUERIES:
            ref[...] = total


def _add_entries(table: Table, ref: Any, indices: list[Any], part: Array) -> None:
    """Sum a tile by the entry that was read, entry by entry: from the first to the last in it.

    The program adds to a row of its own. So the order is always the same; atomic because one thread
    must see what another has written.
    """
    chosen = [i for i, axis in zip(indices, table.read.axes) if axis != HEAD]
    flat = jnp.broadcast_to(_flat(chosen, table.sizes), part.shape)

    def add(entry: Any, carry: Any) -> Any:
        here = jnp.where(flat == entry, part, jnp.zeros_like(part))
        plt.atomic_add(ref, (entry,), jnp.sum(here))
        return carry

    jax.lax.fori_loop(jnp.min(flat), jnp.max(flat) + 1, add, 0)


def _dkv_kernel(
    plan: Plan, shapes: Any, tables: list[Table], q_ref: Any, k_ref: Any, v_ref: Any,
    scale_ref: Any, modify_refs: Any, fixed: Fixed, d_out_ref: Any, maximum_ref: Any,
    inverse_ref: Any, delta_ref: Any, dk_ref: Any, dv_ref: Any, d_reads: Any,
) -> None:  # fmt: skip
    c, n, b = (pl.program_id(axis) for axis in range(3))
    step, wide = plan.backward, plan.wide
    bt, bs = step.tile
    load = _loader(modify_refs, shapes.modify)
    work = Work(
        plan,
        step,
        b,
        n,
        load,
        _loader(fixed.visible_backward, shapes.visible),
        _seed(fixed),
    )
    k_tile, v_tile, scale = k_ref[...], v_ref[...], scale_ref[0]

    def visit(r: Any, is_partial: bool, carry: Any) -> Any:
        dk, dv, sums = carry
        q_tile, d_out = _rows_of(q_ref, r, bt), _rows_of(d_out_ref, r, bt)
        row = Row(
            *(ref[pl.ds(r * bt, bt)][:, None] for ref in (maximum_ref, inverse_ref, delta_ref))
        )
        raw = scale * product(plan, q_tile, k_tile, (1, 1))
        d_weights = product(plan, d_out, v_tile, (1, 1))
        read, d_logits, parts = gradients(work, raw, d_weights, row, r, c, is_partial)
        dv = dv + product(plan, read.T, d_out, (1, 0))
        dk = dk + product(plan, d_logits.T, q_tile, (1, 0))
        mine = [part for table, part in zip(tables, parts) if table.kind == KEYS]
        sums = tuple(
            total + jnp.sum(jnp.broadcast_to(part.astype(wide), (part.shape[0], bs)), axis=0)
            for total, part in zip(sums, mine)
        )
        return dk, dv, sums

    nothing = tuple(jnp.zeros((bs,), wide) for _ in d_reads)
    T, ragged = -(-plan.shape[3] // bt), plan.is_ragged
    bounds, line = (0 if ragged else T, T), c // (plan.cell[1] // bs)
    carry = (
        jnp.zeros((bs, k_ref.shape[-1]), wide),
        jnp.zeros((bs, v_ref.shape[-1]), wide),
        nothing,
    )
    dk_ref[...], dv_ref[...], sums = _walk(
        fixed.columns, b, n, line, plan.cell[0] // bt, bounds, visit, carry
    )
    for ref, total in zip(d_reads, sums):
        ref[...] = total


def backward(
    plan: Plan, q: Array, k: Array, v: Array, scale: Array, modify: tuple[Array, ...], fixed: Fixed,
    d_out: Array, maximum: Array, inverse: Array, delta: Array,
) -> tuple[Array, Array, Array, list[Array]]:  # fmt: skip
    """dq, dk and dv (of each query head) without the scale, and the gradients of reads."""
    B, rows, N, width = q.shape
    keys, K, value_width = v.shape[1:]
    (bt, bs), wide = plan.backward.tile, plan.wide
    R, C, group = rows // bt, keys // bs, N // K
    shapes = _shapes(modify, fixed.visible_backward)
    flat, visible = _flat_arrays(modify), _flat_arrays(fixed.visible_backward)
    fixed = Fixed((), (), visible, fixed.rows, fixed.columns, fixed.seed)
    tables = tables_of(plan.backward.modify, shapes.modify)
    lines = (maximum, inverse, delta)
    operands = (q, k, v, scale.reshape(1), flat, fixed, d_out, *lines)

    def out(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, wide)

    kinds = {
        "head": ((B, N, R, 1), _program_spec(1)),
        QUERIES: ((B, N, rows), _line_spec(bt)),
        KEYS: ((1,), pl.BlockSpec()),  # is of the other kernel
        "tile": ((B, N, rows, keys), _head_spec(rows, keys)),
    }
    sizes, specs = [], []
    for table in tables:
        count = int(np.prod(table.sizes))
        size, spec = kinds.get(table.kind, ((B, N, R, count), _program_spec(count)))
        sizes.append(size)
        specs.append(spec)
    zeros = [jnp.zeros(size, wide) for size in sizes]
    first = len(jax.tree.leaves(operands))
    dq, d_reads = _call(
        plan,
        functools.partial(_dq_kernel, plan, shapes, tables),
        width,
        grid=(R, N, B),
        in_specs=[
            _tile_spec(bt, width),
            _all_spec(keys, width, group),
            _all_spec(keys, value_width, group),
            pl.BlockSpec(),
            _whole(flat),
            _whole(fixed),
            _tile_spec(bt, value_width),
            *[_line_spec(bt)] * 3,
            specs,
        ],
        out_specs=[_tile_spec(bt, width), specs],
        out_shape=[out((B, rows, N, width)), [out(size) for size in sizes]],
        input_output_aliases={first + i: 1 + i for i in range(len(tables))},
        name="attention_backward_q",
    )(*operands, zeros)
    columns = [table for table in tables if table.kind == KEYS]
    dk, dv, d_columns = _call(
        plan,
        functools.partial(_dkv_kernel, plan, shapes, tables),
        width,
        grid=(C, N, B),
        in_specs=[
            _all_spec(rows, width),
            _tile_spec(bs, width, group),
            _tile_spec(bs, value_width, group),
            pl.BlockSpec(),
            _whole(flat),
            _whole(fixed),
            _all_spec(rows, value_width),
            *[_line_spec(rows, whole=True)] * 3,
        ],
        out_specs=[
            _tile_spec(bs, width),
            _tile_spec(bs, value_width),
            [_line_spec(bs)] * len(columns),
        ],
        out_shape=[
            out((B, keys, N, width)),
            out((B, keys, N, value_width)),
            [out((B, N, keys)) for _ in columns],
        ],
        name="attention_backward_kv",
    )(*operands)  # fmt: skip
    by_key = iter(d_columns)
    partials = [
        _partial(table, next(by_key) if table.kind == KEYS else found)
        for table, found in zip(tables, d_reads)
    ]
    return dq, dk, dv, partials


def _head_spec(*shape: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, *shape), lambda i, n, b: (b, n, *[0] * len(shape)))


def _program_spec(count: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, None, count), lambda i, n, b: (b, n, i, 0))


def _partial(table: Table, found: Array) -> Array:
    """Axes ``B N`` and those of the operand that are not read by head."""
    if table.kind == "head":
        return jnp.sum(found, axis=(2, 3))
    if table.kind == "gather":
        return jnp.sum(found, axis=2).reshape(*found.shape[:2], *table.sizes)
    return partial_of(table, found)


BACKEND = fused.Backend(forward, backward, tiles, _width, smallest=16)
attend = functools.partial(fused.attend, BACKEND)

# Over 400 lines: the forward and the two backward kernels share one layout of steps and tiles.
"""Attention in Pallas for TPUs, with prefetched lists of the tiles to visit.

Like splash attention: the grid counts the tiles of a row that are not empty. Their positions are
prefetched scalars that tell the pipeline what to copy next. A step past the end of a row names the
last tile, which is loaded already, and computes nothing. A line is a row of tiles, or a column of
tiles in the pass for k and v.

Captured arrays are loaded as tiles in the same way, so an axis can be read only at b, n, q or k:
there are no gathers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from attnzoo.ops.kernels import fused
from attnzoo.ops.kernels.blockwise import finite_maximum, nonzero
from attnzoo.ops.kernels.fused import Fixed, FusedPlan, Lists, Pass, Tile
from attnzoo.ops.kernels.in_tile import (
    ReadGradient,
    Row,
    TileContext,
    apply_dropout,
    apply_modifier_and_mask,
    gradients,
    partial_of,
    product,
    resize_axis,
    tables_of,
)
from attnzoo.ops.kernels.traced import HEAD, KEYS, QUERIES, Load, OfHead, Read, Traced
from attnzoo.ops.softmax import compute_dtype

LANES = 128


def tiles(width: int, dtype: Any) -> tuple[Tile, Tile]:
    """Return tiles of both passes; a few tiles of logits fit into the vector memory."""
    long = 512 if width <= 128 and jnp.dtype(dtype).itemsize == 2 else 256
    return (long, long), (256, 256)


def _width(size: int) -> int:
    return 64 if size <= 64 else -(-size // LANES) * LANES


class _Steps(NamedTuple):
    """Prefetched numbers and positions of the tiles of each line, as flat arrays."""

    full: Array
    total: Array
    positions: Array
    scalars: tuple[Array, ...]
    """Values per head that functions read."""
    seed: Array | None


class _Layout(NamedTuple):
    """Static shapes of :class:`_Steps`."""

    counts: tuple[int, ...]
    """Numbers of batch rows, heads and lines; 1 where all share a list."""
    length: int
    """Length of a list, at least 1."""
    ratio: int
    """Lines of kernel tiles in one line of mask tiles."""
    scalars: dict[tuple[str, int], tuple[int, tuple[int, ...]]]
    """Place among the scalars, and shape, by function and operand."""


def _steps(
    lists: Lists | None, shared: tuple[int, int], ratios: tuple[int, int], functions: Any, seed: Any
) -> tuple[_Steps, _Layout]:
    """Prepare the prefetched lists of tiles and captured scalars, and their layout.

    ``shared`` are the numbers of (full, all) tiles of a line without lists; ``ratios`` are the
    kernel tiles in a mask tile, across the line and along it.
    """
    across, along = ratios
    if lists is None:
        full, total = (jnp.full((1, 1, 1), x, jnp.int32) for x in shared)
        positions = jnp.arange(max(shared[1], 1), dtype=jnp.int32).reshape(1, 1, 1, -1)
        across = 1
    else:
        full, total, positions = _joined(lists, along)
    scalars, places = [], {}
    for name, traced, operands in functions:
        for read in () if traced is None else traced.reads:
            for operand in _scalars_of(read):
                if (name, operand) not in places:
                    value = operands[operand]
                    places[name, operand] = len(scalars), value.shape
                    dtype = compute_dtype(value) if _is_floating(value) else jnp.int32
                    scalars.append(value.astype(dtype).reshape(-1))
    layout = _Layout(total.shape, positions.shape[3], across, places)
    if seed is not None:
        seed = jax.lax.bitcast_convert_type(seed, jnp.int32)
    flat = (x.reshape(-1) for x in (full, total, positions))
    return _Steps(*flat, tuple(scalars), seed), layout


def _is_floating(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _joined(lists: Lists, along: int) -> tuple[Array, Array, Array]:
    """Join lists, full tiles first: (number of full tiles, number of all tiles, positions)."""
    some = [x for x in (lists.full, lists.partial) if x is not None]
    if not some:
        raise AssertionError("a mask without tiles has no lists")
    count = jnp.zeros_like(jnp.asarray(some[0][0]))
    full = jnp.asarray(lists.full[0]) if lists.full is not None else count
    partial = jnp.asarray(lists.partial[0]) if lists.partial is not None else count
    b, n = (max(x[0].shape[axis] for x in some) for axis in (0, 1))
    full, partial = (jnp.broadcast_to(x, (b, n, *x.shape[2:])) for x in (full, partial))
    length = (
        max(x[1].shape[3] for x in some) if len(some) == 1 else sum(x[1].shape[3] for x in some)
    )
    j = jnp.arange(length, dtype=jnp.int32).reshape(1, 1, 1, -1)

    def listed(pair: Any, j: Array) -> Array:
        if pair is None:
            return jnp.zeros((1, 1, 1, 1), jnp.int32)
        at = jnp.broadcast_to(jnp.asarray(pair[1]), (b, n, *pair[1].shape[2:]))
        j = jnp.broadcast_to(jnp.clip(j, 0, at.shape[3] - 1), (*at.shape[:3], length))
        return jnp.take_along_axis(at, j, axis=3)

    is_full = j < full[..., None]
    positions = jnp.where(
        is_full, listed(lists.full, j), listed(lists.partial, j - full[..., None])
    )
    if along > 1:
        inside = jnp.arange(along, dtype=jnp.int32).reshape(1, 1, 1, 1, -1)
        positions = (positions[..., None] * along + inside).reshape(*positions.shape[:3], -1)
    return full * along, (full + partial) * along, positions


def _scalars_of(read: Read) -> list[int]:
    """Return the operands ``B N`` from which a read takes one value per head."""
    found = [index.operand for index in read.indices if isinstance(index, OfHead)]
    return [*found, read.operand] if all(axis == HEAD for axis in read.axes) else found


class _Where(NamedTuple):
    """Place of a program in the grid, in a kernel or in an index map."""

    steps: _Steps
    layout: _Layout
    b: Any
    n: Any
    line: Any
    step: Any

    def _at(self) -> Any:
        B, N, L = self.layout.counts
        line = self.line // self.layout.ratio
        return _flat((self.b, self.n, line), (B, N, L))

    @property
    def full(self) -> Any:
        """Number of full tiles of the line; they come first."""
        return self.steps.full[self._at()]

    @property
    def total(self) -> Any:
        """Number of tiles of the line."""
        return self.steps.total[self._at()]

    @property
    def tile(self) -> Any:
        """Position of this step's tile along the line; past the end that of the last tile."""
        step = jnp.minimum(self.step, jnp.maximum(self.total - 1, 0))
        return self.steps.positions[self._at() * self.layout.length + step]

    def scalar(self, name: str, operand: int) -> Any:
        """Return entry [b, n] of an operand."""
        place, shape = self.layout.scalars[name, operand]
        return self.steps.scalars[place][_flat((self.b, self.n), shape[:2])]


def _flat(indices: Sequence[Any], shape: Sequence[int]) -> Any:
    """Return the position in a flattened array in which axes of size 1 broadcast."""
    flat: Any = 0
    for index, size in zip(indices, shape):
        flat = flat * size + (index if size > 1 else 0)
    return jnp.int32(flat) if isinstance(flat, int) else flat


class _Tiled(NamedTuple):
    """Reads of a function that are tiles, as operands of the kernel."""

    arrays: list[Array]
    specs: list[pl.BlockSpec]


def _tiled(
    name: str,
    traced: Traced | None,
    operands: Sequence[Array],
    plan: FusedPlan,
    tile: Tile,
    place: Any,
) -> _Tiled:
    """Arrange operands as heads, queries, keys (size 1 where not read), with block specs."""
    arrays, specs = [], []
    for read in () if traced is None else traced.reads:
        if all(axis == HEAD for axis in read.axes):
            continue
        array = operands[read.operand]
        heads = [i for i, axis in enumerate(read.axes) if axis == HEAD]
        order = list(heads)
        sizes: list[int] = []
        for axis, length, size in zip((QUERIES, KEYS), plan.padded, tile):
            if axis in read.axes:
                order.append(read.axes.index(axis))
                array = resize_axis(array, order[-1], length)
            sizes.append(size if axis in read.axes else 1)
        array = array.transpose(order)
        shape = [array.shape[i] for i in range(len(heads))]
        rest = [n if axis in read.axes else 1 for axis, n in zip((QUERIES, KEYS), plan.padded)]
        arrays.append(array.reshape(*shape, *rest))

        def index(*at: Any, read: Read = read, heads: list[int] = heads) -> Any:
            where, r, c = place(*at)
            chosen = [_of_head(where, name, read.indices[i]) for i in heads]
            return *chosen, r if QUERIES in read.axes else 0, c if KEYS in read.axes else 0

        specs.append(pl.BlockSpec((*[None] * len(heads), *sizes), index))
    return _Tiled(arrays, specs)


def _of_head(where: _Where, name: str, index: Any) -> Any:
    if isinstance(index, OfHead):
        return where.scalar(name, index.operand)
    if isinstance(index, int):
        return index
    return where.b if index.leaf == "b" else where.n


def _loader(where: _Where, name: str, traced: Traced | None, refs: Sequence[Any]) -> Load:
    reads = () if traced is None else traced.reads
    tiled = dict(zip((x for x in reads if any(axis != HEAD for axis in x.axes)), refs))

    def load(read: Read, indices: Any) -> Array:
        if read in tiled:
            value = tiled[read][...]
            return value.astype(jnp.int32) if value.dtype == jnp.int8 else value
        if (name, read.operand) in where.layout.scalars:
            return where.scalar(name, read.operand).astype(
                read.dtype if read.is_floating else jnp.int32
            )
        # An index of a tiled read: its block spec has applied it already.
        return jnp.int32(0)

    return load


def _work(
    plan: FusedPlan, step: Pass, where: _Where, modify: Sequence[Any], visible: Sequence[Any]
) -> TileContext:
    seed = where.steps.seed
    if seed is not None:
        seed = tuple(jax.lax.bitcast_convert_type(seed[i], jnp.uint32) for i in (0, 1))
    return TileContext(
        plan,
        step,
        where.b,
        where.n,
        _loader(where, "modify", step.modify, modify),
        _loader(where, "visible", step.visible, visible),
        seed,
    )


def _when_visited(plan: FusedPlan, where: _Where, visit: Callable[[bool], None]) -> None:
    """Run ``visit(is_partial)`` if the step has a tile."""
    if plan.has_full:
        pl.when(where.step < where.full)(lambda: visit(False))
    if plan.has_partial:
        pl.when((where.step >= where.full) & (where.step < where.total))(lambda: visit(True))


def _forward_kernel(
    plan: FusedPlan, layout: _Layout, steps: _Steps,
    q_ref: Any, k_ref: Any, v_ref: Any, scale_ref: Any,
    modify: Any, visible: Any, out_ref: Any, maximum_ref: Any, total_ref: Any, m_ref: Any,
    l_ref: Any, acc_ref: Any,
) -> None:  # fmt: skip
    where = _Where(steps, layout, *(pl.program_id(axis) for axis in range(4)))
    work = _work(plan, plan.forward, where, modify, visible)
    r, c = where.line, where.tile

    @pl.when(where.step == 0)
    def _() -> None:
        m_ref[...] = jnp.full_like(m_ref, -jnp.inf)
        l_ref[...] = jnp.zeros_like(l_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    def visit(is_partial: bool) -> None:
        logits = scale_ref[0] * product(plan, q_ref[...], k_ref[...], (1, 1))
        logits = apply_modifier_and_mask(work, logits, r, c, is_partial)
        maximum = m_ref[...]
        larger = jnp.maximum(maximum, jnp.max(logits, axis=1, keepdims=True))
        finite = finite_maximum(larger)
        weights = jnp.exp(logits - finite)
        shrink = jnp.exp(maximum - finite)
        m_ref[...] = larger
        l_ref[...] = l_ref[...] * shrink + jnp.sum(weights, axis=1, keepdims=True)
        read = product(plan, apply_dropout(work, weights, r, c), v_ref[...], (1, 0))
        acc_ref[...] = acc_ref[...] * shrink + read

    _when_visited(plan, where, visit)

    @pl.when(where.step == pl.num_programs(3) - 1)
    def _() -> None:
        out_ref[...] = acc_ref[...] / nonzero(l_ref[...])
        maximum_ref[...] = finite_maximum(m_ref[...])
        total_ref[...] = l_ref[...]


def _dq_kernel(
    plan: FusedPlan, layout: _Layout, tables: list[ReadGradient], steps: _Steps,
    q_ref: Any, k_ref: Any, v_ref: Any, scale_ref: Any,
    modify: Any, visible: Any, d_out_ref: Any, row_refs: Any,
    zeros: Any, dq_ref: Any, d_reads: Any, acc_ref: Any,
) -> None:  # fmt: skip
    where = _Where(steps, layout, *(pl.program_id(axis) for axis in range(4)))
    work = _work(plan, plan.backward, where, modify, visible)
    r, c = where.line, where.tile

    @pl.when(where.step == 0)
    def _() -> None:
        acc_ref[...] = jnp.zeros_like(acc_ref)
        for ref in d_reads:
            ref[...] = jnp.zeros_like(ref)

    def visit(is_partial: bool) -> None:
        raw = scale_ref[0] * product(plan, q_ref[...], k_ref[...], (1, 1))
        d_weights = product(plan, d_out_ref[...], v_ref[...], (1, 1))
        row = Row(*(ref[...] for ref in row_refs))
        _, d_logits, parts = gradients(work, raw, d_weights, row, r, c, is_partial)
        acc_ref[...] += product(plan, d_logits, k_ref[...], (1, 0))
        mine = [(t, part) for t, part in zip(tables, parts) if t.kind != KEYS]
        for (table, part), ref in zip(mine, d_reads):
            part = part.astype(plan.wide)
            if table.kind == "tile":
                ref[...] = jnp.broadcast_to(part, ref.shape)
            elif table.kind == "head":
                ref[...] += jnp.sum(part)
            else:
                ref[...] += jnp.sum(part, axis=1, keepdims=True)

    _when_visited(plan, where, visit)

    @pl.when(where.step == pl.num_programs(3) - 1)
    def _() -> None:
        dq_ref[...] = acc_ref[...]


def _dkv_kernel(
    plan: FusedPlan, layout: _Layout, tables: list[ReadGradient], steps: _Steps,
    q_ref: Any, k_ref: Any, v_ref: Any, scale_ref: Any, modify: Any, visible: Any,
    d_out_ref: Any, row_refs: Any,
    dk_ref: Any, dv_ref: Any, d_reads: Any, dk_acc: Any, dv_acc: Any,
) -> None:  # fmt: skip
    where = _Where(steps, layout, *(pl.program_id(axis) for axis in range(4)))
    work = _work(plan, plan.backward, where, modify, visible)
    r, c = where.tile, where.line

    @pl.when(where.step == 0)
    def _() -> None:
        for ref in (dk_acc, dv_acc, *d_reads):
            ref[...] = jnp.zeros_like(ref)

    def visit(is_partial: bool) -> None:
        raw = scale_ref[0] * product(plan, q_ref[...], k_ref[...], (1, 1))
        d_weights = product(plan, d_out_ref[...], v_ref[...], (1, 1))
        row = Row(*(ref[...] for ref in row_refs))
        read, d_logits, parts = gradients(work, raw, d_weights, row, r, c, is_partial)
        dv_acc[...] += product(plan, read, d_out_ref[...], (0, 0))
        dk_acc[...] += product(plan, d_logits, q_ref[...], (0, 0))
        mine = [part for table, part in zip(tables, parts) if table.kind == KEYS]
        for part, ref in zip(mine, d_reads):
            ref[...] += jnp.sum(part.astype(plan.wide), axis=0, keepdims=True)

    _when_visited(plan, where, visit)

    @pl.when(where.step == pl.num_programs(3) - 1)
    def _() -> None:
        dk_ref[...] = dk_acc[...]
        dv_ref[...] = dv_acc[...]


class _Specs:
    """Block specs of a pass over the rows of tiles, or over the columns."""

    def __init__(self, layout: _Layout, tile: Tile, group: int, by_row: bool):
        self.layout, self.tile, self.group, self.by_row = layout, tile, group, by_row

    def place(self, b: Any, n: Any, line: Any, step: Any, *steps: Any) -> Any:
        """Return (where, row, column) in an index map; ``steps`` are the prefetched arrays."""
        where = _Where(_unflattened(steps), self.layout, b, n, line, step)
        r, c = (line, where.tile) if self.by_row else (where.tile, line)
        return where, r, c

    def queries(self, width: int) -> pl.BlockSpec:
        """Return the block spec of an array ``B N T width``."""

        def index(b: Any, n: Any, *at: Any) -> Any:
            return b, n, self.place(b, n, *at)[1], 0

        return pl.BlockSpec((None, None, self.tile[0], width), index)

    def keys(self, width: int, group: int) -> pl.BlockSpec:
        """Return the block spec of an array ``B N S width``, with N / ``group`` heads."""

        def index(b: Any, n: Any, *at: Any) -> Any:
            return b, n // group if group > 1 else n, self.place(b, n, *at)[2], 0

        return pl.BlockSpec((None, None, self.tile[1], width), index)

    def reads(self, kind: str) -> pl.BlockSpec:
        """Return the block spec of the gradient of a read."""

        def index(b: Any, n: Any, *at: Any) -> Any:
            _, r, c = self.place(b, n, *at)
            return b, n, *{"tile": (r, c), QUERIES: (r, 0), KEYS: (0, c), "head": (r, 0, 0)}[kind]

        bt, bs = self.tile
        size = {"tile": (bt, bs), QUERIES: (bt, 1), KEYS: (1, bs), "head": (None, 1, LANES)}[kind]
        return pl.BlockSpec((None, None, *size), index)


def _unflattened(refs: Sequence[Any]) -> _Steps:
    full, total, positions, *rest = refs
    return _Steps(full, total, positions, tuple(rest), None)


def _call(
    plan: FusedPlan, layout: _Layout, kernel: Any, steps: _Steps, grid: tuple[int, ...], name: str,
    in_specs: Any, out_specs: Any, out_shape: Any, scratch: Any, operands: Any, aliases: Any = None,
) -> Any:  # fmt: skip
    # Prefetched arguments are leaves; the seed, which index maps do not use, comes last.
    leaves = [*steps[:3], *steps.scalars, *([] if steps.seed is None else [steps.seed])]
    count = len(steps.scalars)

    def body(*refs: Any) -> None:
        scalars, seed = refs[3 : 3 + count], refs[3 + count] if steps.seed is not None else None
        kernel(_Steps(*refs[:3], tuple(scalars), seed), *refs[len(leaves) :])

    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(leaves),
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=scratch,
        ),
        out_shape=out_shape,
        input_output_aliases={len(leaves) + i: o for i, o in (aliases or {}).items()},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=plan.interpret,
        name=name,
    )(*leaves, *operands)


def _heads_first(x: Array) -> Array:
    return jnp.moveaxis(x, 2, 1)


def _prepared(
    plan: FusedPlan, step: Pass, modify: Any, visible: Any, fixed: Fixed, group: int, by_row: bool
) -> tuple[_Steps, _Layout, _Specs, _Tiled, _Tiled]:
    T, S = plan.shape[3:]
    bt, bs = step.tile
    functions = (("modify", step.modify, modify), ("visible", step.visible, visible))
    rows = (plan.cell[0] // bt, plan.cell[1] // bs)
    if by_row:
        lists, shared, ratios = fixed.rows, (S // bs, -(-S // bs)), rows
    else:
        count = -(-T // bt)
        lists, shared = fixed.columns, (0 if plan.is_ragged else count, count)
        ratios = rows[::-1]
    steps, layout = _steps(lists, shared, ratios, functions, fixed.seed)
    specs = _Specs(layout, step.tile, group, by_row)
    modified, masked = (
        _tiled(name, traced, operands, plan, step.tile, specs.place)
        for name, traced, operands in functions
    )
    return steps, layout, specs, modified, masked


SCALAR = pl.BlockSpec(memory_space=pltpu.SMEM)


def forward(
    plan: FusedPlan, q: Array, k: Array, v: Array, scale: Array, fixed: Fixed
) -> tuple[Array, Array, Array]:
    """Compute output, row maximum and row sum of exp(logits - maximum)."""
    B, rows, N, width = q.shape
    K, value_width = v.shape[2:]
    bt, wide, group = plan.forward.tile[0], plan.wide, N // K
    if not (plan.has_full or plan.has_partial):
        nothing = jnp.zeros((B, N, rows), wide)
        return jnp.zeros((B, rows, N, value_width), wide), nothing, nothing
    steps, layout, specs, modify, visible = _prepared(
        plan, plan.forward, fixed.modify, fixed.visible, fixed, group, by_row=True
    )
    line = jax.ShapeDtypeStruct((B, N, rows, 1), wide)
    out, maximum, total = _call(
        plan,
        layout,
        functools.partial(_forward_kernel, plan, layout),
        steps,
        (B, N, rows // bt, layout.length),
        "attention_forward",
        in_specs=[
            specs.queries(width),
            specs.keys(width, group),
            specs.keys(value_width, group),
            SCALAR,
            modify.specs,
            visible.specs,
        ],
        out_specs=[specs.queries(value_width), specs.queries(1), specs.queries(1)],
        out_shape=[jax.ShapeDtypeStruct((B, N, rows, value_width), wide), line, line],
        scratch=[pltpu.VMEM((bt, size), wide) for size in (1, 1, value_width)],
        operands=(
            *(_heads_first(x) for x in (q, k, v)),
            scale.reshape(1),
            modify.arrays,
            visible.arrays,
        ),
    )
    return jnp.moveaxis(out, 1, 2), maximum[..., 0], total[..., 0]


def backward(
    plan: FusedPlan, q: Array, k: Array, v: Array, scale: Array, modify: tuple[Array, ...],
    fixed: Fixed,
    d_out: Array, maximum: Array, inverse: Array, delta: Array,
) -> tuple[Array, Array, Array, list[Array]]:  # fmt: skip
    """Compute dq, dk and dv (per query head) without the scale, and the gradients of reads."""
    B, rows, N, width = q.shape
    keys, K, value_width = v.shape[1:]
    (bt, bs), wide, group = plan.backward.tile, plan.wide, N // K
    tables = tables_of(plan.backward.modify, tuple(x.shape for x in modify))
    sizes = {
        "head": (rows // bt, 1, LANES),
        QUERIES: (rows, 1),
        KEYS: (1, keys),
        "tile": (rows, keys),
    }

    def out(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((B, N, *shape), wide)

    if not (plan.has_full or plan.has_partial):
        found = [jnp.zeros((B, N, *sizes[table.kind]), wide) for table in tables]
        dk, dv = (jnp.zeros((B, keys, N, x.shape[3]), wide) for x in (k, v))
        return jnp.zeros(q.shape, wide), dk, dv, [_partial(*x) for x in zip(tables, found)]
    arrays = tuple(_heads_first(x) for x in (q, k, v))
    lines = [x[..., None] for x in (maximum, inverse, delta)]

    def prepared(by_row: bool) -> Any:
        return _prepared(
            plan, plan.backward, modify, fixed.visible_backward, fixed, group, by_row=by_row
        )

    def given(specs: _Specs, modified: _Tiled, visible: _Tiled) -> tuple[list[Any], list[Any]]:
        in_specs = [
            specs.queries(width),
            specs.keys(width, group),
            specs.keys(value_width, group),
            SCALAR,
            modified.specs,
            visible.specs,
            specs.queries(value_width),
            [specs.queries(1)] * 3,
        ]
        operands = [*arrays, scale.reshape(1), modified.arrays, visible.arrays, _heads_first(d_out)]
        return in_specs, [*operands, lines]

    steps, layout, specs, *tiled = prepared(by_row=True)
    in_specs, operands = given(specs, *tiled)
    by_row = [table.kind for table in tables if table.kind != KEYS]
    first = len(jax.tree.leaves(operands))
    zeros = [jnp.zeros((B, N, *sizes[kind]), wide) for kind in by_row]
    dq, d_rows = _call(
        plan,
        layout,
        functools.partial(_dq_kernel, plan, layout, tables),
        steps,
        (B, N, rows // bt, layout.length),
        "attention_backward_q",
        in_specs=[*in_specs, [pl.BlockSpec(memory_space=pl.ANY)] * len(zeros)],
        out_specs=[specs.queries(width), [specs.reads(kind) for kind in by_row]],
        out_shape=[out(rows, width), [out(*sizes[kind]) for kind in by_row]],
        scratch=[pltpu.VMEM((bt, width), wide)],
        operands=[*operands, zeros],
        aliases={first + i: 1 + i for i in range(len(zeros))},
    )
    steps, layout, specs, *tiled = prepared(by_row=False)
    in_specs, operands = given(specs, *tiled)
    count = sum(table.kind == KEYS for table in tables)
    dk, dv, d_columns = _call(
        plan,
        layout,
        functools.partial(_dkv_kernel, plan, layout, tables),
        steps,
        (B, N, keys // bs, layout.length),
        "attention_backward_kv",
        in_specs=in_specs,
        out_specs=[specs.keys(width, 1), specs.keys(value_width, 1), [specs.reads(KEYS)] * count],
        out_shape=[out(keys, width), out(keys, value_width), [out(1, keys)] * count],
        scratch=[pltpu.VMEM((bs, size), wide) for size in (width, value_width)],
        operands=operands,
    )
    found = {True: iter(d_columns), False: iter(d_rows)}
    partials = [_partial(table, next(found[table.kind == KEYS])) for table in tables]
    dq, dk, dv = (jnp.moveaxis(x, 1, 2) for x in (dq, dk, dv))
    return dq, dk, dv, partials


def _partial(table: ReadGradient, found: Array) -> Array:
    """Reduce a read's gradient to ``B N`` and the operand's axes that are not read by head."""
    if table.kind == "head":
        return jnp.sum(found[..., 0], axis=(2, 3))
    if table.kind in (QUERIES, KEYS):
        found = found.reshape(*found.shape[:2], -1)
    return partial_of(table, found)


BACKEND = fused.Backend(forward, backward, tiles, _width, smallest=LANES)
attend = functools.partial(fused.attend, BACKEND)

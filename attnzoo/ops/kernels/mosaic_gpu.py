# Over 400 lines: one custom_vjp, with the layout of its operands.
"""Attention for Hopper GPUs: the kernels of ``mosaic_gpu_kernels`` under this package's contract.

Around them, in XLA: padding to whole blocks, the lists of tiles, delta = rowsum(dO O) - dLSE, the
sums of captured arrays' gradients, and the rules for NaN and inf. The algorithm is that of Dao et
al. 2022 (arXiv 2205.14135), the division of work between warpgroups that of Shah et al. 2024 (arXiv
2407.08608).
"""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnzoo.ops.block_mask import BlockMask
from attnzoo.ops.dropout import AnyKey, dropout_keep_mask, seed_of
from attnzoo.ops.guards import finite_or_zero, has_non_finite, poison
from attnzoo.ops.index_functions import broadcast_index
from attnzoo.ops.kernels import blockwise, interpreting, traced
from attnzoo.ops.kernels.traced import HEAD, KEYS, QUERIES
from attnzoo.ops.logits import Scoring

BLOCK = 128
"""Queries and keys of a tile of the mask."""
TILE = (64, BLOCK)
"""Tile on which functions are traced; a kernel evaluates them on tiles of any size."""
WIDTHS = (64, 128, 256)
"""Head sizes of the kernels; others are padded with zeros to the next one."""
OLDEST = (0, 11)
"""First version of jax whose Mosaic GPU these kernels are written for."""


def refuses(call: Any) -> str | None:
    """Return the argument that rules a call out on this machine, and why; None if it can run."""
    if not interpreting() and jax.default_backend() != "gpu":
        return f"implementation: it wants a Hopper GPU, the default is {jax.default_backend()}"
    if jax.__version_info__[:2] < OLDEST or not _has_backend():
        return f"implementation: jax {jax.__version__}; its Mosaic GPU wants 0.11 and Python 3.12"
    if interpreting():
        return refuses_anywhere(call)
    capability = getattr(jax.devices()[0], "compute_capability", "unknown")
    if capability != "9.0":
        return f"implementation: a GPU of compute capability {capability}; wanted 9.0 (Hopper)"
    return refuses_anywhere(call)


def refuses_anywhere(call: Any) -> str | None:
    """Return the argument that rules a call out on every device, and why; None if it can run."""
    dtypes = {name: getattr(call, name).dtype for name in "qkv"}
    for name, dtype in dtypes.items():
        if dtype not in (jnp.bfloat16, jnp.float16):
            return f"{name}: {dtype}; wanted bfloat16 or float16 (float32: 'blockwise')"
        if dtype != dtypes["q"]:
            return f"{name}: {dtype}; wanted {dtypes['q']} as in q"
    for name, width in (("q", call.q.shape[3]), ("v", call.v.shape[3])):
        if width > WIDTHS[-1]:
            return f"{name}: head size {width}; wanted at most {WIDTHS[-1]}"
    shape = (call.q.shape[0], call.q.shape[2], call.q.shape[1], call.k.shape[1])
    try:
        trace_functions(call.settings, shape)
    except NotImplementedError as error:
        return str(error)
    return None


def _has_backend() -> bool:
    return importlib.util.find_spec("jax.experimental.pallas.mosaic_gpu") is not None


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float = 0.0,
    dropout_key: AnyKey | None = None,
    *,
    tuning: Any = None,
    staged: bool | None = None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """Compute output and log-sum-exp, with gradients for q, k, v and arrays in ``settings``.

    ``tuning`` replaces the kernels' tile sizes. ``staged`` selects kernels that the interpreter can
    run; None: only where kernels are to be interpreted.
    """
    from attnzoo.ops.kernels import mosaic_gpu_kernels as kernels

    staged = interpreting() if staged is None else staged
    B, T, N, H = q.shape
    S, K, Hv = v.shape[1:]
    if 0 in (B, T, S):
        return blockwise.attend(q, k, v, settings, dropout_rate, dropout_key)
    shape = (B, N, T, S)
    modify, visible, operands = trace_functions(settings, shape)
    survives, seeds = None, ()
    if dropout_key is not None and dropout_rate > 0:
        seed = seed_of(dropout_key)
        survives, seeds = traced.trace_mask(
            lambda *at: dropout_keep_mask(seed, dropout_rate, *at), shape, TILE, "dropout_rate"
        )
    mask = _block_mask(settings, shape)
    rows, columns = (_whole_blocks(length) for length in (T, S))
    lists: tuple[Any, Any] = ((), ())
    has_full, has_partial = True, False
    if mask is not None:
        full, partial = mask.tiles()
        has_full, has_partial = (not mask.is_concrete or bool(np.any(x)) for x in (full, partial))
        turned = (x.swapaxes(2, 3) for x in (full, partial))
        lists = (in_order(full, partial), in_order(*turned))
    scale = settings.scale
    if scale is None:
        scale = 1 / math.sqrt(H)
    width, value_width = (next(x for x in WIDTHS if x >= size) for size in (H, Hv))
    plan = kernels.HopperPlan(
        shape=(B, N, K, rows, columns),
        scale=1.0 if isinstance(scale, jax.Array) else float(scale),
        modify=modify,
        visible=visible,
        has_full=has_full,
        has_partial=has_partial,
        tuning=kernels.tuned(width, value_width, staged) if tuning is None else tuning,
        staged=staged,
        kept=survives,
        dropout_rate=dropout_rate,
    )
    padded = [
        _padded(finite_or_zero(x), length, size)
        for x, length, size in ((q, rows, width), (k, columns, width), (v, columns, value_width))
    ]
    modifiers, masks = (
        _whole(function, arrays, rows, columns)
        for function, arrays in zip((modify, visible), operands)
    )
    out, lse = _attend(plan, *padded, lists, modifiers, (masks, seeds))
    out, lse = out[:, :T, :, :Hv], lse[:, :, :T]
    if settings.sinks is not None:
        wide = out.astype(jnp.float32)
        out, lse = blockwise.with_sinks(wide, lse, settings.sinks, q.dtype)
    bad_weights, bad_rows = _not_finite(q, k, v, mask)
    return poison(out, jnp.moveaxis(bad_rows, 1, 2)[..., None]), poison(lse, bad_weights)


def trace_functions(settings: Scoring, shape: tuple[int, int, int, int]) -> Any:
    """Return (modifier, mask, operands of both), with None for a missing modifier or mask.

    Raises NotImplementedError, naming the argument, for a function that cannot run on a tile of
    this kernel.
    """
    from attnzoo.ops.kernels import mosaic_gpu_tile

    modify, modifiers = traced.trace_modify(_with_scale(settings), shape, TILE, jnp.float32)
    mask, S = traced.mask_of(settings), shape[3]
    visible, masks = None, ()
    if mask is not None or S % BLOCK:

        def inside(b: Array, n: Array, q: Array, k: Array) -> Array:
            # Not `True & (k < S)`: Mosaic finds no registers for a vector of one bool.
            within = k < S if S % BLOCK else None
            if mask is None:
                assert within is not None
                return within
            seen = mask(b, n, q, k)
            return seen if within is None else seen & within

        visible, masks = traced.trace_mask(inside, shape, TILE)
    lengths = (_whole_blocks(shape[2]), _whole_blocks(S))
    found = []
    for function, operands in ((modify, modifiers), (visible, masks)):
        if function is not None:
            if function.gathers:
                function, operands = mosaic_gpu_tile.without_gathers(function, operands, lengths)
            refused = mosaic_gpu_tile.cannot_lower(function)
            if refused is not None:
                raise NotImplementedError(f"{refused} ('blockwise' can)")
        found.append((function, operands))
    (modify, modifiers), (visible, masks) = found
    return modify, visible, (modifiers, masks)


def _whole_blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _with_scale(settings: Scoring) -> Scoring:
    """Make a scale that is an array part of the modifier, like any captured array."""
    if not isinstance(settings.scale, jax.Array):
        return settings

    def modify(score: Array, b: Array, n: Array, q: Array, k: Array) -> Array:
        score = score * jnp.asarray(settings.scale, score.dtype)
        if settings.softcap is not None:
            score = settings.softcap * jnp.tanh(score / settings.softcap)
        if settings.bias is not None:
            at = (
                broadcast_index(index, size)
                for index, size in zip((b, n, q, k), settings.bias.shape)
            )
            score = score + settings.bias[tuple(at)].astype(score.dtype)
        return score if settings.score_mod is None else settings.score_mod(score, b, n, q, k)

    return dataclasses.replace(settings, score_mod=modify, softcap=None, bias=None)


def _block_mask(settings: Scoring, shape: tuple[int, int, int, int]) -> BlockMask | None:
    """Return the mask in this kernel's tiles, also to hide padding of keys; None if not needed."""
    mask = traced.mask_of(settings)
    if isinstance(mask, BlockMask):
        if mask.block_size == (BLOCK, BLOCK):
            return mask
        mask = mask.mask_mod
    if mask is None and shape[3] % BLOCK == 0:
        return None
    mask = mask or blockwise.full_mask
    return BlockMask.from_mask(mask, *shape, block_size=(BLOCK, BLOCK))


def in_order(full: Any, partial: Any) -> tuple[Array, Array, Array]:
    """Return for each row the numbers of full and of non-empty tiles, and columns, full first."""
    xp = np if isinstance(full, np.ndarray) else jnp
    rank = xp.where(full, 0, xp.where(partial, 1, 2))
    columns = xp.argsort(rank, axis=-1, stable=True)
    counts = (xp.sum(full, axis=-1), xp.sum(full | partial, axis=-1))
    if xp is np:
        columns = columns[..., : max(int(counts[1].max()), 1)]
    full_count, count, columns = (jnp.asarray(x, jnp.int32) for x in (*counts, columns))
    return full_count, count, columns


def _padded(x: Float[Array, "B L N H"], length: int, width: int) -> Float[Array, "B _ N _"]:
    room = ((0, 0), (0, length - x.shape[1]), (0, 0), (0, width - x.shape[3]))
    return jnp.pad(x, room) if any(after for _, after in room) else x


def _whole(
    function: traced.Traced | None, arrays: Sequence[Array], rows: int, columns: int
) -> tuple[Array, ...]:
    """Pad operands so that a tile past the end can read them."""
    arrays = list(arrays)
    for read in () if function is None else function.reads:
        if read.offset is not None:
            continue
        x = arrays[read.operand]
        wanted = {QUERIES: rows, KEYS: columns, HEAD: 0}
        room = [(0, max(wanted[a] - size, 0)) for a, size in zip(read.axes, x.shape)]
        arrays[read.operand] = jnp.pad(x, room) if any(after for _, after in room) else x
    return tuple(arrays)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GradientReads:
    """Places of the modifier's floating reads that get a gradient."""

    places: tuple[int, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: Any, q: Array, k: Array, v: Array, lists: Any, modifiers: Any, fixed: Any
) -> tuple[Array, Array]:
    from attnzoo.ops.kernels import mosaic_gpu_kernels as kernels

    operands = _laid_out(plan, modifiers, fixed, 0)
    out, lse = kernels.forward(plan, q, k, v, lists[0], operands)
    return out, lse * math.log(2)


def _laid_out(plan: Any, modifiers: Any, fixed: Any, query_axis: int) -> Any:
    """Lay out operands of modifier, mask and dropout for a kernel with queries on an axis."""
    from attnzoo.ops.kernels.mosaic_gpu_tile import add_transposed_copies

    functions = zip((plan.modify, plan.visible, plan.kept), (modifiers, *fixed))
    return tuple(
        add_transposed_copies(function, arrays, query_axis) for function, arrays in functions
    )


def _attend_forward(plan: Any, *primals: Any) -> Any:
    from attnzoo.ops.kernels import mosaic_gpu_kernels as kernels

    perturbed = [x.perturbed for x in primals[4]]
    q, k, v, lists, modifiers, fixed = jax.tree.map(
        lambda x: x.value, primals, is_leaf=lambda x: hasattr(x, "perturbed")
    )
    reads = () if plan.modify is None else plan.modify.reads
    wanted = [i for i, x in enumerate(reads) if x.is_floating and perturbed[x.operand]]
    _with_pullback(plan, wanted)
    operands = _laid_out(plan, modifiers, fixed, 0)
    # The rounded output is enough for dq, dk and dv, which are rounded too. Gradients of captured
    # arrays are sums in float32, and also need what the rounding has lost.
    out, lse, *rest = kernels.forward(plan, q, k, v, lists[0], operands, with_rest=bool(wanted))
    saved = (q, k, v, lists, modifiers, fixed, (out, *rest), lse, GradientReads(tuple(wanted)))
    return (out, lse * math.log(2)), saved


def _with_pullback(plan: Any, wanted: Sequence[int]) -> Any:
    """Return the plan with the derivative of the modifier.

    Raises NotImplementedError, naming the argument, for one that cannot run on a tile.
    """
    from attnzoo.ops.kernels import mosaic_gpu_tile

    if plan.modify is None:
        return plan
    return dataclasses.replace(plan, pull=mosaic_gpu_tile.pullback(plan.modify, wanted))


def _attend_backward(plan: Any, saved: Any, cotangents: Any) -> Any:
    from attnzoo.ops.kernels import mosaic_gpu_backward as kernels

    q, k, v, (lists, turned), modifiers, fixed, outs, lse, wanted = saved
    d_out, d_lse = (
        jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.custom_derivatives.SymbolicZero) else x
        for x in cotangents
    )
    empty = jnp.isneginf(lse)
    # Rows without keys: exp2(s - inf) = 0, and no gradient.
    lse = jnp.where(empty, jnp.inf, lse)
    products = d_out.astype(jnp.float32) * sum(x.astype(jnp.float32) for x in outs)
    delta = jnp.moveaxis(jnp.sum(products, axis=-1), 2, 1) - jnp.where(empty, 0.0, d_lse)
    arrays = (q, k, v, d_out, lse, delta)
    plan = _with_pullback(plan, wanted.places)
    by_row, by_column, dense, by_distance = _owners(plan, wanted.places)
    rows, columns = (_laid_out(plan, modifiers, fixed, axis) for axis in (0, 1))
    dq, *found = kernels.query_gradient(plan, *arrays, lists, rows, by_row, dense)
    dk, dv, *sums = kernels.key_value_gradients(plan, *arrays, turned, columns, by_column)
    if not wanted.places:
        return dq, dk, dv, None, None, None
    reads = dict(zip((*by_row, *dense, *by_column), (*found, *sums)))
    visited = _visited(plan, lists)
    for place in dense:
        reads[place] = _where_visited(visited, reads[place])
    for place in by_distance:
        diagonals = _by_diagonal(visited)
        reads[place] = kernels.diagonal_gradient(plan, *arrays, diagonals, rows, place)
    return dq, dk, dv, None, _of_operands(plan, modifiers, reads), None


def _owners(plan: Any, places: Sequence[int]) -> tuple[list[int], ...]:
    """Group reads by the kernel that sums them: by row, by column, as tiles, by diagonal."""
    owners: tuple[list[int], ...] = ([], [], [], [])
    for place in places:
        read = plan.modify.reads[place]
        has = (QUERIES in read.axes, KEYS in read.axes)
        kind = 3 if read.offset is not None else {(False, True): 1, (True, True): 2}.get(has, 0)
        owners[kind].append(place)
    return owners


def _visited(plan: Any, lists: Any) -> Bool[Array, "#B #N R C"]:
    """Return True for the tiles that are in a list."""
    R, C = (length // BLOCK for length in plan.shape[3:])
    if not lists:
        return jnp.ones((1, 1, R, C), bool)
    _, count, columns = lists
    listed = jax.lax.broadcasted_iota(jnp.int32, columns.shape, 3) < count[..., None]
    return jnp.any(jax.nn.one_hot(columns, C, dtype=bool) & listed[..., None], axis=3)


def _where_visited(
    visited: Bool[Array, "#B #N R C"], x: Float[Array, "B N T S"]
) -> Float[Array, "B N T S"]:
    """Keep the tiles that a kernel has written, with zeros in the others."""
    tiles = x.reshape(*x.shape[:2], visited.shape[2], BLOCK, visited.shape[3], BLOCK)
    return jnp.where(visited[:, :, :, None, :, None], tiles, 0.0).reshape(x.shape)


def _by_diagonal(visited: Bool[Array, "#B #N R C"]) -> tuple[Array, Array]:
    """Return the number of visited tiles on each diagonal of tiles, and their rows."""
    R, C = visited.shape[2:]
    row, diagonal = (jax.lax.broadcasted_iota(jnp.int32, (R + C - 1, R), i) for i in (1, 0))
    column = row + diagonal - (R - 1)
    on_it = (
        visited[:, :, row, jnp.clip(column, 0, C - 1)] & ((column >= 0) & (column < C))[None, None]
    )
    order = jnp.argsort(~on_it, axis=-1, stable=True).astype(jnp.int32)
    return jnp.sum(on_it, axis=-1, dtype=jnp.int32), order


def _of_operands(plan: Any, operands: Sequence[Array], found: dict[int, Array]) -> Any:
    """Return gradients of operands from those of reads, which kernels have summed."""
    B, N = plan.shape[:2]
    partials = []
    for place, read in enumerate(plan.modify.reads):
        if not read.is_floating:
            continue
        kept = [size for a, size in zip(read.axes, operands[read.operand].shape) if a != HEAD]
        if place not in found:
            partials.append(jnp.zeros((B, N, *kept), jnp.float32))
        elif not kept:
            partials.append(jnp.sum(found[place], axis=-1))
        else:  # zeros where the operand is longer
            x = found[place]
            if [a for a in read.axes if a != HEAD] == [KEYS, QUERIES]:
                x = jnp.swapaxes(x, 2, 3)
            room = [(0, size - have) for size, have in zip(kept, x.shape[2:])]
            partials.append(jnp.pad(x, ((0, 0), (0, 0), *room)))
    return traced.sum_read_gradients(plan.modify, operands, partials, B, N)


_attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


def _not_finite(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    mask: BlockMask | None,
) -> tuple[Bool[Array, "B N T"], Bool[Array, "B N T"]]:
    """Return the rows whose weights are NaN, and the rows whose output is NaN.

    Tiles are visited only if an entry of q, k or v is not finite.
    """
    B, T, N, _ = q.shape
    S, K = k.shape[1:3]
    block = (BLOCK, BLOCK)
    visible, arrays, lists, has_partial = None, (), None, False
    if mask is not None:
        visible, arrays = blockwise.trace_mask(mask.mask_mod, block, lambda q, k: (q < T) & (k < S))
        lists = (mask.full_count, mask.full_columns, mask.partial_count, mask.partial_columns)
        has_full, has_partial = (not mask.is_concrete or bool(np.any(lists[i])) for i in (0, 2))
        lists = tuple(jnp.asarray(x) for x in lists)
    else:
        has_full = True
    shape = (B, N, K, -(-T // BLOCK), -(-S // BLOCK))
    plan = blockwise.BlockwisePlan(shape, block, None, visible, has_full, has_partial, 0.0)
    fixed = blockwise.Fixed((), arrays, lists, None)
    bad_q, bad_k, bad_v = (has_non_finite(x) for x in (q, k, v))
    bad_keys, bad_values, anything = jax.lax.cond(
        jnp.any(bad_q) | jnp.any(bad_k) | jnp.any(bad_v),
        lambda: blockwise.rows_that_see(plan, fixed, bad_k, bad_v)[..., :T],
        lambda: jnp.zeros((3, B, N, T), bool),
    )
    bad_weights = bad_keys | (jnp.moveaxis(bad_q, 1, 2) & anything)
    return bad_weights, bad_weights | bad_values

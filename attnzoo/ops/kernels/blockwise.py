# Over 400 lines: forward and backward are one custom_vjp over the same tiles.
"""Attention in tiles, in plain XLA: no ``T x S`` array, forward or backward.

Forward: online softmax over the key tiles of a row of tiles (Milakov and Gimelshein 2018, arXiv
1805.02867; Rabe and Staats 2021, arXiv 2112.05682). Backward: the weights of a tile are recomputed
from q, k and the row's maximum and sum, and one pass over the tiles computes all gradients (Dao et
al. 2022, arXiv 2205.14135). Tiles that a mask leaves empty are not visited.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Bool, Float, Shaped

from attnzoo.ops.block_mask import BlockMask, chosen_block
from attnzoo.ops.dropout import AnyKey, dropout_keep_mask, seed_of
from attnzoo.ops.guards import finite_or_zero, has_non_finite, poison
from attnzoo.ops.index_functions import as_four_axes, broadcast_index
from attnzoo.ops.kernels import few_queries
from attnzoo.ops.kernels.derivatives import no_forward_mode, no_second_reverse
from attnzoo.ops.kernels.tiles import device_kind, tiles_for
from attnzoo.ops.logits import Scoring
from attnzoo.ops.masks import Broadcast, MaskFunction, dense_mask
from attnzoo.ops.softmax import compute_dtype
from attnzoo.ops.wide_sums import trace

FEW_QUERIES = 8
"""Number of queries up to which the weights are no larger than the keys, and are not tiled."""
MASK_TILE = 128
"""Queries and keys of a tile of a mask, if larger tiles would skip too little."""
MAX_EXTRA_VISITS = 1.3
"""Factor by which larger tiles may visit more entries: they are faster per entry."""


class Captured(NamedTuple):
    """A function that was traced on one tile: its structure is static, its arrays are operands.

    Arrays that a function closes over would be invisible to the custom gradient, so they become
    arguments; floating ones get a gradient.
    """

    jaxpr: Any
    is_floating: tuple[bool, ...]

    def __call__(self, floating: Any, other: Any, *args: Array) -> list[Array]:
        consts = interleave(self.is_floating, floating, other)
        return jaxpr_as_fun(ClosedJaxpr(self.jaxpr, list(consts)))(*args)


@dataclasses.dataclass(frozen=True, eq=False)
class BlockwisePlan:
    """Static plan of blockwise attention: sizes, traced functions and kinds of tiles."""

    shape: tuple[int, int, int, int, int]
    """B, N, K, and the numbers of rows R and columns C of tiles."""
    block: tuple[int, int]
    modify: Captured | None
    visible: Captured | None
    has_full: bool
    has_partial: bool
    dropout_rate: float
    is_whole: bool = False
    """True if all keys of a row are in one tile."""


class Fixed(NamedTuple):
    """Operands without a gradient."""

    modify: tuple[Array, ...]
    visible: tuple[Array, ...]
    lists: tuple[Array, ...] | None
    """Counts and columns of full and of partial tiles, for each row of tiles."""
    seed: Array | None
    positions: tuple[Array, Array] | None = None
    """Positions that modifiers and masks get for q and k, if not the indices into the arrays; -1
    past the end of a sequence."""


class Row(NamedTuple):
    """One row of tiles, by its batch row, head, row of tiles and key/value head."""

    b: Array
    n: Array
    r: Array
    kv: Array


def attend(
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
    dtype = compute_dtype(q, k)
    if 0 in (B, T, S):
        out, lse = jnp.zeros((B, T, N, Hv), dtype), jnp.full((B, N, T), -jnp.inf, dtype)
        return with_sinks(out, lse, settings.sinks, q.dtype)
    if T <= FEW_QUERIES:
        return few_queries.attend(q, k, v, settings, dropout_rate, dropout_key)

    tiles = tiles_for("blockwise", device_kind(), q.dtype, H, T, S)
    mask = _block_mask(settings, (B, N, T, S), (tiles.queries, tiles.keys))
    block = chosen_block(T, S, tiles[:2]) if mask is None else mask.block_size
    bt, bs = block
    R, C = -(-T // bt), -(-S // bs)
    modify, floats, modify_fixed = trace_modify(settings, block, dtype)
    visible, visible_fixed, lists = None, (), None
    has_full, has_partial = True, False
    if mask is not None:

        def inside(q: Array, k: Array) -> Array:
            return (q < T) & (k < S)

        hide = inside if T % bt or S % bs else None
        visible, visible_fixed = trace_mask(mask.mask_mod, block, hide)
        lists = (mask.full_count, mask.full_columns, mask.partial_count, mask.partial_columns)
        if mask.is_concrete:
            has_full, has_partial = (bool(np.any(lists[i])) for i in (0, 2))
        else:
            has_partial = True
        lists = tuple(jnp.asarray(x) for x in lists)
    plan = BlockwisePlan(
        (B, N, K, R, C), block, modify, visible, has_full, has_partial, dropout_rate, C == 1
    )
    seed = None if dropout_key is None else seed_of(dropout_key)
    fixed = Fixed(modify_fixed, visible_fixed, lists, seed)

    tiled_q = tiles_in_front(finite_or_zero(q).astype(dtype), R * bt)
    tiled_k = tiles_in_front(finite_or_zero(k).astype(dtype), C * bs)
    tiled_v = tiles_in_front(finite_or_zero(v).astype(dtype), C * bs)
    bias = settings.bias
    if bias is not None:
        room = [
            (0, 0),
            (0, 0),
            *((0, L - x) if x > 1 else (0, 0) for x, L in zip(bias.shape[2:], (R * bt, C * bs))),
        ]
        bias = jnp.pad(bias, room)
    scale = scale_of(settings, H, dtype)
    given = no_forward_mode((tiled_q, tiled_k, tiled_v, scale, bias, floats))
    out, lse = _attend(plan, *given, fixed)
    out = jnp.moveaxis(out.reshape(B, N, R * bt, Hv)[:, :, :T], 1, 2)
    lse = lse.reshape(B, N, R * bt)[:, :, :T]
    out, lse = with_sinks(out, lse, settings.sinks, dtype)

    bad_q, bad_k, bad_v = (has_non_finite(x) for x in (q, k, v))
    bad_keys, bad_values, anything = jax.lax.cond(
        jnp.any(bad_q) | jnp.any(bad_k) | jnp.any(bad_v),
        lambda: rows_that_see(plan, fixed, bad_k, bad_v)[..., :T],
        lambda: jnp.zeros((3, B, N, T), bool),
    )
    bad_weights = bad_keys | (jnp.moveaxis(bad_q, 1, 2) & anything)
    bad_rows = jnp.moveaxis(bad_weights | bad_values, 1, 2)[..., None]
    return poison(out, bad_rows).astype(q.dtype), poison(lse, bad_weights)


def scale_of(settings: Scoring, H: int, dtype: Any) -> Float[Array, ""]:
    """Return the factor on q . k; on q instead, each of the H entries would be rounded."""
    return jnp.asarray(1 / math.sqrt(H) if settings.scale is None else settings.scale, dtype)


def with_sinks(out: Array, lse: Array, sinks: Array | None, dtype: Any) -> tuple[Array, Array]:
    """Add one logit per head, of a key without a value: the other weights shrink."""
    if sinks is not None:
        sinks = sinks.astype(lse.dtype)[None, :, None]
        out = out * jnp.moveaxis(jax.nn.sigmoid(lse - sinks), 1, 2)[..., None]
        lse = jnp.logaddexp(lse, sinks)
    return out.astype(dtype), lse


def _block_mask(
    settings: Scoring, shape: tuple[int, int, int, int], wanted: tuple[int, int]
) -> BlockMask | None:
    """Return the mask in tiles, also to hide padding at the ends of T or S; None if not needed."""
    mask: MaskFunction | None = settings.mask_mod
    if settings.mask is not None:
        array = Broadcast(settings.mask)
        mask = array if mask is None else array & mask
    T, S = shape[2:]
    if mask is None:
        block = chosen_block(T, S, wanted)
        if T % block[0] == 0 and S % block[1] == 0:
            return None
        return BlockMask.from_mask(full_mask, *shape, block_size=block)
    if not isinstance(mask, BlockMask):
        if isinstance(settings.mask_mod, BlockMask):
            block = settings.mask_mod.block_size
        else:
            block = chosen_block(T, S, (min(wanted[0], MASK_TILE), min(wanted[1], MASK_TILE)))
        mask = BlockMask.from_mask(mask, *shape, block_size=block)
    return _joined(mask, wanted)


def _joined(mask: BlockMask, wanted: tuple[int, int]) -> BlockMask:
    """Merge tiles to near the wanted size, unless these would visit too many empty entries."""
    if not mask.is_concrete:  # the empty tiles are not known
        return mask
    factors = []
    for length, size, most in zip(mask.shape[2:], mask.block_size, wanted):
        tiles = -(-length // size)
        larger = -(-tiles // max(most // size, 1))
        factors.append(-(-tiles // larger))  # as equal as possible
    if factors == [1, 1]:
        return mask
    joined = mask.joined(*factors)
    return joined if joined.visited() <= MAX_EXTRA_VISITS * mask.visited() else mask


def full_mask(b: Array, n: Array, q: Array, k: Array) -> Array:
    return (q == q) & (k == k)


def _tile_indices(block: tuple[int, int]) -> list[jax.ShapeDtypeStruct]:
    shapes = ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, block[0], 1), (1, 1, 1, block[1]))
    return [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes]


def capture(function: Callable[..., Any], *avals: jax.ShapeDtypeStruct) -> tuple[Any, Any, Any]:
    """Trace a function and take its arrays out: (Captured, floating arrays, other arrays)."""
    closed = trace(function, *avals)
    consts = [jnp.asarray(const) for const in closed.consts]
    is_floating = tuple(bool(jnp.issubdtype(const.dtype, jnp.floating)) for const in consts)
    floating = tuple(const for const, is_float in zip(consts, is_floating) if is_float)
    other = tuple(const for const, is_float in zip(consts, is_floating) if not is_float)
    return Captured(closed.jaxpr, is_floating), floating, other


def trace_modify(settings: Scoring, block: tuple[int, int], dtype: Any) -> tuple[Any, Any, Any]:
    """Trace soft cap, bias and score modifier as one function of a tile of logits."""
    if settings.softcap is None and settings.bias is None and settings.score_mod is None:
        return None, (), ()
    shape = (1, 1, *block)

    def modify(logits: Array, bias: Array, b: Array, n: Array, q: Array, k: Array) -> Array:
        if settings.softcap is not None:
            logits = settings.softcap * jnp.tanh(logits / settings.softcap)
        if settings.bias is not None:
            logits = logits + bias
        if settings.score_mod is not None:
            logits = as_four_axes(settings.score_mod(logits, b, n, q, k), shape).astype(dtype)
        return jnp.broadcast_to(logits, shape)

    bias_shape = (1, 1, 1, 1)
    if settings.bias is not None:
        bias_shape = (1, 1, *(1 if x == 1 else L for x, L in zip(settings.bias.shape[2:], block)))
    return capture(
        modify,
        jax.ShapeDtypeStruct(shape, dtype),
        jax.ShapeDtypeStruct(bias_shape, dtype),
        *_tile_indices(block),
    )


def trace_mask(
    mask: MaskFunction, block: tuple[int, int], inside: Callable[[Array, Array], Array] | None
) -> tuple[Captured, tuple[Array, ...]]:
    """Trace a mask as a function of a tile; ``inside`` is False at padding.

    Returns the function and its arrays.
    """
    shape = (1, 1, *block)

    def visible(b: Array, n: Array, q: Array, k: Array) -> Array:
        seen = dense_mask(mask, b, n, q, k, shape=shape)
        return jnp.broadcast_to(seen if inside is None else seen & inside(q, k), shape)

    return without_gradient(*capture(visible, *_tile_indices(block)))


def without_gradient(
    captured: Captured, floating: tuple[Array, ...], other: tuple[Array, ...]
) -> tuple[Captured, tuple[Array, ...]]:
    """Return a captured function with all its arrays in one tuple, none with a gradient."""
    consts = interleave(captured.is_floating, floating, other)
    return captured._replace(is_floating=(False,) * len(consts)), consts


def interleave(is_floating: tuple[bool, ...], floating: Any, other: Any) -> tuple[Array, ...]:
    floating, other = iter(floating), iter(other)
    return tuple(next(floating if is_float else other) for is_float in is_floating)


def tiles_in_front(x: Float[Array, "B L N H"], length: int) -> Float[Array, "heads _ H"]:
    """Move heads in front of positions, and pad positions with zeros to whole tiles."""
    B, L, N, H = x.shape
    x = jnp.pad(jnp.moveaxis(x, 2, 1), ((0, 0), (0, 0), (0, length - L), (0, 0)))
    return x.reshape(B * N, length, H)


def _row(plan: BlockwisePlan, i: Array) -> Row:
    _, N, K, R, _ = plan.shape
    head = i // R
    b, n = head // N, head % N
    return Row(b, n, i % R, b * K + n // (N // K))


def _over_tiles(
    plan: BlockwisePlan, fixed: Fixed, row: Row, visit: Callable[..., Any], carry: Any
) -> Any:
    """Run ``carry = visit(column, is_partial, carry)`` for each non-empty tile of a row."""
    if fixed.lists is None:
        # int32 as all indices here: Python's integers have 64 bits under jax_enable_x64.
        first, end = jnp.int32(0), jnp.int32(plan.shape[4])
        return jax.lax.fori_loop(first, end, lambda c, carry: visit(c, False, carry), carry)
    kinds = ((plan.has_full, False, fixed.lists[:2]), (plan.has_partial, True, fixed.lists[2:]))
    for there_are, is_partial, (count, columns) in kinds:
        if there_are:
            # They may be numpy arrays: so jax passes the constants of a program that it reruns.
            count, columns = jnp.asarray(count), jnp.asarray(columns)
            at = (
                broadcast_index(row.b, count.shape[0]),
                broadcast_index(row.n, count.shape[1]),
                row.r,
            )
            mine = columns[at]
            carry = jax.lax.fori_loop(
                0,
                count[at],
                lambda t, carry, mine=mine, is_partial=is_partial: visit(
                    mine[t], is_partial, carry
                ),
                carry,
            )
    return carry


def _indices(
    plan: BlockwisePlan, fixed: Fixed, row: Row, c: Array
) -> tuple[Array, Array, Array, Array]:
    (bt, bs), one = plan.block, (1, 1, 1, 1)
    if fixed.positions is None:
        q = row.r * bt + jnp.arange(bt, dtype=jnp.int32)
        k = c * bs + jnp.arange(bs, dtype=jnp.int32)
    else:
        q = jax.lax.dynamic_slice(fixed.positions[0], (row.r * bt,), (bt,))
        k = jax.lax.dynamic_slice(fixed.positions[1], (c * bs,), (bs,))
    return row.b.reshape(one), row.n.reshape(one), q.reshape(1, 1, -1, 1), k.reshape(1, 1, 1, -1)


def _tile(x: Shaped[Array, "heads L H"], head: Array, c: Array, size: int) -> Shaped[Array, "s H"]:
    return jax.lax.dynamic_slice(x, (head, c * size, c * 0), (1, size, x.shape[2]))[0]


def _bias_at(plan: BlockwisePlan, bias: Array, row: Row, c: Array) -> tuple[tuple[Array, ...], Any]:
    """Return the start and the size of the tile's part of a bias."""
    starts = (row.b, row.n, row.r * plan.block[0], c * plan.block[1])
    sizes = (1, 1, *plan.block)
    where = tuple(broadcast_index(at, size) for at, size in zip(starts, bias.shape))
    return where, tuple(1 if have == 1 else size for have, size in zip(bias.shape, sizes))


def _bias_tile(plan: BlockwisePlan, bias: Array | None, row: Row, c: Array, dtype: Any) -> Array:
    if bias is None:
        return jnp.zeros((1, 1, 1, 1), dtype)
    return jax.lax.dynamic_slice(bias, *_bias_at(plan, bias, row, c)).astype(dtype)


def _hidden(
    plan: BlockwisePlan, fixed: Fixed, logits: Float[Array, "t s"], indices: Any
) -> Float[Array, "t s"]:
    assert plan.visible is not None
    (visible,) = plan.visible((), fixed.visible, *indices)
    return jnp.where(visible[0, 0], logits, -jnp.inf)


def _kept(
    plan: BlockwisePlan, fixed: Fixed, indices: Any, dtype: Any
) -> Float[Array, "t s"] | None:
    """Return dropout's factor on each weight: 0 if dropped, 1 / (1 - rate) if kept."""
    if fixed.seed is None:
        return None
    keep = dropout_keep_mask(fixed.seed, plan.dropout_rate, *indices)[0, 0]
    return jnp.where(keep, jnp.asarray(1 / (1 - plan.dropout_rate), dtype), jnp.zeros((), dtype))


def forward(
    plan: BlockwisePlan,
    q: Array,
    k: Array,
    v: Array,
    scale: Array,
    bias: Any,
    floats: Any,
    fixed: Fixed,
) -> Any:
    """Compute output, row maximum and row sum of exp(logits - maximum), rows of tiles in front."""
    (bt, bs), dtype = plan.block, q.dtype
    H, Hv = q.shape[2], v.shape[2]
    rows = q.reshape(-1, bt, H)

    def row_of_tiles(inputs: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        i, q_tile = inputs
        row = _row(plan, i)

        def visit(c: Array, is_partial: bool, carry: Any) -> Any:
            maximum, total, out = carry
            indices = _indices(plan, fixed, row, c)
            logits = scale * _products(q_tile, _tile(k, row.kv, c, bs))
            if plan.modify is not None:
                part = _bias_tile(plan, bias, row, c, dtype)
                modified = plan.modify(floats, fixed.modify, logits[None, None], part, *indices)
                logits = modified[0][0, 0]
            if is_partial:
                logits = _hidden(plan, fixed, logits, indices)
            larger = jnp.maximum(maximum, jnp.max(logits, axis=1))
            finite = finite_maximum(larger)
            weights = jnp.exp(logits - finite[:, None])
            shrink = jnp.exp(maximum - finite)
            total = total * shrink + jnp.sum(weights, axis=1)
            keep = _kept(plan, fixed, indices, dtype)
            weights = weights if keep is None else weights * keep
            read = jnp.einsum("ts,sh->th", weights, _tile(v, row.kv, c, bs))
            return larger, total, out * shrink[:, None] + read

        nothing = (jnp.full((bt,), -jnp.inf, dtype), jnp.zeros((bt,), dtype))
        maximum, total, out = _over_tiles(
            plan, fixed, row, visit, (*nothing, jnp.zeros((bt, Hv), dtype))
        )
        return out / nonzero(total)[:, None], finite_maximum(maximum), total

    count = jnp.arange(rows.shape[0], dtype=jnp.int32)
    return jax.lax.map(row_of_tiles, (count, rows))


def _products(q: Float[Array, "t H"], k: Float[Array, "s H"]) -> Float[Array, "t s"]:
    """Compute Q k^T as the sum of two halves of H, for precision.

    In a product this small XLA:CPU adds all of H one by one, and loses twice the digits that it
    loses in a large product. Logits of 1e4 need these digits.
    """
    half = q.shape[1] // 2
    parts = ((q[:, :half], k[:, :half]), (q[:, half:], k[:, half:])) if half >= 16 else ((q, k),)
    first, *rest = (jnp.einsum("th,sh->ts", *part) for part in parts)
    return sum(rest, first)


def finite_maximum(maximum: Array) -> Array:
    """Replace a maximum of -inf (nothing to attend to yet) by 0, which can be subtracted."""
    return jnp.where(jnp.isneginf(maximum), jnp.zeros_like(maximum), maximum)


def logsumexp(maximum: Array, total: Array) -> Array:
    """Return the log-sum-exp from a row's maximum and sum; -inf for a row without keys."""
    return jnp.where(total == 0, -jnp.inf, maximum + jnp.log(nonzero(total)))


def nonzero(total: Array) -> Array:
    return jnp.where(total == 0, jnp.ones_like(total), total)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: BlockwisePlan,
    q: Array,
    k: Array,
    v: Array,
    scale: Array,
    bias: Any,
    floats: Any,
    fixed: Fixed,
) -> tuple[Array, Array]:
    return _attend_forward(plan, q, k, v, scale, bias, floats, fixed)[0]


def _attend_forward(
    plan: BlockwisePlan,
    q: Array,
    k: Array,
    v: Array,
    scale: Array,
    bias: Any,
    floats: Any,
    fixed: Fixed,
) -> Any:
    done = forward(plan, q, k, v, scale, bias, floats, fixed)
    out, maximum, total = no_second_reverse(done)
    return (out, logsumexp(maximum, total)), (
        q,
        k,
        v,
        scale,
        bias,
        floats,
        fixed,
        out,
        maximum,
        total,
    )


def attend_backward(plan: BlockwisePlan, saved: Any, cotangents: tuple[Array, Array]) -> Any:
    q, k, v, scale, bias, floats, fixed, out, maximum, total = saved
    d_out, d_lse = cotangents
    (bt, bs), dtype = plan.block, q.dtype
    # The weights are exp(logits - maximum) / total, which is exact where exp(logits - lse) is not:
    # at logits of 1e4 the lse itself is rounded to 1e-3. The division goes into the cotangents,
    # which are smaller than a tile. A row without keys has a total of 0 and no gradient.
    inverse = jnp.where(total == 0, jnp.zeros_like(total), 1 / nonzero(total))
    d_out = d_out * inverse[..., None]
    d_lse = jnp.where(total == 0, jnp.zeros_like(d_lse), d_lse) * inverse
    if plan.is_whole:  # then delta is a sum over the tile, see below
        delta = -d_lse
    else:
        delta = jnp.sum(d_out * out, axis=-1) - d_lse
    rows = q.reshape(-1, bt, q.shape[2])

    def row_of_tiles(carry: Any, inputs: Any) -> Any:
        i, q_tile, d_out, delta, maximum, inverse = inputs
        row = _row(plan, i)

        def visit(c: Array, is_partial: bool, carry: Any) -> Any:
            dq, dk, dv, d_bias, d_floats = carry
            indices = _indices(plan, fixed, row, c)
            k_tile, v_tile = _tile(k, row.kv, c, bs), _tile(v, row.kv, c, bs)
            logits = scale * _products(q_tile, k_tile)
            pull = None
            if plan.modify is not None:
                part = _bias_tile(plan, bias, row, c, dtype)

                def modify(logits: Array, part: Array, floats: Any) -> Array:
                    assert plan.modify is not None
                    return plan.modify(floats, fixed.modify, logits, part, *indices)[0]

                logits, pull = jax.vjp(modify, logits[None, None], part, floats)
                logits = logits[0, 0]
            if is_partial:
                logits = _hidden(plan, fixed, logits, indices)
            weights = jnp.exp(logits - maximum[:, None])
            if plan.is_whole:  # XLA may round these logits unlike those of the forward pass
                weights = weights / nonzero(inverse * jnp.sum(weights, axis=1))[:, None]
            keep = _kept(plan, fixed, indices, dtype)
            d_weights = _products(d_out, v_tile)
            if keep is None:
                read = weights
            else:
                read, d_weights = weights * keep, d_weights * keep
            dv = _add_tile(dv, row.kv, c, bs, jnp.einsum("ts,th->sh", read, d_out))
            if plan.is_whole:
                # Where one key has all the weight, the mean is its d_weights to the last bit.
                mean = inverse * jnp.sum(weights * d_weights, axis=1)
                d_weights = d_weights - mean[:, None]
            d_logits = weights * (d_weights - delta[:, None])
            if pull is not None:
                d_tile, d_part, d_captured = pull(d_logits[None, None])
                d_logits = d_tile[0, 0]
                if bias is not None:
                    where, size = _bias_at(plan, bias, row, c)
                    d_part = d_part + jax.lax.dynamic_slice(d_bias, where, size)
                    d_bias = jax.lax.dynamic_update_slice(d_bias, d_part, where)
                d_floats = tuple(
                    total + new.astype(total.dtype) for total, new in zip(d_floats, d_captured)
                )
            dq = dq + jnp.einsum("ts,sh->th", d_logits, k_tile)
            dk = _add_tile(dk, row.kv, c, bs, jnp.einsum("ts,th->sh", d_logits, q_tile))
            return dq, dk, dv, d_bias, d_floats

        dq, *carry = _over_tiles(plan, fixed, row, visit, (jnp.zeros_like(q_tile), *carry))
        return tuple(carry), dq

    nothing = (
        jnp.zeros_like(k),
        jnp.zeros_like(v),
        None if bias is None else jnp.zeros(bias.shape, dtype),
        tuple(jnp.zeros(x.shape, compute_dtype(x)) for x in floats),
    )
    count = jnp.arange(rows.shape[0], dtype=jnp.int32)
    (dk, dv, d_bias, d_floats), dq = jax.lax.scan(
        row_of_tiles, nothing, (count, rows, d_out, delta, maximum, inverse)
    )
    if bias is not None:
        assert d_bias is not None
        d_bias = d_bias.astype(bias.dtype)
    d_floats = tuple(total.astype(x.dtype) for total, x in zip(d_floats, floats))
    dq = dq.reshape(q.shape)
    return scale * dq, scale * dk, dv, jnp.sum(dq * q), d_bias, d_floats, None


def _attend_backward(plan: BlockwisePlan, saved: Any, cotangents: tuple[Array, Array]) -> Any:
    return no_second_reverse(attend_backward(plan, saved, cotangents))


_attend.defvjp(_attend_forward, _attend_backward)


def _add_tile(x: Array, head: Array, c: Array, size: int, part: Float[Array, "s H"]) -> Array:
    part = part + _tile(x, head, c, size)
    return jax.lax.dynamic_update_slice(x, part[None], (head, c * size, c * 0))


def rows_that_see(
    plan: BlockwisePlan, fixed: Fixed, bad_k: Bool[Array, "B S K"], bad_v: Bool[Array, "B S K"]
) -> Bool[Array, "3 B N _"]:
    """Return the rows that may attend to a marked key, to a marked value, and to anything."""
    B, N, _, R, C = plan.shape
    bt, bs = plan.block
    marks = jnp.stack([bad_k, bad_v, jnp.ones_like(bad_k)], axis=-1)
    marks = jnp.pad(marks, ((0, 0), (0, C * bs - marks.shape[1]), (0, 0), (0, 0)))
    marks = jnp.moveaxis(marks, 2, 1).reshape(-1, C * bs, 3)

    def row_of_tiles(i: Array) -> Bool[Array, "t 3"]:
        row = _row(plan, i)

        def visit(c: Array, is_partial: bool, seen: Array) -> Array:
            tile = _tile(marks, row.kv, c, bs)
            if not is_partial or plan.visible is None:
                return seen | jnp.any(tile, axis=0)[None]
            (visible,) = plan.visible((), fixed.visible, *_indices(plan, fixed, row, c))
            visible = visible[0, 0]
            return seen | jnp.any(visible[:, :, None] & tile[None], axis=1)

        return _over_tiles(plan, fixed, row, visit, jnp.zeros((bt, 3), bool))

    seen = jax.lax.map(row_of_tiles, jnp.arange(B * N * R, dtype=jnp.int32))
    return jnp.moveaxis(seen.reshape(B, N, R * bt, 3), 3, 0)

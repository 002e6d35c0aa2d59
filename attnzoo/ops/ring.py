"""Attention over a sequence that is sharded across devices (Liu et al. 2024, arXiv 2310.01889).

Each device keeps its queries. Keys and values travel around the ring, and after every hop the
device attends, in tiles, to the shard that it holds. In the backward pass their gradients travel
with them, and are back on their own device after the last hop. A device always holds one shard of
each array, for any number of devices.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, Shaped

from attnzoo.ops.block_mask import chosen_block, tile_lists
from attnzoo.ops.checks import check_dropout, check_shapes
from attnzoo.ops.dropout import AnyKey, seed_of
from attnzoo.ops.guards import finite_or_zero, has_non_finite, poison
from attnzoo.ops.index_functions import Tiles, index_grid
from attnzoo.ops.kernels import blockwise
from attnzoo.ops.kernels.blockwise import BlockwisePlan, Captured, Fixed
from attnzoo.ops.logits import ScoreFunction, Scoring, scoring
from attnzoo.ops.masks import MaskFunction, bounds_of, full
from attnzoo.ops.operands import extract_arrays
from attnzoo.ops.softmax import compute_dtype


def ring_order(length: int, devices: int, order: str = "zigzag") -> Int[np.ndarray, " L"]:
    """Return the order of positions in which to shard a sequence: ``x[:, ring_order(L, P)]``.

    "contiguous" keeps the sequence as it is. Under a causal mask the last device then does most of
    the work. "zigzag" cuts the sequence into 2 P pieces and gives device d the pieces d and
    2 P - 1 - d, so that all devices do the same work. ``numpy.argsort`` of the result inverts it.
    Raises ValueError for a length that is not a multiple of the pieces.
    """
    if order not in ("contiguous", "zigzag"):
        raise ValueError(f"order={order!r}; wanted 'contiguous' or 'zigzag'")
    pieces = devices if order == "contiguous" else 2 * devices
    if length % pieces:
        raise ValueError(
            f"length={length} is not a multiple of {pieces}, the pieces of {devices} devices "
            f"in order={order!r}"
        )
    positions = np.arange(length, dtype=np.int32).reshape(pieces, -1)
    if order == "zigzag":
        early, late = positions[:devices], positions[: -devices - 1 : -1]
        positions = np.stack([early, late], axis=1)
    return positions.reshape(-1)


def ring_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    mask: MaskFunction | None = None,
    *,
    mesh: Mesh,
    axis_name: str,
    order: str = "contiguous",
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    return_lse: bool = False,
    score_mod: ScoreFunction | None = None,
    sinks: Float[Array, " N"] | None = None,
    softcap: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Any:
    """Compute ``dot_product_attention`` of sequences sharded along ``axis_name`` of ``mesh``.

    q, k, v and the result are in ``order``, see :func:`ring_order`. Masks and modifiers get the
    positions in the original sequence. Their arrays are whole on every device, and gradients flow
    to them. Tiles that a mask of ``attnzoo.ops.masks`` leaves empty are skipped; a plain function
    is evaluated everywhere. Other arguments, results and rules are those of
    ``dot_product_attention``.

    Raises:
      ValueError: arguments do not fit, or a length is not a multiple of the pieces of ``order``.
    """
    check_shapes(q, k, v)
    check_dropout(dropout_rate, dropout_key)
    (B, T, N, _), S = q.shape, k.shape[1]
    if axis_name not in mesh.shape:
        raise ValueError(f"axis_name={axis_name!r} is no axis of mesh: {', '.join(mesh.shape)}")
    if mask is not None and not callable(mask):
        raise ValueError("mask is an array; wanted a mask function (masks.from_array makes one)")
    settings = scoring(
        (B, N, T, S),
        mask=mask,
        bias=None,
        scale=scale,
        softcap=softcap,
        score_mod=score_mod,
        sinks=sinks,
        is_causal=is_causal,
    )
    devices = mesh.shape[axis_name]
    for length in (q.shape[1], k.shape[1]):
        ring_order(length, devices, order)
    sharded = PartitionSpec(None, axis_name)
    if AxisType.Explicit in mesh.axis_types:
        q, k, v = (jax.reshard(x, NamedSharding(mesh, sharded)) for x in (q, k, v))
    mask_arrays, mask_of = extract_arrays(settings.mask_mod)
    modify_arrays, modify_of = extract_arrays(settings.score_mod)
    whole = (mask_arrays, modify_arrays, settings.scale, settings.sinks, dropout_key)

    def on_device(q: Array, k: Array, v: Array, whole: Any) -> tuple[Array, Array]:
        mask, modify, scale, sinks, key = whole
        here = dataclasses.replace(
            settings, mask_mod=mask_of(mask), score_mod=modify_of(modify), scale=scale, sinks=sinks
        )
        return attend_on_ring(
            q,
            k,
            v,
            here,
            axis_name=axis_name,
            devices=devices,
            order=order,
            dropout_rate=dropout_rate,
            dropout_key=key,
        )

    # Under jit whatever a plain function closes over becomes an operand.
    out, lse = jax.jit(
        jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(sharded, sharded, sharded, PartitionSpec()),
            out_specs=(sharded, PartitionSpec(None, None, axis_name)),
            check_vma=False,
        )
    )(q, k, v, whole)
    return (out, lse) if return_lse else out


def attend_on_ring(
    q: Float[Array, "B t N H"],
    k: Float[Array, "B s K H"],
    v: Float[Array, "B s K Hv"],
    settings: Scoring,
    *,
    axis_name: str,
    devices: int,
    order: str = "contiguous",
    dropout_rate: float = 0.0,
    dropout_key: AnyKey | None = None,
) -> tuple[Float[Array, "B t N Hv"], Float[Array, "B N t"]]:
    """Compute one device's part of :func:`ring_attention`, inside the caller's ``shard_map``.

    q, k, v are shards of sequences of ``t * devices`` and ``s * devices`` positions. Mask and bias
    in ``settings`` must be functions, not arrays.
    """
    (B, local_T, N, H), (local_S, K, Hv) = q.shape, v.shape[1:]
    q_order, k_order = (
        ring_order(L * devices, devices, order).reshape(devices, -1) for L in (local_T, local_S)
    )
    block = chosen_block(local_T, local_S)
    rows, columns = -(-local_T // block[0]), -(-local_S // block[1])
    q_order, k_order = (
        jnp.asarray(np.pad(x, ((0, 0), (0, L - x.shape[1])), constant_values=-1))
        for x, L in ((q_order, rows * block[0]), (k_order, columns * block[1]))
    )

    # Functions that close over arrays are traced once; their arrays become operands of the kernel.
    dtype = compute_dtype(q, k)
    seen = full() if settings.mask_mod is None else settings.mask_mod
    modify, floats, modify_fixed = blockwise.trace_modify(settings, block, dtype)
    visible, visible_fixed = blockwise.trace_mask(seen, block, lambda q, k: (q >= 0) & (k >= 0))
    lists, lists_fixed = _trace_lists(seen, (B, N, rows, columns), block)
    plan = BlockwisePlan((B, N, K, rows, columns), block, modify, visible, True, True, dropout_rate)
    ring = Ring(plan, lists, axis_name, devices)
    seed = seed_of(dropout_key) if dropout_rate > 0 and dropout_key is not None else None
    me = jax.lax.axis_index(axis_name)
    known = Known(me, q_order, k_order, modify_fixed, visible_fixed, lists_fixed, seed)

    tiled = (
        blockwise.tiles_in_front(finite_or_zero(q).astype(dtype), rows * block[0]),
        blockwise.tiles_in_front(finite_or_zero(k).astype(dtype), columns * block[1]),
        blockwise.tiles_in_front(finite_or_zero(v).astype(dtype), columns * block[1]),
    )
    out, lse = _attend(ring, *tiled, blockwise.scale_of(settings, H, dtype), floats, known)
    out = jnp.moveaxis(out.reshape(B, N, -1, Hv)[:, :, :local_T], 1, 2)
    lse = lse.reshape(B, N, -1)[:, :, :local_T]
    out, lse = blockwise.with_sinks(out, lse, settings.sinks, dtype)
    bad_q, bad_k, bad_v = map(has_non_finite, (q, k, v))
    # Always bad_k: the dependency on lse only makes the marks travel after the keys have returned.
    bad_k = bad_k & ~(jnp.minimum(jnp.abs(lse.reshape(-1)[0]), 1) > 2)

    def mark(hop: Array, marks: Any) -> Any:
        bad, rows = marks
        here = jax.lax.cond(
            jnp.any(bad_q) | jnp.any(bad[0]) | jnp.any(bad[1]),
            lambda: blockwise.rows_that_see(plan, ring.at_hop(known, hop), *bad)[..., :local_T],
            lambda: jnp.zeros_like(rows),
        )
        return ring.send(bad), rows | here

    nobody = jnp.zeros((3, B, N, local_T), bool)
    _, (bad_keys, bad_values, anything) = ring.hops(mark, ((bad_k, bad_v), nobody))
    bad_weights = bad_keys | (jnp.moveaxis(bad_q, 1, 2) & anything)
    bad_rows = jnp.moveaxis(bad_weights | bad_values, 1, 2)[..., None]
    return poison(out, bad_rows).astype(q.dtype), poison(lse, bad_weights)


def to_zigzag(x: Shaped[Array, "B t *rest"], axis_name: str, devices: int) -> Array:
    """Exchange contiguous shards for shards in "zigzag" order, inside a ``shard_map``."""
    even, odd = _zigzag_pairs(devices)
    first, second = jnp.split(x, 2, axis=1)
    first = jax.lax.ppermute(first, axis_name, even)
    second = jax.lax.ppermute(second, axis_name, odd)
    return _in_order(first, second, axis_name)


def from_zigzag(x: Shaped[Array, "B t *rest"], axis_name: str, devices: int) -> Array:
    """Exchange shards in "zigzag" order for contiguous ones, the inverse of :func:`to_zigzag`."""
    even, odd = _zigzag_pairs(devices)
    first, second = jnp.split(_in_order(*jnp.split(x, 2, axis=1), axis_name), 2, axis=1)
    back = [[(to, here) for here, to in pairs] for pairs in (even, odd)]
    first = jax.lax.ppermute(first, axis_name, back[0])
    second = jax.lax.ppermute(second, axis_name, back[1])
    return jnp.concatenate([first, second], axis=1)


def _zigzag_pairs(devices: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (source, target) devices of the even pieces 2 d, and of the odd pieces 2 d + 1."""

    def home(piece: int) -> int:
        return min(piece, 2 * devices - 1 - piece)

    return [(d, home(2 * d)) for d in range(devices)], [
        (d, home(2 * d + 1)) for d in range(devices)
    ]


def _in_order(even: Array, odd: Array, axis_name: str) -> Array:
    """Join a device's even and odd piece; an even device has the even piece first."""
    is_even = jax.lax.axis_index(axis_name) % 2 == 0
    halves = jnp.where(is_even, even, odd), jnp.where(is_even, odd, even)
    return jnp.concatenate(halves, axis=1)


class Known(NamedTuple):
    """Operands without a gradient; all but ``me`` are the same on every device."""

    me: Array
    q_order: Int[Array, "P T"]
    k_order: Int[Array, "P S"]
    modify: tuple[Array, ...]
    visible: tuple[Array, ...]
    lists: tuple[Array, ...]
    seed: Array | None


@dataclasses.dataclass(frozen=True, eq=False)
class Ring:
    """Static plan of ring attention: the kernel's plan, the lists of tiles and the devices."""

    plan: BlockwisePlan
    lists: Captured
    axis_name: str
    devices: int

    def at_hop(self, known: Known, hop: Array) -> Fixed:
        """Return the kernel's operands at a hop, for the keys and values of device ``me - hop``."""
        positions = (known.q_order[known.me], known.k_order[(known.me - hop) % self.devices])
        tiles = [x.reshape(-1, size) for x, size in zip(positions, self.plan.block)]
        lists = tuple(self.lists((), known.lists, *tiles))
        return Fixed(known.modify, known.visible, lists, known.seed, positions)

    def send(self, arrays: Any) -> Any:
        """Send arrays to the next device, and return those received from the previous device."""
        pairs = [(i, (i + 1) % self.devices) for i in range(self.devices)]
        if jax.default_backend() != "cpu":
            return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axis_name, pairs), arrays)
        # XLA:CPU mixes up concurrent messages, because jax gives them all the same number.
        leaves, structure = jax.tree.flatten(arrays)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        together = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
        parts = jnp.split(jax.lax.ppermute(together, self.axis_name, pairs), ends)
        return structure.unflatten(x.reshape(leaf.shape) for x, leaf in zip(parts, leaves))

    def hops(self, visit: Callable[[Array, Any], Any], carry: Any) -> Any:
        """Run ``carry = visit(hop, carry)`` once for each device of the ring."""
        hops = jnp.arange(self.devices, dtype=jnp.int32)
        return jax.lax.scan(lambda carry, hop: (visit(hop, carry), None), carry, hops)[0]


def _trace_lists(
    mask: MaskFunction, shape: tuple[int, int, int, int], block: tuple[int, int]
) -> tuple[Captured, tuple[Array, ...]]:
    """Trace counts and columns of full and partial tiles as a function of the tiles' positions."""
    B, N, R, C = shape

    def lists(q: Int[Array, "R t"], k: Int[Array, "C s"]) -> tuple[Array, ...]:
        b, n, _, _ = index_grid(B, N, 1, 1)
        # -1 marks the end: such tiles are never full, and the other positions give their bounds.
        q_end, k_end = (jnp.any(x < 0, axis=1) for x in (q, k))
        q, k = (jnp.where(x < 0, jnp.max(x, axis=1, keepdims=True), x) for x in (q, k))
        bounds = bounds_of(mask, Tiles(b, n, q[None, None, :, None, :], k[None, None, None, :, :]))
        if bounds is None:
            some, every = jnp.ones((1, 1, R, C), bool), jnp.zeros((1, 1, R, C), bool)
        else:
            size = [max(x.shape[axis] for x in bounds) for axis in (0, 1)]
            some, every = (jnp.broadcast_to(x, (*size, R, C)) for x in bounds)
        # As integers: LLVM cannot broadcast 8 bools to 8 x 8 where registers have 64 bytes.
        ends = q_end.astype(jnp.int32)[:, None] + k_end.astype(jnp.int32)[None, :]
        every = every & some & (ends == 0)[None, None]
        return (*tile_lists(every), *tile_lists(some & ~every))

    tiles = [jax.ShapeDtypeStruct(size, jnp.int32) for size in ((R, block[0]), (C, block[1]))]
    return blockwise.without_gradient(*blockwise.capture(lists, *tiles))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    ring: Ring, q: Array, k: Array, v: Array, scale: Array, floats: Any, known: Known
) -> tuple[Array, Array]:
    return _forward(ring, q, k, v, scale, floats, known)[0]


def _forward(
    ring: Ring, q: Array, k: Array, v: Array, scale: Array, floats: Any, known: Known
) -> Any:
    def visit(hop: Array, carry: Any) -> Any:
        (k, v), done = carry
        fixed = ring.at_hop(known, hop)
        here = blockwise.forward(ring.plan, q, k, v, scale, None, floats, fixed)
        return ring.send((k, v)), _merge(done, here)

    rows = q.reshape(-1, ring.plan.block[0], q.shape[2]).shape[:2]
    empty = (jnp.zeros((*rows, v.shape[2]), v.dtype), *(jnp.zeros(rows, q.dtype) for _ in range(2)))
    _, (out, maximum, total) = ring.hops(visit, ((k, v), empty))
    lse = blockwise.logsumexp(maximum, total)
    return (out, lse), (q, k, v, scale, floats, known, out, maximum, total)


def _merge(a: Any, b: Any) -> Any:
    """Merge output, maximum and sum over two disjoint sets of keys; an empty set has sum 0."""
    out_a, maximum_a, total_a = a
    out_b, maximum_b, total_b = b
    hidden = [
        jnp.where(total == 0, -jnp.inf, maximum)
        for maximum, total in ((maximum_a, total_a), (maximum_b, total_b))
    ]
    maximum = blockwise.finite_maximum(jnp.maximum(*hidden))
    part_a, part_b = (total * jnp.exp(m - maximum) for total, m in zip((total_a, total_b), hidden))
    total = part_a + part_b
    share_a, share_b = (part / blockwise.nonzero(total) for part in (part_a, part_b))
    return out_a * share_a[..., None] + out_b * share_b[..., None], maximum, total


def _backward(ring: Ring, saved: Any, cotangents: tuple[Array, Array]) -> Any:
    q, k, v, scale, floats, known, out, maximum, total = saved

    def visit(hop: Array, carry: Any) -> Any:
        (k, v, dk, dv), dq, d_scale, d_floats = carry
        fixed = ring.at_hop(known, hop)
        # The maximum and sum are those of all keys: each shard's part of the gradient is exact.
        kept = (q, k, v, scale, None, floats, fixed, out, maximum, total)
        new = blockwise.attend_backward(ring.plan, kept, cotangents)
        more_q, more_k, more_v, more_scale, _, more_floats, _ = new
        dq, dk, dv = dq + more_q, dk + more_k, dv + more_v
        d_floats = jax.tree.map(lambda x, new: x + new.astype(x.dtype), d_floats, more_floats)
        return ring.send((k, v, dk, dv)), dq, d_scale + more_scale, d_floats

    nothing = jax.tree.map(jnp.zeros_like, (q, k, v))
    d_floats = jax.tree.map(lambda x: jnp.zeros(x.shape, compute_dtype(x)), floats)
    start = ((k, v, *nothing[1:]), nothing[0], jnp.zeros_like(scale), d_floats)
    (_, _, dk, dv), dq, d_scale, d_floats = ring.hops(visit, start)
    d_floats = jax.tree.map(lambda x, like: x.astype(like.dtype), d_floats, floats)
    return dq, dk, dv, d_scale, d_floats, None


_attend.defvjp(_forward, _backward)

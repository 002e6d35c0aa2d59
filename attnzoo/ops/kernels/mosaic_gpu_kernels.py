"""The kernels of ``mosaic_gpu``: forward, the gradient of q, and the gradients of k and v.

Each block has three warpgroups. One fetches tiles (TMA) into a ring of slots in shared memory; two
multiply (wgmma) and do the softmax between the products. Slots are handed over by barriers:
``ready`` when a copy has landed, ``free`` when both consumers have read it. Nothing is added up
across blocks, so that repeats are equal bit by bit.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, Shaped

from attnzoo.ops.kernels.mosaic_gpu_tile import (
    BLOCK,
    LOG2E,
    Frame,
    Pullback,
    evaluate,
    in_tile,
    layout_of,
    plgpu,
)
from attnzoo.ops.kernels.traced import Traced

ROWS = 64
"""Rows of a wgmma: what one warpgroup multiplies at a time."""
WIDE = 128
"""The widest head of which one warpgroup holds the gradients of both k and v in registers."""
PRODUCER_REGISTERS, CONSUMER_REGISTERS = 24, 240
"""(24 + 2 x 240) x 128 threads are just within the 65,536 registers of a multiprocessor."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Keys (or queries) of one step, and slots of the ring, of each kernel."""

    keys: int = 128
    slots: int = 2
    dq_keys: int = 64
    dq_slots: tuple[int, int] = (2, 2)
    """Of keys and of values, which are free earlier."""
    dkv_queries: int = 64
    dkv_slots: int = 2


def tuned(width: int, value_width: int, staged: bool) -> Tuning:
    """Tile sizes by head size: as large as shared memory and registers allow."""
    if max(width, value_width) > WIDE:
        return Tuning(keys=64, dq_slots=(1, 1) if staged else (2, 1))
    return Tuning()


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What is known before the first number is computed."""

    shape: tuple[int, int, int, int, int]
    """B, N, K, and the lengths T and S in whole blocks."""
    scale: float
    """Factor on q . k."""
    modify: Traced | None
    visible: Traced | None
    has_full: bool
    has_partial: bool
    tuning: Tuning
    staged: bool
    """Weights reach the second product through shared memory, and each product starts from zero:
    what the interpreter can run. Else both stay in registers."""
    kept: Traced | None = None
    """Which weights survive dropout, if there is one."""
    dropout_rate: float = 0.0
    pull: Pullback | None = None
    """The derivative of ``modify``, once it is known which reads have one."""


class Tiles:
    """The tiles of one row (or column) of blocks, full ones first, and the steps they take."""

    def __init__(self, plan: Plan, refs: Sequence[Any], at: Sequence[Any], end: int, size: int):
        self.per_tile = BLOCK // size
        self.size = size
        if not refs:
            self.full, self.count, self._where = end // BLOCK, end // BLOCK, lambda tile: tile
            return
        full, count, where = refs
        b, n, r = (jnp.int32(0) if x == 1 else i for x, i in zip((*full.shape[:2], 2), at))
        self.full, self.count = full[b, n, r], count[b, n, r]
        self._where = lambda tile: where[b, n, r, tile]

    @property
    def steps(self) -> Any:
        return self.count * self.per_tile

    def start(self, step: Any) -> Any:
        """The first position of a step."""
        if self.per_tile == 1:
            return self._where(step) * BLOCK
        tile = lax.div(step, jnp.int32(self.per_tile))
        return self._where(tile) * BLOCK + lax.rem(step, jnp.int32(self.per_tile)) * self.size

    def over(self, plan: Plan, visit: Callable[..., Any], carry: Any) -> Any:
        """``carry = visit(step, is_partial, carry)`` for each step."""
        full = self.full * self.per_tile
        if plan.has_full:
            carry = lax.fori_loop(0, full, lambda i, carry: visit(i, False, carry), carry)
        if plan.has_partial:
            first = full if plan.has_full else 0
            carry = lax.fori_loop(first, self.steps, lambda i, x: visit(i, True, x), carry)
        return carry


def constant(shape: tuple[int, ...], value: float, axis: int | None = None) -> Array:
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout_of(axis))


def spread(x: Float[Array, "_"], shape: tuple[int, ...], axis: int) -> Float[Array, "_ _"]:
    """A vector along rows (0) or columns (1), over a matrix."""
    return lax.broadcast_in_dim(x, shape, [axis])


def matrices(*shape: int, dtype: Any) -> Any:
    """Shared memory that wgmma or a copy reads, swizzled over 128 bytes where rows have them."""
    size = jnp.dtype(dtype).itemsize
    minor = min(shape[-1], 128 // size)
    transforms = (plgpu.TilingTransform((8, minor)), plgpu.SwizzleTransform(size * minor))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def product(a: Any, b: Any, shape: tuple[int, ...]) -> Float[Array, "_ _"]:
    def compute(total: Any) -> Array:
        plgpu.wgmma(total, a, b)
        return total[...]

    return pl.run_scoped(compute, plgpu.ACC(shape, jnp.float32))


def two_products(
    a: tuple[Any, Any], b: tuple[Any, Any], shape: tuple[int, int]
) -> tuple[Float[Array, "_ _"], Float[Array, "_ _"]]:
    """Two products of one shape with one wait for both."""

    def compute(first: Any, second: Any) -> tuple[Array, Array]:
        plgpu.wgmma(first, a[0], b[0])
        plgpu.wgmma(second, a[1], b[1])
        return first[...], second[...]

    return pl.run_scoped(compute, plgpu.ACC(shape, jnp.float32), plgpu.ACC(shape, jnp.float32))


def add_products(totals: Sequence[Array], a: Sequence[Array], b: Sequence[Any], stage: Any) -> Any:
    """Each total + a b, of which a is in registers; ``stage`` is memory for it, if any."""
    if stage is None:

        def compute(refs: Any) -> None:
            for ref, left, right in zip(refs, a, b):
                plgpu.wgmma(ref, left, right)

        return pl.run_state(compute)(tuple(plgpu.ACC.init(total) for total in totals))
    sums = []
    for total, left, right in zip(totals, a, b):
        stage[...] = left
        plgpu.commit_smem()
        sums.append(total + product(stage, right, total.shape))
    return tuple(sums)


def copy(source: Any, target: Any, barrier: Any) -> None:
    plgpu.copy_gmem_to_smem(source, target, barrier)


def slot_of(step: Any, slots: int) -> Any:
    return lax.rem(step, jnp.int32(slots))


def drain(steps: Any, slots: int, *barriers: Any) -> None:
    """Wait until the last slots are free: no barrier is left half-way."""

    def wait(step: Any, _: None) -> None:
        for barrier in barriers:
            plgpu.barrier_wait(barrier.at[slot_of(step, slots)])

    lax.fori_loop(jnp.maximum(steps - slots, 0), steps, wait, None)


def modified(
    plan: Plan, frame: Frame, operands: Sequence[Any], scores: Array, is_partial: bool
) -> Array:
    """Logits to the base 2, -inf where hidden."""
    modifiers, masks, _ = operands
    logits = scores * plan.scale
    if plan.modify is not None:
        logits = evaluate(plan.modify, frame, modifiers, logits)
    return hidden(plan, frame, masks, logits * LOG2E, is_partial)


def hidden(plan: Plan, frame: Frame, masks: Any, logits: Array, is_partial: bool) -> Array:
    if not is_partial or plan.visible is None:
        return logits
    return jnp.where(evaluate(plan.visible, frame, masks, None), logits, -jnp.inf)


def dropped(plan: Plan, frame: Frame, operands: Sequence[Any]) -> Callable[[Array], Array]:
    """Weights, or gradients of them, after dropout."""
    if plan.kept is None:
        return lambda weights: weights
    keep = evaluate(plan.kept, frame, operands[2])
    return lambda weights: jnp.where(keep, weights * (1 / (1 - plan.dropout_rate)), 0.0)


def call(
    kernel: Callable[..., None],
    arrays: Sequence[Any],
    groups: Sequence[Sequence[Array]],
    out: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, int, int],
    scratch: Any,
) -> Any:
    """Run ``kernel(arrays, groups, outputs, scratch)`` on refs over a grid of b, n, r."""
    sizes = [len(group) for group in groups]

    def on_refs(*refs: Any) -> None:
        inputs, rest = refs[: len(arrays)], list(refs[len(arrays) :])
        parts = [[rest.pop(0) for _ in range(size)] for size in sizes]
        kernel(inputs, parts, rest[: len(out)], rest[len(out)])

    return plgpu.kernel(
        on_refs,
        out_type=tuple(out),
        grid=grid,
        grid_names=("b", "n", "r"),
        num_threads=3,
        thread_name="wg",
        scratch_types=(scratch,),
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(*arrays, *(x for group in groups for x in group))


def forward(
    plan: Plan,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    lists: Sequence[Int[Array, "..."]],
    operands: Sequence[Sequence[Shaped[Array, "..."]]],
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """Output, and log-sum-exp to the base 2."""
    B, N, K, T, S = plan.shape
    H, Hv, dtype = q.shape[3], v.shape[3], q.dtype
    bk, slots = plan.tuning.keys, plan.tuning.slots
    # exp2(c s - max(c s)) is one multiply-add if the largest logit is c times the largest score.
    folds = plan.modify is None and plan.scale > 0

    def kernel(arrays: Any, groups: Any, outputs: Any, scratch: Any) -> None:
        (q_ref, k_ref, v_ref), (list_refs, *operand_refs) = arrays, groups
        out_ref, lse_ref = outputs
        q_mem, k_mem, v_mem, out_mem, lse_mem, stage, barriers = scratch
        out_mem = q_mem if out_mem is None else out_mem
        q_ready, k_ready, v_ready, k_free, v_free, turn = barriers
        b, n, wg = lax.axis_index("b"), lax.axis_index("n"), lax.axis_index("wg")
        # The last rows have most keys under a causal mask: they start first.
        r = T // BLOCK - 1 - lax.axis_index("r")
        tiles = Tiles(plan, list_refs, (b, n, r), S, bk)

        @pl.when(wg == 2)
        def _produce() -> None:
            plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")
            kv = lax.div(n, jnp.int32(N // K))

            def fetch(step: Any, _: None) -> None:
                slot = slot_of(step, slots)
                at = (b, pl.ds(tiles.start(step), bk), kv)
                for ref, mem, ready, free in (
                    (k_ref, k_mem, k_ready, k_free),
                    (v_ref, v_mem, v_ready, v_free),
                ):
                    wait = functools.partial(plgpu.barrier_wait, free.at[slot])
                    pl.when(step >= slots)(wait)
                    copy(ref.at[at], mem.at[slot], ready.at[slot])

            lax.fori_loop(0, tiles.steps, fetch, None)
            drain(tiles.steps, slots, k_free, v_free)

        @pl.when(wg < 2)
        def _consume() -> None:
            plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")
            first = r * BLOCK + wg * ROWS
            rows = pl.ds(first, ROWS)
            copy(q_ref.at[b, rows, n], q_mem.at[wg], q_ready.at[wg])
            plgpu.barrier_wait(q_ready.at[wg])

            def meet() -> None:
                plgpu.barrier_arrive(turn)
                plgpu.barrier_wait(turn)

            def visit(step: Any, is_partial: bool, carry: Any) -> Any:
                out, maximum, total = carry
                slot = slot_of(step, slots)
                frame = Frame((ROWS, bk), (first, tiles.start(step)), b, n)

                def scores(acc: Any) -> Array:
                    plgpu.wgmma(acc, q_mem.at[wg], k_mem.at[slot].transpose((1, 0)))
                    meet()
                    return acc[...]

                plgpu.barrier_wait(k_ready.at[slot])
                s = pl.run_scoped(scores, plgpu.ACC(frame.shape, jnp.float32))
                plgpu.barrier_arrive(k_free.at[slot])
                factor = plan.scale * LOG2E if folds else 1.0
                if folds:
                    s = hidden(plan, frame, operand_refs[1], s, is_partial)
                else:
                    s = modified(plan, frame, operand_refs, s, is_partial)
                larger = jnp.maximum(maximum, s.max(axis=1) * factor)
                finite = larger
                if is_partial or plan.modify is not None:
                    finite = jnp.where(larger == -jnp.inf, 0.0, larger)
                weights = jnp.exp2(s * factor - spread(finite, s.shape, 0))
                shrink = jnp.exp2(maximum - finite)
                total = total * shrink + weights.sum(axis=1)
                out = out * spread(shrink, out.shape, 0)
                weights = dropped(plan, frame, operand_refs)(weights).astype(dtype)
                # While one warpgroup is in its softmax, the other one has the tensor cores.
                out, total, larger, weights = lax.optimization_barrier(
                    (out, total, larger, weights)
                )
                plgpu.barrier_arrive(turn)
                plgpu.barrier_wait(v_ready.at[slot])
                plgpu.barrier_wait(turn)
                (out,) = add_products((out,), (weights,), (v_mem.at[slot],), stage and stage.at[wg])
                plgpu.barrier_arrive(v_free.at[slot])
                return out, larger, total

            pl.when(wg == 1)(meet)
            nothing = (constant((ROWS,), -jnp.inf, 0), constant((ROWS,), 0.0, 0))
            out, maximum, total = tiles.over(plan, visit, (constant((ROWS, Hv), 0.0), *nothing))
            pl.when(wg == 0)(meet)
            empty = total == 0
            inverse = jnp.where(empty, 0.0, 1 / jnp.where(empty, 1.0, total))
            out_mem.at[wg][...] = (out * spread(inverse, out.shape, 0)).astype(dtype)
            lse = maximum + jnp.log2(jnp.where(empty, 1.0, total))
            lse_mem.at[wg][...] = jnp.where(empty, -jnp.inf, lse)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(out_mem.at[wg], out_ref.at[b, rows, n])
            plgpu.copy_smem_to_gmem(lse_mem.at[wg], lse_ref.at[b, n, rows])
            plgpu.wait_smem_to_gmem(0)

    scratch = (
        matrices(2, ROWS, H, dtype=dtype),
        matrices(slots, bk, H, dtype=dtype),
        matrices(slots, bk, Hv, dtype=dtype),
        None if Hv == H else matrices(2, ROWS, Hv, dtype=dtype),
        plgpu.SMEM((2, ROWS), jnp.float32),
        matrices(2, ROWS, bk, dtype=dtype) if plan.staged else None,
        (
            plgpu.Barrier(num_barriers=2),
            plgpu.Barrier(num_barriers=slots),
            plgpu.Barrier(num_barriers=slots),
            plgpu.Barrier(num_arrivals=2, num_barriers=slots),
            plgpu.Barrier(num_arrivals=2, num_barriers=slots),
            plgpu.Barrier(num_arrivals=2),
        ),
    )
    out = (
        jax.ShapeDtypeStruct((B, T, N, Hv), dtype),
        jax.ShapeDtypeStruct((B, N, T), jnp.float32),
    )
    return call(kernel, (q, k, v), (lists, *operands), out, (B, N, T // BLOCK), scratch)


def softmax_gradient(
    plan: Plan,
    frame: Frame,
    operands: Sequence[Any],
    scores: Float[Array, "_ _"],
    lse: Float[Array, "_"],
    is_partial: bool,
    wanted: Sequence[int] = (),
) -> tuple[Array, Callable[[Array, Array], tuple[Array, list[Array]]]]:
    """Weights of a tile as they read values, and a function of their gradient and delta.

    It gives the gradients of the scaled scores and, over the whole tile, of the ``wanted`` reads.
    """
    axis, pull = frame.query_axis, plan.pull
    logits = scores * plan.scale
    given = {"score": logits}
    if pull is not None:
        compute = in_tile(pull.function, frame, operands[0], given)
        logits = compute(pull.function.output)
    logits = hidden(plan, frame, operands[1], logits * LOG2E, is_partial)
    weights = jnp.exp2(logits - spread(lse, frame.shape, axis))
    survive = dropped(plan, frame, operands)

    def gradient(d_weights: Array, delta: Array) -> tuple[Array, list[Array]]:
        d_logits = weights * (survive(d_weights) - spread(delta, frame.shape, axis))
        if pull is None:
            return d_logits, []
        given["gradient"] = d_logits
        return compute(pull.score), [compute(pull.reads[place]) for place in wanted]

    return survive(weights), gradient


def added_rows(totals: Sequence[Array], tiles: Sequence[Array]) -> tuple[Array, ...]:
    """Each total + the sums of a tile's rows."""
    return tuple(x + tile.astype(jnp.float32).sum(axis=1) for x, tile in zip(totals, tiles))


def write_rows(
    totals: Sequence[Array], memory: Any, wg: Any, refs: Sequence[Any], at: tuple[Any, ...]
) -> None:
    """Write a vector of a warpgroup's rows to each ref, through shared memory that is its own."""
    if not totals:
        return
    for i, total in enumerate(totals):
        memory.at[i, wg][...] = total
    plgpu.commit_smem()
    for i, ref in enumerate(refs):
        plgpu.copy_smem_to_gmem(memory.at[i, wg], ref.at[at])
    plgpu.wait_smem_to_gmem(0)


def query_gradient(
    plan: Plan,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    d_out: Float[Array, "B T N Hv"],
    lse: Float[Array, "B N T"],
    delta: Float[Array, "B N T"],
    lists: Sequence[Int[Array, "..."]],
    operands: Sequence[Sequence[Shaped[Array, "..."]]],
    wanted: Sequence[int],
    dense: Sequence[int],
) -> tuple[Float[Array, "..."], ...]:
    """The gradient of q; and of each ``wanted`` read, summed over the keys, ``B N T``.

    Then that of each ``dense`` one, ``B N T S``, in the tiles that are in a list.
    """
    B, N, K, T, S = plan.shape
    H, Hv, dtype = q.shape[3], v.shape[3], q.dtype
    bk, (k_slots, v_slots) = plan.tuning.dq_keys, plan.tuning.dq_slots
    if dense and max(H, Hv) > WIDE:  # the gradient's tile takes the place of a slot
        k_slots = v_slots = 1

    def kernel(arrays: Any, groups: Any, outputs: Any, scratch: Any) -> None:
        q_ref, k_ref, v_ref, d_out_ref, lse_ref, delta_ref = arrays
        list_refs, *operand_refs = groups
        dq_ref, *read_refs = outputs
        sum_refs, dense_refs = read_refs[: len(wanted)], read_refs[len(wanted) :]
        q_mem, d_out_mem, k_mem, v_mem, sum_mem, dense_mem, stage, barriers = scratch
        rows_ready, k_ready, v_ready, k_free, v_free = barriers
        b, n, wg = lax.axis_index("b"), lax.axis_index("n"), lax.axis_index("wg")
        r = T // BLOCK - 1 - lax.axis_index("r")
        tiles = Tiles(plan, list_refs, (b, n, r), S, bk)

        @pl.when(wg == 2)
        def _produce() -> None:
            plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")
            kv = lax.div(n, jnp.int32(N // K))

            def fetch(step: Any, _: None) -> None:
                at = (b, pl.ds(tiles.start(step), bk), kv)
                for ref, mem, ready, free, slots in (
                    (v_ref, v_mem, v_ready, v_free, v_slots),
                    (k_ref, k_mem, k_ready, k_free, k_slots),
                ):
                    slot = slot_of(step, slots)
                    wait = functools.partial(plgpu.barrier_wait, free.at[slot])
                    pl.when(step >= slots)(wait)
                    copy(ref.at[at], mem.at[slot], ready.at[slot])

            lax.fori_loop(0, tiles.steps, fetch, None)
            drain(tiles.steps, k_slots, k_free)
            drain(tiles.steps, v_slots, v_free)

        @pl.when(wg < 2)
        def _consume() -> None:
            plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")
            first = r * BLOCK + wg * ROWS
            rows = pl.ds(first, ROWS)
            copy(q_ref.at[b, rows, n], q_mem.at[wg], rows_ready.at[wg])
            copy(d_out_ref.at[b, rows, n], d_out_mem.at[wg], rows_ready.at[wg])
            lse, delta = (
                plgpu.load(ref.at[b, n, rows], layout=layout_of(0), optimized=False)
                for ref in (lse_ref, delta_ref)
            )
            plgpu.barrier_wait(rows_ready.at[wg])

            def visit(step: Any, is_partial: bool, carry: Any) -> Any:
                dq, sums = carry
                k_slot, v_slot = slot_of(step, k_slots), slot_of(step, v_slots)
                frame = Frame((ROWS, bk), (first, tiles.start(step)), b, n)
                plgpu.barrier_wait(k_ready.at[k_slot])
                plgpu.barrier_wait(v_ready.at[v_slot])
                turned = [
                    k_mem.at[k_slot].transpose((1, 0)),
                    v_mem.at[v_slot].transpose((1, 0)),
                ]
                if max(H, Hv) <= WIDE:
                    scores, d_weights = two_products(
                        (q_mem.at[wg], d_out_mem.at[wg]), tuple(turned), frame.shape
                    )
                else:  # two products at once would not fit the registers
                    scores, d_weights = product(q_mem.at[wg], turned[0], frame.shape), None
                _, gradient = softmax_gradient(
                    plan, frame, operand_refs, scores, lse, is_partial, (*wanted, *dense)
                )
                if d_weights is None:
                    d_weights = product(d_out_mem.at[wg], turned[1], frame.shape)
                plgpu.barrier_arrive(v_free.at[v_slot])
                d_scores, d_values = gradient(d_weights, delta)
                sums = added_rows(sums, d_values[: len(wanted)])
                if dense:  # the last tiles have left the memory
                    plgpu.wait_smem_to_gmem(0)
                for i, x in enumerate(d_values[len(wanted) :]):
                    dense_mem.at[i, wg][...] = x.astype(jnp.float32)
                memory = stage and stage.at[wg]
                (dq,) = add_products((dq,), (d_scores.astype(dtype),), (k_mem.at[k_slot],), memory)
                plgpu.barrier_arrive(k_free.at[k_slot])
                if dense:
                    plgpu.commit_smem()
                for i, ref in enumerate(dense_refs):
                    at = (b, n, rows, pl.ds(tiles.start(step), bk))
                    plgpu.copy_smem_to_gmem(dense_mem.at[i, wg], ref.at[at])
                return dq, sums

            sums = tuple(constant((ROWS,), 0.0, 0) for _ in wanted)
            dq, sums = tiles.over(plan, visit, (constant((ROWS, H), 0.0), sums))
            q_mem.at[wg][...] = (dq * plan.scale).astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q_mem.at[wg], dq_ref.at[b, rows, n])
            write_rows(sums, sum_mem, wg, sum_refs, (b, n, rows))
            plgpu.wait_smem_to_gmem(0)

    scratch = (
        matrices(2, ROWS, H, dtype=dtype),
        matrices(2, ROWS, Hv, dtype=dtype),
        matrices(k_slots, bk, H, dtype=dtype),
        matrices(v_slots, bk, Hv, dtype=dtype),
        plgpu.SMEM((len(wanted), 2, ROWS), jnp.float32) if wanted else None,
        matrices(len(dense), 2, ROWS, bk, dtype=jnp.float32) if dense else None,
        matrices(2, ROWS, bk, dtype=dtype) if plan.staged else None,
        (
            plgpu.Barrier(num_arrivals=2, num_barriers=2),
            plgpu.Barrier(num_barriers=k_slots),
            plgpu.Barrier(num_barriers=v_slots),
            plgpu.Barrier(num_arrivals=2, num_barriers=k_slots),
            plgpu.Barrier(num_arrivals=2, num_barriers=v_slots),
        ),
    )
    sums = [jax.ShapeDtypeStruct((B, N, T), jnp.float32) for _ in wanted]
    whole = [jax.ShapeDtypeStruct((B, N, T, S), jnp.float32) for _ in dense]
    out = (jax.ShapeDtypeStruct(q.shape, q.dtype), *sums, *whole)
    arrays = (q, k, v, d_out, lse, delta)
    return call(kernel, arrays, (lists, *operands), out, (B, N, T // BLOCK), scratch)


def key_value_gradients(
    plan: Plan,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    d_out: Float[Array, "B T N Hv"],
    lse: Float[Array, "B N T"],
    delta: Float[Array, "B N T"],
    lists: Sequence[Int[Array, "..."]],
    operands: Sequence[Sequence[Shaped[Array, "..."]]],
    wanted: Sequence[int],
) -> tuple[Float[Array, "..."], ...]:
    """The gradients of k and v: a block's keys stay, and the queries of all their heads pass by.

    Then those of each ``wanted`` read, summed over the queries, ``B N S``.
    """
    B, N, K, T, S = plan.shape
    H, Hv, dtype, group = q.shape[3], v.shape[3], q.dtype, N // K
    bq, slots = plan.tuning.dkv_queries, plan.tuning.dkv_slots
    # Heads this wide fill the registers with one gradient: the warpgroups then share 64 keys.
    is_wide = max(H, Hv) > WIDE
    parts = 1 if is_wide else 2
    keys = parts * ROWS

    def kernel(arrays: Any, groups: Any, outputs: Any, scratch: Any) -> None:
        q_ref, k_ref, v_ref, d_out_ref, lse_ref, delta_ref = arrays
        list_refs, *operand_refs = groups
        dk_ref, dv_ref, *sum_refs = outputs
        k_mem, v_mem, q_mem, d_out_mem, lse_mem, delta_mem, sum_mem, stage, barriers = scratch
        keys_ready, ready, free, done = barriers
        b, kv, wg = lax.axis_index("b"), lax.axis_index("n"), lax.axis_index("wg")
        start = lax.axis_index("r") * keys
        column = lax.div(start, jnp.int32(BLOCK))

        def tiles_of(head: Any) -> tuple[Any, Tiles]:
            n = kv * group + head
            return n, Tiles(plan, list_refs, (b, n, column), T, bq)

        @pl.when(wg == 2)
        def _produce() -> None:
            plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")
            for i in range(parts):
                at = (b, pl.ds(start + i * ROWS, ROWS), kv)
                copy(k_ref.at[at], k_mem.at[i], keys_ready.at[i])
                copy(v_ref.at[at], v_mem.at[i], keys_ready.at[i])

            def over_head(head: Any, before: Any) -> Any:
                n, tiles = tiles_of(head)

                def fetch(step: Any, _: None) -> None:
                    slot = slot_of(before + step, slots)
                    rows = pl.ds(tiles.start(step), bq)
                    pl.when(before + step >= slots)(lambda: plgpu.barrier_wait(free.at[slot]))
                    copy(q_ref.at[b, rows, n], q_mem.at[slot], ready.at[slot])
                    copy(d_out_ref.at[b, rows, n], d_out_mem.at[slot], ready.at[slot])
                    copy(lse_ref.at[b, n, rows], lse_mem.at[slot], ready.at[slot])
                    copy(delta_ref.at[b, n, rows], delta_mem.at[slot], ready.at[slot])

                lax.fori_loop(0, tiles.steps, fetch, None)
                return before + tiles.steps

            drain(lax.fori_loop(0, group, over_head, jnp.int32(0)), slots, free)

        @pl.when(wg < 2)
        def _consume() -> None:
            plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")
            part = 0 if is_wide else wg
            first = start + part * ROWS
            mine_k, mine_v = k_mem.at[part], v_mem.at[part]
            plgpu.barrier_wait(keys_ready.at[part])

            def over_group(dk: Any, dv: Any) -> tuple[Any, Any]:
                """Add to those of the gradients that are not None."""

                def over_head(head: Any, carry: Any) -> Any:
                    before, totals = carry
                    n, tiles = tiles_of(head)

                    def visit(step: Any, is_partial: bool, carry: Any) -> Any:
                        dk, dv, of_reads = carry
                        slot = slot_of(before + step, slots)
                        frame = Frame((ROWS, bq), (tiles.start(step), first), b, n, 1)
                        a_q, a_d_out = q_mem.at[slot], d_out_mem.at[slot]
                        memory = stage and stage.at[wg]
                        plgpu.barrier_wait(ready.at[slot])
                        turned = [x.transpose((1, 0)) for x in (a_q, a_d_out)]
                        if dk is None:
                            scores = product(mine_k, turned[0], frame.shape)
                        else:
                            scores, d_weights = two_products(
                                (mine_k, mine_v), tuple(turned), frame.shape
                            )
                        lse = plgpu.load(lse_mem.at[slot], layout=layout_of(1))
                        weights, gradient = softmax_gradient(
                            plan, frame, operand_refs, scores, lse, is_partial, wanted
                        )
                        totals, lefts, rights = [], [], []
                        if dv is not None:
                            totals, lefts, rights = [dv], [weights.astype(dtype)], [a_d_out]
                        if dk is not None:
                            delta = plgpu.load(delta_mem.at[slot], layout=layout_of(1))
                            d_scores, d_values = gradient(d_weights, delta)
                            of_reads = added_rows(of_reads, d_values)
                            totals.append(dk)
                            lefts.append(d_scores.astype(dtype))
                            rights.append(a_q)
                        sums = list(add_products(totals, lefts, rights, memory))
                        plgpu.barrier_arrive(free.at[slot])
                        dv = None if dv is None else sums.pop(0)
                        dk = None if dk is None else sums.pop(0)
                        return dk, dv, of_reads

                    nothing = tuple(constant((ROWS,), 0.0, 0) for _ in wanted)
                    nothing = () if totals[0] is None else nothing
                    dk, dv, of_reads = tiles.over(plan, visit, (*totals, nothing))
                    write_rows(of_reads, sum_mem, wg, sum_refs, (b, n, pl.ds(first, ROWS)))
                    return before + tiles.steps, (dk, dv)

                carry = (jnp.int32(0), (dk, dv))
                if group == 1:
                    return over_head(0, carry)[1]
                return lax.fori_loop(0, group, over_head, carry)[1]

            def write(dk: Any, dv: Any) -> None:
                rows = pl.ds(first, ROWS)
                if dk is not None:
                    mine_k[...] = (dk * plan.scale).astype(dtype)
                if dv is not None:
                    mine_v[...] = dv.astype(dtype)
                plgpu.commit_smem()
                if dk is not None:
                    plgpu.copy_smem_to_gmem(mine_k, dk_ref.at[b, rows, kv])
                if dv is not None:
                    plgpu.copy_smem_to_gmem(mine_v, dv_ref.at[b, rows, kv])
                plgpu.wait_smem_to_gmem(0)

            if not is_wide:
                write(*over_group(constant((ROWS, H), 0.0), constant((ROWS, Hv), 0.0)))
                return

            def meet() -> None:  # the other one may still read what is to be overwritten
                plgpu.barrier_arrive(done)
                plgpu.barrier_wait(done)

            @pl.when(wg == 0)
            def _values() -> None:
                _, dv = over_group(None, constant((ROWS, Hv), 0.0))
                meet()
                write(None, dv)

            @pl.when(wg == 1)
            def _keys() -> None:
                dk, _ = over_group(constant((ROWS, H), 0.0), None)
                meet()
                write(dk, None)

    scratch = (
        matrices(parts, ROWS, H, dtype=dtype),
        matrices(parts, ROWS, Hv, dtype=dtype),
        matrices(slots, bq, H, dtype=dtype),
        matrices(slots, bq, Hv, dtype=dtype),
        plgpu.SMEM((slots, bq), jnp.float32),
        plgpu.SMEM((slots, bq), jnp.float32),
        plgpu.SMEM((len(wanted), 2, ROWS), jnp.float32) if wanted else None,
        matrices(2, ROWS, bq, dtype=dtype) if plan.staged else None,
        (
            plgpu.Barrier(num_arrivals=2, num_barriers=parts),
            plgpu.Barrier(num_arrivals=4, num_barriers=slots),
            plgpu.Barrier(num_arrivals=2, num_barriers=slots),
            plgpu.Barrier(num_arrivals=2),
        ),
    )
    sums = [jax.ShapeDtypeStruct((B, N, S), jnp.float32) for _ in wanted]
    out = (*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)), *sums)
    arrays = (q, k, v, d_out, lse, delta)
    return call(kernel, arrays, (lists, *operands), out, (B, K, S // keys), scratch)

# Over 400 lines: three kernels of a hundred lines, each one closure over its pipeline.
"""Gradient kernels of ``mosaic_gpu``: of q, of k and v, and of tables that are read at k - q.

Each recomputes the weights from q, k and the log-sum-exp. A block is the only one to add to its
part of a result.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, Shaped

from attnzoo.ops.kernels.mosaic_gpu_kernels import (
    CONSUMER_REGISTERS,
    PRODUCER_REGISTERS,
    ROWS,
    WIDE,
    HopperPlan,
    Tiles,
    add_products,
    broadcast_vector,
    call,
    constant,
    copy,
    drain,
    dropped,
    hidden,
    matrices,
    product,
    slot_of,
    two_products,
)
from attnzoo.ops.kernels.mosaic_gpu_tile import (
    BLOCK,
    LOG2E,
    Frame,
    layout_of,
    plgpu,
    tile_evaluator,
)


def softmax_gradient(
    plan: HopperPlan,
    frame: Frame,
    operands: Sequence[Any],
    scores: Float[Array, "_ _"],
    lse: Float[Array, "_"],
    is_partial: bool,
    wanted: Sequence[int] = (),
) -> tuple[Array, Callable[[Array, Array], tuple[Array, list[Array]]]]:
    """Return a tile's weights after dropout, and a function of their gradient and delta.

    The function returns the gradients of the scaled scores and, as whole tiles, of the ``wanted``
    reads.
    """
    axis, pull = frame.query_axis, plan.pull
    logits = scores * plan.scale
    given = {"score": logits}
    if pull is not None:
        compute = tile_evaluator(pull.function, frame, operands[0], given)
        logits = compute(pull.function.output)
    logits = hidden(plan, frame, operands[1], logits * LOG2E, is_partial)
    weights = jnp.exp2(logits - broadcast_vector(lse, frame.shape, axis))
    survive = dropped(plan, frame, operands)

    def gradient(d_weights: Array, delta: Array) -> tuple[Array, list[Array]]:
        d_logits = weights * (survive(d_weights) - broadcast_vector(delta, frame.shape, axis))
        if pull is None:
            return d_logits, []
        given["gradient"] = d_logits
        return compute(pull.score), [compute(pull.reads[place]) for place in wanted]

    return survive(weights), gradient


def added_rows(totals: Sequence[Array], tiles: Sequence[Array]) -> tuple[Array, ...]:
    """Add the row sums of each tile to its total."""
    return tuple(x + tile.astype(jnp.float32).sum(axis=1) for x, tile in zip(totals, tiles))


def write_rows(
    totals: Sequence[Array], memory: Any, wg: Any, refs: Sequence[Any], at: tuple[Any, ...]
) -> None:
    """Write a vector of a warpgroup's rows to each ref, through the warpgroup's shared memory."""
    for total, ref in zip(totals, refs):
        memory.at[wg][...] = total
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(memory.at[wg], ref.at[at])
        plgpu.wait_smem_to_gmem(0)


def query_gradient(
    plan: HopperPlan,
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
    """Compute the gradients of q, of ``wanted`` reads summed over keys, and of ``dense`` reads.

    Gradients of ``wanted`` reads are ``B N T``, those of ``dense`` reads ``B N T S``, written only
    in the tiles that are in a list.
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
                for ref, x in zip(dense_refs, d_values[len(wanted) :]):
                    plgpu.wait_smem_to_gmem(0)  # until the last tile has left the memory
                    dense_mem.at[wg][...] = x.astype(jnp.float32)
                    plgpu.commit_smem()
                    at = (b, n, rows, pl.ds(tiles.start(step), bk))
                    plgpu.copy_smem_to_gmem(dense_mem.at[wg], ref.at[at])
                memory = stage and stage.at[wg]
                (dq,) = add_products((dq,), (d_scores.astype(dtype),), (k_mem.at[k_slot],), memory)
                plgpu.barrier_arrive(k_free.at[k_slot])
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
        plgpu.SMEM((2, ROWS), jnp.float32) if wanted else None,
        matrices(2, ROWS, bk, dtype=jnp.float32) if dense else None,
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
    plan: HopperPlan,
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
    """Compute the gradients of k, of v, and of ``wanted`` reads summed over queries, ``B N S``.

    A block keeps its keys and loops over the queries of all heads that share them.
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
                """Add the group's tiles to those of the gradients that are not None."""

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

            def meet() -> None:  # the other warpgroup may still read this memory
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
        plgpu.SMEM((2, ROWS), jnp.float32) if wanted else None,
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


def diagonal_gradient(
    plan: HopperPlan,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    d_out: Float[Array, "B T N Hv"],
    lse: Float[Array, "B N T"],
    delta: Float[Array, "B N T"],
    lists: tuple[Int[Array, "..."], Int[Array, "..."]],
    operands: Sequence[Sequence[Shaped[Array, "..."]]],
    wanted: int,
) -> Float[Array, "B N block X"]:
    """Compute the gradient of a read at k - q, summed over the tiles of each diagonal of blocks.

    A block of this kernel owns 64 columns of one diagonal. Two blocks compute the same scores and
    their gradients, so that these need not be stored. ``lists`` are the number of rows of blocks on
    each diagonal, ``B N X/block``, and these rows.
    """
    B, N, K, T, S = plan.shape
    H, Hv, dtype = q.shape[3], v.shape[3], q.dtype
    slots, keys = 1 if max(H, Hv) > WIDE else 2, ROWS
    X = T - BLOCK + S

    def kernel(arrays: Any, groups: Any, outputs: Any, scratch: Any) -> None:
        q_ref, k_ref, v_ref, d_out_ref, lse_ref, delta_ref = arrays
        (count_ref, rows_ref), *operand_refs = groups
        (sum_ref,) = outputs
        q_mem, d_out_mem, k_mem, v_mem, sum_mem, (ready, free) = scratch
        b, n, wg = lax.axis_index("b"), lax.axis_index("n"), lax.axis_index("wg")
        column = lax.axis_index("r") * keys
        diagonal = lax.div(column, jnp.int32(BLOCK))
        own = [jnp.int32(0) if x == 1 else i for x, i in zip(count_ref.shape[:2], (b, n))]
        steps = count_ref[*own, diagonal]

        def starts(step: Any) -> tuple[Any, Any]:
            """Return the first query and the first key of a step's block."""
            first = rows_ref[*own, diagonal, step] * BLOCK
            return first, first + column - (T - BLOCK)

        @pl.when(wg == 2)
        def _produce() -> None:
            plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")
            kv = lax.div(n, jnp.int32(N // K))

            def fetch(step: Any, _: None) -> None:
                slot = slot_of(step, slots)
                first, key = starts(step)
                pl.when(step >= slots)(lambda: plgpu.barrier_wait(free.at[slot]))
                for i in range(2):
                    rows = pl.ds(first + i * ROWS, ROWS)
                    copy(q_ref.at[b, rows, n], q_mem.at[slot, i], ready.at[slot])
                    copy(d_out_ref.at[b, rows, n], d_out_mem.at[slot, i], ready.at[slot])
                at = (b, pl.ds(key, keys), kv)
                copy(k_ref.at[at], k_mem.at[slot], ready.at[slot])
                copy(v_ref.at[at], v_mem.at[slot], ready.at[slot])

            lax.fori_loop(0, steps, fetch, None)
            drain(steps, slots, free)

        @pl.when(wg < 2)
        def _consume() -> None:
            plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")

            def visit(step: Any, total: Array) -> Array:
                slot = slot_of(step, slots)
                first, key = starts(step)
                first = first + wg * ROWS
                frame = Frame((ROWS, keys), (first, key), b, n)
                lse, delta = (
                    plgpu.load(
                        ref.at[b, n, pl.ds(first, ROWS)], layout=layout_of(0), optimized=False
                    )
                    for ref in (lse_ref, delta_ref)
                )
                plgpu.barrier_wait(ready.at[slot])
                turned = [x.at[slot].transpose((1, 0)) for x in (k_mem, v_mem)]
                mine = (q_mem.at[slot, wg], d_out_mem.at[slot, wg])
                scores, d_weights = two_products(mine, tuple(turned), frame.shape)
                plgpu.barrier_arrive(free.at[slot])
                _, gradient = softmax_gradient(
                    plan, frame, operand_refs, scores, lse, True, (wanted,)
                )
                _, (found,) = gradient(d_weights, delta)
                return total + found.astype(jnp.float32)

            total = lax.fori_loop(0, steps, visit, constant((ROWS, keys), 0.0))
            sum_mem.at[wg][...] = total
            plgpu.commit_smem()
            at = (b, n, pl.ds(wg * ROWS, ROWS), pl.ds(column, keys))
            plgpu.copy_smem_to_gmem(sum_mem.at[wg], sum_ref.at[at])
            plgpu.wait_smem_to_gmem(0)

    scratch = (
        matrices(slots, 2, ROWS, H, dtype=dtype),
        matrices(slots, 2, ROWS, Hv, dtype=dtype),
        matrices(slots, keys, H, dtype=dtype),
        matrices(slots, keys, Hv, dtype=dtype),
        matrices(2, ROWS, keys, dtype=jnp.float32),
        (
            plgpu.Barrier(num_arrivals=6, num_barriers=slots),
            plgpu.Barrier(num_arrivals=2, num_barriers=slots),
        ),
    )
    out = (jax.ShapeDtypeStruct((B, N, BLOCK, X), jnp.float32),)
    arrays = (q, k, v, d_out, lse, delta)
    (total,) = call(kernel, arrays, (lists, *operands), out, (B, N, X // keys), scratch)
    return total

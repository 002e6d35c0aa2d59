"""Forward kernel of ``mosaic_gpu``, and functions shared with the gradient kernels.

Each block has three warpgroups. One fetches tiles (TMA) into a ring of slots in shared memory; two
multiply (wgmma) and compute the softmax between the products. Barriers hand slots over: ``ready``
when a copy has arrived, ``free`` when both consumers have read it. Nothing is summed across blocks,
so that repeated runs are equal bit by bit.
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
    layout_of,
    plgpu,
)
from attnzoo.ops.kernels.traced import Traced

ROWS = 64
"""Rows of a wgmma, which one warpgroup multiplies at a time."""
WIDE = 128
"""Largest head size for which a warpgroup holds the gradients of both k and v in registers."""
PRODUCER_REGISTERS, CONSUMER_REGISTERS = 24, 240
"""(24 + 2 x 240) x 128 threads are just within the 65,536 registers of a multiprocessor."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Keys (or queries) per step, and slots of the ring, for each kernel."""

    keys: int = 128
    slots: int = 2
    dq_keys: int = 64
    dq_slots: tuple[int, int] = (2, 2)
    """Slots of keys, and of values, which are freed earlier."""
    dkv_queries: int = 64
    dkv_slots: int = 2


def tuned(width: int, value_width: int, staged: bool) -> Tuning:
    """Return tile sizes by head size, as large as shared memory and registers allow."""
    if max(width, value_width) > WIDE:
        return Tuning(keys=64, dq_slots=(1, 1) if staged else (2, 1))
    return Tuning()


@dataclasses.dataclass(frozen=True, eq=False)
class HopperPlan:
    """Static plan of the kernels: sizes, traced functions and tuning."""

    shape: tuple[int, int, int, int, int]
    """B, N, K, and the lengths T and S padded to whole blocks."""
    scale: float
    """Factor on q . k."""
    modify: Traced | None
    visible: Traced | None
    has_full: bool
    has_partial: bool
    tuning: Tuning
    staged: bool
    """True for kernels that the interpreter can run: weights reach the second product through
    shared memory, and each product starts from zero. Else weights and sums stay in registers."""
    kept: Traced | None = None
    """Function that is True for weights that dropout keeps; None without dropout."""
    dropout_rate: float = 0.0
    pull: Pullback | None = None
    """Derivative of ``modify``, set once the reads that need a gradient are known."""


class Tiles:
    """Tiles of one row (or column) of blocks, full ones first, and the steps over them."""

    def __init__(
        self, plan: HopperPlan, refs: Sequence[Any], at: Sequence[Any], end: int, size: int
    ):
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
        """Return the first position of a step."""
        if self.per_tile == 1:
            return self._where(step) * BLOCK
        tile = lax.div(step, jnp.int32(self.per_tile))
        return self._where(tile) * BLOCK + lax.rem(step, jnp.int32(self.per_tile)) * self.size

    def over(self, plan: HopperPlan, visit: Callable[..., Any], carry: Any) -> Any:
        """Run ``carry = visit(step, is_partial, carry)`` for each step."""
        full = self.full * self.per_tile
        if plan.has_full:
            carry = lax.fori_loop(0, full, lambda i, carry: visit(i, False, carry), carry)
        if plan.has_partial:
            first = full if plan.has_full else 0
            carry = lax.fori_loop(first, self.steps, lambda i, x: visit(i, True, x), carry)
        return carry


def constant(shape: tuple[int, ...], value: float, axis: int | None = None) -> Array:
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout_of(axis))


def broadcast_vector(
    x: Float[Array, "_"], shape: tuple[int, ...], axis: int
) -> Float[Array, "_ _"]:
    """Broadcast a vector over a matrix, with an entry per row (axis 0) or per column (1)."""
    return lax.broadcast_in_dim(x, shape, [axis])


def matrices(*shape: int, dtype: Any) -> Any:
    """Declare shared memory for wgmma and copies, swizzled over up to 128 bytes of a row."""
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
    """Compute two products of one shape, with one wait for both."""

    def compute(first: Any, second: Any) -> tuple[Array, Array]:
        plgpu.wgmma(first, a[0], b[0])
        plgpu.wgmma(second, a[1], b[1])
        return first[...], second[...]

    return pl.run_scoped(compute, plgpu.ACC(shape, jnp.float32), plgpu.ACC(shape, jnp.float32))


def add_products(totals: Sequence[Array], a: Sequence[Array], b: Sequence[Any], stage: Any) -> Any:
    """Return each total + a b, with a in registers; ``stage`` is shared memory for a, or None."""
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
    """Wait until the last slots are free, so that every barrier completes."""

    def wait(step: Any, _: None) -> None:
        for barrier in barriers:
            plgpu.barrier_wait(barrier.at[slot_of(step, slots)])

    lax.fori_loop(jnp.maximum(steps - slots, 0), steps, wait, None)


def modified(
    plan: HopperPlan, frame: Frame, operands: Sequence[Any], scores: Array, is_partial: bool
) -> Array:
    """Return the modified logits in base 2, -inf where hidden."""
    modifiers, masks, _ = operands
    logits = scores * plan.scale
    if plan.modify is not None:
        logits = evaluate(plan.modify, frame, modifiers, logits)
    return hidden(plan, frame, masks, logits * LOG2E, is_partial)


def hidden(plan: HopperPlan, frame: Frame, masks: Any, logits: Array, is_partial: bool) -> Array:
    if not is_partial or plan.visible is None:
        return logits
    return jnp.where(evaluate(plan.visible, frame, masks, None), logits, -jnp.inf)


def dropped(plan: HopperPlan, frame: Frame, operands: Sequence[Any]) -> Callable[[Array], Array]:
    """Return a function that applies dropout to weights, or to gradients of weights."""
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
    plan: HopperPlan,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    lists: Sequence[Int[Array, "..."]],
    operands: Sequence[Sequence[Shaped[Array, "..."]]],
    with_rest: bool = False,
) -> tuple[Float[Array, "..."], ...]:
    """Compute the output ``B T N Hv``, and the log-sum-exp in base 2, ``B N T``.

    ``with_rest`` adds what the output has lost by rounding, in the output's dtype.
    """
    B, N, K, T, S = plan.shape
    H, Hv, dtype = q.shape[3], v.shape[3], q.dtype
    bk, slots = plan.tuning.keys, plan.tuning.slots
    # exp2(c s - max(c s)) is one multiply-add if the largest logit is c times the largest score.
    folds = plan.modify is None and plan.scale > 0

    def kernel(arrays: Any, groups: Any, outputs: Any, scratch: Any) -> None:
        (q_ref, k_ref, v_ref), (list_refs, *operand_refs) = arrays, groups
        out_ref, lse_ref, *rest_refs = outputs
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
                weights = jnp.exp2(s * factor - broadcast_vector(finite, s.shape, 0))
                shrink = jnp.exp2(maximum - finite)
                total = total * shrink + weights.sum(axis=1)
                out = out * broadcast_vector(shrink, out.shape, 0)
                weights = dropped(plan, frame, operand_refs)(weights).astype(dtype)
                # While one warpgroup computes its softmax, the other one uses the tensor cores.
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
            out = out * broadcast_vector(inverse, out.shape, 0)
            out_mem.at[wg][...] = out.astype(dtype)
            lse = maximum + jnp.log2(jnp.where(empty, 1.0, total))
            lse_mem.at[wg][...] = jnp.where(empty, -jnp.inf, lse)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(out_mem.at[wg], out_ref.at[b, rows, n])
            plgpu.copy_smem_to_gmem(lse_mem.at[wg], lse_ref.at[b, n, rows])
            for ref in rest_refs:
                plgpu.wait_smem_to_gmem(0)
                out_mem.at[wg][...] = (out - out.astype(dtype).astype(jnp.float32)).astype(dtype)
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(out_mem.at[wg], ref.at[b, rows, n])
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
    out = (*out, out[0]) if with_rest else out
    return call(kernel, (q, k, v), (lists, *operands), out, (B, N, T // BLOCK), scratch)

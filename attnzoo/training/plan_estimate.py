"""What lies on a device and what it reads and writes, by the shapes and places of arrays."""

import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from attnzoo.training.placement import ROWS, Placement
from attnzoo.training.plan_flops import Kept
from attnzoo.training.plan_result import Memory
from attnzoo.training.plan_subject import Subject


def _size(leaf: Any, shape: tuple[int, ...]) -> int:
    dtype = leaf.dtype
    width = 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
    return math.prod(shape) * width


def local_bytes(tree: Any, shardings: Any) -> int:
    """Bytes of a tree on one device."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(_size(leaf, place.shard_shape(leaf.shape)) for leaf, place in pairs)


def placed_batch(subject: Subject, placement: Placement) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch as ``Placement.batch`` lays it out."""
    rows = placement.sizes["data"] * placement.sizes["fsdp"]

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spread = bool(x.shape) and x.shape[0] % rows == 0
        where = NamedSharding(placement.mesh, PartitionSpec(ROWS if spread else None))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return {name: place(x) for name, x in subject.batch.items()}


def estimate_memory(
    subject: Subject, placement: Placement, state: Any, shardings: Any, kept: Kept
) -> Memory:
    """Exact in what a step begins with; gradients as the parameters; what the forward pass keeps
    divided by the axes that divide it, twice the largest array, and one layer's gathered weights.
    """
    sizes, settings = placement.sizes, subject.task.config.training
    parts = {name: local_bytes(state[name], shardings[name]) for name in state}
    batch = placed_batch(subject, placement)
    batch_bytes = sum(
        _size(x, x.sharding.shard_shape(x.shape))
        for name, x in batch.items()
        if name in kept.read and x.sharding is not None
    )
    gradients = parts["params"] * (2 if settings.accumulate > 1 else 1)
    rows = sizes["data"] * sizes["fsdp"] * sizes["sequence"] * settings.accumulate
    activations = kept.whole / rows + (kept.spread + 2 * kept.largest) / (rows * sizes["tensor"])
    width = 2 if settings.compute_dtype == "bfloat16" else 4
    cast = parts["params"] // 2 if width == 2 else 0
    gathered = 0
    if sizes["fsdp"] > 1:
        gathered = max(
            math.prod(leaf.shape[-2:]) * width // sizes["tensor"]
            for leaf in jax.tree.leaves(state["params"])
        )
    return Memory(
        parameters=parts["params"],
        optimizer=parts["optimizer"],
        other=sum(parts.get(name, 0) for name in ("rest", "ema", "step")),
        batch=batch_bytes,
        gradients=gradients,
        temporary=int(gradients + activations + cast + 2 * gathered),
    )


def estimate_traffic(
    subject: Subject,
    placement: Placement,
    memory: Memory,
    kept: Kept,
    state: Any,
    shardings: Any,
) -> float:
    """State read and written, gradients too; parameters read three times for each part of a batch,
    gathered; what is kept for the backward pass written and read, as far as there is room for it.
    """
    sizes, settings = placement.sizes, subject.task.config.training
    width = 2 if settings.compute_dtype == "bfloat16" else 4
    gathered = local_bytes(state["params"], shardings["params"]) // 4 * width * sizes["fsdp"]
    rows = sizes["data"] * sizes["fsdp"] * sizes["sequence"] * settings.accumulate
    activations = kept.whole / rows + kept.spread / (rows * sizes["tensor"])
    return float(
        2 * (memory.arguments - memory.batch)
        + memory.batch
        + 2 * memory.parameters
        + 3 * settings.accumulate * gathered
        + 2 * settings.accumulate * min(activations, memory.temporary)
    )

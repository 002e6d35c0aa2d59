"""Bytes stored, read and written per device, from the shapes and shardings of arrays."""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from attnzoo.planning.flops import Kept
from attnzoo.planning.subject import Subject
from attnzoo.training.placement import ROWS, Placement


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs."""

    parameters: int
    optimizer: int
    other: int
    """Running averages, counters."""
    batch: int
    gradients: int
    """An estimate, also where XLA says the sum: gradients are among what it keeps for a while."""
    temporary: int
    """Gradients, activations and everything else that a step makes and forgets."""

    @property
    def arguments(self) -> int:
        """State and batch, with which a step begins."""
        return self.parameters + self.optimizer + self.other + self.batch

    @property
    def total(self) -> int:
        """All bytes together."""
        return self.arguments + self.temporary


def placed_batch(subject: Subject, placement: Placement) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the batch as ``Placement.batch`` lays it out."""
    rows = placement.sizes["data"] * placement.sizes["fsdp"]

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spread = bool(x.shape) and x.shape[0] % rows == 0
        where = NamedSharding(placement.mesh, PartitionSpec(ROWS if spread else None))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return {name: place(x) for name, x in subject.batch.items()}


def estimate_memory(
    subject: Subject, placement: Placement, state: Any, shardings: Any, kept: Kept
) -> Memory:
    """Return the memory of a device: exact in state and batch, estimated in what a step makes.

    Gradients take as much as the parameters; what the forward pass keeps is divided by the axes
    that divide it; twice the largest array and the gathered weights of one layer come on top.
    """
    parts = {name: _local_bytes(state[name], shardings[name]) for name in state}
    batch = placed_batch(subject, placement)
    read = {name: batch[name] for name in kept.read}
    gradients = parts["params"] * (2 if subject.settings.accumulate > 1 else 1)
    cast = parts["params"] // 2 if subject.width == 2 else 0
    gathered = 0
    if placement.sizes["fsdp"] > 1:
        gathered = max(
            math.prod(leaf.shape[-2:]) * subject.width // placement.sizes["tensor"]
            for leaf in jax.tree.leaves(state["params"])
        )
    activations = _activations(subject, placement, kept, 2 * kept.largest)
    return Memory(
        parameters=parts["params"],
        optimizer=parts["optimizer"],
        other=sum(parts.get(name, 0) for name in ("rest", "ema", "step")),
        batch=_local_bytes(read, {name: x.sharding for name, x in read.items()}),
        gradients=gradients,
        temporary=int(gradients + activations + cast + 2 * gathered),
    )


def estimate_traffic(subject: Subject, placement: Placement, memory: Memory, kept: Kept) -> float:
    """Return the bytes that a device reads and writes in a step.

    State and gradients are read and written; parameters read three times for each part of a batch,
    gathered; what is kept for the backward pass written and read, as far as there is room for it.
    """
    parts = subject.settings.accumulate
    gathered = memory.parameters // 4 * subject.width * placement.sizes["fsdp"]
    activations = min(_activations(subject, placement, kept), memory.temporary)
    state = memory.arguments - memory.batch
    return float(
        2 * state
        + memory.batch
        + 2 * memory.parameters
        + 3 * parts * gathered
        + 2 * parts * activations
    )


def _activations(subject: Subject, placement: Placement, kept: Kept, more: int = 0) -> float:
    """Bytes that a device keeps of one part of a batch; ``tensor`` divides ``more``, too."""
    sizes = placement.sizes
    rows = sizes["data"] * sizes["fsdp"] * sizes["sequence"] * subject.settings.accumulate
    return kept.whole / rows + (kept.spread + more) / (rows * sizes["tensor"])


def _local_bytes(tree: Any, shardings: Any) -> int:
    """Bytes of a tree on one device."""

    def size(leaf: Any, place: Any) -> int:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return math.prod(place.shard_shape(leaf.shape)) * (8 if is_key else leaf.dtype.itemsize)

    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(size(leaf, place) for leaf, place in pairs)

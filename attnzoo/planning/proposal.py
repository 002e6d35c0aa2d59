"""Search for a training close to a given one that fits into memory."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.mesh import MeshConfig
from attnzoo.errors import UserError
from attnzoo.planning.plan import Plan, Planner

CHECKED = 3
"""So many proposals are computed as the plan itself was, before the search gives up."""
REMAT = ("none", "dots", "full")


class Proposal(NamedTuple):
    """A plan that fits, and what to change for it, as overrides."""

    plan: Plan
    overrides: tuple[str, ...]


def propose(planner: Planner, asked: Plan) -> Proposal | None:
    """Return the nearest change under which the step fits, or None where none near it does.

    Tried are first the same mesh with the batch in more parts, then another remat policy, then
    other meshes of as many devices, then up to 64 times as many. Many are looked at by estimates,
    corrected by what the compiler said of the one that was asked for; what is proposed has been
    computed as that one was.
    """
    # Where the compiler needs more than was estimated, it will elsewhere.
    correction = max(asked.memory.temporary / max(asked.estimate.temporary, 1), 1.0)
    checked = 0
    for config, changes in _nearest(asked.config):
        try:
            rough = planner.plan(config, ahead=False)
        except UserError:
            continue  # a mesh that heads or rows do not divide by
        if rough.estimate.arguments + correction * rough.estimate.temporary > rough.room:
            continue
        plan = planner.plan(config)
        if plan.fits:
            return Proposal(plan, tuple(f"{name}={value}" for name, value in changes.items()))
        checked += 1
        if checked == CHECKED:
            return None
    return None


def _nearest(config: ExperimentConfig) -> Iterator[tuple[ExperimentConfig, dict[str, Any]]]:
    """Configs with ever more changed, and the changes."""
    training, remat = config.training, getattr(config.model, "remat", None)
    policies = [remat, *(REMAT[REMAT.index(remat) + 1 :] if remat in REMAT else ())]
    parts = [training.accumulate]  # about every doubling, and the most there can be
    for count in range(training.accumulate, training.batch_size + 1, training.accumulate):
        enough = count >= 2 * parts[-1] or count == training.batch_size
        if training.batch_size % count == 0 and enough and count != parts[-1]:
            parts.append(count)
    count = math.prod(size or 1 for size in config.mesh.sizes.values())
    meshes = (mesh for power in range(7) for mesh in _meshes(config.mesh, count << power))
    for mesh, policy, accumulate in itertools.product(meshes, policies, parts):
        changes: dict[str, Any] = {
            f"mesh.{axis}": size
            for axis, size in mesh.sizes.items()
            if size != config.mesh.sizes[axis]
        }
        changes |= {} if policy == remat else {"model.remat": policy}
        changes |= {} if accumulate == parts[0] else {"training.accumulate": accumulate}
        changed: Any = config.model if policy == remat else replace(config.model, remat=policy)
        settings = replace(training, accumulate=accumulate)
        if changes:
            yield replace(config, mesh=mesh, model=changed, training=settings), changes


def _meshes(mesh: MeshConfig, count: int) -> list[MeshConfig]:
    """Meshes of so many devices: the same first, then more of fsdp, then of tensor."""
    left = count // mesh.sequence
    divisors = [size for size in range(1, left + 1) if left % size == 0]
    found = [
        replace(mesh, data=left // (tensor * fsdp), fsdp=fsdp, tensor=tensor)
        for tensor, fsdp in itertools.product(divisors, divisors)
        if tensor >= mesh.tensor and fsdp >= mesh.fsdp and left % (tensor * fsdp) == 0
    ]
    return sorted(found, key=lambda other: other != mesh)

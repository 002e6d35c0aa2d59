"""The nearest training that fits, where the one that was asked for does not."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from attnzoo.config.experiment import Experiment
from attnzoo.config.mesh import Mesh
from attnzoo.errors import UserError
from attnzoo.training.plan import Planner
from attnzoo.training.plan_result import Plan

CHECKED = 3
"""So many proposals are computed as the plan itself was, before the search gives up."""
REMAT = ("none", "dots", "full")


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A plan that fits, and what to change for it, as overrides."""

    plan: Plan
    overrides: tuple[str, ...]


def propose(planner: Planner, asked: Plan) -> Proposal | None:
    """The nearest change under which the step fits: first the same mesh with the batch in more
    parts, then with another remat policy, then other meshes of as many devices, then up to 64
    times as many.

    Many are looked at by estimates, corrected by what the compiler said of the one that was asked
    for; what is proposed has been computed as that one was.
    """
    # Where the compiler needs more than was estimated, it will elsewhere.
    correction = max(asked.memory.temporary / max(asked.estimate.temporary, 1), 1.0)
    checked = 0
    for config, overrides in _nearest(asked.config):
        try:
            rough = planner.plan(config, ahead=False)
        except UserError:
            continue  # a mesh that heads or rows do not divide by
        needed = rough.estimate.arguments + correction * rough.estimate.temporary
        if needed > rough.room:
            continue
        plan = planner.plan(config)
        if plan.fits:
            return Proposal(plan, overrides)
        checked += 1
        if checked == CHECKED:
            return None
    return None


def _nearest(config: Experiment) -> Iterator[tuple[Experiment, tuple[str, ...]]]:
    """Configs with ever more changed."""
    model, training = config.model, config.training
    count = math.prod(size or 1 for size in config.mesh.sizes.values())
    parts = [
        training.accumulate * factor
        for factor in range(1, training.batch_size // training.accumulate + 1)
        if training.batch_size % (training.accumulate * factor) == 0
    ]
    now = getattr(model, "remat", None)
    policies = [now, *(REMAT[REMAT.index(now) + 1 :] if now in REMAT else ())]
    for times in (2**power for power in range(7)):
        for mesh in _meshes(config.mesh, count * times):
            for remat, accumulate in itertools.product(policies, _few(parts)):
                changes = {
                    **_differences(config.mesh, mesh),
                    **({} if remat == now else {"model.remat": remat}),
                    **({} if accumulate == parts[0] else {"training.accumulate": accumulate}),
                }
                if changes:
                    changed: Any = model if remat == now else replace(model, remat=remat)
                    yield (
                        replace(
                            config,
                            mesh=mesh,
                            model=changed,
                            training=replace(training, accumulate=accumulate),
                        ),
                        tuple(f"{name}={value}" for name, value in changes.items()),
                    )


def _few(parts: list[int]) -> list[int]:
    """About every doubling, and the most there can be."""
    chosen = parts[:1]
    for part in parts[1:]:
        if part >= 2 * chosen[-1] or part == parts[-1]:
            chosen.append(part)
    return chosen


def _meshes(mesh: Mesh, count: int) -> Iterator[Mesh]:
    """Of so many devices: the same first, then more of fsdp, then of tensor."""
    if math.prod(size or 1 for size in mesh.sizes.values()) == count:
        yield mesh
    left = count // mesh.sequence
    divisors = [size for size in range(1, left + 1) if left % size == 0]
    for tensor, fsdp in itertools.product(divisors, divisors):
        if tensor < mesh.tensor or fsdp < mesh.fsdp or left % (tensor * fsdp):
            continue
        other = replace(mesh, data=left // (tensor * fsdp), fsdp=fsdp, tensor=tensor)
        if other != mesh:
            yield other


def _differences(old: Mesh, new: Mesh) -> dict[str, Any]:
    sizes = ("data", "fsdp", "tensor")
    return {
        f"mesh.{name}": getattr(new, name)
        for name in sizes
        if getattr(old, name) != getattr(new, name)
    }

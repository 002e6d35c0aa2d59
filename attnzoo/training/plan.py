"""What a training will take, before it is paid for: memory, operations, messages and time a step.

The real step is compiled ahead of time where there is something to compile for (this CPU's emulated
devices, or the topology of a TPU or GPU whose plugin is installed), and XLA says what it takes.
Elsewhere formulas do, and say so.
"""

import dataclasses
import math
import time
from typing import Any

import jax
from flax import nnx

from attnzoo.config.experiment import Experiment
from attnzoo.training.optimizer import build_optimizer
from attnzoo.training.placement import Placement
from attnzoo.training.plan_communication import by_formula, read_program
from attnzoo.training.plan_devices import USABLE, Device, device_named, first_line, topology
from attnzoo.training.plan_estimate import estimate_memory, estimate_traffic, placed_batch
from attnzoo.training.plan_flops import Flops, Kept, count_flops, count_kept
from attnzoo.training.plan_result import Compiled, Plan
from attnzoo.training.plan_subject import Subject, subject_of
from attnzoo.training.step import make_train_step, planned_state


class Planner:
    """Plans of one config and of its variants; what was read of the data is read once.

    Raises:
      UserError: an unknown device, and whatever a training would refuse before its first step.
    """

    def __init__(self, device: str, *, efficiency: float = 0.5, ahead: bool = True):
        self.device_key, self.efficiency, self.ahead = device, efficiency, ahead
        self.subject: Subject | None = None
        self.device: Device | None = None
        self.known: dict[Any, _Known] = {}

    def plan(self, config: Experiment, *, ahead: bool = True) -> Plan:
        """The plan of a config, whose mesh names all sizes."""
        mesh = config.mesh
        wanted = math.prod(size or 1 for size in mesh.sizes.values())
        if mesh.data is None:
            config = dataclasses.replace(config, mesh=dataclasses.replace(mesh, data=1))
        if self.device is None or self.device.platform == "cpu":
            self.device = device_named(self.device_key, wanted)
        device = self.device
        self.subject = self.subject or subject_of(config)
        subject = self.subject.with_config(config)
        settings = config.training
        known = self._known(subject)
        placement = Placement(config.mesh, wanted)
        placement.check(known.model, settings.batch_size, settings.accumulate)
        state, flops, kept = known.state, known.flops, known.kept
        shardings = placement.of_state(state, placement.of_parameters(state["params"]))
        estimate = estimate_memory(subject, placement, state, shardings, kept)
        found, why, refused = None, "not asked for", False
        if self.ahead and ahead:
            why = "the state alone is more than a device has"
            if estimate.arguments <= USABLE * device.memory:
                found, why, refused = self._compiled(subject, known, wanted, device.per_host)
        if found is not None:
            memory = dataclasses.replace(estimate, temporary=found.outputs + found.temporary)
            messages = found.messages
        else:
            memory = estimate
            messages = by_formula(subject, placement, state, shardings, device.per_host)
        notes = [*subject.notes, *placement.notes]
        if flops.unknown_loops:
            notes.append(f"{flops.unknown_loops} loops of unknown length are counted once in FLOPs")
        return Plan(
            config=config,
            device_key=self.device_key,
            device=device,
            sizes=placement.sizes,
            parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state["params"])),
            memory=memory,
            flops=flops,
            messages=messages,
            traffic=estimate_traffic(subject, placement, memory, kept, state, shardings),
            units=subject.units,
            unit=subject.task.unit,
            compiled=found,
            not_compiled=why,
            refused=refused,
            efficiency=self.efficiency,
            estimate=estimate,
            notes=notes,
        )

    def _compiled(
        self, subject: Subject, known: "_Known", wanted: int, per_host: int
    ) -> tuple[Compiled | None, str, bool]:
        """What XLA says; or None, why, and whether for want of memory."""
        devices = topology(self.device_key, wanted)
        if isinstance(devices, str):
            return None, devices, False
        try:
            return _compile(subject, known, devices, per_host), "", False
        except jax.errors.JaxRuntimeError as error:
            # A TPU's compiler knows how much memory there is.
            refused = "RESOURCE_EXHAUSTED" in str(error)
            return None, f"XLA says {first_line(error)}", refused

    def _known(self, subject: Subject) -> "_Known":
        """Once for all meshes and parts of a batch: they change where things are, and when."""
        config = subject.task.config
        key = config.model, dataclasses.replace(config.training, accumulate=1)
        if key not in self.known:
            transform, _ = build_optimizer(config.training, total_steps=1000, steps_per_epoch=1000)
            graph, state = planned_state(subject.task, transform)
            self.known[key] = _Known(
                transform,
                nnx.eval_shape(subject.task.build_model),
                graph,
                state,
                count_flops(subject, graph, state, transform),
                count_kept(subject, graph, state),
            )
        return self.known[key]


@dataclasses.dataclass(frozen=True)
class _Known:
    """What no mesh changes."""

    transform: Any
    model: Any
    graph: nnx.GraphDef
    state: Any
    flops: Flops
    kept: Kept


def _compile(subject: Subject, known: _Known, devices: list[Any], per_host: int) -> Compiled:
    """The step of the training loop, for devices that need not be there."""
    config = subject.task.config
    settings = config.training
    placement = Placement(config.mesh, devices)
    shardings = placement.of_state(known.state, placement.of_parameters(known.state["params"]))
    step: Any = make_train_step(
        known.graph,
        known.transform,
        subject.task.loss,
        seed=settings.seed,
        compute_dtype=settings.compute_dtype,
        accumulate=settings.accumulate,
        ema=settings.ema,
        shardings=shardings,
    )
    placed = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        known.state,
        shardings,
    )
    start = time.perf_counter()
    with placement.context():
        compiled = step.lower(placed, placed_batch(subject, placement)).compile()
    seconds = time.perf_counter() - start
    sizes = compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}
    messages, unknown = read_program(compiled.as_text(), placement.mesh.size, per_host)
    return Compiled(
        arguments=sizes.argument_size_in_bytes,
        outputs=max(sizes.output_size_in_bytes - sizes.alias_size_in_bytes, 0),
        temporary=sizes.temp_size_in_bytes,
        flops=costs.get("flops"),
        traffic=costs.get("bytes accessed"),
        messages=messages,
        unknown_loops=unknown,
        seconds=seconds,
    )

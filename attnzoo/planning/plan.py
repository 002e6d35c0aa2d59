"""A plan of a training step: memory, operations, messages and time.

The real step is compiled ahead of time where there is something to compile for (this CPU's emulated
devices, or the topology of a TPU or GPU whose plugin is installed), and XLA says what it takes.
Elsewhere formulas do, and say so.
"""

import dataclasses
import math
import time
from typing import Any, NamedTuple

import jax
from flax import nnx

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.planning.communication import Message, by_formula, read_program
from attnzoo.planning.devices import USABLE, Device, device_named, first_line, topology
from attnzoo.planning.flops import Flops, Kept, count_flops, count_kept
from attnzoo.planning.memory import Memory, estimate_memory, estimate_traffic, placed_batch
from attnzoo.planning.storage import Storage, storage_of
from attnzoo.planning.subject import Subject, subject_of
from attnzoo.training.optimizer import build_optimizer
from attnzoo.training.placement import Placement
from attnzoo.training.start import inherit
from attnzoo.training.step import planned_state


class Compiled(NamedTuple):
    """Figures that XLA gives of the compiled step of one device."""

    arguments: int
    outputs: int
    """Bytes beside those that take the place of arguments."""
    temporary: int
    flops_per_device: float | None
    """The body of each loop counted once, as XLA counts; None: it does not say."""
    traffic_per_device: float | None
    """Bytes read and written, loops counted once too."""
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step of a training on a mesh of devices."""

    config: ExperimentConfig
    device: Device
    sizes: dict[str, int]
    parameters: int
    memory: Memory
    estimate: Memory
    """The memory by formula, also where XLA says more."""
    flops: Flops
    messages: list[Message]
    unknown_loops: int
    """Loops of the compiled program whose messages were counted once."""
    traffic: float
    """Bytes that a device reads and writes, by formula."""
    units: int
    unit: str
    compiled: Compiled | None
    not_compiled: str
    """Why the step was not compiled."""
    refused: bool
    """The compiler itself found no room on the device."""
    efficiency: float
    notes: list[str]
    storage: Storage | None
    """Disk and host memory of the data; None: it is not known without reading it."""

    @property
    def devices(self) -> int:
        """Number of devices."""
        return math.prod(self.sizes.values())

    @property
    def room(self) -> float:
        """Bytes of a device that a step may fill."""
        return USABLE * self.device.memory

    @property
    def fits(self) -> bool:
        """True if each device has enough memory for the step."""
        return not self.refused and self.memory.total <= self.room

    @property
    def _peak(self) -> float:
        """Operations a second of all devices, as published."""
        return self.device.flops[self.config.training.compute_dtype] * self.devices

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each part takes alone, at the stated share of the published peak."""
        device = self.device
        alone = {
            "compute": self.flops.total / self._peak,
            "memory": self.traffic / device.bandwidth,
            "communication": sum(
                x.sent / (device.network if x.across else device.link) for x in self.messages
            ),
        }
        return {name: value / self.efficiency for name, value in alone.items()}

    @property
    def step_seconds(self) -> float:
        """Time of a step in seconds: that of its slowest part, assuming that the others overlap."""
        return max(self.seconds.values())

    @property
    def limit(self) -> str:
        """Name of the slowest part."""
        return max(self.seconds, key=self.seconds.__getitem__)

    @property
    def mfu(self) -> float:
        """Operations that the model needs, as a share of the peak over the predicted step."""
        return self.flops.model / (self._peak * self.step_seconds)


class _Step(NamedTuple):
    """A step without a mesh, which changes where things are, and when, and nothing of these."""

    transform: Any
    model: Any
    graph: nnx.GraphDef
    state: Any
    flops: Flops
    kept: Kept


class Planner:
    """Plans of one config and of its variants; data is read, and each step traced, once.

    Raises:
      UserError: an unknown device, and whatever a training would refuse before its first step.
    """

    def __init__(self, device: str, *, efficiency: float = 0.5, ahead: bool = True):
        self._device, self._efficiency, self._ahead = device, efficiency, ahead
        self._subject: Subject | None = None
        self._storage: Storage | None = None
        self._steps: dict[Any, _Step] = {}

    def plan(self, config: ExperimentConfig, *, ahead: bool = True) -> Plan:
        """Return the plan of a config; a mesh that leaves data open has one copy of the model.

        ``ahead``: compile the step, if the planner does.
        """
        config, _ = inherit(config)
        if config.mesh.data is None:
            config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=1))
        count = math.prod(size or 1 for size in config.mesh.sizes.values())
        device = device_named(self._device, count)
        if self._subject is None:
            self._subject, self._storage = subject_of(config), storage_of(config)
        subject = self._subject.with_config(config)
        step = self._step_of(subject)
        placement = Placement(config.mesh, count)
        placement.check(step.model, subject.settings.batch_size, subject.settings.accumulate)
        state = step.state
        shardings = placement.of_state(state, placement.of_parameters(state["params"]))
        estimate = estimate_memory(subject, placement, state, shardings, step.kept)
        compiled, why, refused = None, "not asked for", False
        memory, messages, unknown = estimate, None, 0
        if self._ahead and ahead:
            devices = topology(self._device, count)
            if estimate.arguments > USABLE * device.memory:
                why = "the state alone is more than a device has"
            elif isinstance(devices, str):
                why = devices
            else:
                try:
                    compiled, program = _compile(subject, step, Placement(config.mesh, devices))
                    messages, unknown = read_program(program, count, device.per_host)
                    made = compiled.outputs + compiled.temporary
                    memory, why = dataclasses.replace(estimate, temporary=made), ""
                except jax.errors.JaxRuntimeError as error:
                    # A TPU's compiler knows how much memory there is.
                    why = f"XLA says {first_line(error)}"
                    refused = "RESOURCE_EXHAUSTED" in str(error)
        if messages is None:
            messages = by_formula(subject, placement, state, shardings, device.per_host)
        notes = [*subject.notes, *placement.notes]
        if step.flops.unknown_loops:
            loops = step.flops.unknown_loops
            notes.append(f"{loops} loops of unknown length are counted once in FLOPs")
        return Plan(
            config=config,
            device=device,
            sizes=placement.sizes,
            parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state["params"])),
            memory=memory,
            estimate=estimate,
            flops=step.flops,
            messages=messages,
            unknown_loops=unknown,
            traffic=estimate_traffic(subject, placement, memory, step.kept),
            units=subject.units,
            unit=subject.task.unit,
            compiled=compiled,
            not_compiled=why,
            refused=refused,
            efficiency=self._efficiency,
            notes=notes,
            storage=self._storage,
        )

    def _step_of(self, subject: Subject) -> _Step:
        """The step of a config, traced once for all meshes and numbers of parts of a batch."""
        key = subject.task.config.model, dataclasses.replace(subject.settings, accumulate=1)
        if key not in self._steps:
            transform, _ = build_optimizer(subject.settings, total_steps=1000, steps_per_epoch=1000)
            graph, state = planned_state(subject.task, transform)
            self._steps[key] = _Step(
                transform,
                nnx.eval_shape(subject.task.build_model),
                graph,
                state,
                count_flops(subject, graph, state, transform),
                count_kept(subject, graph, state),
            )
        return self._steps[key]


def _compile(subject: Subject, step: _Step, placement: Placement) -> tuple[Compiled, str]:
    """Figures and text of the step of the training loop, for devices that need not be there."""
    shardings = placement.of_state(step.state, placement.of_parameters(step.state["params"]))
    parts = subject.settings.accumulate
    update: Any = subject.step(step.graph, step.transform, accumulate=parts, shardings=shardings)
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        step.state,
        shardings,
    )
    start = time.perf_counter()
    with placement.context():
        compiled = update.lower(state, placed_batch(subject, placement)).compile()
    seconds = time.perf_counter() - start
    sizes, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    figures = Compiled(
        sizes.argument_size_in_bytes,
        max(sizes.output_size_in_bytes - sizes.alias_size_in_bytes, 0),
        sizes.temp_size_in_bytes,
        costs.get("flops"),
        costs.get("bytes accessed"),
        seconds,
    )
    return figures, compiled.as_text()

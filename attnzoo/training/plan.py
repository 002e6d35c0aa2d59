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
from jax.sharding import NamedSharding, PartitionSpec

from attnzoo.config.experiment import Experiment
from attnzoo.training.optimizer import build_optimizer
from attnzoo.training.placement import ROWS, Placement
from attnzoo.training.plan_communication import Message, by_formula, read_program
from attnzoo.training.plan_devices import USABLE, Device, device_named, topology
from attnzoo.training.plan_flops import Flops, Kept, count_flops, count_kept
from attnzoo.training.plan_subject import Subject, subject_of
from attnzoo.training.step import make_train_step, planned_state


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
        """What a step begins with."""
        return self.parameters + self.optimizer + self.other + self.batch

    @property
    def total(self) -> int:
        return self.arguments + self.temporary


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What XLA says of the compiled step, of one device."""

    arguments: int
    outputs: int
    """Beside those that take the place of arguments."""
    temporary: int
    flops: float | None
    """With the body of each loop counted once, as XLA counts; None: it does not say."""
    traffic: float | None
    """Bytes read and written, loops counted once too."""
    messages: list[Message]
    unknown_loops: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step of a training on a mesh of devices."""

    config: Experiment
    device_key: str
    device: Device
    sizes: dict[str, int]
    parameters: int
    memory: Memory
    flops: Flops
    messages: list[Message]
    traffic: float
    """Bytes that a device reads and writes, by formula."""
    units: int
    unit: str
    compiled: Compiled | None
    not_compiled: str
    """Why not."""
    efficiency: float
    estimate: Memory
    notes: list[str]

    @property
    def devices(self) -> int:
        return math.prod(self.sizes.values())

    @property
    def room(self) -> float:
        """Bytes of a device that a step may fill."""
        return USABLE * self.device.memory

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.room

    @property
    def seconds(self) -> dict[str, float]:
        """What each would take alone, at the stated share of the published peak."""
        peak = self.device.flops[self.config.training.compute_dtype]
        said = sum(
            message.sent / (self.device.network if message.across else self.device.link)
            for message in self.messages
        )
        alone = {
            "compute": self.flops.total / self.devices / peak,
            "memory": self.traffic / self.device.bandwidth,
            "communication": said,
        }
        return {name: value / self.efficiency for name, value in alone.items()}

    @property
    def step_seconds(self) -> float:
        """The slowest of the three, which the others hide behind."""
        return max(self.seconds.values())

    @property
    def limit(self) -> str:
        return max(self.seconds, key=self.seconds.__getitem__)

    @property
    def mfu(self) -> float:
        """Operations that the model needs, as a share of the peak over the predicted step."""
        peak = self.device.flops[self.config.training.compute_dtype] * self.devices
        return self.flops.model / (peak * self.step_seconds)


class Planner:
    """Plans of one config and of its variants; what was read of the data is read once.

    Raises:
      UserError: an unknown device, and whatever a training would refuse before its first step.
    """

    def __init__(self, device: str, *, efficiency: float = 0.5, compile: bool = True):  # noqa: A002
        self.device_key, self.efficiency, self.compile = device, efficiency, compile
        self.subject: Subject | None = None
        self.device: Device | None = None
        self.known: dict[Any, _Known] = {}

    def plan(self, config: Experiment, *, compile: bool = True) -> Plan:  # noqa: A002
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
        estimate = _estimate(subject, placement, state, shardings, kept)
        found: Compiled | None = None
        why = "not asked for"
        if self.compile and compile:
            if estimate.arguments > USABLE * device.memory:
                why = "the state alone is more than a device has"
            else:
                devices = topology(self.device_key, wanted)
                why = devices if isinstance(devices, str) else ""
                if not isinstance(devices, str):
                    found = _compile(subject, known, devices, device.per_host)
        memory, messages = estimate, None
        if found is not None:
            extra = found.outputs + found.temporary
            memory = dataclasses.replace(estimate, temporary=extra)
            messages = found.messages
        if messages is None:
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
            traffic=_traffic(subject, placement, estimate, kept, state, shardings),
            units=subject.units,
            unit=subject.task.unit,
            compiled=found,
            not_compiled=why,
            efficiency=self.efficiency,
            estimate=estimate,
            notes=notes,
        )

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


def _size(leaf: Any, shape: tuple[int, ...]) -> int:
    dtype = leaf.dtype
    width = 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
    return math.prod(shape) * width


def _local(tree: Any, shardings: Any) -> int:
    """Bytes of a tree on one device."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(_size(leaf, place.shard_shape(leaf.shape)) for leaf, place in pairs)


def _placed_batch(subject: Subject, placement: Placement) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch as ``Placement.batch`` lays it out."""
    rows = placement.sizes["data"] * placement.sizes["fsdp"]

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spread = bool(x.shape) and x.shape[0] % rows == 0
        where = NamedSharding(placement.mesh, PartitionSpec(ROWS if spread else None))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return {name: place(x) for name, x in subject.batch.items()}


def _estimate(
    subject: Subject, placement: Placement, state: Any, shardings: Any, kept: Kept
) -> Memory:
    """Exact in what a step begins with; gradients as the parameters; what the forward pass keeps
    divided by the axes that divide it, twice the largest array, and one layer's gathered weights.
    """
    sizes, settings = placement.sizes, subject.task.config.training
    parts = {name: _local(state[name], shardings[name]) for name in state}
    batch = _placed_batch(subject, placement)
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


def _traffic(
    subject: Subject, placement: Placement, memory: Memory, kept: Kept, state: Any, shardings: Any
) -> float:
    """State read and written, gradients too; parameters read three times for each part of a batch,
    gathered; what is kept for the backward pass written and read.
    """
    sizes, settings = placement.sizes, subject.task.config.training
    width = 2 if settings.compute_dtype == "bfloat16" else 4
    gathered = _local(state["params"], shardings["params"]) // 4 * width * sizes["fsdp"]
    rows = sizes["data"] * sizes["fsdp"] * sizes["sequence"]
    activations = kept.whole / rows + kept.spread / (rows * sizes["tensor"])
    return float(
        2 * (memory.arguments - memory.batch)
        + memory.batch
        + 2 * memory.parameters
        + 3 * settings.accumulate * gathered
        + 2 * activations
    )


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
        compiled = step.lower(placed, _placed_batch(subject, placement)).compile()
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

"""What a plan says."""

import dataclasses
import math

from attnzoo.config.experiment import Experiment
from attnzoo.training.plan_communication import Message
from attnzoo.training.plan_devices import USABLE, Device
from attnzoo.training.plan_flops import Flops


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
    refused: bool
    """The compiler itself found no room on the device."""
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
        return not self.refused and self.memory.total <= self.room

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

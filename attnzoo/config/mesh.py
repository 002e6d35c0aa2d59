"""Over which devices a training is spread, and which parameter lies where."""

import re
from typing import Annotated, Literal

from attnzoo.config.fields import NotEmpty, Positive, config

Axis = Literal["data", "fsdp", "tensor", "sequence"]


@config
class Rule:
    """Where the parameters lie whose path has a match for a pattern."""

    pattern: Annotated[str, NotEmpty]
    """Regular expression, searched in "decoder/blocks/0/attention/mechanism/query/kernel"."""
    axes: tuple[Axis | None, ...]
    """Mesh axis of each of the last dimensions; null, and dimensions before them: whole."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern={self.pattern!r}: {error}") from error
        named = [axis for axis in self.axes if axis is not None]
        if len(set(named)) < len(named):
            raise ValueError(f"axes={list(self.axes)}: an axis can lie along one dimension only")


@config
class Mesh:
    """Devices in up to four directions; their product is the number of devices.

    The rows of a batch are spread over `data` and `fsdp` together.
    """

    data: Annotated[int, Positive] | None = None
    """Copies of the model, each with rows of its own; null: as many as the devices leave."""
    fsdp: Annotated[int, Positive] = 1
    """Devices that share parameters and optimizer state, each with rows of its own."""
    tensor: Annotated[int, Positive] = 1
    """Devices that share heads, hidden units and vocabulary."""
    sequence: Annotated[int, Positive] = 1
    """Devices that share the positions of a sequence; attention goes round them as a ring."""
    rules: tuple[Rule, ...] = ()
    """Asked before the rules of training/placement.py; the first match counts."""

    @property
    def sizes(self) -> dict[str, int | None]:
        """Axis and size, in the order in which neighbours talk most last."""
        return {
            "data": self.data,
            "fsdp": self.fsdp,
            "sequence": self.sequence,
            "tensor": self.tensor,
        }

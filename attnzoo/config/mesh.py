"""Device mesh settings for training, and the placement of parameters."""

import re
from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.fields import NotEmpty, Positive, config
from attnzoo.config.renamed import former_names

Axis = Literal["data", "fsdp", "tensor", "sequence"]


@config
class RuleConfig:
    """Placement of the parameters whose path matches a pattern."""

    pattern: Annotated[str, NotEmpty]
    """Regular expression, searched in "decoder/blocks/0/attention/mechanism/query/kernel"."""
    axes: tuple[Axis | None, ...]
    """Mesh axis of each of the last dimensions; null, and dimensions before these: not sharded."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern={self.pattern!r}: {error}") from error
        named = [axis for axis in self.axes if axis is not None]
        if len(set(named)) < len(named):
            raise ValueError(f"axes={list(self.axes)}: an axis can lie along one dimension only")


@config
class MeshConfig:
    """Device mesh with up to four axes, whose product is the number of devices.

    The rows of a batch are sharded over `data` and `fsdp` together.
    """

    data: Annotated[int, Positive] | None = None
    """Number of model replicas, each with its own rows; null: all remaining devices."""
    fsdp: Annotated[int, Positive] = 1
    """Number of devices that share parameters and optimizer state, each with its own rows."""
    tensor: Annotated[int, Positive] = 1
    """Number of devices that share heads, hidden units and vocabulary."""
    sequence: Annotated[int, Positive] = 1
    """Number of devices that share the positions of a sequence, with ring attention."""
    rules: tuple[RuleConfig, ...] = ()
    """Rules that precede those of training/placement.py; the first match counts."""

    @property
    def sizes(self) -> dict[str, int | None]:
        """Size by axis; the axis with the most communication is last."""
        return {
            "data": self.data,
            "fsdp": self.fsdp,
            "sequence": self.sequence,
            "tensor": self.tensor,
        }


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

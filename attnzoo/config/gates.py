"""Gate settings of a convolutional network; a config names the kind, as in ``attention: se``."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from attnzoo.config.fields import Kind, Positive, config
from attnzoo.config.renamed import former_names


@config
class GateConfig:
    """Settings of one gate; its subclasses are the kinds that a config can name."""

    after_stage: ClassVar[bool] = False
    """Once after each stage of a network but the last; else in every residual block."""


@config
class SEConfig(GateConfig):
    """Squeeze-and-excitation: channel weights from two layers on channel means (Hu et al. 2018)."""

    kind: Literal["se"] = "se"
    reduction: Annotated[int, Positive] = 16
    """The hidden layer has channels / reduction units."""


@config
class ECAConfig(GateConfig):
    """Efficient channel attention: a 1-D convolution on channel means (Wang et al. 2020)."""

    kind: Literal["eca"] = "eca"
    kernel_size: Annotated[int, Positive] | None = None
    """Number of channels that one weight depends on, odd; null: from the number of channels."""


@config
class SpatialConfig(GateConfig):
    """Spatial weights from a convolution on the channels' maximum and mean (Woo et al. 2018)."""

    kind: Literal["spatial"] = "spatial"
    kernel_size: Annotated[int, Positive] = 7
    """Rows and columns of the kernel; odd."""


@config
class CBAMConfig(GateConfig):
    """Channel gate, followed by a spatial gate (Woo et al. 2018)."""

    kind: Literal["cbam"] = "cbam"
    reduction: Annotated[int, Positive] = 16
    """The channel gate's hidden layer has channels / reduction units."""
    kernel_size: Annotated[int, Positive] = 7
    """Rows and columns of the spatial gate's kernel; odd."""


@config
class BAMConfig(GateConfig):
    """Channel and spatial gates in parallel, once after each stage (Park et al. 2018)."""

    after_stage = True
    kind: Literal["bam"] = "bam"
    reduction: Annotated[int, Positive] = 16
    """The hidden layers of both branches have channels / reduction units."""
    dilation: Annotated[int, Positive] = 4
    """Dilation of the 3x3 kernels."""
    combine: Literal["sum", "product"] = "sum"
    """Combination of the branches: sum as in the paper, or product as in the authors' code."""


@config
class CoordinateConfig(GateConfig):
    """Coordinate attention: a gate per row and per column of every channel (Hou et al. 2021)."""

    kind: Literal["coordinate"] = "coordinate"
    reduction: Annotated[int, Positive] = 32
    """The hidden layer has channels / reduction units, at least 8."""


@config
class MHCAConfig(GateConfig):
    """Convolutional heads of several kernel sizes, summed (Georgescu et al. 2023)."""

    kind: Literal["mhca"] = "mhca"
    reduction: Annotated[int, Positive] = 16
    """Each head has channels / reduction channels in its hidden layer."""
    kernel_sizes: tuple[Annotated[int, Positive], ...] = (1, 3, 5)
    """Kernel sizes, one head each; maps must not be smaller than the largest."""


@config
class NonLocalConfig(GateConfig):
    """Non-local block: self-attention between places, added to the map (Wang et al. 2018)."""

    after_stage = True
    kind: Literal["non_local"] = "non_local"
    reduction: Annotated[int, Positive] = 2
    """Places are compared by channels / reduction features."""
    score: Literal["embedded_gaussian", "dot_product"] = "embedded_gaussian"
    """Softmax of dot products, or dot products divided by the number of places."""


@config
class NoGateConfig(GateConfig):
    """Residual network without gates."""

    kind: Literal["none"] = "none"


Gate = Annotated[
    SEConfig
    | ECAConfig
    | SpatialConfig
    | CBAMConfig
    | BAMConfig
    | CoordinateConfig
    | MHCAConfig
    | NonLocalConfig
    | NoGateConfig,
    Kind,
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

"""Gate settings of a convolutional network; a config names the kind, as in ``attention: se``."""

from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.fields import Kind, Positive, config
from attnzoo.config.renamed import former_names


@config
class SEConfig:
    """Squeeze-and-excitation: channel weights from two layers on channel means (Hu et al. 2018)."""

    kind: Literal["se"] = "se"
    reduction: Annotated[int, Positive] = 16
    """The hidden layer has channels / reduction units."""


@config
class ECAConfig:
    """Efficient channel attention: a 1-D convolution on channel means (Wang et al. 2020)."""

    kind: Literal["eca"] = "eca"
    kernel_size: Annotated[int, Positive] | None = None
    """Number of channels that one weight depends on, odd; null: from the number of channels."""


@config
class SpatialConfig:
    """Spatial weights from a convolution on the channels' maximum and mean (Woo et al. 2018)."""

    kind: Literal["spatial"] = "spatial"
    kernel_size: Annotated[int, Positive] = 7
    """Rows and columns of the kernel; odd."""


@config
class CBAMConfig:
    """Channel gate, followed by a spatial gate (Woo et al. 2018)."""

    kind: Literal["cbam"] = "cbam"
    reduction: Annotated[int, Positive] = 16
    """The channel gate's hidden layer has channels / reduction units."""
    kernel_size: Annotated[int, Positive] = 7
    """Rows and columns of the spatial gate's kernel; odd."""


@config
class BAMConfig:
    """Channel and spatial gates in parallel, once after each stage (Park et al. 2018)."""

    kind: Literal["bam"] = "bam"
    reduction: Annotated[int, Positive] = 16
    """The hidden layers of both branches have channels / reduction units."""
    dilation: Annotated[int, Positive] = 4
    """Dilation of the 3x3 kernels."""
    combine: Literal["sum", "product"] = "sum"
    """Combination of the branches: sum as in the paper, or product as in the authors' code."""


@config
class CoordinateConfig:
    """Coordinate attention: a gate per row and per column of every channel (Hou et al. 2021)."""

    kind: Literal["coordinate"] = "coordinate"
    reduction: Annotated[int, Positive] = 32
    """The hidden layer has channels / reduction units, at least 8."""


@config
class MHCAConfig:
    """Convolutional heads of several kernel sizes, summed (Georgescu et al. 2023)."""

    kind: Literal["mhca"] = "mhca"
    reduction: Annotated[int, Positive] = 16
    """Each head has channels / reduction channels in its hidden layer."""
    kernel_sizes: tuple[Annotated[int, Positive], ...] = (1, 3, 5)
    """Kernel sizes, one head each; maps must not be smaller than the largest."""


@config
class NoGateConfig:
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
    | NoGateConfig,
    Kind,
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

"""Which gate a convolutional network uses: one line of a config, ``attention: se``."""

from typing import Annotated, Literal

from attnzoo.config.fields import Kind, Positive, config


@config
class SE:
    """Channels weighed by two layers on their averages (Hu et al. 2018)."""

    kind: Literal["se"] = "se"
    reduction: Annotated[int, Positive] = 16
    """The hidden layer has channels / reduction units."""


@config
class ECA:
    """Channels weighed by one small kernel along their averages (Wang et al. 2020)."""

    kind: Literal["eca"] = "eca"
    kernel_size: Annotated[int, Positive] | None = None
    """Channels that one weight depends on, odd; null: from the number of channels."""


@config
class Spatial:
    """Places weighed by a convolution over the channels' maximum and mean (Woo et al. 2018)."""

    kind: Literal["spatial"] = "spatial"
    kernel_size: Annotated[int, Positive] = 7
    """Rows and columns of the kernel, odd."""


@config
class CBAM:
    """A channel gate, then the spatial gate (Woo et al. 2018)."""

    kind: Literal["cbam"] = "cbam"
    reduction: Annotated[int, Positive] = 16
    """The channel gate's hidden layer has channels / reduction units."""
    kernel_size: Annotated[int, Positive] = 7
    """Rows and columns of the spatial gate's kernel, odd."""


@config
class BAM:
    """Channels and places side by side, once after each stage (Park et al. 2018)."""

    kind: Literal["bam"] = "bam"
    reduction: Annotated[int, Positive] = 16
    """Both branches have channels / reduction units inside."""
    dilation: Annotated[int, Positive] = 4
    """Distance between the places that the 3x3 kernels see."""
    combine: Literal["sum", "product"] = "sum"
    """How the branches are joined: the paper's sum, or the product of the authors' code."""


@config
class Coordinate:
    """A gate per row and one per column of every channel (Hou et al. 2021)."""

    kind: Literal["coordinate"] = "coordinate"
    reduction: Annotated[int, Positive] = 32
    """The hidden layer has channels / reduction units, at least 8."""


@config
class MHCA:
    """Convolutional heads of several kernel sizes, summed (Georgescu et al. 2023)."""

    kind: Literal["mhca"] = "mhca"
    reduction: Annotated[int, Positive] = 16
    """Each head has channels / reduction channels inside."""
    kernel_sizes: tuple[Annotated[int, Positive], ...] = (1, 3, 5)
    """One head per size; maps must not be smaller than the largest."""


@config
class NoGate:
    """The network without attention."""

    kind: Literal["none"] = "none"


Gate = Annotated[SE | ECA | Spatial | CBAM | BAM | Coordinate | MHCA | NoGate, Kind]

"""Settings that scale rotary positions for sequences longer than those of training."""

from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.fields import Kind, Positive, config
from attnzoo.config.renamed import former_names


@config
class LinearScalingConfig:
    """Position interpolation: angles divided by the factor (Chen et al. 2023, arXiv 2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: Annotated[float, Positive] = 2.0
    """Factor by which the context grows."""


@config
class NTKScalingConfig:
    """NTK-aware scaling: a larger base, which stretches slow pairs and hardly changes fast ones."""

    kind: Literal["ntk"] = "ntk"
    factor: Annotated[float, Positive] = 2.0
    """Factor by which the context grows."""


@config
class DynamicScalingConfig:
    """Dynamic NTK scaling: the base grows with the current length beyond the original one."""

    kind: Literal["dynamic"] = "dynamic"
    factor: Annotated[float, Positive] = 2.0
    """Stretch in addition to the ratio of the lengths."""
    original_length: Annotated[int, Positive] = 2048
    """Context of training in tokens."""


@config
class YaRNScalingConfig:
    """YaRN: slow pairs interpolated, fast ones kept, logits sharpened (Peng et al. 2024)."""

    kind: Literal["yarn"] = "yarn"
    factor: Annotated[float, Positive] = 2.0
    """Factor by which the context grows."""
    original_length: Annotated[int, Positive] = 2048
    """Context of training in tokens."""
    fast: Annotated[float, Positive] = 32.0
    """Turns within the original context above which a pair of channels is kept."""
    slow: Annotated[float, Positive] = 1.0
    """Turns within the original context below which a pair of channels is interpolated."""
    amplitude: Annotated[float, Positive] | None = None
    """Factor on the cosines and sines, whose square scales the logits; null: 0.1 ln(factor) + 1."""


@config
class Llama3ScalingConfig:
    """Llama 3.1 scaling: wavelengths above the original context grow, with a smooth transition."""

    kind: Literal["llama3"] = "llama3"
    factor: Annotated[float, Positive] = 8.0
    """Factor by which long wavelengths grow."""
    low: Annotated[float, Positive] = 1.0
    """Turns within the original context below which a pair of channels is stretched fully."""
    high: Annotated[float, Positive] = 4.0
    """Turns within the original context above which a pair of channels is kept."""
    original_length: Annotated[int, Positive] = 8192
    """Context of training in tokens."""


RotaryScaling = Annotated[
    LinearScalingConfig
    | NTKScalingConfig
    | DynamicScalingConfig
    | YaRNScalingConfig
    | Llama3ScalingConfig,
    Kind,
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

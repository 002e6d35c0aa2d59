"""How rotary positions are stretched over sequences longer than those of training."""

from typing import Annotated, Literal

from attnzoo.config.fields import Kind, Positive, config


@config
class LinearScaling:
    """Every angle divided by the factor (Chen et al. 2023, arXiv 2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: Annotated[float, Positive] = 2.0
    """Times that the context grows."""


@config
class NTKScaling:
    """A larger base: slow pairs are stretched, fast ones hardly."""

    kind: Literal["ntk"] = "ntk"
    factor: Annotated[float, Positive] = 2.0
    """Times that the context grows."""


@config
class DynamicScaling:
    """The same with a base that follows the current length, past the original one."""

    kind: Literal["dynamic"] = "dynamic"
    factor: Annotated[float, Positive] = 2.0
    """Stretch beyond the ratio of the lengths."""
    original_length: Annotated[int, Positive] = 2048
    """Context of training."""


@config
class YaRNScaling:
    """Slow pairs interpolated, fast ones kept, logits sharpened (Peng et al. 2024)."""

    kind: Literal["yarn"] = "yarn"
    factor: Annotated[float, Positive] = 2.0
    """Times that the context grows."""
    original_length: Annotated[int, Positive] = 2048
    """Context of training."""
    fast: Annotated[float, Positive] = 32.0
    """Pairs that turn more often than this within the original context are kept."""
    slow: Annotated[float, Positive] = 1.0
    """Pairs that turn less often than this are interpolated."""


@config
class Llama3Scaling:
    """Wavelengths above the original context stretched, with a smooth transition (Llama 3.1)."""

    kind: Literal["llama3"] = "llama3"
    factor: Annotated[float, Positive] = 8.0
    """Times that long waves grow."""
    low: Annotated[float, Positive] = 1.0
    """Pairs that turn less often than this within the original context are stretched fully."""
    high: Annotated[float, Positive] = 4.0
    """Pairs that turn more often than this are kept."""
    original_length: Annotated[int, Positive] = 8192
    """Context of training."""


RotaryScaling = Annotated[
    LinearScaling | NTKScaling | DynamicScaling | YaRNScaling | Llama3Scaling, Kind
]

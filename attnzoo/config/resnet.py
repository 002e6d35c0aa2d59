"""Settings of the residual network."""

from typing import Annotated, Literal

from attnzoo.config.fields import Positive, config
from attnzoo.config.gates import Gate, NoGateConfig, SEConfig
from attnzoo.config.model_config import ModelConfig


@config
class ResNetConfig(ModelConfig):
    """Residual network for small images, with optional gates (He et al. 2016, section 4.2)."""

    tasks = ("image_classification",)
    kind: Literal["resnet"] = "resnet"
    attention: Gate = NoGateConfig()
    """Gate on channels or places."""
    depth: Annotated[int, Positive] = 20
    """Number of weight layers, 6 n + 2: three stages of n blocks of two convolutions."""
    width: Annotated[int, Positive] = 16
    """Channels of the first stage; each further stage doubles them."""
    channels: Annotated[int, Positive] = 3
    """Channels of the image."""

    @classmethod
    def cifar(cls, attention: Gate | None = None) -> "ResNetConfig":
        """Return ResNet-20 for 32 x 32 colour images in ten classes: 0.27 million weights."""
        return cls(attention=attention or NoGateConfig())

    @classmethod
    def digits(cls, attention: Gate | None = None) -> "ResNetConfig":
        """Return eight layers for 8 x 8 grey digits: a minute on a CPU."""
        return cls(attention=attention or SEConfig(reduction=4), depth=8, channels=1)

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth={self.depth} is not 6 n + 2: 8, 14, 20, 32, 44, 56, 110")

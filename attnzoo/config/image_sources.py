"""Settings of trained encoders of images."""

from typing import Annotated, Literal

from attnzoo.config.attention import MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, NotEmpty, Positive, config
from attnzoo.config.gates import Gate, NoGateConfig
from attnzoo.config.source_config import SourceConfig


@config
class ImageConvolutionConfig(SourceConfig):
    """Convolutional encoder of images, whose every stage halves height and width."""

    reads = "image"
    kind: Literal["image_conv"] = "image_conv"
    channels: Literal[1, 3] = 3
    """Channels of the image."""
    widths: Annotated[tuple[Annotated[int, Positive], ...], NotEmpty] = (32, 64, 128)
    """Channels after each stage: a 3x3 convolution of stride 2, layer norm and relu. The last is
    the width of the features."""
    positions: Literal["sinusoidal", "none"] = "sinusoidal"
    """Positions of rows and columns added to the features; a relation such as "left of" cannot be
    read off without."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the features."""

    def __post_init__(self) -> None:
        if self.positions != "none" and self.widths[-1] % 4:
            raise ValueError(
                f"the last of widths={list(self.widths)} is not divisible by 4: positions have a "
                "sine and a cosine of the row and of the column"
            )


@config
class ImageResNetConfig(SourceConfig):
    """Residual network as an encoder of images (He et al. 2016, section 4.2), without pooling.

    Its features have a quarter of the height and width of the image.
    """

    reads = "image"
    kind: Literal["image_resnet"] = "image_resnet"
    attention: Gate = NoGateConfig()
    """Gate on channels or places."""
    depth: Annotated[int, Positive] = 20
    """Number of weight layers, 6 n + 2: three stages of n blocks of two convolutions."""
    width: Annotated[int, Positive] = 16
    """Channels of the first stage; each further stage doubles them."""
    channels: Literal[1, 3] = 3
    """Channels of the image."""
    positions: Literal["sinusoidal", "none"] = "sinusoidal"
    """Positions of rows and columns added to the features."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the features."""

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth={self.depth} is not 6 n + 2: 8, 14, 20, 32, 44, 56, 110")


@config
class ImageViTConfig(SourceConfig):
    """Vision Transformer as an encoder of images: the states of its patches, without a class token.

    See ``attnzoo.config.vit`` for the settings.
    """

    reads = "image"
    kind: Literal["image_vit"] = "image_vit"
    attention: SelfAttention = MultiHeadConfig(num_heads=4)
    """Self-attention."""
    image_size: Annotated[int, Positive] = 64
    """Side of the training images in pixels."""
    patch: Annotated[int, Positive] = 8
    """Side of a patch in pixels."""
    channels: Literal[1, 3] = 3
    """Channels of the image."""
    dim: Annotated[int, Positive] = 128
    """Width of the features."""
    hidden: Annotated[int, Positive] = 256
    """Hidden units of the feed-forward layers."""
    layers: Annotated[int, Layers] = 4
    """Number of blocks."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the embeddings and of every branch's output."""

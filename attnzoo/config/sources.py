"""Settings of encoders of sources that are no text, for models that write text about them."""

from typing import Annotated, Literal

from attnzoo.config.fields import ByKind, Positive, config
from attnzoo.config.image_sources import (
    ImageConvolutionConfig,
    ImageResNetConfig,
    ImageViTConfig,
)
from attnzoo.config.source_config import SourceConfig
from attnzoo.config.speech import SoundConvConfig, SoundPyramidConfig, SoundWhisperConfig

TO_TEXT = ("captioning", "speech")
"""Kinds of the tasks that write text about sources that are no text."""


@config
class ImagePatchesConfig(SourceConfig):
    """Square patches of an image, each embedded by one matrix (Dosovitskiy et al. 2021, eq. 1)."""

    reads = "image"
    kind: Literal["image_patches"] = "image_patches"
    patch: Annotated[int, Positive] = 8
    """Side of a patch in pixels."""
    channels: Literal[1, 3] = 3
    """Channels of the image."""
    dim: Annotated[int, Positive] = 128
    """Width of the features; divisible by 4, for positions in rows and columns."""


Source = Annotated[
    ImagePatchesConfig
    | SoundConvConfig
    | SoundPyramidConfig
    | SoundWhisperConfig
    | ImageConvolutionConfig
    | ImageResNetConfig
    | ImageViTConfig,
    ByKind(SourceConfig),
]

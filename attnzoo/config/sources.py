"""Settings of encoders of sources that are no text, for models that write text about them."""

from typing import Annotated, ClassVar, Literal

from attnzoo.config.fields import ByKind, Positive, config

TO_TEXT = ("captioning", "speech")
"""Kinds of the tasks that write text about sources that are no text."""


@config
class SourceConfig:
    """Settings of an encoder of sources; ``kind`` names its class in ``attnzoo.models.SOURCES``."""

    reads: ClassVar[str] = ""
    """Sources that it reads: "image" or "sound"."""


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


@config
class SoundFramesConfig(SourceConfig):
    """Frames of a spectrogram as they are, several joined to one feature; no weights."""

    reads = "sound"
    kind: Literal["sound_frames"] = "sound_frames"
    bins: Annotated[int, Positive] = 80
    """Values of a frame (mel bins)."""
    stack: Annotated[int, Positive] = 4
    """Number of frames of a feature."""


Source = Annotated[ImagePatchesConfig | SoundFramesConfig, ByKind(SourceConfig)]

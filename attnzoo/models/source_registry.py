"""Registry of the encoders of sources that are no text."""

from typing import Any

from flax import nnx

from attnzoo.config.external import import_class, is_external
from attnzoo.models.image_sources import ImageConvolution, ImageResNet, ImageViT
from attnzoo.models.sound_sources import SoundConv, SoundPyramid, SoundWhisper
from attnzoo.models.sources import ImagePatches, SourceEncoder

SOURCES: dict[str, type[SourceEncoder]] = {
    "image_patches": ImagePatches,
    "sound_conv": SoundConv,
    "sound_pyramid": SoundPyramid,
    "sound_whisper": SoundWhisper,
    "image_conv": ImageConvolution,
    "image_resnet": ImageResNet,
    "image_vit": ImageViT,
}
"""Encoders of sources: ``SOURCES[config.kind](config, rngs=rngs)``."""


def build_source(config: Any, *, rngs: nnx.Rngs) -> SourceEncoder | None:
    """Return the encoder that a config names, a registered one or the user's own; None for text."""
    if config is None:
        return None
    own = is_external(config.kind)
    made: Any = import_class(config.kind, SourceEncoder) if own else SOURCES[config.kind]
    return made(config, rngs=rngs)

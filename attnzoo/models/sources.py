"""Encoders of sources that are no text: images and sounds become a sequence of features.

A translator with ``model.source`` has one in the place of its source embedding; its decoder reads
the features as it reads the tokens of a sentence.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.config.external import import_class, is_external
from attnzoo.config.sources import ImagePatchesConfig, SoundFramesConfig
from attnzoo.layers.patches import Grid, PatchEmbedding, sinusoidal_grid
from attnzoo.module import Module


class Frames(NamedTuple):
    """Frames of sounds, and which of them are no padding."""

    values: Float[Array, "B T M"]
    valid: Bool[Array, "B T"]


Source = Any
"""Batch of sources of a translator: ids ``B S`` of text, images ``B h w C``, or :class:`Frames`."""


class SourceEncoder(Module):
    """Interface of encoders of images and sounds.

    Attributes:
        dim: width D of the features.
        has_positions: True if the features know their places, so that no positions are added.
    """

    dim: int
    has_positions: bool = False

    def __call__(
        self, source: Any, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Return the features of a batch of sources, and False where they are padding.

        ``rngs`` (stream "dropout") is given in training only.
        """
        raise NotImplementedError(f"{type(self).__name__}.__call__")

    def grid(self, source: Any) -> Grid | None:
        """Return the rows and columns of an image's features; None for a sequence."""
        return None


class ImagePatches(SourceEncoder):
    """Patch embeddings with sinusoidal positions of rows and columns."""

    has_positions = True

    def __init__(self, config: ImagePatchesConfig, *, rngs: nnx.Rngs):
        self.dim = config.dim
        self.patches = PatchEmbedding(config.patch, config.channels, config.dim, rngs=rngs)

    def __call__(
        self, source: Float[Array, "B h w C"], *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Return the features of all patches, row by row."""
        x = self.patches(source)
        table = sinusoidal_grid(self.grid(source), self.dim).astype(x.dtype)
        return x + table[None], jnp.ones(x.shape[:2], bool)

    def grid(self, source: Float[Array, "B h w C"]) -> Grid:
        """Return the rows and columns of patches."""
        return self.patches.grid(source)


class SoundFrames(SourceEncoder):
    """Frames joined in groups of ``config.stack``; a group with a real frame is not padding."""

    def __init__(self, config: SoundFramesConfig, *, rngs: nnx.Rngs):
        self.bins, self.stack = config.bins, config.stack
        self.dim = config.bins * config.stack

    def __call__(
        self, source: Frames, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Return the groups of frames; the last one is filled up with zeros."""
        B, T, bins = source.values.shape
        if bins != self.bins:
            raise ValueError(f"source has frames of {bins} values; wanted bins={self.bins}")
        more = -T % self.stack
        frames = jnp.where(source.valid[:, :, None], source.values, 0)
        frames = jnp.pad(frames, ((0, 0), (0, more), (0, 0)))
        valid = jnp.pad(source.valid, ((0, 0), (0, more))).reshape(B, -1, self.stack)
        return frames.reshape(B, -1, self.dim), jnp.any(valid, axis=2)


SOURCES: dict[str, type[SourceEncoder]] = {
    "image_patches": ImagePatches,
    "sound_frames": SoundFrames,
}
"""Encoders of sources: ``SOURCES[config.kind](config, rngs=rngs)``."""


def build_source(config: Any, *, rngs: nnx.Rngs) -> SourceEncoder | None:
    """Return the encoder that a config names, a registered one or the user's own; None for text."""
    if config is None:
        return None
    own = is_external(config.kind)
    made: Any = import_class(config.kind, SourceEncoder) if own else SOURCES[config.kind]
    return made(config, rngs=rngs)

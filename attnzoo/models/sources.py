"""Encoders of sources that are no text: images and sounds become a sequence of features.

A translator with ``model.source`` has one in the place of its source embedding; its decoder reads
the features as it reads the tokens of a sentence.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.config.sources import ImagePatchesConfig
from attnzoo.layers.patches import Grid, PatchEmbedding, sinusoidal_grid
from attnzoo.module import Module

Source = Any
"""Batch of sources of a translator: ids ``B S`` of text, images ``B h w C``, or samples
``B L`` of sounds, NaN after the end of each."""


class SourceEncoder(Module):
    """Interface of encoders of images and sounds.

    Attributes:
        dim: width D of the features.
        has_positions: True if the features know their places, so that no positions are added.
        is_embedding: True if features of a Transformer's width enter its encoder as they are,
            without a projection.
    """

    dim: int
    has_positions: bool = False
    is_embedding: bool = False

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

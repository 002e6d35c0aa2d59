"""Trained encoders of images: convolutions, a residual network, a Vision Transformer."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.projection import LayerNorm
from attnzoo.config.image_sources import ImageConvolutionConfig, ImageResNetConfig, ImageViTConfig
from attnzoo.config.resnet import ResNetConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.layers.dropout import dropout
from attnzoo.layers.patches import Grid, sinusoidal_grid
from attnzoo.models.model import dropout_key
from attnzoo.models.resnet import ResidualNetwork, convolution
from attnzoo.models.sources import SourceEncoder
from attnzoo.models.vit import ViT

Encoded = tuple[Float[Array, "B S D"], Bool[Array, "B S"]]


class FeatureMaps(SourceEncoder):
    """Base class of encoders whose features are the places of a map, row by row.

    A subclass writes ``maps``, and has ``config.positions`` and ``config.dropout``.
    """

    config: Any
    strides: int
    """Pixels of the image for each row and column of the map."""

    def maps(
        self, images: Float[Array, "B h w C"], *, rngs: nnx.Rngs | None
    ) -> Float[Array, "B rows columns D"]:
        """Return the feature maps of images; ``rngs`` is given in training only."""
        raise NotImplementedError(f"{type(self).__name__}.maps")

    def grid(self, source: Float[Array, "B h w C"]) -> Grid:
        """Return the rows and columns of the map; ValueError for images of another shape."""
        channels = self.config.channels
        if source.ndim != 4 or source.shape[3] != channels:
            raise ValueError(
                f"images has shape {source.shape}; wanted B h w C with channels={channels}"
            )
        rows, columns = (-(-side // self.strides) for side in source.shape[1:3])
        return rows, columns

    def __call__(self, source: Float[Array, "B h w C"], *, rngs: nnx.Rngs | None = None) -> Encoded:
        """Return the features of all places, row by row, with positions and dropout."""
        grid = self.grid(source)
        x = self.maps(source, rngs=rngs)
        x = x.reshape(x.shape[0], -1, self.dim)
        if self.has_positions:
            x = x + sinusoidal_grid(grid, self.dim).astype(x.dtype)[None]
        x = dropout(x, self.config.dropout, dropout_key(rngs))
        return x, jnp.ones(x.shape[:2], bool)


class ImageConvolution(FeatureMaps):
    """Stages of a 3x3 convolution of stride 2, layer norm over the channels, and relu."""

    def __init__(self, config: ImageConvolutionConfig, *, rngs: nnx.Rngs):
        self.config, self.dim = config, config.widths[-1]
        self.has_positions = config.positions == "sinusoidal"
        self.strides = 2 ** len(config.widths)
        widths = (config.channels, *config.widths)
        self.stages = nnx.List([convolution(a, b, 2, rngs) for a, b in itertools.pairwise(widths)])
        self.norms = nnx.List([LayerNorm(width, eps=1e-6, rngs=rngs) for width in config.widths])

    def maps(
        self, images: Float[Array, "B h w C"], *, rngs: nnx.Rngs | None
    ) -> Float[Array, "B rows columns D"]:
        """Apply the stages."""
        x = images.astype(self.stages[0].kernel[...].dtype)
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = jax.nn.relu(norm(stage(x)))
        return x


class ImageResNet(FeatureMaps):
    """Residual network without its average pooling."""

    strides = 4

    def __init__(self, config: ImageResNetConfig, *, rngs: nnx.Rngs):
        self.config, self.has_positions = config, config.positions == "sinusoidal"
        network = ResNetConfig(
            attention=config.attention,
            depth=config.depth,
            width=config.width,
            channels=config.channels,
        )
        self.network = ResidualNetwork(network, None, rngs=rngs)
        self.dim = self.network.dim

    def maps(
        self, images: Float[Array, "B h w C"], *, rngs: nnx.Rngs | None
    ) -> Float[Array, "B rows columns D"]:
        """Return the last map of the network."""
        return self.network.features(images, use_running_average=rngs is None)[0]


class ImageViT(SourceEncoder):
    """Vision Transformer without class token and head: the states of its patches."""

    has_positions = True

    def __init__(self, config: ImageViTConfig, *, rngs: nnx.Rngs):
        names = "attention", "image_size", "patch", "channels", "dim", "hidden", "layers", "dropout"
        own = {name: getattr(config, name) for name in names}
        self.network = ViT(ViTConfig(pooling="mean", **own), rngs=rngs)
        self.dim = config.dim

    def __call__(self, source: Float[Array, "B h w C"], *, rngs: nnx.Rngs | None = None) -> Encoded:
        """Return the states of the patches after the last norm."""
        x, _ = self.network.encode(self.network.embed(source, rngs=rngs), rngs=rngs)
        return x, jnp.ones(x.shape[:2], bool)

    def grid(self, source: Float[Array, "B h w C"]) -> Grid:
        """Return the rows and columns of patches."""
        return self.network.patches.grid(source)

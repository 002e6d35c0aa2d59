"""Residual network for small images, with optional gates: He et al. 2016 (arXiv 1512.03385).

``attention: se`` and most others put a gate on the residual branch of every block, before the
addition, as Hu et al. 2018 do. ``attention: bam`` and ``non_local`` put one after each stage but
the last, as Park et al. 2018 do.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention import (
    BAM,
    CBAM,
    MHCA,
    CoordinateAttention,
    EfficientChannelAttention,
    Gate,
    NonLocalBlock,
    SpatialGate,
    SqueezeExcitation,
)
from attnzoo.config.gates import Gate as GateConfig
from attnzoo.config.resnet import ResNetConfig
from attnzoo.module import Module


def build_gate(config: GateConfig, channels: int, *, rngs: nnx.Rngs) -> Gate | None:
    """Build the gate of a config line for maps of ``channels``; None if there is none."""
    match config.kind:
        case "se":
            return SqueezeExcitation(channels, config.reduction, rngs=rngs)
        case "eca":
            return EfficientChannelAttention(channels, config.kernel_size, rngs=rngs)
        case "spatial":
            return SpatialGate(config.kernel_size, rngs=rngs)
        case "cbam":
            return CBAM(channels, config.reduction, config.kernel_size, rngs=rngs)
        case "bam":
            return BAM(channels, config.reduction, config.dilation, config.combine, rngs=rngs)
        case "coordinate":
            return CoordinateAttention(channels, config.reduction, rngs=rngs)
        case "mhca":
            return MHCA(channels, config.reduction, config.kernel_sizes, rngs=rngs)
        case "non_local":
            return NonLocalBlock(channels, config.reduction, config.score, rngs=rngs)
        case "none":
            return None


def convolution(channels_in: int, channels_out: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Return a 3x3 convolution without bias, as in He et al. 2015; one zero pads every side."""
    return nnx.Conv(
        channels_in,
        channels_out,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=False,
        kernel_init=jax.nn.initializers.he_normal(),
        rngs=rngs,
    )


def normalised(
    norm: nnx.BatchNorm, x: Float[Array, "B h w C"], use_running_average: bool
) -> Float[Array, "B h w C"]:
    """Apply a norm with float32 statistics, as in flax, and return the dtype of the map."""
    # flax promotes x and the parameters to the dtype of its statistics.
    with jax.numpy_dtype_promotion("standard"):
        return norm(x, use_running_average=use_running_average).astype(x.dtype)


class ResidualBlock(Module):
    """relu(shortcut(x) + gate(BN(conv(relu(BN(conv(x))))))), with a parameter-free shortcut.

    With stride 2 the shortcut takes every second row and column, and fills the new channels with
    zeros (option A of He et al. 2016, section 4.1).
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int, gate: Gate | None, *, rngs: nnx.Rngs
    ):
        self.stride, self.new_channels = stride, channels - channels_in
        self.convolution1 = convolution(channels_in, channels, stride, rngs)
        self.norm1 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.convolution2 = convolution(channels, channels, 1, rngs)
        self.norm2 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.gate = gate

    def __call__(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> tuple[Float[Array, "B h2 w2 C2"], Float[Array, "B ..."] | None]:
        """Return the map, and the weights of the gate if there is one."""
        y = normalised(self.norm1, self.convolution1(x), use_running_average)
        y = self.convolution2(jax.nn.relu(y))
        y = normalised(self.norm2, y, use_running_average)
        weights = None
        if self.gate is not None:
            y, weights = self.gate(y, use_running_average=use_running_average, return_weights=True)
        before = self.new_channels // 2
        padding = ((0, 0), (0, 0), (0, 0), (before, self.new_channels - before))
        shortcut = jnp.pad(x[:, :: self.stride, :: self.stride], padding)
        return jax.nn.relu(shortcut + y), weights


class ResidualNetwork(Module):
    """Residual network: three stages of (depth - 2) / 6 blocks, average pooling, a linear layer.

    Every stage but the first halves the map and doubles its channels (section 4.2 of the paper).

    Args:
      num_classes: V; None: no linear layer, and ``features`` is all there is.
    """

    def __init__(self, config: ResNetConfig, num_classes: int | None, *, rngs: nnx.Rngs):
        count, after_stage = (config.depth - 2) // 6, config.attention.after_stage
        self.channels, self.blocks_per_stage = config.channels, count
        self.stem = convolution(config.channels, config.width, 1, rngs)
        self.stem_norm = nnx.BatchNorm(config.width, momentum=0.9, rngs=rngs)
        self.blocks, self.stage_gates = nnx.List([]), nnx.List([])
        channels = config.width
        for stage in range(3):
            for index in range(count):
                wide = config.width * 2**stage
                gate = None if after_stage else build_gate(config.attention, wide, rngs=rngs)
                stride = 2 if stage > 0 and index == 0 else 1
                self.blocks.append(ResidualBlock(channels, wide, stride, gate, rngs=rngs))
                channels = wide
            if after_stage and stage < 2:
                self.stage_gates.append(build_gate(config.attention, channels, rngs=rngs))
        self.dim = channels
        self.output = None if num_classes is None else nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "B h w C"],
        *,
        rngs: nnx.Rngs | None = None,
        use_running_average: bool | None = None,
        return_weights: bool = False,
    ) -> Float[Array, "B V"] | tuple[Float[Array, "B V"], dict[str, Float[Array, "B ..."]]]:
        """Return the logits of the classes; with ``return_weights`` also the weights of every gate.

        Gates have keys such as ``"stage2/block1"``, or ``"stage2"`` after a stage, counted from 1.
        ``use_running_average=False`` is for training: batch norms use the statistics of this batch
        and update their running ones. If None, it is False exactly if ``rngs`` are given.
        """
        if use_running_average is None:
            use_running_average = rngs is None
        if self.output is None:
            raise ValueError("num_classes=None: there is no output layer; wanted features()")
        x, maps = self.features(images, use_running_average=use_running_average)
        logits = self.output(jnp.mean(x, axis=(1, 2)))
        return (logits, maps) if return_weights else logits

    def features(
        self, images: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> tuple[Float[Array, "B h2 w2 C2"], dict[str, Float[Array, "B ..."]]]:
        """Return the map before the average pooling, and the weights of every gate."""
        if images.ndim != 4 or images.shape[3] != self.channels:
            raise ValueError(
                f"images has shape {images.shape}; wanted B h w C with channels={self.channels}"
            )
        # Images are float32; the model computes in the dtype of its kernels.
        x = self.stem(images.astype(self.stem.kernel[...].dtype))
        x = jax.nn.relu(normalised(self.stem_norm, x, use_running_average))
        maps: dict[str, Array] = {}
        for number, block in enumerate(self.blocks):
            stage, index = divmod(number, self.blocks_per_stage)
            x, weights = block(x, use_running_average=use_running_average)
            if weights is not None:
                maps[f"stage{stage + 1}/block{index + 1}"] = weights
            if index == self.blocks_per_stage - 1 and stage < len(self.stage_gates):
                x, maps[f"stage{stage + 1}"] = self.stage_gates[stage](
                    x, use_running_average=use_running_average, return_weights=True
                )
        return x, maps

"""Channel attention (SE and ECA): one weight per channel, the same at every place."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.convolutional import Gate
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import exact_quotient
from attnzoo.module import Module


class ChannelMLP(Module):
    """Two-layer MLP W_2 relu(W_1 z + b_1) + b_2 with ``channels / reduction`` hidden units."""

    def __init__(self, channels: int, reduction: int, *, rngs: nnx.Rngs):
        width = exact_quotient("channels", channels, "reduction", reduction)
        self.squeeze = nnx.Linear(channels, width, rngs=rngs)
        self.excite = nnx.Linear(width, channels, rngs=rngs)

    def __call__(self, z: Float[Array, "B 1 1 C"]) -> Float[Array, "B 1 1 C"]:
        return self.excite(jax.nn.relu(self.squeeze(z)))


def average(x: Float[Array, "B h w C"]) -> Float[Array, "B 1 1 C"]:
    """Return the average over all places (global average pooling, "squeeze")."""
    return jnp.mean(x, axis=(1, 2), keepdims=True)


class SqueezeExcitation(Gate):
    """SE: g = sigmoid(W_2 relu(W_1 GAP(x))), GAP the average over all places.

    Hu, Shen and Sun, CVPR 2018 (arXiv 1709.01507), equations 2 to 4; with biases. Weights are ``B 1
    1 C``; ``reduction`` must divide ``channels``.
    """

    facts = Facts(
        paper="Hu et al. 2018",
        score="an MLP of the channels' means",
        distribution="sigmoid",
        form="location-wise",
        inputs=("self",),
        output="multi-dimensional",
        time="P C + C²/r",
        memory="C",
    )

    def __init__(self, channels: int, reduction: int = 16, *, rngs: nnx.Rngs):
        self.channels = channels
        self.mlp = ChannelMLP(channels, reduction, rngs=rngs)

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B 1 1 C"]:
        """Return one weight per channel; ``use_running_average`` has no effect (no batch norm)."""
        return jax.nn.sigmoid(self.mlp(average(x)))


def eca_kernel_size(channels: int) -> int:
    """Return the kernel size of ECA: log2(C) / 2 + 1/2, rounded down, then up to an odd number."""
    size = int((math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1


class EfficientChannelAttention(Gate):
    """ECA: g = sigmoid(conv1d_k(GAP(x))), one kernel of size k that slides over the channels.

    Wang et al., CVPR 2020 (arXiv 1910.03151), section 3.2; no bias, zero padding. Weights are ``B 1
    1 C`` and depend on the order of the channels. ``kernel_size`` is odd; if None, it is
    ``eca_kernel_size(channels)``.
    """

    facts = Facts(
        paper="Wang et al. 2020",
        score="a convolution over the channels' means",
        distribution="sigmoid",
        form="location-wise",
        inputs=("self",),
        output="multi-dimensional",
        time="P C + k C",
        memory="C",
    )

    def __init__(self, channels: int, kernel_size: int | None = None, *, rngs: nnx.Rngs):
        if kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0):
            raise ValueError(f"kernel_size={kernel_size}; wanted an odd number > 0")
        self.channels = channels
        size = eca_kernel_size(channels) if kernel_size is None else kernel_size
        self.convolution = nnx.Conv(1, 1, (size,), use_bias=False, rngs=rngs)

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B 1 1 C"]:
        """Return one weight per channel; ``use_running_average`` has no effect (no batch norm)."""
        pooled = average(x)
        logits = self.convolution(pooled.reshape(*pooled.shape[::3], 1))  # B C 1
        return jax.nn.sigmoid(logits.reshape(pooled.shape))

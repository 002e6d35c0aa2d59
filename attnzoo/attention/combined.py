"""Channel and spatial attention together: CBAM, coordinate attention and MHCA."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.channel import ChannelMLP, average
from attnzoo.attention.convolutional import Gate
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import exact_quotient
from attnzoo.attention.spatial import SpatialGate


class ChannelGate(Gate):
    """g = sigmoid(MLP(mean of x) + MLP(maximum of x)), ``B 1 1 C`` (Woo et al. 2018, eq. 2)."""

    def __init__(self, channels: int, reduction: int = 16, *, rngs: nnx.Rngs):
        self.channels = channels
        self.mlp = ChannelMLP(channels, reduction, rngs=rngs)

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B 1 1 C"]:
        """Return one weight per channel; ``use_running_average`` has no effect (no batch norm)."""
        maximum = jnp.max(x, axis=(1, 2), keepdims=True)
        return jax.nn.sigmoid(self.mlp(average(x)) + self.mlp(maximum))


class CBAM(Gate):
    """CBAM: a channel gate, followed by a spatial gate that is computed from the gated map.

    Woo et al., ECCV 2018 (arXiv 1807.06521), equation 1. Weights are the product of both gates, ``B
    h w C``; ``cbam.channel.weights(x)`` gives those of the channel gate alone.
    """

    facts = Facts(
        paper="Woo et al. 2018",
        score="channels, then places",
        distribution="sigmoid",
        form="location-wise",
        inputs=("self",),
        output="multi-dimensional",
        time="P C + C²/r + 2 k² P",
        memory="P C",
    )

    def __init__(self, channels: int, reduction: int = 16, kernel_size: int = 7, *, rngs: nnx.Rngs):
        self.channels = channels
        self.channel = ChannelGate(channels, reduction, rngs=rngs)
        self.spatial = SpatialGate(kernel_size, rngs=rngs)

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B h w C"]:
        """Return the channel gate times the spatial gate."""
        channel = self.channel.weights(x)
        return channel * self.spatial.weights(x * channel, use_running_average=use_running_average)


class CoordinateAttention(Gate):
    """Coordinate attention: x * g_h * g_w, one gate per row and one per column of every channel.

    Hou, Zhou and Feng, CVPR 2021 (arXiv 2103.02907), equations 4 to 9. The means of rows and of
    columns (h + w vectors) pass ``h_swish(BN(conv_1x1))`` with ``max(8, channels // reduction)``
    channels. They are split again; each part passes its own 1x1 convolution and a sigmoid. Weights
    are ``B h w C``.
    """

    facts = Facts(
        paper="Hou et al. 2021",
        score="means along rows and along columns",
        distribution="sigmoid",
        form="location-wise",
        inputs=("self",),
        output="multi-dimensional",
        time="P C + (h + w) C²/r",
        memory="P C",
    )

    def __init__(self, channels: int, reduction: int = 32, *, rngs: nnx.Rngs):
        if reduction < 1:
            raise ValueError(f"reduction={reduction}; wanted a number > 0")
        width = max(8, channels // reduction)
        self.channels = channels
        self.reduce = nnx.Linear(channels, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.row = nnx.Linear(width, channels, rngs=rngs)
        self.column = nnx.Linear(width, channels, rngs=rngs)

    def row_and_column(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> tuple[Float[Array, "B h 1 C"], Float[Array, "B 1 w C"]]:
        """Return the gates g_h and g_w."""
        rows, columns = jnp.mean(x, axis=2), jnp.mean(x, axis=1)
        both = self.reduce(jnp.concatenate([rows, columns], axis=1))
        both = jax.nn.hard_swish(self.norm(both, use_running_average=use_running_average))
        rows, columns = jnp.split(both, [x.shape[1]], axis=1)
        row, column = jax.nn.sigmoid(self.row(rows)), jax.nn.sigmoid(self.column(columns))
        return row[:, :, None], column[:, None]

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B h w C"]:
        """Return the gate of the row times the gate of the column."""
        row, column = self.row_and_column(x, use_running_average=use_running_average)
        return row * column


class MHCA(Gate):
    """Multi-head convolutional attention: g = sigmoid(sum of heads), one head per kernel size.

    Georgescu et al., WACV 2023 (arXiv 2204.04218), section 3. A head divides the number of channels
    by ``reduction`` with an unpadded convolution, applies ReLU, and restores size and channels with
    a transposed convolution. Weights are ``B h w C``.
    """

    facts = Facts(
        paper="Georgescu et al. 2023",
        score="convolutions of several sizes, added",
        distribution="sigmoid",
        form="location-wise",
        inputs=("self",),
        output="multi-dimensional",
        time="P C²/r Σ 2 k²",
        memory="P C",
    )

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_sizes: Sequence[int] = (1, 3, 5),
        *,
        rngs: nnx.Rngs,
    ):
        width = exact_quotient("channels", channels, "reduction", reduction)
        if not kernel_sizes or min(kernel_sizes) < 1:
            raise ValueError(f"kernel_sizes={tuple(kernel_sizes)}; wanted numbers > 0")
        self.channels, self.kernel_sizes = channels, tuple(kernel_sizes)

        def layer(kind, channels_in: int, channels_out: int, size: int):
            return kind(channels_in, channels_out, (size, size), padding="VALID", rngs=rngs)

        self.narrow = nnx.List([layer(nnx.Conv, channels, width, k) for k in kernel_sizes])
        self.widen = nnx.List([layer(nnx.ConvTranspose, width, channels, k) for k in kernel_sizes])

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B h w C"]:
        """Return the sigmoid of the sum of heads; ValueError if a kernel is larger than the map."""
        if min(x.shape[1:3]) < max(self.kernel_sizes):
            raise ValueError(
                f"x has {x.shape[1]} rows and {x.shape[2]} columns, fewer than the largest of "
                f"kernel_sizes={self.kernel_sizes}"
            )
        heads = zip(self.narrow, self.widen, strict=True)
        logits = [widen(jax.nn.relu(narrow(x))) for narrow, widen in heads]
        return jax.nn.sigmoid(sum(logits[1:], logits[0]))

"""Channel and spatial attention side by side: the bottleneck attention module."""

from typing import Literal, get_args

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.channel import average
from attnzoo.attention.convolutional import Gate
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import exact_quotient

Combine = Literal["sum", "product"]


class BAM(Gate):
    """BAM: x * (1 + sigmoid(M_c + M_s)); weights lie between 1 and 2, so no feature is removed.

    Park et al., BMVC 2018 (arXiv 1807.06514), equations 1 to 4. Weights are ``B h w C``.

        M_c = W_1 relu(BN(W_0 GAP(x)))                                  B 1 1 C
        M_s = conv_1x1(twice: relu(BN(conv_3x3, dilated))(conv_1x1(x)))  B h w 1

    As in the authors' code, batch norms precede each ReLU; none follows the last layer.
    ``combine="product"`` gives their M_c * M_s in place of the paper's sum.
    """

    facts = Facts(
        paper="Park et al. 2018",
        score="channels and places, added",
        distribution="1 + sigmoid",
        form="location-wise",
        inputs=("self",),
        output="multi-dimensional",
        time="P C²/r + 18 P C²/r²",
        memory="P C",
    )

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        dilation: int = 4,
        combine: Combine = "sum",
        *,
        rngs: nnx.Rngs,
    ):
        if combine not in get_args(Combine):
            raise ValueError(f"combine={combine!r}; wanted one of {', '.join(get_args(Combine))}")
        if dilation < 1:
            raise ValueError(f"dilation={dilation}; wanted a number > 0")
        width = exact_quotient("channels", channels, "reduction", reduction)
        self.channels, self.combine = channels, combine
        self.squeeze = nnx.Linear(channels, width, rngs=rngs)
        self.squeeze_norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.excite = nnx.Linear(width, channels, rngs=rngs)
        self.convolutions = nnx.List([nnx.Conv(channels, width, (1, 1), rngs=rngs)])
        for _ in range(2):
            self.convolutions.append(
                nnx.Conv(width, width, (3, 3), kernel_dilation=dilation, rngs=rngs)
            )
        self.norms = nnx.List([nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for _ in range(3)])
        self.place = nnx.Conv(width, 1, (1, 1), rngs=rngs)

    def channel_logits(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B 1 1 C"]:
        """Return the logits M_c of the channels (equation 3)."""
        z = self.squeeze_norm(self.squeeze(average(x)), use_running_average=use_running_average)
        return self.excite(jax.nn.relu(z))

    def spatial_logits(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B h w 1"]:
        """Return the logits M_s of the places (equation 4)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = jax.nn.relu(norm(convolution(x), use_running_average=use_running_average))
        return self.place(x)

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B h w C"]:
        """Return 1 + sigmoid of the two maps combined."""
        channel = self.channel_logits(x, use_running_average=use_running_average)
        spatial = self.spatial_logits(x, use_running_average=use_running_average)
        joined = channel + spatial if self.combine == "sum" else channel * spatial
        return 1 + jax.nn.sigmoid(joined)

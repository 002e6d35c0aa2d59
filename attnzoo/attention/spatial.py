"""Spatial attention (CBAM's spatial gate): one weight per place, the same in every channel."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.convolutional import Gate
from attnzoo.attention.facts import Facts


class SpatialGate(Gate):
    """g = sigmoid(BN(conv_7x7([max_C x ; mean_C x]))), one weight per place, ``B h w 1``.

    Woo et al., ECCV 2018 (arXiv 1807.06521), equation 3; but batch norm, no bias, and the order
    (max, mean) are as in the authors' code. Any number of channels; their order has no effect.
    """

    facts = Facts(
        paper="Woo et al. 2018",
        score="a convolution of the mean and the maximum over channels",
        distribution="sigmoid",
        form="location-wise",
        inputs=("self",),
        output="single",
        time="P C + 2 k² P",
        memory="P",
    )

    def __init__(self, kernel_size: int = 7, *, rngs: nnx.Rngs):
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}; wanted an odd number > 0")
        self.convolution = nnx.Conv(2, 1, (kernel_size, kernel_size), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(1, momentum=0.99, rngs=rngs)

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B h w 1"]:
        """Return one weight per place."""
        pooled = [jnp.max(x, axis=3, keepdims=True), jnp.mean(x, axis=3, keepdims=True)]
        logits = self.convolution(jnp.concatenate(pooled, axis=3))
        return jax.nn.sigmoid(self.norm(logits, use_running_average=use_running_average))

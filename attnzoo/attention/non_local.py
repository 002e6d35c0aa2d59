"""Non-local block: Wang, Girshick, Gupta and He, CVPR 2018 (arXiv 1711.07971)."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.convolutional import Gate
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import exact_quotient

Score = Literal["embedded_gaussian", "dot_product"]


class NonLocalBlock(Gate):
    """z_i = x_i + BN(W_z y_i), y_i = sum_j weights_ij W_g x_j over all places j of the map.

    Equations 1 to 6: self-attention between the P = h w places of a map, with ``channels /
    reduction`` features. ``score`` is "embedded_gaussian", softmax_j((W_q x_i) . (W_k x_j)), or
    "dot_product", the same product divided by P. Weights are ``B 1 P P``, places in the order of
    rows. The batch norm's scale starts at 0, so that the block is at first the identity (section
    4.1); convolutions of one pixel have biases.
    """

    facts = Facts(
        paper="Wang et al. 2018",
        score="W q · W k of two places",
        distribution="softmax, or divided by P",
        form="location-wise",
        inputs=("self",),
        output="single",
        time="P² C/r + P C²/r",
        memory="P²",
    )

    def __init__(
        self,
        channels: int,
        reduction: int = 2,
        score: Score = "embedded_gaussian",
        *,
        rngs: nnx.Rngs,
    ):
        if score not in get_args(Score):
            raise ValueError(f"score={score!r}; wanted one of {', '.join(get_args(Score))}")
        width = exact_quotient("channels", channels, "reduction", reduction)
        self.channels, self.score = channels, score
        self.query, self.key, self.value = (
            nnx.Linear(channels, width, rngs=rngs) for _ in range(3)
        )
        self.out = nnx.Linear(width, channels, rngs=rngs)
        zeros = jax.nn.initializers.zeros
        self.norm = nnx.BatchNorm(channels, momentum=0.9, scale_init=zeros, rngs=rngs)

    def weights(
        self, x: Float[Array, "B h w C"], *, use_running_average: bool = True
    ) -> Float[Array, "B 1 P P"]:
        """Return the weights of places (columns) for each place (rows)."""
        places = _places(x)
        scores = jnp.einsum("bif,bjf->bij", self.query(places), self.key(places))[:, None]
        if self.score == "dot_product":
            return scores / scores.shape[-1]
        return jax.nn.softmax(scores, axis=-1)

    def apply(
        self,
        x: Float[Array, "B h w C"],
        weights: Float[Array, "B 1 P P"],
        use_running_average: bool,
    ) -> Float[Array, "B h w C"]:
        """Add what each place reads, normalised over the batch, to the map."""
        read = jnp.einsum("bij,bjf->bif", weights[:, 0], self.value(_places(x)))
        read = self.norm(self.out(read), use_running_average=use_running_average)
        return x + read.reshape(x.shape)


def _places(x: Float[Array, "B h w C"]) -> Float[Array, "B P C"]:
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])

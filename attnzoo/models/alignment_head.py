"""Alignment module of a translator (Shift-AET): attention of its own, trained alone."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.projection import Projection, exact_quotient, split_heads
from attnzoo.module import Module
from attnzoo.ops.softmax import masked_softmax


class AlignmentHead(Module):
    """Weights mean_n softmax((z G^Q_n) (h G^K_n)^T / sqrt(H)) over the source, without values.

    Chen, Liu, Chen, Jiang and Liu, EMNLP 2020 (arXiv 2004.14837), section 3.2. z are the states
    that a decoder layer's cross-attention asks with, h those of the encoder. No gradient reaches
    the translator.
    """

    def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs):
        exact_quotient("model.dim", dim, "guided.module", num_heads)
        self.num_heads = num_heads
        self.query = Projection(dim, dim, rngs=rngs)
        self.key = Projection(dim, dim, rngs=rngs)

    def __call__(
        self,
        asking: Float[Array, "B T D"],
        encoded: Float[Array, "B S D"],
        valid: Bool[Array, "B S"],
    ) -> Float[Array, "B 1 T S"]:
        """Return the weights, with an axis for one head; 0 where ``valid`` is False."""
        asking, encoded = jax.lax.stop_gradient((asking, encoded))
        q = split_heads(self.query(asking), self.num_heads)
        k = split_heads(self.key(encoded), self.num_heads)
        scores = jnp.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(q.shape[-1])
        weights = masked_softmax(scores, valid[:, None, None, :])
        return jnp.mean(weights, axis=1, keepdims=True)

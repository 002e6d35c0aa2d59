"""Structured self-attention: a sentence embedding of several weighted sums of states."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Projection
from attnzoo.module import Module
from attnzoo.ops.padding import check_and_zero_padding
from attnzoo.ops.softmax import compute_dtype, masked_softmax
from attnzoo.ops.weights import with_weights


class StructuredSelfAttention(Module):
    """A = softmax(W_s2 tanh(W_s1 H^T)) over the tokens; the embedding is M = A H, a row per hop.

    Lin et al., ICLR 2017 (arXiv 1703.03130), equations 6 and 7. There is no query: each row of W_s2
    is a learned query. Hops are the heads of the weights: ``B N 1 S`` with ``N = hops``. ``width``
    is the hidden width d_a. ``hop_overlap(weights)`` is the penalty for hops with equal weights.
    """

    facts = Facts(
        paper="Lin et al. 2017",
        score="w · tanh(W k), one w a hop",
        inputs=("self",),
        output="multi-head",
        time="S W (D + r)",
        memory="S (W + r)",
    )

    def __init__(self, input_dim: int, width: int = 350, hops: int = 30, *, rngs: nnx.Rngs):
        if hops < 1:
            raise ValueError(f"hops={hops}; wanted a number > 0")
        self.hidden = Projection(input_dim, width, rngs=rngs)  # W_s1
        self.hop = Projection(width, hops, rngs=rngs)  # W_s2

    def __call__(
        self,
        states: Float[Array, "B S D"],
        valid: Bool[Array, "B S"] | None = None,
        *,
        return_weights: ReturnWeights = False,
    ) -> Any:
        """Return the embedding ``B N D`` of each sentence; a sentence of padding only gives zeros.

        ``valid`` is False at padding. ``return_weights`` adds the weights ``B N 1 S``, or a report.
        """
        mask = None if valid is None else valid[:, None, None, :]
        states, _ = check_and_zero_padding(states, None, mask)
        logits = self.hop(jnp.tanh(self.hidden(states)))  # B S N
        weights = masked_softmax(jnp.swapaxes(logits, 1, 2)[:, :, None], mask)
        embedding = jnp.einsum("bnts,bsd->bntd", weights.astype(states.dtype), states)[:, :, 0]
        return with_weights(embedding, weights, return_weights)


def hop_overlap(weights: Float[Array, "B N 1 S"]) -> Float[Array, "B"]:
    """Return the penalty ||A A^T - I||_F^2 of each sentence (equation 8).

    It is 0 if and only if each hop attends to a single token, different from those of the others.
    """
    rows = weights[:, :, 0].astype(compute_dtype(weights))
    products = jnp.einsum("bns,bms->bnm", rows, rows)
    identity = jnp.eye(rows.shape[1], dtype=rows.dtype)[None]
    return jnp.sum((products - identity) ** 2, axis=(1, 2))

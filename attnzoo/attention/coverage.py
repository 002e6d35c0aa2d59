"""Additive attention with coverage (See, Liu and Manning, ACL 2017, arXiv 1704.04368)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.additive import AdditiveAttention, Initializer, tiny_normal
from attnzoo.attention.contract import Memory, Positions
from attnzoo.attention.facts import Facts
from attnzoo.attention.in_order import InOrderAttention
from attnzoo.ops.normalisers import Normalise
from attnzoo.ops.softmax import compute_dtype, masked_softmax


class CoverageAttention(InOrderAttention, AdditiveAttention):
    """score(q_t, k_s) = v_a . tanh(W_a q_t + U_a k_s + w_c c_ts + b), weights = softmax over keys.

    See et al. 2017 (arXiv 1704.04368), equations 10 and 11. The coverage c_ts is the sum of the
    weights that the queries before t gave to key s; 0 for the first. w_c and b start at 0: additive
    attention. One head, weights ``B 1 T S``; the order of the queries matters, and they are
    computed one after the other. A decoder calls ``extend`` and passes the coverage on. Arguments
    are those of ``AdditiveAttention``.
    """

    facts = Facts(
        paper="See et al. 2017",
        score="v · tanh(W q + U k + w c), c the sum of earlier weights",
        inputs=("distinctive",),
        time="T S W",
        memory="S W, T S",
        state="S (W + D + 1)",
    )

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        width: int | None = None,
        *,
        kernel_init: Initializer = tiny_normal,
        score_init: Initializer = jax.nn.initializers.zeros,
        normalise: Normalise = masked_softmax,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            query_dim,
            key_dim,
            width,
            kernel_init=kernel_init,
            score_init=score_init,
            normalise=normalise,
            dropout=dropout,
            rngs=rngs,
        )
        width = self.score_kernel.shape[0]
        self.coverage_kernel = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B 1 T S"]:
        """Return the logits without coverage, before mask and softmax."""
        projected = jnp.einsum("btd,dw->btw", query, self.query_kernel[...])
        return self._scored(projected[:, :, None, :] + memory.keys[:, None, :, :])[:, None]

    def empty_past(self, memory: Memory) -> Float[Array, "B S"]:
        """Return the coverage before the first query: 0 for every key."""
        return jnp.zeros(memory.keys.shape[:2], compute_dtype(memory.keys))

    def after(
        self, query: Float[Array, "B T D"], memory: Memory, past: Float[Array, "B S"]
    ) -> tuple[Float[Array, "B 1 T S"], Bool[Array, "B 1 T S"], Float[Array, "B S"]]:
        """Return weights, visible keys and the past, the coverage of each key."""
        T = query.shape[1]
        seen = self.seen(memory, T)
        projected = jnp.einsum("btd,dw->btw", query, self.query_kernel[...])

        def one(covered: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            asked, visible = step
            spread = jnp.einsum("bs,w->bsw", covered.astype(asked.dtype), self.coverage_kernel[...])
            weights = self.normalise(self._scored(asked[:, None] + memory.keys + spread), visible)
            return covered + weights.astype(covered.dtype), weights

        steps = jnp.swapaxes(projected, 0, 1), jnp.swapaxes(seen[:, 0], 0, 1)
        past, weights = jax.lax.scan(one, past, steps, unroll=T == 1)
        return jnp.moveaxis(weights, 0, 1)[:, None], seen, past

    def _scored(self, hidden: Float[Array, "*rows S W"]) -> Float[Array, "*rows S"]:
        bias = jnp.broadcast_to(self.bias[...].astype(hidden.dtype), hidden.shape)
        return jnp.tanh(hidden + bias) @ self.score_kernel[...]

"""Cosine attention: Luo et al. 2018 (arXiv 1702.05870), Liu et al. 2022 (arXiv 2111.09883)."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.contract import Attention, Memory, Positions
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Projection, exact_quotient, join_heads, split_heads
from attnzoo.ops.softmax import compute_dtype

LARGEST = math.log(100.0)


class CosineAttention(Attention):
    """score_n(q, k) = cos(W_q q, W_k k) / tau_n, with a temperature tau_n that each head learns.

    Cosine normalisation (Luo et al. 2018, arXiv 1702.05870, equation 2) in the form that Swin V2
    uses for attention (Liu et al. 2022, arXiv 2111.09883, equation 2): scores cannot exceed 1 /
    tau, however large the states are, and tau stays above 0.01. The learned parameter is log(1 /
    tau), log 10 at first. Widths that are None are ``dim``.
    """

    facts = Facts(
        paper="Luo et al. 2018; Liu et al. 2022",
        score="cos(q, k) / τ",
        output="multi-head",
        causal="mask",
        time="T S D",
        memory="N T S",
        state="2 S D",
    )

    heads_split_values = True
    contract_exceptions: ClassVar[dict[str, str]] = {
        "weights times values": "values are projected before they are weighed, and the result",
        "convex hull": "the hull is that of projected values, before the result is projected",
    }

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        key_dim: int | None = None,
        value_dim: int | None = None,
        out_dim: int | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        exact_quotient("dim", dim, "num_heads", num_heads)
        self.dim, self.num_heads, self.dropout = dim, num_heads, dropout
        self.query = Projection(dim, dim, rngs=rngs)
        self.key = Projection(dim if key_dim is None else key_dim, dim, rngs=rngs)
        self.value = Projection(dim if value_dim is None else value_dim, dim, rngs=rngs)
        self.out = Projection(dim, dim if out_dim is None else out_dim, rngs=rngs)
        self.log_scale = nnx.Param(jnp.full((num_heads,), math.log(10.0), jnp.float32))

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Project the keys and normalise the key of each head to length 1."""
        return self._unit(self.key(keys))

    def prepare_values(self, values: Float[Array, "B S Dv"]) -> Float[Array, "B S F"]:
        """Project the values."""
        return self.value(values)

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B N T S"]:
        """Return the cosines divided by the temperatures; ``positions`` have no effect."""
        q, k = (
            split_heads(x, self.num_heads) for x in (self._unit(self.query(query)), memory.keys)
        )
        cosines = jnp.einsum("btnh,bsnh->bnts", q, k).astype(compute_dtype(q))
        scale = jnp.exp(jnp.minimum(self.log_scale[...].astype(cosines.dtype), LARGEST))
        return scale[None, :, None, None] * cosines

    def result(self, context: Float[Array, "B T Dv"]) -> Float[Array, "B T Do"]:
        """Apply the output projection to the concatenated heads."""
        return self.out(context)

    def _unit(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Divide each head by its length, computed in float32; a zero vector stays zero."""
        heads = split_heads(x, self.num_heads)
        wide = heads.astype(compute_dtype(heads))
        square = jnp.sum(wide**2, axis=-1, keepdims=True)
        return join_heads((wide * jax.lax.rsqrt(square + 1e-12)).astype(x.dtype))

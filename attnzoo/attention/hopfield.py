"""Hopfield layer: Ramsauer et al. 2020 (arXiv 2008.02217), attention iterated to convergence."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.contract import Attention, Memory, Positions
from attnzoo.attention.cosine import CosineAttention
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Projection, exact_quotient, split_heads
from attnzoo.ops.hopfield import hopfield_retrieve
from attnzoo.ops.softmax import compute_dtype


class HopfieldAttention(Attention):
    """context = softmax(beta xi K^T) V; before, xi = q moves by xi <- softmax(beta xi K^T) K.

    Equation 10 of the paper, with the update of equation 3 before it: a query moves to the stored
    pattern (projected key) that it resembles, and then reads the values. At most ``steps`` updates
    are made, the last of which reads; with 1 this is multi-head attention with the scale ``beta``,
    1 / sqrt(H) if None. A state that moves by less than 1e-4 has converged. The layer norms of
    queries and patterns of the authors' code are left to the surrounding block.
    """

    facts = Facts(
        paper="Ramsauer et al. 2020",
        score="β ξ · k, ξ the query moved to a pattern",
        output="multi-head",
        causal="mask",
        time="n T S D",
        memory="n N T S",
        state="2 S D",
    )

    heads_split_values = True
    contract_exceptions: ClassVar[dict[str, str]] = CosineAttention.contract_exceptions

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        beta: float | None = None,
        steps: int = 3,
        key_dim: int | None = None,
        value_dim: int | None = None,
        out_dim: int | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        if steps < 1:
            raise ValueError(f"steps={steps}; wanted at least 1, the update that reads the values")
        self.dim, self.num_heads, self.dropout = dim, num_heads, dropout
        self.beta, self.steps = head_dim**-0.5 if beta is None else beta, steps
        self.query = Projection(dim, dim, rngs=rngs)
        self.key = Projection(dim if key_dim is None else key_dim, dim, rngs=rngs)
        self.value = Projection(dim if value_dim is None else value_dim, dim, rngs=rngs)
        self.out = Projection(dim, dim if out_dim is None else out_dim, rngs=rngs)

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Project the keys to the stored patterns."""
        return self.key(keys)

    def prepare_values(self, values: Float[Array, "B S Dv"]) -> Float[Array, "B S F"]:
        """Project the values."""
        return self.value(values)

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B N T S"]:
        """Return the scores of the moved queries; ``positions`` have no effect."""
        q, k = (split_heads(x, self.num_heads) for x in (self.query(query), memory.keys))
        state = q.astype(compute_dtype(q))
        if self.steps > 1:
            state = hopfield_retrieve(q, k, beta=self.beta, steps=self.steps - 1, mask=memory.mask)
        return self.beta * jnp.einsum("btnh,bsnh->bnts", state, k.astype(state.dtype))

    def result(self, context: Float[Array, "B T Dv"]) -> Float[Array, "B T Do"]:
        """Apply the output projection to the concatenated heads."""
        return self.out(context)

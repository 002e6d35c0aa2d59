"""Graph attention (GAT): Velickovic et al. 2018 (arXiv 1710.10903)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.contract import Attention, Memory, Positions
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import (
    Projection,
    cast_like,
    exact_quotient,
    glorot_per_head,
    split_heads,
)


class GraphAttention(Attention):
    """e_ij = LeakyReLU(a_n . [W_n h_i ; W_n h_j]), softmax over the neighbours j of node i.

    Equations 1 to 5: additive scores between nodes, with values W_n h_j. The mask is the adjacency
    matrix, ``B 1 T S``: row i has the neighbours of node i, in the paper with node i itself. Call
    it with ``keys = query = nodes``. Heads are concatenated to ``out_dim`` (``dim`` if None),
    without the paper's nonlinearity. A node without neighbours gets 0.
    """

    facts = Facts(
        paper="Velickovic et al. 2018",
        score="LeakyReLU(a · [W q ; W k]) of neighbours",
        inputs=("self",),
        output="multi-head",
        causal="mask",
        time="T S D",
        memory="N T S",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        "weights times values": "what is weighed are the projected keys",
        "convex hull": "the hull is that of the projected keys",
    }

    heads_split_values = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        out_dim: int | None = None,
        slope: float = 0.2,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        out_dim = dim if out_dim is None else out_dim
        head_dim = exact_quotient("out_dim", out_dim, "num_heads", num_heads)
        self.num_heads, self.slope, self.dropout = num_heads, slope, dropout
        self.dim = dim if out_dim == dim else None
        self.node = Projection(dim, out_dim, rngs=rngs)
        kernel = glorot_per_head(rngs, (num_heads, 2 * head_dim, 1))[:, :, 0]
        self.query_kernel = nnx.Param(kernel[:, :head_dim])
        self.key_kernel = nnx.Param(kernel[:, head_dim:])

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.node.in_dim, self.node.in_dim, self.node.in_dim

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Project the nodes."""
        return self.node(keys)

    def prepare_values(self, values: Float[Array, "B S Dv"]) -> Float[Array, "B S F"]:
        """Project the values; they are the nodes themselves if none are given."""
        return self.node(values)

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B N T S"]:
        """Return e_ij; ``positions`` are ignored, since a graph has none."""
        h = split_heads(self.node(query), self.num_heads)
        neighbours = split_heads(memory.keys, self.num_heads)
        # a . [x ; y] = a_1 . x + a_2 . y needs one number per node, not one vector per pair.
        own = jnp.einsum("btnh,nh->bnt", h, cast_like(self.query_kernel, h))
        other = jnp.einsum("bsnh,nh->bns", neighbours, cast_like(self.key_kernel, h))
        return jax.nn.leaky_relu(own[..., :, None] + other[..., None, :], self.slope)

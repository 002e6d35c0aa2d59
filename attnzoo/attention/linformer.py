"""Linformer: Wang, Li, Khabsa, Fang and Ma 2020 (arXiv 2006.04768), keys of a fixed number."""

import dataclasses
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.contract import (
    Attention,
    AttentionOutput,
    Memory,
    Positions,
    ReturnWeights,
    columns_of,
)
from attnzoo.attention.facts import Facts
from attnzoo.attention.fast_weight import PROJECTED, FastWeights
from attnzoo.attention.positional import CONTENT_FREE, check_length, checked_rank
from attnzoo.attention.projection import (
    Projection,
    exact_quotient,
    glorot_per_head,
    join_heads,
    read_heads,
    split_heads,
)
from attnzoo.ops.checks import check_dropout
from attnzoo.ops.padding import check_and_zero_padding
from attnzoo.ops.softmax import compute_dtype, masked_softmax
from attnzoo.ops.weights import with_weights

Share = Literal["none", "heads", "all"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CompressedMemory(Memory):
    """Keys and values of R rows each, with the mask and the positions of the S original keys."""

    keys: Float[Array, "B R K"]
    values: Float[Array, "B R Dv"]
    mask: Bool[Array, "B 1 1 S"]
    positions: Int[Array, "B S"] | None = None


class Linformer(Attention):
    """context_n = softmax(q_n (E_n K_n)^T / sqrt(H)) F_n V_n, E_n and F_n of R x ``max_length``.

    Equation 7 of the paper: keys and values are projected along the length to R = ``rank`` rows, so
    time and memory grow with T + S. Column s of E and F belongs to position s. ``share`` is
    section 4's sharing within a layer: "none", "heads" (one E and one F), or "all" (E = F, too).

    Every row of E K mixes all positions: there is no causal form, masks only mark padding, and
    ``max_length`` bounds S. The weights returned are those of the original keys, softmax(...) F,
    after dropout; they may be negative.
    """

    facts = Facts(
        paper="Wang et al. 2020",
        score="q · (E K) / √H, E of R rows",
        distribution="softmax over rows, times F",
        output="multi-head",
        time="(T + S) R D",
        memory="N (T + S) R",
    )

    takes_perturbation = False
    takes_causal_mask = False
    counts_positions = True
    self_mask = FastWeights.self_mask
    contract_exceptions: ClassVar[dict[str, str]] = {
        **PROJECTED,
        "rows sum to one": "the weights of a key are sums of a row of F",
        "weights are not negative": "F is a linear map",
        "keys are exchangeable": CONTENT_FREE["keys are exchangeable"],
    }

    def __init__(
        self,
        dim: int,
        num_heads: int,
        max_length: int,
        rank: int,
        *,
        share: Share = "heads",
        key_dim: int | None = None,
        value_dim: int | None = None,
        out_dim: int | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if share not in get_args(Share):
            raise ValueError(f"share={share!r}; wanted one of {', '.join(get_args(Share))}")
        self.head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        self.dim, self.num_heads, self.dropout = dim, num_heads, dropout
        self.max_length = max_length
        self.query = Projection(dim, dim, rngs=rngs)
        self.key = Projection(dim if key_dim is None else key_dim, dim, rngs=rngs)
        self.value = Projection(dim if value_dim is None else value_dim, dim, rngs=rngs)
        self.out = Projection(dim, dim if out_dim is None else out_dim, rngs=rngs)
        shape = (num_heads if share == "none" else 1, checked_rank(rank), max_length)
        self.key_rows = nnx.Param(glorot_per_head(rngs, shape))
        self.value_rows = None if share == "all" else nnx.Param(glorot_per_head(rngs, shape))

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> CompressedMemory:
        """Project keys and values along the length; the mask may only mark padding."""
        keys, values = check_and_zero_padding(keys, values, mask)
        B, S = keys.shape[:2]
        check_length("keys", S, self.max_length)
        if mask is not None and mask.shape[1:3] != (1, 1):
            raise NotImplementedError(
                f"mask has shape {mask.shape}: Linformer mixes keys before queries see them; "
                "wanted the padding mask B 1 1 S, or attention.kind=multi_head"
            )
        valid = jnp.ones((B, 1, 1, S), bool) if mask is None else mask
        if positions is not None:
            positions = jnp.broadcast_to(positions, (B, S))
        return CompressedMemory(
            self._compressed(self.key(keys), self.key_rows, positions),
            self._compressed(self.value(values), self._rows_of_values, positions),
            jnp.broadcast_to(valid, (B, 1, 1, S)),
            positions,
        )

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
    ) -> AttentionOutput:
        """Read a compressed memory; ``positions`` of queries have no effect."""
        assert memory.mask is not None
        q, k = (split_heads(x, self.num_heads) for x in (self.query(query), memory.keys))
        scores = jnp.einsum("btnh,brnh->bntr", q, k).astype(compute_dtype(q)) / self.head_dim**0.5
        mixed = masked_softmax(scores, jnp.any(memory.mask, axis=3, keepdims=True))
        if dropout_key is not None and self.dropout > 0:
            check_dropout(self.dropout, dropout_key)
            kept = jax.random.bernoulli(dropout_key, 1 - self.dropout, mixed.shape)
            mixed = jnp.where(kept, mixed / (1 - self.dropout), jnp.zeros_like(mixed))
        context = self.out(read_heads(mixed, memory.values, None))
        if not return_weights:
            return context
        columns = self._columns(self._rows_of_values, memory.mask.shape[3], memory.positions)
        columns = jnp.broadcast_to(columns, (q.shape[0], *columns.shape[1:])).astype(mixed.dtype)
        weights = jnp.einsum("bntr,bnrs->bnts", mixed, columns)
        weights = jnp.where(memory.mask, weights, jnp.zeros_like(weights))
        return with_weights(context, weights, return_weights)

    @property
    def _rows_of_values(self) -> nnx.Param:
        return self.key_rows if self.value_rows is None else self.value_rows

    def _columns(
        self, rows: nnx.Param, S: int, positions: Int[Array, "B S"] | None
    ) -> Float[Array, "#B N R S"]:
        """Return the columns of E or F for keys at these positions, for every head."""
        table = jnp.broadcast_to(rows[...], (self.num_heads, *rows.shape[1:]))
        return columns_of(table[None], S, positions)

    def _compressed(
        self, x: Float[Array, "B S F"], rows: nnx.Param, positions: Int[Array, "B S"] | None
    ) -> Float[Array, "B R F"]:
        columns = self._columns(rows, x.shape[1], positions).astype(x.dtype)
        heads = split_heads(x, self.num_heads)
        if positions is None:
            return join_heads(jnp.einsum("nrs,bsnh->brnh", columns[0], heads))
        return join_heads(jnp.einsum("bnrs,bsnh->brnh", columns, heads))

"""Positional attention: PARec and FPARec, Luo, He, Zhang and Xu 2024 (arXiv 2407.02793).

Logits are parameters of pairs of positions ("slots"), up to ``max_length``, and cannot extrapolate
beyond it. A slot has the same meaning in every sequence: sequences of items are padded on the
*left*, so that the last slot is the newest item.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.contract import Attention, Memory, Positions, Site, columns_of
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Projection, exact_quotient
from attnzoo.ops import masks
from attnzoo.ops.index_functions import broadcast_index
from attnzoo.ops.masks import MaskFunction, evaluate_mask
from attnzoo.ops.softmax import compute_dtype

causal = masks.causal()
PROJECTED = {
    "weights times values": "values are projected before they are weighed",
    "convex hull": "the hull is that of projected values",
}
CONTENT_FREE = {
    "weights follow the input": "weights belong to slots, whatever stands there",
    "queries are exchangeable": "weights belong to slots",
    "keys are exchangeable": "weights belong to slots",
}


class SlotAttention(Attention):
    """Base class of attention with one logit per slot: slot i is the key at position i."""

    asks_keys = False
    counts_positions = True
    heads_split_values = True

    max_length: int
    mask_mod: MaskFunction | None
    value: Projection

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Return keys of width 0: only the positions of keys matter."""
        check_length("keys", keys.shape[1], self.max_length)
        return keys[..., :0]

    def prepare_values(self, values: Float[Array, "B S Dv"]) -> Float[Array, "B S F"]:
        """Project the values."""
        return self.value(values)

    def slot_scores(
        self, query: Float[Array, "B T D"], slots: Positions
    ) -> Float[Array, "#B N T L"]:
        """Return one logit per slot for queries at positions ``slots``."""
        raise NotImplementedError(f"{type(self).__name__}.slot_scores")

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B N T S"]:
        """Return the logits of the positions of queries and keys."""
        logits = self.slot_scores(query, self._slots(query, positions))
        S = memory.values.shape[1]
        logits = columns_of(logits, S, memory.positions).astype(compute_dtype(query))
        return jnp.broadcast_to(logits, (query.shape[0], *logits.shape[1:]))

    def weigh(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None
    ) -> tuple[Float[Array, "B N T S"], Bool[Array, "#B #N #T #S"] | None]:
        """Return the weights; the module's own mask uses positions as the logits do."""
        logits, visible = self.scores(query, memory, positions), memory.mask
        if self.mask_mod is not None:
            mask_mod, slots, keys = self.mask_mod, self._slots(query, positions), memory.positions
            at = lambda places, b, i: places[broadcast_index(b, places.shape[0]), i]  # noqa: E731
            B, N, T, S = logits.shape
            pattern = evaluate_mask(
                lambda b, n, q, k: mask_mod(
                    b, n, at(slots, b, q), k if keys is None else at(keys, b, k)
                ),
                (B, N, T, S),
            )
            visible = pattern if visible is None else visible & pattern
        return self.normalise(logits, visible), visible

    def _slots(self, query: Float[Array, "B T D"], positions: Positions | None) -> Positions:
        if positions is not None:
            return positions
        check_length("query", query.shape[1], self.max_length)
        return jnp.arange(query.shape[1], dtype=jnp.int32)[None]


class PositionalAttention(SlotAttention):
    """PARec: softmax(R_n / sqrt(H) / temperature) x W_V with one learned logit per pair of slots.

    Luo, He, Zhang and Xu 2024 (arXiv 2407.02793). R is ``N L L`` with L = ``max_length`` and starts
    at N(0, 0.01^2), truncated at two standard deviations: weights are nearly uniform at first, and
    the same for all sequences. Heads are concatenated, and there is no output projection. The paper
    adds the (normalised) query to the result: here that is left to the surrounding block.
    ``mask_mod`` (causal in the paper) joins the mask of the call.
    """

    facts = Facts(
        paper="Luo et al. 2024",
        score="a parameter of two positions",
        output="multi-head",
        causal="mask",
        time="T S D",
        memory="N T S",
        state="S D",
    )

    contract_exceptions: ClassVar[dict[str, str]] = PROJECTED | CONTENT_FREE

    def __init__(
        self,
        dim: int,
        max_length: int,
        num_heads: int = 1,
        *,
        temperature: float = 1.0,
        mask_mod: MaskFunction | None = causal,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        self.max_length, self.num_heads, self.mask_mod = max_length, num_heads, mask_mod
        self.dim, self.dropout, self.scale = dim, dropout, _scale(head_dim, temperature)
        self.table = nnx.Param(truncated_normal(rngs, (num_heads, max_length, max_length), 0.01))
        self.value = Projection(dim, dim, rngs=rngs)

    @classmethod
    def from_config(cls, config: Any, site: Site, *, rngs: nnx.Rngs) -> Attention:
        """Build the module with the width of the values, since queries are not read."""
        site = dataclasses.replace(site, query_dim=site.value_dim)
        return cls.by_name(config, site, rngs=rngs)

    def slot_scores(
        self, query: Float[Array, "B T D"], slots: Positions
    ) -> Float[Array, "#B N T L"]:
        """Return the rows of R; the content of the query is ignored."""
        return self.scale * rows_of(self.table, slots, query)


class FactorisedPositionalAttention(PositionalAttention):
    """FPARec: as ``PositionalAttention`` with R = B_1 B_2^T, B_1 and B_2 of ``N L rank``.

    It has 2 L rank parameters per head, not L^2. Entries of B start at N(0, (0.1 / rank^(1/4))^2),
    which gives R a standard deviation of 0.01 for every rank.
    """

    facts = Facts(
        paper="Luo et al. 2024",
        score="a parameter of two positions, of rank r",
        output="multi-head",
        causal="mask",
        time="T S (D + N r)",
        memory="N T S",
        state="S D",
    )

    def __init__(
        self,
        dim: int,
        max_length: int,
        num_heads: int = 1,
        *,
        rank: int = 40,
        temperature: float = 1.0,
        mask_mod: MaskFunction | None = causal,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        self.max_length, self.num_heads, self.mask_mod = max_length, num_heads, mask_mod
        self.dim, self.dropout, self.scale = dim, dropout, _scale(head_dim, temperature)
        shape, std = (num_heads, max_length, checked_rank(rank)), 0.1 * rank**-0.25
        self.query_factor = nnx.Param(truncated_normal(rngs, shape, std))
        self.key_factor = nnx.Param(truncated_normal(rngs, shape, std))
        self.value = Projection(dim, dim, rngs=rngs)

    def slot_scores(
        self, query: Float[Array, "B T D"], slots: Positions
    ) -> Float[Array, "#B N T L"]:
        """Return the rows of B_1 B_2^T; the content of the query is ignored."""
        rows = rows_of(self.query_factor, slots, query)
        columns = self.key_factor[...].astype(rows.dtype)
        return self.scale * jnp.einsum("bntr,nsr->bnts", rows, columns)


def rows_of(
    table: nnx.Variable, slots: Positions, query: Float[Array, "B T D"]
) -> Float[Array, "#B N T R"]:
    """Return the rows of an ``N L R`` table at the given slots, in the dtype of logits."""
    return jnp.moveaxis(table[...][:, slots], 1, 0).astype(compute_dtype(query))


def check_length(name: str, length: int, max_length: int) -> None:
    """Raise a ValueError if a sequence has more positions than there are slots."""
    if length > max_length:
        raise ValueError(
            f"{name} has length {length}, but the attention was built for max_length={max_length}; "
            "raise max_length or cut the sequence"
        )


def truncated_normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> Float[Array, "..."]:
    """Sample a normal distribution of mean 0, truncated at two standard deviations."""
    return std * jax.random.truncated_normal(rngs.params(), -2.0, 2.0, shape, jnp.float32)


def _scale(head_dim: int, temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; wanted a positive number")
    return head_dim**-0.5 / temperature


def checked_rank(rank: int) -> int:
    """Return the rank, or raise a ValueError if it is below 1."""
    if rank < 1:
        raise ValueError(f"rank={rank}; wanted at least 1")
    return rank

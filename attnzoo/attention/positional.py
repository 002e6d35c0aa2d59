"""Positional attention: PARec and FPARec, Luo, He, Zhang and Xu 2024 (arXiv 2407.02793).

The length is a parameter of both: slot i of one sequence means what slot i of another means
(sequences of items are padded on the *left*, so that the last slot is the newest item), and there
is nothing to extrapolate with beyond ``max_length``.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.contract import Asked, Attention, Memory, Read, answer, hold, spread
from attnzoo.attention.projection import Projection, divided, read_heads
from attnzoo.ops import masks
from attnzoo.ops.index_functions import along
from attnzoo.ops.masks import MaskFunction, evaluate_mask
from attnzoo.ops.softmax import compute_dtype, masked_softmax

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


class PositionalAttention(Attention):
    """PARec: softmax(R_n / sqrt(H) / temperature) x W_V with one learned logit per pair of slots.

    Luo, He, Zhang and Xu 2024 (arXiv 2407.02793); R is ``N L L`` and starts at N(0, 0.01^2), cut
    at two deviations: all slots weigh about alike at first. Heads are concatenated, and there is no
    output projection. The paper adds the (normalised) query to the result: that is for the block
    around this. All sequences have the same weights; queries and keys count by their slot alone.

    Args:
      max_length: L, the number of slots.
      mask_mod: joins the mask of the call; causal in the paper.
    """

    contract_exceptions: ClassVar[dict[str, str]] = PROJECTED | CONTENT_FREE

    def __init__(
        self,
        dim: int,
        max_length: int,
        num_heads: int = 1,
        *,
        temperature: float = 1.0,
        mask_mod: MaskFunction | None = causal,
        rngs: nnx.Rngs,
    ):
        head_dim = divided("dim", dim, "num_heads", num_heads)
        self.max_length, self.num_heads, self.mask_mod = max_length, num_heads, mask_mod
        self.scale = _scale(head_dim, temperature)
        self.table = nnx.Param(truncated_normal(rngs, (num_heads, max_length, max_length), 0.01))
        self.value = Projection(dim, dim, rngs=rngs)

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
    ) -> Memory:
        """Project the values. Nothing of the keys is kept."""
        return hold_values(keys, values, mask, self.value, self.max_length)

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Int[Array, "B T"] | None = None,
        return_weights: Asked = False,
    ) -> Read:
        """Read a prepared memory; of the query only ``positions`` (0..T-1 if None) matter."""
        slots = slots_of(query, positions, self.max_length)
        logits = self.scale * rows_of(self.table, slots, query)
        return read_slots(logits, query, memory, slots, self.mask_mod, return_weights)


class FactorisedPositionalAttention(Attention):
    """FPARec: as ``PositionalAttention`` with R = B_1 B_2^T, B_1 and B_2 of ``N L rank``.

    Luo, He, Zhang and Xu 2024 (arXiv 2407.02793): 2 L rank numbers a head, not L^2. Entries of
    B start at N(0, (0.1 / rank^(1/4))^2), which gives R a deviation of 0.01 whatever the rank.
    """

    contract_exceptions: ClassVar[dict[str, str]] = PROJECTED | CONTENT_FREE

    def __init__(
        self,
        dim: int,
        max_length: int,
        num_heads: int = 1,
        *,
        rank: int = 40,
        temperature: float = 1.0,
        mask_mod: MaskFunction | None = causal,
        rngs: nnx.Rngs,
    ):
        head_dim = divided("dim", dim, "num_heads", num_heads)
        self.max_length, self.num_heads, self.mask_mod = max_length, num_heads, mask_mod
        self.scale = _scale(head_dim, temperature)
        shape, std = (num_heads, max_length, checked_rank(rank)), 0.1 * rank**-0.25
        self.query_factor = nnx.Param(truncated_normal(rngs, shape, std))
        self.key_factor = nnx.Param(truncated_normal(rngs, shape, std))
        self.value = Projection(dim, dim, rngs=rngs)

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
    ) -> Memory:
        """Project the values. Nothing of the keys is kept."""
        return hold_values(keys, values, mask, self.value, self.max_length)

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Int[Array, "B T"] | None = None,
        return_weights: Asked = False,
    ) -> Read:
        """Read a prepared memory; of the query only ``positions`` (0..T-1 if None) matter."""
        slots = slots_of(query, positions, self.max_length)
        rows = rows_of(self.query_factor, slots, query)
        columns = self.key_factor[...].astype(rows.dtype)
        logits = self.scale * jnp.einsum("bntr,nsr->bnts", rows, columns)
        return read_slots(logits, query, memory, slots, self.mask_mod, return_weights)


def hold_values(
    keys: Float[Array, "B S D"],
    values: Float[Array, "B S Dv"] | None,
    mask: Bool[Array, "#B #N #T #S"] | None,
    projection: Projection,
    max_length: int,
) -> Memory:
    """A memory of projected values, whose keys have no content."""
    _fits("keys", keys.shape[1], max_length)
    keys, values = hold(keys, values, mask)
    return Memory(keys[..., :0], projection(values), spread(mask, keys))


def slots_of(
    query: Float[Array, "B T D"], positions: Int[Array, "B T"] | None, max_length: int
) -> Int[Array, "#B T"]:
    """Where the queries stand: ``positions``, or 0 .. T-1."""
    if positions is not None:
        return positions
    _fits("query", query.shape[1], max_length)
    return jnp.arange(query.shape[1], dtype=jnp.int32)[None]


def rows_of(
    table: nnx.Variable, slots: Int[Array, "#B T"], query: Float[Array, "B T D"]
) -> Float[Array, "#B N T R"]:
    """The rows of an ``N L R`` table that belong to the slots, in the dtype of logits."""
    return jnp.moveaxis(table[...][:, slots], 1, 0).astype(compute_dtype(query))


def read_slots(
    logits: Float[Array, "#B N T L"],
    query: Float[Array, "B T D"],
    memory: Memory,
    slots: Int[Array, "#B T"],
    mask_mod: MaskFunction | None,
    return_weights: Asked,
) -> Read:
    """Mask, normalise and read the values, which hold the heads side by side."""
    S = memory.values.shape[1]
    shape = (query.shape[0], logits.shape[1], query.shape[1], S)
    visible = memory.mask
    if mask_mod is not None:
        pattern = evaluate_mask(
            lambda b, n, q, k: mask_mod(b, n, slots[along(b, slots.shape[0]), q], k), shape
        )
        visible = pattern if visible is None else visible & pattern
    logits = jnp.broadcast_to(logits[..., :S].astype(compute_dtype(query)), shape)
    weights = masked_softmax(logits, visible)
    context = read_heads(weights, memory.values, visible)
    return answer(context, weights, return_weights)


def _fits(name: str, length: int, max_length: int) -> None:
    if length > max_length:
        raise ValueError(
            f"{name} has length {length}, but the attention was built for max_length={max_length}; "
            "raise max_length or cut the sequence"
        )


def truncated_normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> Float[Array, "..."]:
    """Normal numbers, redrawn beyond two deviations."""
    return std * jax.random.truncated_normal(rngs.params(), -2.0, 2.0, shape, jnp.float32)


def _scale(head_dim: int, temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; wanted a positive number")
    return head_dim**-0.5 / temperature


def checked_rank(rank: int) -> int:
    """The rank, or a ValueError."""
    if rank < 1:
        raise ValueError(f"rank={rank}; wanted at least 1")
    return rank

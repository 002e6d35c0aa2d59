"""Base of attention whose queries are read in their order, since each knows what came before."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.attention.contract import Attention, AttentionOutput, Memory, Positions, ReturnWeights


class InOrderAttention(Attention):
    """Base class of attention whose weights depend on those of earlier queries.

    A subclass implements ``after``. There is one head, with weights ``B 1 T S``. The past, ``B S``,
    summarises what earlier queries have read: ``attend`` begins with ``empty_past``, and a decoder
    passes what ``extend`` returns to its next call.
    """

    contract_exceptions: ClassVar[dict[str, str]] = {
        "queries are exchangeable": "what a query reads depends on what those before it have read",
    }

    def after(
        self, query: Float[Array, "B T D"], memory: Memory, past: Float[Array, "B S"]
    ) -> tuple[Float[Array, "B 1 T S"], Bool[Array, "B 1 T S"], Float[Array, "B S"]]:
        """Return the weights, the keys that each query may see, and the past after the last one."""
        raise NotImplementedError(f"{type(self).__name__}.after")

    def seen(self, memory: Memory, T: int) -> Bool[Array, "B 1 T S"]:
        """Return the keys that T queries may see; ValueError for a mask of another number."""
        mask = jnp.ones((1, 1, 1, 1), bool) if memory.mask is None else memory.mask
        if mask.shape[2] not in (1, T):
            raise ValueError(f"memory has a mask with T={mask.shape[2]}; wanted 1 or {T} queries")
        B, S = memory.keys.shape[:2]
        return jnp.broadcast_to(mask, (B, 1, T, S))

    def weigh(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None
    ) -> tuple[Float[Array, "B 1 T S"], Bool[Array, "B 1 T S"]]:
        """Return the weights with no past; NotImplementedError if ``positions`` are given."""
        if positions is not None:
            raise NotImplementedError(
                f"positions: {type(self).__name__} needs what the queries before have read, not "
                "their number; use extend or step with a past"
            )
        weights, seen, _ = self.after(query, memory, self.empty_past(memory))
        return weights, seen

    def extend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        past: Float[Array, "B S"],
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
    ) -> tuple[AttentionOutput, Float[Array, "B S"]]:
        """Read with the next T queries of a decoder; also return the updated past."""
        weights, seen, past = self.after(query, memory, past)
        return self.read(weights, memory, seen, return_weights, None), past

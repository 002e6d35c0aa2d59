"""No attention: the fixed-vector baseline of Cho et al. 2014 (arXiv 1406.1078), RNNencdec."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.contract import Asked, Attention, Memory, Read, hold, read, spread


class FixedAttention(Attention):
    """All weight on the last permitted key, for every query: c_i = h_S.

    The baseline that attention is measured against, under the same contract as attention.
    """

    contract_exceptions: ClassVar[dict[str, str]] = {
        "weights follow the input": "the last key, whatever queries and keys hold",
        "every permitted key is reached": "the last key alone is read",
        "keys are exchangeable": "which key is the last is a matter of positions",
    }

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
    ) -> Memory:
        """Nothing to project."""
        keys, values = hold(keys, values, mask)
        return Memory(keys, values, spread(mask, keys))

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Int[Array, "B T"] | None = None,
        return_weights: Asked = False,
    ) -> Read:
        """Read a prepared memory; the query is ignored."""
        batch, length = memory.values.shape[:2]
        shape = (batch, 1, query.shape[1], length)
        mask = (
            jnp.ones(shape, bool) if memory.mask is None else jnp.broadcast_to(memory.mask, shape)
        )
        index = jnp.where(mask, jnp.arange(length)[None, None, None, :], -1)
        # one_hot(-1) is a row of zeros: a row that may attend nowhere.
        weights = jax.nn.one_hot(jnp.max(index, axis=-1), length, dtype=jnp.float32)
        return read(weights, memory, return_weights)

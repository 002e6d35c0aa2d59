"""No attention: the fixed-vector baseline of Cho et al. 2014 (arXiv 1406.1078), RNNencdec."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.contract import (
    Asked,
    Attention,
    Memory,
    Positions,
    Read,
    Site,
    hold,
    spread,
)
from attnzoo.config.attention import NoAttention


class FixedAttention(Attention):
    """All weight on the last permitted key, for every query: c_i = h_S.

    The baseline that attention is measured against, under the same contract as attention.
    """

    contract_exceptions: ClassVar[dict[str, str]] = {
        "weights follow the input": "the last key, whatever queries and keys hold",
        "every permitted key is reached": "the last key alone is read",
        "keys are exchangeable": "which key is the last is a matter of positions",
    }
    supports = frozenset()

    @classmethod
    def from_config(cls, config: NoAttention, site: Site, *, rngs: nnx.Rngs) -> "FixedAttention":
        """See ``Attention``: there is nothing to choose."""
        return cls()

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        positions: Int[Array, "#B S"] | None = None,
    ) -> Memory:
        """Nothing to project."""
        keys, values = hold(keys, values, mask)
        return Memory(keys, values, spread(mask, keys))

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: Asked = False,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Read:
        """See ``Attention``; the query is ignored."""
        batch, length = memory.values.shape[:2]
        shape = (batch, 1, query.shape[1], length)
        mask = (
            jnp.ones(shape, bool) if memory.mask is None else jnp.broadcast_to(memory.mask, shape)
        )
        index = jnp.where(mask, jnp.arange(length, dtype=jnp.int32)[None, None, None, :], -1)
        # one_hot(-1) is a row of zeros: a row that may attend nowhere.
        weights = jax.nn.one_hot(jnp.max(index, axis=-1), length, dtype=jnp.float32)
        return self.read(weights, memory, mask, return_weights, dropout_key)

"""No attention: the fixed-vector baseline of Cho et al. 2014 (arXiv 1406.1078), RNNencdec."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.attention.contract import Attention, Memory, Positions
from attnzoo.attention.facts import Facts


class FixedAttention(Attention):
    """All weight on the last permitted key, for every query: c_i = h_S, a baseline."""

    facts = Facts(
        paper="Cho et al. 2014",
        score="none: the last key",
        distribution="one-hot",
        softness="hard",
        inputs=("distinctive",),
        time="T S D",
        memory="T S",
        state="S D",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        "weights follow the input": "the last key, whatever queries and keys hold",
        "every permitted key is reached": "the last key alone is read",
        "keys are exchangeable": "which key is the last is a matter of positions",
    }
    counts_positions = True
    supports = frozenset()

    def weigh(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None
    ) -> tuple[Float[Array, "B N T S"], Bool[Array, "#B #N #T #S"] | None]:
        """Return weight 1 on the last permitted key; the query is ignored."""
        batch, length = memory.values.shape[:2]
        shape = (batch, 1, query.shape[1], length)
        mask = (
            jnp.ones(shape, bool) if memory.mask is None else jnp.broadcast_to(memory.mask, shape)
        )
        places = memory.positions
        if places is None:
            places = jnp.arange(length, dtype=jnp.int32)[None]
        seen = jnp.where(mask, places[:, None, None, :], -1)
        last = mask & (seen == jnp.max(seen, axis=-1, keepdims=True, initial=-1))
        return last.astype(jnp.float32), mask

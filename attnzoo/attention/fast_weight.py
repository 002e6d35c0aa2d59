"""Fast weights: attention over one's own past as a matrix that is written, read and carried on.

Schmidhuber 1991/1992; Schlag et al. 2021. Here are the interface of the family and the delta-rule
programmer; ``linear``, ``delta_net`` and ``gated_linear`` have its other members.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.contract import Asked, Attention, Memory, answer, hold, spread
from attnzoo.attention.projection import Projection, divided, split_heads
from attnzoo.ops.linear import delta_rule, dpfp
from attnzoo.ops.linear.fast_weights import Form

SIGNED = "the weights are those of an unnormalised recurrence"
PROJECTED = {
    "a mask for each query": "a memory of all keys has no mask of pairs",
    "weights times values": "values are projected before they are weighed, and the result",
    "convex hull": "the hull is that of projected values, before the result is projected",
}


class State(NamedTuple):
    """All that is kept of the past, of constant size: a value, passed in and out."""

    memory: Float[Array, "B N H Hv"]
    """The fast weights, float32 or wider."""
    recent: tuple[Float[Array, "B W F"], ...]
    """The last inputs of each short convolution; none where there is no convolution."""
    length: Int[Array, " B"]
    """Positions so far."""


class FastWeights(Attention):
    """The interface of causal attention with a recurrent memory.

    Query i reads what keys 0 .. i have written, so T = S, and a mask may only say which positions
    are real (``valid[:, None, None, :]``). ``form`` is "chunked" (for training), "parallel" (``T x
    T``) or "recurrent"; they agree up to rounding. To decode, start with ``return_state=True`` and
    pass the ``state`` on; a prompt that is continued must not be padded on the right.
    """

    def empty_state(self, batch: int) -> State:
        """The state before the first position."""
        raise NotImplementedError(f"{type(self).__name__}.empty_state")

    def recur(
        self,
        query: Float[Array, "B T D"],
        keys: Float[Array, "B T D2"],
        values: Float[Array, "B T Dv"],
        mask: Bool[Array, "#B #N 1 T"] | None,
        state: State,
        form: Form,
        return_weights: bool,
    ) -> tuple[Float[Array, "B T Do"], Float[Array, "B N T T"] | None, State]:
        """Output, implied weights (None if not asked for) and the state after the last position."""
        raise NotImplementedError(f"{type(self).__name__}.recur")

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
    ) -> Memory:
        """Nothing can be done before the queries are there: each reads another memory."""
        keys, values = hold(keys, values, mask)
        return Memory(keys, values, spread(mask, keys))

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Int[Array, "B T"] | None = None,
        return_weights: Asked = False,
        form: Form = "chunked",
        state: State | None = None,
        return_state: bool = False,
    ) -> Any:
        """Read a prepared memory; (context, weights, state) without those not asked for."""
        T, S = query.shape[1], memory.keys.shape[1]
        if positions is not None:
            raise NotImplementedError(
                "positions is not None; a recurrent memory is read in order, wanted T = S queries"
            )
        if T != S:
            raise ValueError(
                f"query has length T={T} and keys have S={S}; {type(self).__name__} is causal: "
                "query i reads what keys 0 .. i have written"
            )
        if state is not None and return_weights:
            raise ValueError(
                "return_weights with a state: a state does not know the keys that it was made of"
            )
        state = self.empty_state(query.shape[0]) if state is None else state
        context, weights, state = self.recur(
            query, memory.keys, memory.values, memory.mask, state, form, bool(return_weights)
        )
        result = context if weights is None else answer(context, weights, return_weights)
        if not return_state:
            return result
        return (*result, state) if return_weights else (result, state)

    def __call__(
        self,
        query: Float[Array, "B T D"],
        keys: Float[Array, "B S D2"],
        values: Float[Array, "B S Dv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        return_weights: Asked = False,
        form: Form = "chunked",
        state: State | None = None,
        return_state: bool = False,
    ) -> Any:
        """See ``Attention``; what else comes back is in the order (context, weights, state)."""
        return self.attend(
            query,
            self.prepare(keys, values, mask=mask),
            return_weights=return_weights,
            form=form,
            state=state,
            return_state=return_state,
        )


class FastWeightProgrammer(FastWeights):
    """The delta rule on DPFP features (Schlag, Irie and Schmidhuber 2021, arXiv 2102.11174, §4.2).

        [q, k, v, beta] = W x per head, beta through a sigmoid;  M += phi(k)^T beta (v - phi(k) M)

    with features that sum to one, o = phi(q) M / sqrt(H) as in their language model, no
    denominator. The implied weights may be negative and do not sum to one.

    Args:
      nu: 2 H nu features per head.
    """

    contract_exceptions: ClassVar[dict[str, str]] = {
        **PROJECTED,
        "rows sum to one": SIGNED,
        "weights are not negative": "what is written later erases what was written before",
        "every permitted key is reached": "features are sparse: those of two keys may not overlap",
    }

    def __init__(self, dim: int, num_heads: int, *, nu: int = 1, rngs: nnx.Rngs):
        self.num_heads, self.head_dim = num_heads, divided("dim", dim, "num_heads", num_heads)
        if not 1 <= nu < 2 * self.head_dim:
            raise ValueError(
                f"nu={nu}; wanted 1 <= nu < {2 * self.head_dim}, twice the head's width"
            )
        self.nu = nu
        self.query, self.key, self.value, self.out = (
            Projection(dim, dim, rngs=rngs) for _ in range(4)
        )
        self.strength = Projection(dim, num_heads, rngs=rngs)

    def empty_state(self, batch: int) -> State:
        """No associations."""
        return empty_memory(batch, self.num_heads, 2 * self.head_dim * self.nu, self.head_dim)

    def recur(
        self,
        query: Float[Array, "B T D"],
        keys: Float[Array, "B T D2"],
        values: Float[Array, "B T Dv"],
        mask: Bool[Array, "#B #N 1 T"] | None,
        state: State,
        form: Form,
        return_weights: bool,
    ) -> tuple[Float[Array, "B T Do"], Float[Array, "B N T T"] | None, State]:
        """See ``FastWeights``."""
        q, k, v = (
            split_heads(part(x), self.num_heads)
            for part, x in ((self.query, query), (self.key, keys), (self.value, values))
        )
        scale = self.head_dim**-0.5
        found = delta_rule(
            q,
            k,
            v,
            jax.nn.sigmoid(self.strength(keys)),
            feature_map=lambda x: dpfp(x, self.nu),
            mask=mask,
            form=form,
            initial_state=state.memory,
            return_weights=return_weights,
            return_state=True,
        )
        out, weights, state = unpack(found, state, query.shape[1])
        weights = None if weights is None else scale * weights
        return self.out(scale * join_heads(out)), weights, state


def unpack(
    found: tuple[Array, ...], state: State, T: int, recent: tuple[Array, ...] = ()
) -> tuple[Array, Array | None, State]:
    """(out, weights or None, the next state) of what a function of ``ops.linear`` returned."""
    out, *weights, memory = found
    return out, weights[0] if weights else None, State(memory, recent, state.length + T)


def join_heads(x: Float[Array, "B T N H"]) -> Float[Array, "B T F"]:
    """Lay the heads side by side."""
    return x.reshape(*x.shape[:2], -1)


def empty_memory(batch: int, num_heads: int, features: int, width: int) -> State:
    """A state of zeros, without convolutions."""
    memory = jnp.zeros((batch, num_heads, features, width), jnp.float32)
    return State(memory, (), jnp.zeros((batch,), jnp.int32))

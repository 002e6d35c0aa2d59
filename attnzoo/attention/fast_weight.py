"""Fast weights: causal attention with a matrix-valued recurrent state.

Schmidhuber 1991/1992; Schlag et al. 2021. This module has the interface of the family and the
delta-rule programmer; the others are in ``linear``, ``delta_net`` and ``gated_linear``.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.cache import Kind
from attnzoo.attention.contract import Attention, Memory, Positions, ReturnWeights
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Projection, exact_quotient, join_heads, split_heads
from attnzoo.ops.linear import delta_rule, dpfp
from attnzoo.ops.linear.fast_weights import Form
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.weights import with_weights

SIGNED = "the weights are those of an unnormalised recurrence"
PROJECTED = {
    "a mask for each query": "a memory of all keys has no mask of pairs",
    "weights times values": "values are projected before they are weighed, and the result",
    "convex hull": "the hull is that of projected values, before the result is projected",
}
RECURRENT = {**PROJECTED, "positions are places": "a recurrent memory is read in order"}


class State(NamedTuple):
    """Recurrent state of constant size: a value, passed in and out."""

    memory: Float[Array, "B N H Hv"]
    """Fast weight matrices, float32 or wider."""
    recent: tuple[Float[Array, "B W F"], ...]
    """Last inputs of each short convolution; empty if there is no convolution."""
    length: Int[Array, " B"]
    """Number of positions so far."""


class RecurrenceInputs(NamedTuple):
    """Inputs of a recurrence: queries, keys and values of the same positions, and the state."""

    query: Float[Array, "B T D"]
    keys: Float[Array, "B T D2"]
    values: Float[Array, "B T Dv"]
    mask: Bool[Array, "#B #N 1 T"] | None
    state: State
    form: Form | None
    return_weights: bool

    def heads(self, attention: Any) -> list[Float[Array, "B T N H"]]:
        """Return queries, keys and values per head, projected by the modules of ``attention``."""
        parts = (attention.query, self.query), (attention.key, self.keys)
        parts = (*parts, (attention.value, self.values))
        return [split_heads(part(x), attention.num_heads) for part, x in parts]

    def through(
        self,
        function: Callable[..., Any],
        *arrays: Any,
        recent: tuple[Array, ...] = (),
        **more: Any,
    ) -> tuple[Array, Array | None, State]:
        """Apply a function of ``ops.linear``; return output, weights or None, and next state."""
        out, *weights, memory = function(
            *arrays,
            mask=self.mask,
            form=self.form,
            initial_state=self.state.memory,
            return_weights=self.return_weights,
            return_state=True,
            **more,
        )
        state = State(memory, recent, self.state.length + self.query.shape[1])
        return out, weights[0] if weights else None, state


class FastWeights(Attention):
    """Interface of causal attention with a recurrent state.

    Query i reads what keys 0 .. i have written, so T = S, and a mask may only mark padding
    (``valid[:, None, None, :]``). ``form`` is "chunked" (for training), "parallel" (``T x T``),
    "recurrent" or None, which takes the faster one; they agree up to rounding. To decode, start
    with ``return_state=True`` and pass ``state`` to the next call; a prompt must not be padded on
    the right. ``positions`` have no effect: the order of the sequence counts.
    """

    is_recurrent = True
    takes_perturbation = False
    supports = frozenset()

    def self_mask(
        self,
        x: Float[Array, "B T D"],
        *,
        is_causal: bool,
        valid: Bool[Array, "B T"] | None,
        mask: MaskFunction | None,
    ) -> Bool[Array, "B 1 1 T"] | None:
        """Return the padding mask; NotImplementedError if any other mask is given."""
        if mask is not None:
            raise NotImplementedError(
                f"mask={mask!r}: {type(self).__name__} has one memory of the whole row; "
                "packed documents want attention.kind=multi_head, or training without packing"
            )
        return None if valid is None else valid[:, None, None, :]

    def empty_cache(
        self, batch: int, max_length: int, dtype: Any = jnp.float32, cache: Kind = "plain"
    ) -> State:
        """Return the state before the first position; a state serves any length."""
        self.check_plain(cache)
        return self.empty_state(batch)

    def decode(
        self,
        query: Float[Array, "B T D"],
        cache: State,
        *,
        mask: Bool[Array, "#B #N #T #L"] | None = None,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
    ) -> tuple[Any, State]:
        """Run the recurrence over T positions; NotImplementedError if weights are requested."""
        if return_weights:
            raise NotImplementedError(
                f"return_weights: the state of {type(self).__name__} does not know the keys that "
                "it was made of; wanted a call on the whole sequence"
            )
        T = query.shape[1]
        if mask is not None:
            slots = cache.length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
            valid = jnp.broadcast_to(mask, (query.shape[0], 1, 1, mask.shape[3]))[:, 0, 0]
            mask = jnp.take_along_axis(valid, slots, axis=1, mode="clip")[:, None, None, :]
        form = "recurrent" if T == 1 else None
        return self(query, query, mask=mask, state=cache, form=form, return_state=True)

    def extend(
        self, query: Float[Array, "B T D"], memory: Memory, past: Any, **reading: Any
    ) -> tuple[Any, Any]:
        """Raise NotImplementedError: use :meth:`decode`, because each query reads another state."""
        raise NotImplementedError(
            f"extend: {type(self).__name__} is causal and reads its own past; wanted decode"
        )

    def empty_state(self, batch: int) -> State:
        """Return the state before the first position."""
        raise NotImplementedError(f"{type(self).__name__}.empty_state")

    def recur(self, given: "RecurrenceInputs") -> tuple[Array, Array | None, State]:
        """Return the output, the implied weights (None if not requested) and the last state."""
        raise NotImplementedError(f"{type(self).__name__}.recur")

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
        form: Form | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> Any:
        """Run the recurrence over a memory; also return weights and last state if requested."""
        T, S = query.shape[1], memory.keys.shape[1]
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
        asked = bool(return_weights)
        given = RecurrenceInputs(query, memory.keys, memory.values, memory.mask, state, form, asked)
        context, weights, state = self.recur(given)
        result = context if weights is None else with_weights(context, weights, return_weights)
        if not return_state:
            return result
        return (*result, state) if return_weights else (result, state)


class FastWeightProgrammer(FastWeights):
    """The delta rule on DPFP features (Schlag, Irie and Schmidhuber 2021, arXiv 2102.11174, §4.2).

        [q, k, v, beta] = W x per head, beta through a sigmoid;  M += phi(k)^T beta (v - phi(k) M)

    The 2 H ``nu`` features per head sum to one. The output is o = phi(q) M / sqrt(H), without a
    denominator, as in the paper's language model: implied weights may be negative.
    """

    facts = Facts(
        paper="Schlag et al. 2021",
        score="φ(q) · φ(k) after the delta rule",
        distribution="none: signed",
        inputs=("self",),
        output="multi-head",
        causal="recurrence",
        time="T D ν H",
        memory="T D ν",
        state="2 ν D H",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        **RECURRENT,
        "rows sum to one": SIGNED,
        "weights are not negative": "what is written later erases what was written before",
        "every permitted key is reached": "features are sparse: those of two keys may not overlap",
    }

    def __init__(self, dim: int, num_heads: int, *, nu: int = 1, rngs: nnx.Rngs):
        self.dim, self.num_heads = dim, num_heads
        self.head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
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
        """Return a zero state."""
        return empty_memory(batch, self.num_heads, 2 * self.head_dim * self.nu, self.head_dim)

    def recur(self, given: RecurrenceInputs) -> tuple[Array, Array | None, State]:
        """Apply the delta rule to a sequence from a given state (see ``FastWeights``)."""
        scale = self.head_dim**-0.5
        strength = jax.nn.sigmoid(self.strength(given.keys))
        features = lambda x: dpfp(x, self.nu)  # noqa: E731
        q, k, v = given.heads(self)
        out, weights, state = given.through(delta_rule, q, k, v, strength, feature_map=features)
        weights = None if weights is None else scale * weights
        return self.out(scale * join_heads(out)), weights, state


def empty_memory(batch: int, num_heads: int, features: int, width: int) -> State:
    """Return a state of zeros, without convolutions."""
    memory = jnp.zeros((batch, num_heads, features, width), jnp.float32)
    return State(memory, (), jnp.zeros((batch,), jnp.int32))

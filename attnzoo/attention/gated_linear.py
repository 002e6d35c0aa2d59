"""Linear attention with decay: gated linear attention (GLA) and retention (RetNet)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.facts import Facts
from attnzoo.attention.fast_weight import (
    RECURRENT,
    SIGNED,
    FastWeights,
    RecurrenceInputs,
    State,
    empty_memory,
)
from attnzoo.attention.projection import (
    Projection,
    RMSNorm,
    exact_quotient,
    join_heads,
    split_heads,
    standardise,
)
from attnzoo.ops.linear import gated_linear_attention, retention
from attnzoo.ops.rotary import Rotary
from attnzoo.ops.softmax import compute_dtype

ROTARY = Rotary()
EXCEPTIONS = {
    **RECURRENT,
    "rows sum to one": SIGNED,
    "weights are not negative": "q . k may be negative, and nothing makes it positive",
}


class GatedLinearAttention(FastWeights):
    """M_t = diag(alpha_t) M_{t-1} + k^T v, o = q M / sqrt(H)  (Yang et al. 2024, arXiv 2312.06635).

    Section 4.4: alpha = sigmoid(x W_1 W_2 + b)^(1/16) per key channel, with W_1 W_2 of ``rank`` 16.
    Heads are RMS-normed and multiplied by SiLU(x W_r) before W_o. ``key_width`` is the width of the
    keys of all heads together, half that of the values if None.
    """

    facts = Facts(
        paper="Yang et al. 2024",
        score="q · k times a learned decay of each feature",
        distribution="none: signed",
        inputs=("self",),
        output="multi-head",
        causal="recurrence",
        time="T D H",
        memory="T D",
        state="D H / 2",
    )

    contract_exceptions: ClassVar[dict[str, str]] = EXCEPTIONS

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        key_width: int | None = None,
        rank: int = 16,
        rngs: nnx.Rngs,
    ):
        key_width = dim // 2 if key_width is None else key_width
        self.dim, self.num_heads = dim, num_heads
        self.head_dim = exact_quotient("key_width", key_width, "num_heads", num_heads)
        self.value_head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        self.query, self.key = (Projection(dim, key_width, rngs=rngs) for _ in range(2))
        self.value, self.gate, self.out = (Projection(dim, dim, rngs=rngs) for _ in range(3))
        self.forget_down = Projection(dim, rank, rngs=rngs)
        self.forget_up = Projection(rank, key_width, use_bias=True, rngs=rngs)
        self.norm = RMSNorm(self.value_head_dim, rngs=rngs)

    def empty_state(self, batch: int) -> State:
        """Return a zero state."""
        return empty_memory(batch, self.num_heads, self.head_dim, self.value_head_dim)

    def recur(self, given: RecurrenceInputs) -> tuple[Array, Array | None, State]:
        """Apply gated linear attention to a sequence from a given state (see ``FastWeights``)."""
        forget = jax.nn.log_sigmoid(self.forget_up(self.forget_down(given.keys))) / 16
        q, k, v = given.heads(self)
        out, weights, state = given.through(
            gated_linear_attention, q, k, v, split_heads(forget, self.num_heads)
        )
        out = join_heads(self.norm(out)) * jax.nn.silu(self.gate(given.query))
        return self.out(out), weights, state


class RetNetAttention(FastWeights):
    """M_t = gamma_n M_{t-1} + k^T v with gamma_n = 1 - 2^(-5 - n)  (Sun et al. 2023, RetNet).

    arXiv 2307.08621, equations 6 to 8. Queries and keys get rotary embedding, without the decay of
    xPos, since gamma already decays. o = q M / sqrt(H); each head is normalised to mean 0 and
    variance 1, multiplied by SiLU(x W_G), and projected by W_O. ``value_width`` is that of all
    heads together; ``dim`` if None (2 dim in the paper).
    """

    facts = Facts(
        paper="Sun et al. 2023",
        score="q · k times γ to the distance",
        distribution="none: signed",
        inputs=("self",),
        output="multi-head",
        causal="recurrence",
        time="T D H",
        memory="T D",
        state="D H",
    )

    supports = frozenset({"rotary"})
    contract_exceptions: ClassVar[dict[str, str]] = EXCEPTIONS

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        value_width: int | None = None,
        rotary: Rotary | None = ROTARY,
        rngs: nnx.Rngs,
    ):
        value_width = dim if value_width is None else value_width
        self.dim, self.num_heads, self.rotary = dim, num_heads, rotary
        self.head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        self.value_head_dim = exact_quotient("value_width", value_width, "num_heads", num_heads)
        self.query, self.key = (Projection(dim, dim, rngs=rngs) for _ in range(2))
        self.value, self.gate = (Projection(dim, value_width, rngs=rngs) for _ in range(2))
        self.out = Projection(value_width, dim, rngs=rngs)

    def empty_state(self, batch: int) -> State:
        """Return a zero state."""
        return empty_memory(batch, self.num_heads, self.head_dim, self.value_head_dim)

    def decode(self, query: Float[Array, "B T D"], cache: State, **more: Any) -> tuple[Any, State]:
        """Run the recurrence over the next T positions (see ``FastWeights``)."""
        if self.rotary is not None:
            self.rotary.check_cache()
        return super().decode(query, cache, **more)

    def recur(self, given: RecurrenceInputs) -> tuple[Array, Array | None, State]:
        """Apply retention to a sequence from a given state (see ``FastWeights``)."""
        q, k, v = given.heads(self)
        if self.rotary is not None:
            T = given.query.shape[1]
            positions = given.state.length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
            q, k = self.rotary(q, positions, T), self.rotary(k, positions, T)
        out, weights, state = given.through(retention, q, k, v)
        out = standardise(out.astype(compute_dtype(out))).astype(out.dtype)
        out = join_heads(out) * jax.nn.silu(self.gate(given.query))
        return self.out(out), weights, state

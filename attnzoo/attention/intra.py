"""Attention over the past of a recurrent network: LSTMN, and intra-temporal attention."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.contract import Memory, Positions, ReturnWeights
from attnzoo.attention.facts import Facts
from attnzoo.attention.in_order import InOrderAttention
from attnzoo.attention.projection import Projection, cast_like
from attnzoo.module import Module
from attnzoo.ops.softmax import compute_dtype, masked_softmax
from attnzoo.ops.weights import with_weights


class LSTMN(Module):
    """LSTM that attends to all of its earlier states at every step (LSTMN).

    Cheng, Dong and Lapata, EMNLP 2016 (arXiv 1601.06733), section 3.1. For i < t:

        e_i = v . tanh(W_h h_i + W_x x_t + W_s h~_{t-1});   s = softmax(e)
        h~_t = sum_i s_i h_i;   c~_t = sum_i s_i c_i
        i, f, o, c^ = sigmoid, sigmoid, sigmoid, tanh of W [h~_t ; x_t] + b
        c_t = f * c~_t + i * c^;   h_t = o * tanh(c_t)

    The score uses the previous *summary* h~_{t-1}, not the previous state. At the first step
    weights, h~ and c~ are zero. The biases, 0 at first, are not in the paper. ``width`` is the
    hidden width of the score, ``hidden_dim`` if None. Steps are sequential; time, and memory for
    gradients, are O(S^2 (width + hidden_dim)).
    """

    facts = Facts(
        paper="Cheng et al. 2016",
        score="v · tanh(W h + U x + V h̃)",
        inputs=("self",),
        causal="recurrence",
        time="S² W, in order",
        memory="S² W",
        state="S (2 D + W)",
    )

    def __init__(
        self, input_dim: int, hidden_dim: int, width: int | None = None, *, rngs: nnx.Rngs
    ):
        width = hidden_dim if width is None else width
        self.hidden_dim = hidden_dim
        self.key = Projection(hidden_dim, width, rngs=rngs)  # W_h
        self.input = Projection(input_dim, width, rngs=rngs)  # W_x
        self.summary = Projection(hidden_dim, width, rngs=rngs)  # W_s
        self.score = Projection(width, 1, rngs=rngs)  # v
        self.gate_input = Projection(input_dim, 4 * hidden_dim, use_bias=True, rngs=rngs)
        self.gate_summary = Projection(hidden_dim, 4 * hidden_dim, rngs=rngs)

    def __call__(
        self,
        inputs: Float[Array, "B S D"],
        valid: Bool[Array, "B S"] | None = None,
        *,
        return_weights: ReturnWeights = False,
    ) -> Any:
        """Return the states h_t of all steps, ``B S F`` with ``F = hidden_dim``.

        States are zero at padding (where ``valid`` is False), which no step reads.
        ``return_weights`` adds the weights ``B 1 S S``, zero on and above the diagonal, or a report
        of them.
        """
        batch, length = inputs.shape[:2]
        valid = jnp.ones((batch, length), bool) if valid is None else valid
        inputs = jnp.where(valid[:, :, None], inputs, jnp.zeros_like(inputs))
        tape = jnp.zeros((batch, length, self.hidden_dim), inputs.dtype)
        summary = jnp.zeros((batch, self.hidden_dim), inputs.dtype)
        initial = (tape, tape, self.key(tape), summary)
        steps = (
            jnp.arange(length),
            valid.T,
            jnp.swapaxes(self.input(inputs), 0, 1),
            jnp.swapaxes(self.gate_input(inputs), 0, 1),
        )

        def step(carry, step):
            states, cells, keys, summary = carry
            t, alive, scored, gated = step
            hidden = jnp.tanh(keys + (scored + self.summary(summary))[:, None])
            logits = self.score(hidden)[:, :, 0]
            readable = valid & (jnp.arange(length) < t)[None] & alive[:, None]
            weights = masked_softmax(logits, readable)
            share = weights.astype(inputs.dtype)
            new_summary = jnp.einsum("bs,bsd->bd", share, states)
            memory = jnp.einsum("bs,bsd->bd", share, cells)
            gates = gated + self.gate_summary(new_summary)
            entry, forget, output, candidate = jnp.split(gates, 4, axis=-1)
            cell = jax.nn.sigmoid(forget) * memory + jax.nn.sigmoid(entry) * jnp.tanh(candidate)
            state = jax.nn.sigmoid(output) * jnp.tanh(cell)
            state = jnp.where(alive[:, None], state, jnp.zeros_like(state))
            carry = (
                states.at[:, t].set(state),
                cells.at[:, t].set(cell),
                keys.at[:, t].set(self.key(state)),
                jnp.where(alive[:, None], new_summary, summary),
            )
            return carry, weights if return_weights else None

        (states, *_), weights = jax.lax.scan(step, initial, steps)
        if weights is None:
            return states
        return with_weights(states, jnp.swapaxes(weights, 0, 1)[:, None], return_weights)


class IntraTemporalAttention(InOrderAttention):
    """Bilinear attention that penalises keys which earlier queries have attended to.

    Paulus, Xiong and Socher, ICLR 2018 (arXiv 1705.04304), equations 1 to 5:

        e_ti = q_t . W k_i;   e'_ti = exp(e_ti) / sum_{j < t} exp(e_ji)  (exp(e_1i) for t = 1)
        weights_ti = e'_ti / sum_i e'_ti

    The sum over j has only the queries that may attend to key i. One head, weights ``B 1 T S``; the
    order of the queries matters. A decoder calls ``extend`` and passes the past on.
    """

    facts = Facts(
        paper="Paulus et al. 2018",
        score="q · W k",
        distribution="exponentials over their sum at earlier queries",
        inputs=("distinctive",),
        time="T S D",
        memory="T S",
        state="2 S D + S",
    )

    def __init__(self, query_dim: int, key_dim: int, *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.dropout = dropout
        glorot = jax.nn.initializers.glorot_uniform()
        self.kernel = nnx.Param(glorot(rngs.params(), (query_dim, key_dim), jnp.float32))

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.kernel.shape[0], self.kernel.shape[1], None

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Return W k_i of every key."""
        return keys @ cast_like(self.kernel, keys).T

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B 1 T S"]:
        """Return e_ti, before division by the past, in float32."""
        logits = jnp.einsum("btd,bsd->bts", query, memory.keys)[:, None]
        return logits.astype(compute_dtype(logits))

    def empty_past(self, memory: Memory) -> Float[Array, "B S"]:
        """Return the log of an empty sum for every key: -1e30, a finite stand-in for -inf."""
        return jnp.full(memory.keys.shape[:2], NOTHING, compute_dtype(memory.keys))

    def after(
        self, query: Float[Array, "B T D"], memory: Memory, past: Float[Array, "B S"]
    ) -> tuple[Float[Array, "B 1 T S"], Bool[Array, "B 1 T S"], Float[Array, "B S"]]:
        """Return weights, visible keys and the past, log sum_{j < t} exp(e_ji) of each key."""
        logits = self.scores(query, memory)
        seen = self.seen(memory, logits.shape[2])
        # Finite, so that a key no query has attended to yet has finite gradients; replaced below.
        hidden = jnp.where(seen, logits, NOTHING)
        # Row t: sum over the past and the queries before t.
        read = jax.lax.cumlogsumexp(jnp.concatenate([past[:, None, None], hidden], 2), axis=2)
        weights = masked_softmax(logits - _no_past_is_one(read[:, :, :-1]), seen)
        return weights, seen, read[:, 0, -1]


NOTHING = -1e30


def _no_past_is_one(past: Float[Array, "B 1 T S"]) -> Float[Array, "B 1 T S"]:
    """Return the logarithm of the past, or 0 where there is none: then e' = exp(e)."""
    return jnp.where(past > -1e29, past, jnp.zeros_like(past))

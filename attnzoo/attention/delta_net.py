"""DeltaNet and Gated DeltaNet: the delta rule with short convolutions and optional decay."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.facts import Facts
from attnzoo.attention.fast_weight import (
    RECURRENT,
    SIGNED,
    FastWeights,
    RecurrenceInputs,
    State,
)
from attnzoo.attention.projection import (
    Projection,
    RMSNorm,
    cast_like,
    exact_quotient,
    join_heads,
    split_heads,
)
from attnzoo.module import Module
from attnzoo.ops.linear import delta_net
from attnzoo.ops.softmax import compute_dtype, zero_unattended


class ShortConvolution(Module):
    """Depthwise causal convolution in float32 or wider; the last tap is the current position.

    ``recent`` are the ``width - 1`` inputs before x, zeros at the start of a sequence. Positions
    hidden by ``mask`` count as zeros for later ones, so padding on the left has no effect.
    """

    def __init__(self, channels: int, width: int, *, rngs: nnx.Rngs):
        if width < 1:
            raise ValueError(f"conv_width={width}; wanted at least 1")
        bound = width**-0.5
        self.kernel = nnx.Param(
            jax.random.uniform(rngs.params(), (width, channels), jnp.float32, -bound, bound)
        )

    def __call__(
        self,
        x: Float[Array, "B T F"],
        recent: Float[Array, "B W F"],
        mask: Bool[Array, "#B #N 1 T"] | None,
    ) -> tuple[Float[Array, "B T F"], Float[Array, "B W F"]]:
        """Return the convolution, and the last ``width - 1`` inputs for the next call."""
        T, x = x.shape[1], x.astype(compute_dtype(x))
        kernel = cast_like(self.kernel, x)[:, None, None]
        known = jnp.concatenate([recent.astype(x.dtype), zero_unattended(x, mask)], axis=1)
        past = (known[:, i : i + T] * kernel[i] for i in range(kernel.shape[0] - 1))
        return sum(past, x * kernel[-1]), known[:, T:].astype(recent.dtype)


class DeltaNet(FastWeights):
    """M_t = (I - beta k^T k) M_{t-1} + beta k^T v, o = q M / sqrt(H)  (arXiv 2406.06484, §2.2).

    Yang et al. 2024: q, k and v are SiLU(conv(W x)), q and k are normalised to length 1, and beta =
    sigmoid(W x). The output of each head is RMS-normed before W_o.

    ``gated=True`` gives Gated DeltaNet (Yang, Kautz and Hatamizadeh 2025, arXiv 2412.06464, eq.
    10): the memory first decays by e^g, g = -e^A softplus(w . x + dt) per head, and the normed
    output is multiplied by SiLU(W_g x). A starts at ln U(1, 16); dt starts so that softplus(dt) is
    log-uniform between 0.001 and 0.1.

    Args:
      head_dim, value_head_dim: H and Hv; ``dim / num_heads`` and H if None.
      conv_width: taps of the convolutions, 4 in the papers.
      max_beta: 1, or 2 for negative eigenvalues of I - beta k^T k.
    """

    facts = Facts(
        paper="Yang et al. 2024",
        score="q · k of length 1 after the delta rule",
        distribution="none: signed",
        inputs=("self",),
        output="multi-head",
        causal="recurrence",
        time="T D H",
        memory="T D",
        state="D H + 9 D",
    )

    contract_exceptions: ClassVar[dict[str, str]] = {
        **RECURRENT,
        "weights explain the context": "values pass a convolution over positions first",
        "rows sum to one": SIGNED,
        "weights are not negative": "what is written later erases what was written before",
    }

    gate_activation = staticmethod(jax.nn.silu)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        gated: bool = False,
        head_dim: int | None = None,
        value_head_dim: int | None = None,
        conv_width: int = 4,
        max_beta: float = 1.0,
        rngs: nnx.Rngs,
    ):
        if head_dim is None:
            head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        value_head_dim = head_dim if value_head_dim is None else value_head_dim
        if not 0 < max_beta <= 2:
            raise ValueError(
                f"max_beta={max_beta}; wanted 0 < max_beta <= 2, or the memory explodes"
            )
        self.dim, self.num_heads = dim, num_heads
        self.head_dim, self.value_head_dim = head_dim, value_head_dim
        self.conv_width, self.max_beta = conv_width, max_beta
        width, value_width = num_heads * head_dim, num_heads * value_head_dim
        self.query, self.key = (Projection(dim, width, rngs=rngs) for _ in range(2))
        self.value = Projection(dim, value_width, rngs=rngs)
        self.query_conv, self.key_conv, self.value_conv = (
            ShortConvolution(channels, conv_width, rngs=rngs)
            for channels in (width, width, value_width)
        )
        self.strength = Projection(dim, num_heads, rngs=rngs)
        self.norm = RMSNorm(value_head_dim, rngs=rngs)
        self.out = Projection(value_width, dim, rngs=rngs)
        if gated:
            self.decay, self.gate = self.build_gates(rngs)
        else:
            self.decay, self.gate = None, None

    def build_gates(self, rngs: nnx.Rngs) -> tuple[Any, Any]:
        """Return the modules for the log-decay of the memory and for the gate of the output."""
        dim = self.query.in_dim
        decay = Decay(dim, self.num_heads, rngs=rngs)
        return decay, Projection(dim, self.num_heads * self.value_head_dim, rngs=rngs)

    def empty_state(self, batch: int) -> State:
        """Return a zero state, with zeros as the inputs before the convolutions."""
        N, H, Hv = self.num_heads, self.head_dim, self.value_head_dim
        zeros = jnp.zeros((batch, N, H, Hv), jnp.float32)
        widths = (N * H, N * H, N * Hv)
        recent = tuple(jnp.zeros((batch, self.conv_width - 1, F), jnp.float32) for F in widths)
        return State(zeros, recent, jnp.zeros((batch,), jnp.int32))

    def recur(self, given: RecurrenceInputs) -> tuple[Array, Array | None, State]:
        """Apply the delta rule to a sequence from a given state (see ``FastWeights``)."""
        query, keys, mask, recent = given.query, given.keys, given.mask, given.state.recent
        q, recent_q = self.query_conv(self.query(query), recent[0], mask)
        k, recent_k = self.key_conv(self.key(keys), recent[1], mask)
        v, recent_v = self.value_conv(self.value(given.values), recent[2], mask)
        q, k, v = (split_heads(jax.nn.silu(x), self.num_heads) for x in (q, k, v))
        out, weights, state = given.through(
            delta_net,
            q,
            k,
            v,
            self.max_beta * jax.nn.sigmoid(self.strength(keys)),
            log_decay=None if self.decay is None else self.decay(keys),
            scale=self.head_dim**-0.5,
            recent=(recent_q, recent_k, recent_v),
        )
        out = join_heads(self.norm(out)).astype(query.dtype)
        if self.gate is not None:
            out = out * self.gate_activation(self.gate(query))
        return self.out(out), weights, state


class Decay(Module):
    """Log-decay of each head, g = -e^A softplus(w . x + dt) (the parametrisation of Mamba-2)."""

    def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs):
        self.projection = Projection(dim, num_heads, rngs=rngs)
        self.rate = nnx.Param(draw_rates(num_heads, rngs))
        self.bias = nnx.Param(draw_steps(num_heads, rngs))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T N"]:
        step = self.projection(x) + cast_like(self.bias, x)[None, None]
        return -jnp.exp(cast_like(self.rate, x))[None, None] * jax.nn.softplus(step)


def draw_rates(width: int, rngs: nnx.Rngs) -> Float[Array, " N"]:
    """Return ln U(1, 16), the logarithms of rates of decay."""
    return jnp.log(jax.random.uniform(rngs.params(), (width,), jnp.float32, 1.0, 16.0))


def draw_steps(width: int, rngs: nnx.Rngs) -> Float[Array, " N"]:
    """Return biases whose softplus is log-uniform between 0.001 and 0.1."""
    low, high = jnp.log(1e-3), jnp.log(0.1)
    step = jax.random.uniform(rngs.params(), (width,), jnp.float32, low, high)
    return jnp.log(jnp.expm1(jnp.exp(step)))

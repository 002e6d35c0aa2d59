"""Kimi Delta Attention (KDA): the delta rule with a decay of each key channel."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.delta_net import DeltaNet, draw_rates, draw_steps
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Projection, cast_like, split_heads
from attnzoo.module import Module


class KimiDeltaAttention(DeltaNet):
    """M_t = (I - beta k^T k) diag(alpha_t) M_{t-1} + beta k^T v, o = q M / sqrt(H)  (KDA).

    Kimi Linear (Kimi Team 2025, arXiv 2510.26692, equation 1 and section 4): :class:`DeltaNet`
    whose memory decays by alpha = e^g, g = -e^A softplus(x W_1 W_2 + dt), one factor per key
    channel, with A per head. The RMS-normed output of the heads is multiplied by sigmoid(x W_3 W_4
    + b) before W_o.

    Args:
      head_dim, value_head_dim: H and Hv; ``dim / num_heads`` and H if None.
      rank: width between W_1 and W_2, and between W_3 and W_4; Hv if None, as in the paper.
      conv_width: taps of the convolutions, 4 in the paper.
      max_beta: 1, or 2 for negative eigenvalues of I - beta k^T k.
    """

    facts = Facts(
        paper="Kimi Team 2025",
        score="q · k of length 1 after the delta rule, times a learned decay of each channel",
        distribution="none: signed",
        inputs=("self",),
        output="multi-head",
        causal="recurrence",
        time="T D H",
        memory="T D",
        state="D H + 9 D",
    )

    gate_activation = staticmethod(jax.nn.sigmoid)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        value_head_dim: int | None = None,
        rank: int | None = None,
        conv_width: int = 4,
        max_beta: float = 1.0,
        rngs: nnx.Rngs,
    ):
        self.rank = rank
        super().__init__(
            dim,
            num_heads,
            gated=True,
            head_dim=head_dim,
            value_head_dim=value_head_dim,
            conv_width=conv_width,
            max_beta=max_beta,
            rngs=rngs,
        )

    def build_gates(self, rngs: nnx.Rngs) -> tuple[Any, Any]:
        """Return the modules for the log-decay of the channels and for the gate of the output."""
        dim, N = self.query.in_dim, self.num_heads
        rank = self.value_head_dim if self.rank is None else self.rank
        if rank < 1:
            raise ValueError(f"rank={rank}; wanted 1 or more")
        decay = ChannelDecay(dim, N, self.head_dim, rank, rngs=rngs)
        return decay, LowRank(dim, rank, N * self.value_head_dim, use_bias=True, rngs=rngs)


class LowRank(Module):
    """Product of two projections, x W_1 W_2, with a bias if ``use_bias``."""

    def __init__(self, dim: int, rank: int, out: int, *, use_bias: bool = False, rngs: nnx.Rngs):
        self.down = Projection(dim, rank, rngs=rngs)
        self.up = Projection(rank, out, use_bias=use_bias, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
        return self.up(self.down(x))


class ChannelDecay(Module):
    """Log-decay of each key channel, g = -e^A softplus(x W_1 W_2 + dt), with A per head."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, rank: int, *, rngs: nnx.Rngs):
        self.projection = LowRank(dim, rank, num_heads * head_dim, rngs=rngs)
        self.rate = nnx.Param(draw_rates(num_heads, rngs))
        self.bias = nnx.Param(draw_steps(num_heads * head_dim, rngs))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T N H"]:
        step = self.projection(x) + cast_like(self.bias, x)[None, None]
        rate = jnp.exp(cast_like(self.rate, x))[None, None, :, None]
        return -rate * split_heads(jax.nn.softplus(step), rate.shape[2])

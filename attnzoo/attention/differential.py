"""Differential attention: the difference of two softmaxes, which cancels what both see."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnzoo.attention.contract import Site
from attnzoo.attention.facts import Facts
from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import (
    Initializer,
    RMSNorm,
    cast_like,
    exact_quotient,
    glorot_uniform,
)
from attnzoo.ops.dot_product import dot_product_attention
from attnzoo.ops.logits import ScoreFunction
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.rotary import GridRotary, Rotary
from attnzoo.ops.weights import WeightRequest, with_weights


class DifferentialAttention(MultiHeadAttention):
    """(softmax(q1 k1^T / sqrt(H)) - lambda softmax(q2 k2^T / sqrt(H))) v per head, normed.

    Ye et al. 2024 (Differential Transformer, arXiv 2410.05258, equations 1 to 3). A head has two
    queries and two keys of width H, and one value of width 2 H. lambda = exp(a . b) - exp(c . d) +
    lambda_init is one number for all heads, with vectors a, b, c, d of width H, N(0, 0.1^2) at the
    start. The context of each head is RMS-normed and multiplied by 1 - lambda_init before W_o.
    Weights may be negative, and rows sum to 1 - lambda.

    Args:
      num_heads: N, half the number of softmaxes. num_kv_heads: K, ``num_heads`` if None.
      head_dim: H; ``dim / (2 num_heads)`` if None.
      lambda_init: a constant, or None for 0.8 - 0.6 e^(-0.3 l) in layer l = 0, 1, ... of a stack.
      head_norm: constructor of the norm of width 2 H of the contexts.
      others: as in ``MultiHeadAttention``.
    """

    facts = Facts(
        paper="Ye et al. 2024",
        score="q · k / √H, twice",
        distribution="difference of two softmaxes: signed",
        output="multi-head",
        causal="mask",
        time="T S D",
        memory="N T S",
        state="4 S K H",
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        out_dim: int | None = None,
        use_bias: bool = False,
        out_bias: bool | None = None,
        kernel_init: Initializer = glorot_uniform,
        out_init: Initializer = glorot_uniform,
        qk_norm: Any = None,
        head_norm: Any = RMSNorm,
        rotary: Rotary | GridRotary | None = None,
        score_mod: ScoreFunction | None = None,
        mask_mod: MaskFunction | None = None,
        scale: float | None = None,
        lambda_init: float | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if head_dim is None:
            head_dim = exact_quotient("dim", dim, "num_heads, twice", 2 * num_heads)
        super().__init__(
            dim,
            2 * num_heads,
            num_kv_heads=2 * (num_heads if num_kv_heads is None else num_kv_heads),
            head_dim=head_dim,
            key_dim=key_dim,
            value_dim=value_dim,
            out_dim=out_dim,
            use_bias=use_bias,
            out_bias=out_bias,
            kernel_init=kernel_init,
            out_init=out_init,
            qk_norm=qk_norm,
            rotary=rotary,
            score_mod=score_mod,
            mask_mod=mask_mod,
            scale=scale,
            dropout=dropout,
            rngs=rngs,
        )
        self.num_heads = num_heads
        self.head_norm = head_norm(2 * head_dim, rngs=rngs)
        normal = jax.nn.initializers.normal(0.1)
        self.lambda_vectors = nnx.Param(normal(rngs.params(), (4, head_dim), jnp.float32))
        self.has_lambda = lambda_init is not None
        start = 0.2 if lambda_init is None else lambda_init
        if not 0 <= start < 1:
            raise ValueError(f"lambda_init={lambda_init}; wanted 0 <= lambda_init < 1, or None")
        self.lambda_init = nnx.Variable(jnp.float32(start))  # one a layer under a scan over layers

    @classmethod
    def from_config(cls, config: Any, site: Site, *, rngs: nnx.Rngs) -> Any:
        """Build the module of a config line for its place in a model (see ``Attention``)."""
        norm = functools.partial(RMSNorm, eps=site.norm_eps, shift=site.norm_shift)
        return cls.built(config, site, rngs=rngs, head_norm=norm)

    def set_depth(self, depth: int) -> None:
        """Set lambda_init to 0.8 - 0.6 exp(-0.3 depth) for layer ``depth``, from 0 (section 2.1).

        No effect if it is given in the config, or was set before.
        """
        if not self.has_lambda:
            self.has_lambda = True
            self.lambda_init[...] = jnp.float32(0.8 - 0.6 * math.exp(-0.3 * depth))

    @property
    def head_groups(self) -> int:
        """Number of key/value heads; each stays on one device of the tensor axis."""
        return self.num_kv_heads // 2

    @property
    def contract_exceptions(self) -> dict[str, str]:
        """Tests of the contract kit that do not apply, with the reason."""
        return {
            **super().contract_exceptions,
            "rows sum to one": "rows of both softmaxes do, and those of their difference do not",
            "weights are not negative": "what the second softmax sees is subtracted",
        }

    def read_heads(
        self,
        q: Float[Array, "B T N2 H"],
        k: Float[Array, "B S K2 H"],
        v: Float[Array, "B S K2 H"],
        mask: Bool[Array, "#B #N #T #S"] | MaskFunction | None,
        return_weights: bool | WeightRequest,
        dropout_key: Key[Array, ""] | None,
        score_mod: ScoreFunction | None,
    ) -> tuple[Any, ...]:
        """Return the normed contexts of the heads, ``B T N 2H``, and the weights on request."""
        B, S, K2, H = v.shape
        wide = v.reshape(B, S, K2 // 2, 2 * H)
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        first, second = (
            dot_product_attention(
                q[:, :, i::2],
                k[:, :, i::2],
                wide,
                mask,
                scale=1 / math.sqrt(self.head_dim) if self.scale is None else self.scale,
                return_weights=bool(return_weights),
                score_mod=score_mod,
                dropout_rate=0.0 if dropout_key is None else self.dropout,
                dropout_key=keys[i],
            )
            for i in range(2)
        )
        first, second = (x if return_weights else (x,) for x in (first, second))
        share = self._lambda()
        out, *weights = (a - share.astype(a.dtype) * b for a, b in zip(first, second, strict=True))
        out = self.add_perturbed(out, wide)
        kept = 1 - cast_like(self.lambda_init, out)
        out = (self.head_norm(out) * kept).astype(q.dtype)
        if not return_weights:
            return (out,)
        return with_weights(out, weights[0], return_weights)

    def _lambda(self) -> Float[Array, ""]:
        a, b, c, d = self.lambda_vectors[...]
        start = cast_like(self.lambda_init, a)
        return jnp.exp(jnp.dot(a, b)) - jnp.exp(jnp.dot(c, d)) + start

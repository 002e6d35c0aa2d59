"""Additive attention: Bahdanau, Cho and Bengio, ICLR 2015 (arXiv 1409.0473), appendix A.1.2."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.contract import Attention, Memory, Positions, Site
from attnzoo.attention.facts import Facts
from attnzoo.config.attention import AdditiveConfig, CoverageConfig
from attnzoo.ops.normalisers import Normalise
from attnzoo.ops.softmax import masked_softmax

Initializer = jax.nn.initializers.Initializer
tiny_normal = jax.nn.initializers.normal(0.001)


class AdditiveAttention(Attention):
    """score(q, k) = v_a . tanh(W_a q + U_a k), weights = softmax over the keys.

    W_a and U_a start at N(0, 0.001^2) and v_a at 0, as in the paper: the weights are uniform before
    the first update. One head, weights ``B 1 T S``. Cost: O(T S width) time and memory.

    Args:
      width: width of the alignment layer (n' in the paper); ``query_dim`` if None.
      normalise: logits and mask -> weights, such as ``ops.normalisers.entmax15``; softmax by
        default.
      kernel_init, score_init: initializers of W_a and U_a, and of v_a. At small widths
        ``lecun_normal`` and ``normal(width**-0.5)`` leave the initial plateau several times sooner.
    """

    facts = Facts(
        paper="Bahdanau et al. 2015",
        score="v · tanh(W q + U k)",
        causal="mask",
        time="T S W",
        memory="T S W",
        state="S (W + D)",
    )

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        width: int | None = None,
        *,
        kernel_init: Initializer = tiny_normal,
        score_init: Initializer = jax.nn.initializers.zeros,
        normalise: Normalise = masked_softmax,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.dim, self.normalise, self.dropout = query_dim, normalise, dropout
        width = query_dim if width is None else width
        if width < 1:
            raise ValueError(f"width={width}; wanted 1 or more")
        self.query_kernel = nnx.Param(kernel_init(rngs.params(), (query_dim, width), jnp.float32))
        self.key_kernel = nnx.Param(kernel_init(rngs.params(), (key_dim, width), jnp.float32))
        self.score_kernel = nnx.Param(score_init(rngs.params(), (width,), jnp.float32))

    @property
    def widths(self) -> tuple[int | None, int | None, int | None]:
        """Widths of queries, keys and values that the parameters fit; None: any."""
        return self.query_kernel.shape[0], self.key_kernel.shape[0], None

    @classmethod
    def from_config(
        cls, config: AdditiveConfig | CoverageConfig, site: Site, *, rngs: nnx.Rngs
    ) -> "AdditiveAttention":
        """Build the module of a config line for its place in a model (see ``Attention``)."""
        own: dict[str, Any] = {}
        if site.fan_in:
            normal = jax.nn.initializers.normal((config.width or site.query_dim) ** -0.5)
            own = {"kernel_init": jax.nn.initializers.lecun_normal(), "score_init": normal}
        return cls.by_name(config, site, rngs=rngs, **own)

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Project the keys (U_a h_j), once for all queries."""
        return keys @ self.key_kernel[...]

    def scores(
        self, query: Float[Array, "B T D"], memory: Memory, positions: Positions | None = None
    ) -> Float[Array, "B 1 T S"]:
        """Return the logits e_ij before mask and softmax; ``positions`` have no effect."""
        projected = jnp.einsum("btd,dw->btw", query, self.query_kernel[...])
        hidden = jnp.tanh(projected[:, :, None, :] + memory.keys[:, None, :, :])
        return (hidden @ self.score_kernel[...])[:, None]

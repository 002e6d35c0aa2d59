"""Score modifiers ``(score, b, n, q, k)``: ALiBi, and T5's learned bias per distance."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.module import Module
from attnzoo.ops import score_mods

Score = Float[Array, "..."]
Index = Int[Array, "..."]


@dataclasses.dataclass(frozen=True)
class ALiBi:
    """ALiBi: adds -slope_n |q - k| to scores (Press et al. 2022, arXiv 2108.12409, section 3)."""

    num_heads: int

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        return score_mods.alibi(self.num_heads)(score, b, n, q, k)


class T5RelativeBias(Module):
    """T5's relative bias: one learned scalar per head and bucket of k - q.

    Raffel et al. 2020 (arXiv 1910.10683), section 2.1. T5 does not divide q . k by sqrt(H): pass
    ``scale=1.0`` to the attention. A decoder uses ``bidirectional=False``. T5 shares one table
    among all layers of a stack: pass the same instance to each. The table starts at
    ``N(0, std^2)``; T5 uses ``N(0, 1 / model width)``.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        bidirectional: bool,
        num_buckets: int = 32,
        max_distance: int = 128,
        std: float = 0.05,
        rngs: nnx.Rngs,
    ):
        self.bidirectional, self.max_distance = bidirectional, max_distance
        init = jax.nn.initializers.normal(std)
        self.table = nnx.Param(init(rngs.params(), (num_heads, num_buckets), jnp.float32))

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        bias = score_mods.t5_bias(
            self.table[...], bidirectional=self.bidirectional, max_distance=self.max_distance
        )
        return bias(score, b, n, q, k)

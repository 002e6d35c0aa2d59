"""Embeddings of tokens and of positions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Real

from attnzoo.attention.projection import Initializer
from attnzoo.module import Module
from attnzoo.ops.int8 import Int8Matrix
from attnzoo.ops.sharded import gather_rows, product
from attnzoo.ops.wide_sums import take_rows


class Embedding(Module):
    """Token embedding table and output layer; the table starts at N(0, 0.02^2) by default."""

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        init = jax.nn.initializers.normal(0.02) if init is None else init
        self.table = nnx.Param(init(rngs.params(), (size, dim), jnp.float32))

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Look up rows in the table's dtype; ids outside the table are clipped into its range."""
        table = self.table.get_value()
        if isinstance(table, Int8Matrix):
            return table.rows(ids)
        return take_rows(gather_rows(table), ids)

    def logits(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Return the states times table^T, the tied output layer of Press and Wolf 2017."""
        return product(x, self.table.get_value().astype(x.dtype), transposed=True)


def sinusoidal_positions(
    positions: Real[Array, "*batch"],
    dim: int,
    *,
    base: float = 10_000.0,
    halves: bool = False,
    slowest: bool = False,
) -> Float[Array, "*batch D"]:
    """Return float32 sinusoidal position embeddings with angles position / base^(2 i / dim).

    Vaswani et al. 2017, section 3.5. Sine and cosine alternate, as in the paper; ``halves=True``
    puts all sines first (Marian). ``slowest=True`` spaces the frequencies so that the last one is
    1 / base, with dim - 2 in place of dim (tensor2tensor, fairseq).
    """
    if dim % 2 or dim < 2 + 2 * slowest:
        raise ValueError(f"dim={dim} is odd or too small; sinusoidal positions come in pairs")
    rates = base ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / (dim - 2 * slowest))
    angles = jnp.einsum("...,r->...r", positions.astype(jnp.float32), rates)
    if halves:
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    both = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return both.reshape(*positions.shape, dim)

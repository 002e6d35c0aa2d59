"""The feed-forward layer of a Transformer, plain and gated."""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnzoo.attention.projection import Initializer, Projection, glorot_uniform
from attnzoo.layers.dropout import dropout
from attnzoo.module import Module
from attnzoo.ops.softmax import compute_dtype

Activation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh"]


def _gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    # jax.nn.gelu computes erfc, which takes XLA:CPU three times as long; 1 + erf needs 24 bits.
    wide = x.astype(compute_dtype(x))
    return (0.5 * wide * (1 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": _gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "tanh": jax.numpy.tanh,
}


class FeedForward(Module):
    """Feed-forward layer W_2 f(W_1 x), or gated W_2 (f(W_g x) * W_1 x).

    Vaswani et al. 2017 (arXiv 1706.03762), equation 2; Shazeer 2020 (arXiv 2002.05202), section 2.
    ``dropout`` is the rate of hidden units, applied only where a key is given. ``kernel_init`` is
    for W_1 and W_g, ``out_init`` for W_2.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        activation: Activation = "relu",
        *,
        gated: bool = False,
        use_bias: bool = True,
        dropout: float = 0.0,
        kernel_init: Initializer = glorot_uniform,
        out_init: Initializer = glorot_uniform,
        rngs: nnx.Rngs,
    ):
        self.activation, self.dropout = activation, dropout

        def into_hidden() -> Projection:
            return Projection(dim, hidden, use_bias=use_bias, kernel_init=kernel_init, rngs=rngs)

        self.up, self.gate = into_hidden(), into_hidden() if gated else None
        self.down = Projection(hidden, dim, use_bias=use_bias, kernel_init=out_init, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*batch D"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "*batch D"]:
        """Apply the layer; ``key`` switches dropout on."""
        f = ACTIVATIONS[self.activation]
        hidden = f(self.up(x)) if self.gate is None else f(self.gate(x)) * self.up(x)
        return self.down(dropout(hidden, self.dropout, key))

"""Mixture of feed-forward layers of which each token is sent to a few (Mixtral)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnzoo.attention.projection import Initializer, Projection, cast_like, glorot_uniform
from attnzoo.layers.dropout import dropout
from attnzoo.layers.feed_forward import ACTIVATIONS, Activation
from attnzoo.module import Module
from attnzoo.ops.sharded import by_tokens


class Experts(Module):
    """Sum of the outputs of the chosen experts of each token, weighted by a router.

    Jiang et al. 2024 (arXiv 2401.04088), section 2.1: y = sum_i p_i W_2i (f(W_gi x) * W_1i x) over
    the ``chosen`` experts with the largest p = softmax(W_r x), whose p are then divided by their
    sum. No token is dropped: tokens are sorted by expert, and each expert multiplies its own.

    Args:
      count: number of experts.
      chosen: number of experts of each token.
      balance_weight: factor of the loss that spreads tokens over the experts, E sum_e f_e P_e with
        f the share of choices of an expert and P its mean probability (Fedus et al. 2021, arXiv
        2101.03961, equations 4 to 6). Its gradient is added where ``key`` is given, that is in
        training; it is not part of the reported loss. Padding counts.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        activation: Activation = "silu",
        *,
        count: int,
        chosen: int,
        balance_weight: float = 0.0,
        dropout: float = 0.0,
        kernel_init: Initializer = glorot_uniform,
        out_init: Initializer = glorot_uniform,
        rngs: nnx.Rngs,
    ):
        self.activation, self.dropout = activation, dropout
        self.count, self.chosen, self.balance_weight = count, chosen, balance_weight
        self.router = Projection(dim, count, kernel_init=kernel_init, rngs=rngs)

        def stacked(init: Initializer, *shape: int) -> nnx.Param[Array]:
            keys = jax.random.split(rngs.params(), count)
            return nnx.Param(jax.vmap(lambda key: init(key, shape, jnp.float32))(keys))

        self.gate, self.up = (stacked(kernel_init, dim, hidden) for _ in range(2))
        self.down = stacked(out_init, hidden, dim)

    def __call__(
        self, x: Float[Array, "B T D"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "B T D"]:
        """Apply the layer; ``key`` switches dropout and the loss of the router on."""
        logits = self.router(x).astype(jnp.float32)
        shares, experts = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), self.chosen)
        shares = (shares / jnp.sum(shares, axis=-1, keepdims=True)).astype(x.dtype)
        if key is not None and self.balance_weight:
            loss = self.balance_weight * balance_loss(logits, experts)
            shares = _with_gradient_of(shares, loss)
        kernels = tuple(cast_like(one, x) for one in (self.gate, self.up, self.down))
        function = functools.partial(_apply, ACTIVATIONS[self.activation], self.count)
        return dropout(by_tokens(function, (x, shares, experts), kernels), self.dropout, key)


def balance_loss(
    logits: Float[Array, "*batch E"], experts: Int[Array, "*batch K"]
) -> Float[Array, ""]:
    """Return E sum_e f_e P_e: 1 if all experts are chosen alike, at most E if only one is.

    Fedus et al. 2021, equations 4 to 6, with f_e the share of the K choices of all tokens.
    """
    count = logits.shape[-1]
    chosen = jax.nn.one_hot(experts.reshape(-1), count, dtype=logits.dtype)
    shares = jnp.mean(chosen, axis=0)
    probabilities = jnp.mean(jax.nn.softmax(logits.reshape(-1, count), axis=-1), axis=0)
    return count * jnp.sum(shares * probabilities)


def _apply(
    f: Callable[[Array], Array],
    count: int,
    tokens: tuple[Float[Array, "B T D"], Float[Array, "B T K"], Int[Array, "B T K"]],
    kernels: tuple[Float[Array, "E D F"], Float[Array, "E D F"], Float[Array, "E F D"]],
    first: int | Int[Array, ""],
) -> Float[Array, "B T D"]:
    """Return the weighted sum of the experts that are here, those from ``first`` on."""
    x, shares, experts = tokens
    gate, up, down = kernels
    here, chosen = len(gate), experts.shape[-1]
    # Choices of the experts that are here come first, in the order of the experts.
    own = (experts.reshape(-1) - first) % count
    order = jnp.argsort(own, stable=True)
    sizes = jnp.bincount(own, length=count)[:here].astype(jnp.int32)
    rows = x.reshape(-1, x.shape[-1])[order // chosen]
    hidden = f(jax.lax.ragged_dot(rows, gate, sizes)) * jax.lax.ragged_dot(rows, up, sizes)
    found = jax.lax.ragged_dot(hidden, down, sizes) * shares.reshape(-1)[order][:, None]
    mine = jnp.arange(len(found)) < jnp.sum(sizes)
    found = jnp.where(mine[:, None], found, jnp.zeros_like(found))
    found = found[jnp.argsort(order)].reshape(-1, chosen, x.shape[-1])
    return jnp.sum(found, axis=1).reshape(x.shape)


@jax.custom_vjp
def _with_gradient_of(x: Float[Array, "..."], loss: Float[Array, ""]) -> Float[Array, "..."]:
    """Return x; in a gradient the loss is added to the one that is differentiated."""
    return x


_with_gradient_of.defvjp(
    lambda x, loss: (x, None), lambda _, gradient: (gradient, jnp.ones((), jnp.float32))
)

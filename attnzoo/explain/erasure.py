"""Tests of attention weights as explanations, by erasing or permuting the weights of one attention.

Serrano and Smith, ACL 2019 (arXiv 1906.03731), and Jain and Wallace, NAACL 2019 (arXiv 1902.10186).
``answer(weights)`` is the model's distribution ``B V`` with these weights ``B S`` in place of its
own; weights of 0 are padding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Weights = Float[Array, "B S"]
Answer = Callable[[Weights], Float[Array, "B V"]]


class Erased(NamedTuple):
    """Effect of erasing the largest weight, and of erasing a random other one."""

    divergence: Float[Array, " B"]
    """Jensen-Shannon divergence between the answers, in nats."""
    random_divergence: Float[Array, " B"]
    flips: Bool[Array, " B"]
    """True where the most likely class changes."""
    random_flips: Bool[Array, " B"]


def erase(weights: Weights, gone: Bool[Array, "B S"]) -> Weights:
    """Set weights to 0 where ``gone``, and rescale the others to the same sum, if any remain."""
    left = jnp.where(gone, jnp.zeros_like(weights), weights)
    total = jnp.sum(left, axis=1, keepdims=True)
    scale = jnp.sum(weights, axis=1, keepdims=True) / jnp.where(total > 0, total, 1)
    return left * scale


def erase_one(answer: Answer, weights: Weights, key: Key[Array, ""]) -> Erased:
    """Erase the largest weight, and in comparison a random one of the others (section 4).

    For an example without a second weight above 0, the random one has divergence 0 and no flip.
    """
    S = weights.shape[1]
    units = jnp.arange(S)[None]
    largest = units == jnp.argmax(weights, axis=1)[:, None]
    coin = jax.random.uniform(key, weights.shape)
    open_ = (weights > 0) & ~largest
    other = (units == jnp.argmax(jnp.where(open_, coin, -1.0), axis=1)[:, None]) & open_
    before = answer(weights)
    after, instead = answer(erase(weights, largest)), answer(erase(weights, other))
    decided = jnp.argmax(before, axis=1)
    return Erased(
        jensen_shannon(before, after),
        jensen_shannon(before, instead),
        jnp.argmax(after, axis=1) != decided,
        jnp.argmax(instead, axis=1) != decided,
    )


def flip_share(answer: Answer, weights: Weights, order: Int[Array, "B S"]) -> Float[Array, " B"]:
    """Return the smallest share of units whose removal changes the decision (section 5).

    Units are removed in ``order``, such as ``jnp.argsort(-weights)`` by attention; the gradient, or
    the product of both, gives other orders. 1 if only the removal of all changes the decision.
    """
    S = weights.shape[1]
    place = jnp.argsort(order, axis=1)
    decided = jnp.argmax(answer(weights), axis=1)

    def flipped(n: Array) -> Bool[Array, " B"]:
        return jnp.argmax(answer(erase(weights, place < n)), axis=1) != decided

    flips = jax.lax.map(flipped, jnp.arange(1, S))
    first = jnp.where(jnp.any(flips, axis=0), jnp.argmax(flips, axis=0) + 1, S)
    # Padding has no units to remove.
    units = jnp.maximum(jnp.sum(weights > 0, axis=1), 1)
    return jnp.minimum(first.astype(jnp.float32) / units.astype(jnp.float32), 1.0)


def permuted_change(
    answer: Answer, weights: Weights, key: Key[Array, ""], num_samples: int = 100
) -> Float[Array, " B"]:
    """Return the median total variation of the answer when weights are permuted among units.

    Jain and Wallace, section 4.2.1; padding stays 0.
    """
    before, real = answer(weights), weights > 0

    def change(key: Key[Array, ""]) -> Float[Array, " B"]:
        coin = jnp.where(real, jax.random.uniform(key, weights.shape), 2.0)
        shuffled = jnp.take_along_axis(weights, jnp.argsort(coin, axis=1), axis=1)
        # The k-th real unit gets the k-th of the permuted weights.
        nth = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
        moved = jnp.where(real, jnp.take_along_axis(shuffled, nth, axis=1), jnp.zeros_like(weights))
        return jnp.sum(jnp.abs(answer(moved) - before), axis=1) / 2

    return jnp.median(jax.lax.map(change, jax.random.split(key, num_samples)), axis=0)


def jensen_shannon(p: Float[Array, "B V"], q: Float[Array, "B V"]) -> Float[Array, " B"]:
    """Return the Jensen-Shannon divergence in nats, 0 to ln 2."""
    middle = (p + q) / 2

    def against(x: Array) -> Array:
        ratio = jnp.where(x > 0, x, jnp.ones_like(x)) / jnp.where(x > 0, middle, jnp.ones_like(x))
        return jnp.sum(x * jnp.log(ratio), axis=-1)

    return (against(p) + against(q)) / 2

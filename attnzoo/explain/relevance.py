"""Relevance of attention by gradients: Chefer, Gur and Wolf, ICCV 2021 (arXiv 2103.15679).

This form does not use layer-wise relevance propagation. That of CVPR 2021 (arXiv 2012.09838) has
the relevance of the weights in place of the weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

Layers = Sequence[Float[Array, "B N T T"]]
Pair = tuple[Sequence[Array], Sequence[Array]]
"""Weights and their gradients, each ``B N T S`` per layer."""


class Relevance(NamedTuple):
    """Relevance of target tokens (rows) with respect to target tokens and source tokens."""

    target: Float[Array, "B T T"]
    source: Float[Array, "B T S"]


def positive(
    weights: Float[Array, "B N T S"], gradients: Float[Array, "B N T S"]
) -> Float[Array, "B T S"]:
    """Return the mean over heads of (A dA)^+ (equation 5)."""
    return jnp.mean(jnp.maximum(weights * gradients, 0), axis=1)


def relevance(weights: Layers, gradients: Layers) -> Float[Array, "B T T"]:
    """Return R after R <- R + A_l R over the layers of self-attention, from R = I (equation 6).

    For a ViT take row 0 from ``config.prefix`` on. With gradients of 0, R is I.
    """
    R = _identity(weights[0])
    for w, g in zip(weights, gradients, strict=True):
        R = R + positive(w, g) @ R
    return R


def encoder_decoder_relevance(
    encoder: Pair,
    decoder: Pair,
    cross: Pair,
) -> Relevance:
    """Return the relevance of target and source tokens in an encoder-decoder.

    Each argument is (weights, gradients), first layer to last. The encoder's self-attention gives
    R_ss. Self-attention of each decoder layer adds A R_tt to R_tt, and A R_ts to R_ts (equations 6
    and 7). Cross-attention adds R^_tt^T A R^_ss to R_ts, where R^ = I + (R - I with rows that sum
    to 1) (equations 8 to 10).
    """
    R_ss = relevance(*encoder)
    R_tt = _identity(decoder[0][0])
    B, _, T, S = cross[0][0].shape
    R_ts = jnp.zeros((B, T, S), R_ss.dtype)
    for own_w, own_g, w, g in zip(*decoder, *cross, strict=True):
        own = positive(own_w, own_g)
        R_tt, R_ts = R_tt + own @ R_tt, R_ts + own @ R_ts
        read = positive(w, g)
        R_ts = R_ts + jnp.swapaxes(_normalised(R_tt), 1, 2) @ read @ _normalised(R_ss)
    return Relevance(R_tt, R_ts)


def _normalised(R: Float[Array, "B T T"]) -> Float[Array, "B T T"]:
    """Return I + (R - I) / its rows' sums; rows of zeros stay zeros."""
    eye = jnp.eye(R.shape[-1], dtype=R.dtype)[None]
    gained = R - eye
    total = jnp.sum(gained, axis=-1, keepdims=True)
    return eye + jnp.where(total > 0, gained / jnp.where(total > 0, total, jnp.ones_like(total)), 0)


def _identity(weights: Any) -> Float[Array, "B T T"]:
    B, _, T, S = weights.shape
    if T != S:
        raise ValueError(f"weights of {T} queries and {S} keys; wanted self-attention, as many")
    return jnp.broadcast_to(jnp.eye(T, dtype=weights.dtype), (B, T, T))

"""Attention rollout, Abnar and Zuidema, ACL 2020 (arXiv 2005.00928), and its gradient form."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_FUSE = {"mean": jnp.mean, "max": jnp.max, "min": jnp.min}


def fuse(weights: Float[Array, "B N T S"], fusion: str = "mean") -> Float[Array, "B T S"]:
    """Fuse the maps of all heads: their mean, maximum or minimum."""
    if fusion not in _FUSE:
        raise ValueError(f"fusion={fusion!r}; there are {', '.join(_FUSE)}")
    return _FUSE[fusion](weights, axis=1)


def with_residual(fused: Float[Array, "B T T"]) -> Float[Array, "B T T"]:
    """Return A + I with rows that sum to 1: the residual branch passes each token to itself."""
    with_self = fused + jnp.eye(fused.shape[-1], dtype=fused.dtype)[None]
    return with_self / jnp.sum(with_self, axis=-1, keepdims=True)


def discard_smallest(
    fused: Float[Array, "B T T"],
    ratio: float,
    prefix: int = 0,
    real: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T T"]:
    """Set the ``ratio`` smallest weights of each example to 0, except in the first columns.

    The discard ratio of vit-explain (Gildenblat 2020), which spares only the weight from the class
    token to itself. Here the columns of the first ``prefix`` tokens are spared, including a ViT's
    class token. Only weights between ``real`` tokens count (None: all are real).
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio={ratio}; wanted 0 <= ratio < 1")
    B, T, _ = fused.shape
    if int(ratio * T * T) == 0:
        return fused
    real = jnp.ones((B, T), bool) if real is None else real
    counts = jnp.asarray([int(ratio * n * n) for n in range(T + 1)])[jnp.sum(real, axis=1)]
    pairs = real[:, :, None] & real[:, None, :]
    flat = jnp.where(pairs, fused, jnp.inf).reshape(B, T * T)
    rank = jnp.argsort(jnp.argsort(flat, axis=1), axis=1)
    small = (rank < counts[:, None]).reshape(B, T, T) & (jnp.arange(T) >= prefix)[None, None]
    return jnp.where(small, jnp.zeros_like(fused), fused)


def rollout(
    weights: Sequence[Float[Array, "B N T T"]],
    *,
    fusion: str = "mean",
    discard: float = 0.0,
    start: int = 0,
    prefix: int = 0,
    real: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T T"]:
    """Return R_L, whose row t has the share of each input token in token t after the last layer.

    A~_l = (A_l + I) with rows that sum to 1, R_l = A~_l R_(l-1), R_0 = I: the later layer is on the
    left (equation 1). Rows of R sum to 1. For a ViT take row 0 from ``config.prefix`` on.

    Args:
      weights: maps of the layers, first to last.
      discard: share of each fused map's smallest weights to drop, with ``prefix`` and ``real`` as
        in ``discard_smallest``.
      start: first layer to include.
    """
    _check(weights, start)
    maps = [discard_smallest(fuse(w, fusion), discard, prefix, real) for w in weights[start:]]
    return _product(maps)


def gradient_rollout(
    weights: Sequence[Float[Array, "B N T T"]],
    gradients: Sequence[Float[Array, "B N T T"]],
    *,
    discard: float = 0.0,
    start: int = 0,
    prefix: int = 0,
    real: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T T"]:
    """Return the rollout of gradient-weighted maps: A_l is the mean over heads of (A dA)^+.

    ``gradients`` are those of ``weight_gradients``; the rest is as in ``rollout``. Where no product
    is positive, R is I.
    """
    _check(weights, start)
    maps = []
    for w, g in list(zip(weights, gradients, strict=True))[start:]:
        maps.append(discard_smallest(fuse(jnp.maximum(w * g, 0)), discard, prefix, real))
    return _product(maps)


def _product(maps: Sequence[Float[Array, "B T T"]]) -> Float[Array, "B T T"]:
    result = with_residual(maps[0])
    for fused in maps[1:]:
        result = jnp.einsum("bij,bjk->bik", with_residual(fused), result)
    return result


def _check(weights: Sequence[Float[Array, "B N T T"]], start: int) -> None:
    if not 0 <= start < len(weights):
        raise ValueError(f"start={start}, but there are {len(weights)} layers; wanted one of them")

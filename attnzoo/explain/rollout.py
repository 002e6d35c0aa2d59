"""Attention rollout, Abnar and Zuidema, ACL 2020 (arXiv 2005.00928), and its gradient form."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

_FUSE = {"mean": jnp.mean, "max": jnp.max, "min": jnp.min}


def fuse(weights: Float[Array, "B N T S"], fusion: str = "mean") -> Float[Array, "B T S"]:
    """One map of all heads: their mean, the largest, or the smallest."""
    if fusion not in _FUSE:
        raise ValueError(f"fusion={fusion!r}; there are {', '.join(_FUSE)}")
    return _FUSE[fusion](weights, axis=1)


def with_residual(fused: Float[Array, "B T T"]) -> Float[Array, "B T T"]:
    """A + I with rows that sum to 1: the residual branch carries each token to itself."""
    with_self = fused + jnp.eye(fused.shape[-1], dtype=fused.dtype)[None]
    return with_self / jnp.sum(with_self, axis=-1, keepdims=True)


def discard_smallest(
    fused: Float[Array, "B T T"], ratio: float, keep: int | None = 0
) -> Float[Array, "B T T"]:
    """Each example's ``ratio`` smallest weights become 0, but none of column ``keep``.

    The class token's column is kept, as in the usual implementations of the discard ratio.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio={ratio}; wanted 0 <= ratio < 1")
    B, T, _ = fused.shape
    count = int(ratio * T * T)
    if count == 0:
        return fused
    flat = fused.reshape(B, T * T)
    rank = jnp.argsort(jnp.argsort(flat, axis=1), axis=1)
    small = (rank < count).reshape(B, T, T)
    if keep is not None:
        small = small & (jnp.arange(T) != keep)[None, None, :]
    return jnp.where(small, jnp.zeros_like(fused), fused)


def rollout(
    weights: Sequence[Float[Array, "B N T T"]],
    *,
    fusion: str = "mean",
    discard: float = 0.0,
    start: int = 0,
) -> Float[Array, "B T T"]:
    """R_L, whose row t says how much each input token is in token t behind the last layer.

    A~_l = (A_l + I) with rows that sum to 1, R_l = A~_l R_(l-1), R_0 = I: the later layer stands on
    the left (equation 1). Rows of R sum to 1. Of a ViT take row 0 from ``config.prefix`` on.

    Args:
      weights: the maps of the layers, first to last.
      discard: share of each fused map's smallest weights to drop (``discard_smallest``).
      start: the first layer that counts.
    """
    _check(weights, start)
    maps = [discard_smallest(fuse(w, fusion), discard) for w in weights[start:]]
    return _product(maps)


def gradient_rollout(
    weights: Sequence[Float[Array, "B N T T"]],
    gradients: Sequence[Float[Array, "B N T T"]],
    *,
    discard: float = 0.0,
    start: int = 0,
) -> Float[Array, "B T T"]:
    """Rollout of the weights that speak for a class: A_l is the mean over heads of (A dA)^+.

    ``gradients`` are those of ``weight_gradients``. Where none is positive, R is I.
    """
    _check(weights, start)
    maps = []
    for w, g in list(zip(weights, gradients, strict=True))[start:]:
        maps.append(discard_smallest(fuse(jnp.maximum(w * g, 0)), discard))
    return _product(maps)


def _product(maps: Sequence[Float[Array, "B T T"]]) -> Float[Array, "B T T"]:
    result = with_residual(maps[0])
    for fused in maps[1:]:
        result = jnp.einsum("bij,bjk->bik", with_residual(fused), result)
    return result


def _check(weights: Sequence[Float[Array, "B N T T"]], start: int) -> None:
    if not 0 <= start < len(weights):
        raise ValueError(f"start={start}, but there are {len(weights)} layers; wanted one of them")

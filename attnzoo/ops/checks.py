"""Checks of shapes, dtypes and dropout that every attention makes before it computes."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key


def check_shapes(q: Any, k: Any, v: Any) -> None:
    """Raise ValueError unless q, k, v are ``B T N H``, ``B S K H``, ``B S K Hv``."""
    for name, x, wanted in (("q", q, "B T N H"), ("k", k, "B S K H"), ("v", v, "B S K Hv")):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {x.shape}; wanted four axes {wanted}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {x.dtype}; wanted floating point")
    B, _, N, H = q.shape
    _, S, K, _ = k.shape
    if k.shape[0] != B or k.shape[3] != H:
        raise ValueError(f"k has shape {k.shape}; wanted B S K H with B={B} and H={H} as in q")
    if v.shape[:3] != (B, S, K):
        raise ValueError(f"v has shape {v.shape}; wanted B S K Hv with {(B, S, K)} as in k")
    if K == 0 or N % K != 0:
        raise ValueError(f"num_heads={N} of q is not a multiple of num_kv_heads={K} of k and v")


def check_sequences(widths: Sequence[int | None], **arrays: Any) -> None:
    """Raise ValueError unless query, keys and values are ``B T D`` with one batch size.

    ``widths`` are the D that each array must have, in the order of the arrays; None permits any.
    """
    batch = None
    for (name, x), width in zip(arrays.items(), widths, strict=True):
        if x.ndim != 3:
            raise ValueError(f"{name} has shape {x.shape}; wanted three axes: batch, length, width")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {x.dtype}; wanted vectors of floating point")
        if width is not None and x.shape[2] != width:
            raise ValueError(
                f"{name} has shape {x.shape}; wanted width {width}, for which this attention was "
                "built"
            )
        batch = (name, x.shape[0]) if batch is None else batch
        if x.shape[0] != batch[1]:
            raise ValueError(
                f"{name} has shape {x.shape}; wanted batch size {batch[1]}, that of {batch[0]}"
            )


def check_dropout(rate: float, key: Key[Array, ""] | None) -> None:
    """Raise ValueError unless the rate is a probability below 1; a rate above 0 needs a key."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout_rate={rate}; wanted 0 <= dropout_rate < 1")
    if rate > 0 and key is None:
        raise ValueError(f"dropout_rate={rate} needs dropout_key, a jax.random.key")

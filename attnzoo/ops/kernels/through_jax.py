"""``jax.nn.dot_product_attention`` under this package's contract: "xla" and "cudnn".

Both get a bool array for any mask. The rules of the contract are applied around them: a row that
may attend nowhere is zero, and NaN or inf reaches only the rows that may see it.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.ops.guards import any_visible, finite_or_zero, has_non_finite, poison
from attnzoo.ops.index_functions import index_grid
from attnzoo.ops.logits import Scoring, non_finite_rows, repeat_for_query_heads
from attnzoo.ops.masks import dense_mask


def attend(
    name: Literal["xla", "cudnn"],
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    settings: Scoring,
    dropout_rate: float = 0.0,
    dropout_key: Any = None,
) -> tuple[Float[Array, "B T N H"], None]:
    """Compute the output; there is no log-sum-exp, because jax.nn stops its gradient."""
    B, T, N, _ = q.shape
    visible = _visible(settings, (B, N, T, k.shape[1]))
    scale = settings.scale
    out = jax.nn.dot_product_attention(
        *(finite_or_zero(x) for x in (q, k, v)),
        bias=settings.bias,
        mask=visible,
        scale=None if scale is None else float(scale),
        implementation=name,
    )
    # jax.nn gives the mean of v to a row that the mask hides completely.
    if visible is not None:
        anything = jnp.moveaxis(jnp.any(visible, axis=-1), 1, 2)[..., None]
        out = jnp.where(anything, out, jnp.zeros_like(out))
    row = non_finite_rows(q, k, visible, jnp.arange(T, dtype=jnp.int32))
    row = row | any_visible(repeat_for_query_heads(has_non_finite(v), N), visible)
    row = jnp.broadcast_to(row, (B, N, T))
    return poison(out, jnp.moveaxis(row, 1, 2)[..., None]), None


xla = functools.partial(attend, "xla")
cudnn = functools.partial(attend, "cudnn")


def _visible(
    settings: Scoring, shape: tuple[int, int, int, int]
) -> Bool[Array, "#B #N #T #S"] | None:
    visible = settings.mask
    if settings.mask_mod is not None:
        by_index = dense_mask(settings.mask_mod, *index_grid(*shape), shape=shape)
        visible = by_index if visible is None else visible & by_index
    if settings.bias is not None:  # -inf hides a key; a whole row of it is NaN in jax.nn
        by_bias = settings.bias > -jnp.inf
        visible = by_bias if visible is None else visible & by_bias
    return visible

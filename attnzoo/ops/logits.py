"""Logits and weights computed from q and k, for all query rows or for chosen rows and heads."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnzoo.ops.guards import any_visible, finite_or_zero, has_non_finite
from attnzoo.ops.index_functions import Index, Shape, as_four_axes
from attnzoo.ops.masks import Mask, MaskFunction, causal, dense_mask
from attnzoo.ops.score_mods import ScoreFunction, ScoreMod
from attnzoo.ops.softmax import compute_dtype, masked_logsumexp, masked_softmax
from attnzoo.ops.wide_sums import wide


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Settings that turn the products q k^T into attention weights.

    They apply in this order: scale, soft cap ``c tanh(s / c)``, bias, score modifier, mask.
    """

    scale: float | Float[Array, ""] | None = None
    """Factor on q . k; 1/sqrt(H) if None."""
    softcap: float | None = None
    bias: Float[Array, "#B #N #T #S"] | None = None
    score_mod: ScoreFunction | None = None
    mask: Bool[Array, "#B #N #T #S"] | None = None
    mask_mod: MaskFunction | None = None
    sinks: Float[Array, " N"] | None = None

    def logits(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B S K H"],
        rows: Int[Array, " R"] | None = None,
        heads: Int[Array, " M"] | None = None,
    ) -> tuple[Float[Array, "B M R S"], Bool[Array, "#B #M #R #S"] | None]:
        """Return unmasked logits and the mask for the chosen query rows and heads (None: all).

        NaN and inf in q and k are replaced by 0; the caller marks the rows that see them.
        """
        B, _, N, H = q.shape
        S, K = k.shape[1:3]
        group = N // K
        dtype = compute_dtype(q, k)
        if rows is not None:
            q = q[:, rows]
        if heads is not None:
            q, k = q[:, :, heads], k[:, :, heads // group]
            K, group = heads.shape[0], 1
        R = q.shape[1]
        # The product copies its operands anyway: with the heads moved here, one copy does it all.
        q, k = (jnp.moveaxis(finite_or_zero(x).astype(dtype), 2, 1) for x in (q, k))
        products = jnp.einsum("bkrh,bksh->bkrs", q.reshape(B, K, group * R, H), k)
        return self.of_products(products.reshape(B, K * group, R, S), H, rows, heads)

    def of_products(
        self,
        products: Float[Array, "B M R S"],
        H: int,
        rows: Int[Array, " R"] | None = None,
        heads: Int[Array, " M"] | None = None,
    ) -> tuple[Float[Array, "B M R S"], Bool[Array, "#B #M #R #S"] | None]:
        """Return logits and mask as :meth:`logits` does, from given products of head size ``H``."""
        B, M, R, S = products.shape
        dtype = products.dtype
        chosen_rows, chosen_heads = rows is not None, heads is not None
        rows = jnp.arange(R, dtype=jnp.int32) if rows is None else rows
        heads = jnp.arange(M, dtype=jnp.int32) if heads is None else heads
        logits = products * (
            1 / math.sqrt(H) if self.scale is None else jnp.asarray(self.scale, dtype)
        )

        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)

        def choose(x: Array) -> Array:
            x = x[:, :, rows] if chosen_rows and x.shape[2] != 1 else x
            return x[:, heads] if chosen_heads and x.shape[1] != 1 else x

        if self.bias is not None:
            logits = logits + choose(self.bias).astype(dtype)
        indices, shape = _indices(B, heads, rows, S), (B, M, R, S)
        if self.score_mod is not None:
            modify = wide(self.score_mod, logits, *indices)
            logits = as_four_axes(modify(logits, *indices), shape).astype(dtype)
            logits = jnp.broadcast_to(logits, shape)
        visible = None if self.mask is None else choose(self.mask)
        if self.mask_mod is not None:
            by_index = dense_mask(self.mask_mod, *indices, shape=shape)
            visible = by_index if visible is None else visible & by_index
        return logits, visible

    def normalise(
        self,
        logits: Float[Array, "B M R S"],
        visible: Bool[Array, "#B #M #R #S"] | None,
        heads: Int[Array, " M"] | None = None,
    ) -> tuple[Float[Array, "B M R S"], Float[Array, "B M R"]]:
        """Return weights and log-sum-exp of logits, with one more logit per head for sinks."""
        weights = masked_softmax(logits, visible)
        lse = masked_logsumexp(logits, visible)
        if self.sinks is None:
            return weights, lse
        sinks = self.sinks if heads is None else self.sinks[heads]
        sinks = sinks.astype(lse.dtype)[None, :, None]
        # softmax over [logits, sink] without the last column, and without a longer copy of logits.
        weights = weights * jax.nn.sigmoid(lse - sinks)[..., None]
        return weights, jnp.logaddexp(lse, sinks)


def repeat_for_query_heads(keys: Bool[Array, "B S K"], num_heads: int) -> Bool[Array, "B N S"]:
    """Repeat marks of keys and key/value heads for every query head that reads them."""
    return jnp.repeat(jnp.moveaxis(keys, 1, 2), num_heads // keys.shape[2], axis=1)


def non_finite_rows(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    visible: Bool[Array, "#B #M #R #S"] | None,
    rows: Int[Array, " R"],
    heads: Int[Array, " M"] | None = None,
) -> Bool[Array, "B M R"]:
    """Return True for rows whose weights are NaN: the query or a visible key is not finite."""
    N = q.shape[2]
    keys, queries = (
        repeat_for_query_heads(has_non_finite(k), N),
        jnp.moveaxis(has_non_finite(q), 1, 2),
    )
    queries = queries[:, :, rows]
    if heads is not None:
        keys, queries = keys[:, heads], queries[:, heads]
    return (queries & any_visible(jnp.ones_like(keys), visible)) | any_visible(keys, visible)


def _indices(
    B: int, heads: Int[Array, " N"], rows: Int[Array, " T"], S: int
) -> tuple[Index, Index, Index, Index]:
    return (
        jnp.arange(B, dtype=jnp.int32).reshape(B, 1, 1, 1),
        heads.reshape(1, -1, 1, 1),
        rows.reshape(1, 1, -1, 1),
        jnp.arange(S, dtype=jnp.int32).reshape(1, 1, 1, S),
    )


def scoring(
    shape: Shape,
    *,
    mask: Bool[Array, "..."] | MaskFunction | None,
    bias: Float[Array, "..."] | None,
    scale: float | Float[Array, ""] | None,
    softcap: float | None,
    score_mod: ScoreFunction | None,
    sinks: Float[Array, " N"] | None,
    is_causal: bool,
) -> Scoring:
    """Check the settings of an attention of shape ``B N T S`` and return them as one object."""
    B, N, T, S = shape
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap={softcap}: wanted a positive number (None switches it off)")
    if sinks is not None and sinks.shape != (N,):
        raise ValueError(f"sinks has shape {sinks.shape}; wanted one logit per head, ({N},)")
    mask_array, mask_mod = None, None
    if isinstance(mask, Mask):
        mask.check(B, N, T, S)
    if isinstance(score_mod, ScoreMod):
        score_mod.check(B, N, T, S)
    if mask is not None and callable(mask):
        mask_mod = mask
    elif mask is not None:
        if mask.dtype != bool:
            raise ValueError(
                f"mask has dtype {mask.dtype}; wanted bool, True = may attend "
                "(something that is added to the logits is a bias)"
            )
        mask_array = _fits("mask", mask, shape)
    if bias is not None:
        if not jnp.issubdtype(bias.dtype, jnp.floating):
            raise ValueError(f"bias has dtype {bias.dtype}; wanted floating (a bool is a mask)")
        bias = _fits("bias", bias, shape)
    if is_causal:
        # The last query is aligned with the last key, as decoding with a cache needs.
        past = causal().offset(S - T)
        mask_mod = past if mask_mod is None else past & mask_mod
    return Scoring(scale, softcap, bias, score_mod, mask_array, mask_mod, sinks)


def _fits(name: str, x: Array, shape: Shape) -> Array:
    if x.ndim != 4 or any(got not in (1, size) for got, size in zip(x.shape, shape)):
        raise ValueError(
            f"{name} has shape {x.shape}; wanted B N T S = {shape} (1 where it does not vary); "
            "a padding mask is valid[:, None, None, :]"
        )
    return x

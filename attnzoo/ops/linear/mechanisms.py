"""Published linear attention mechanisms, each a few lines over ``fast_weights``.

All take q, k ``B T N H`` and v ``B T N Hv`` and return what ``fast_weights`` returns. Keywords that
are not listed (mask, form, chunk_size, initial_state, return_weights, return_state) go to it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.ops.guards import finite_or_zero, has_non_finite, poison
from attnzoo.ops.linear.fast_weights import check_key_mask, fast_weights
from attnzoo.ops.linear.feature_maps import (
    FeatureMap,
    RandomFeatures,
    dpfp,
    elu_plus_one,
    l2_normalise,
    sum_normalise,
)
from attnzoo.ops.softmax import compute_dtype


def linear_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N Hv"],
    *,
    feature_map: FeatureMap = elu_plus_one,
    normalise: bool = True,
    causal: bool = True,
    mask: Bool[Array, "#B #N 1 S"] | None = None,
    return_weights: bool = False,
    **keywords: Any,
) -> Any:
    """Compute linear attention, phi(q) M / (phi(q) . z), with a feature map phi.

    Katharopoulos et al. 2020 (arXiv 2006.16236), equations 4 and 9. ``normalise=False`` leaves out
    the denominator: with the identity as feature map, this gives the fast weights of 1991. The
    state is M with z as its last column (``B N F Hv+1``), or M alone without ``normalise``. A row
    whose denominator is 0 (nothing written, or no feature in common) gives 0.

    ``causal=False`` sums over all keys once; S may differ from T, and there is no form or state.

    Normalised random features are computed by their logarithms and never underflow. The state holds
    the features themselves, and is NaN if they all underflow.
    """
    dtype = compute_dtype(q, k, v)
    check_key_mask(mask, k.shape[0], k.shape[2], k.shape[1])
    level = None
    if normalise and isinstance(feature_map, RandomFeatures):
        start = keywords.get("initial_state")
        features_q, features_k, level = _levelled(
            feature_map, q.astype(dtype), k.astype(dtype), mask, causal, start
        )
        if causal:
            # The decay brings the memory to the level of the next key.
            keywords["log_decay"] = _differences(level)
            if start is not None:
                start = start.astype(dtype)
                keywords["initial_state"] = _divide(start, start[..., -1:])
    else:
        features_q, features_k = (_map(feature_map, x.astype(dtype)) for x in (q, k))
    values = v.astype(dtype)
    if normalise:
        # The denominator is the output for a value of 1.
        values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    if causal:
        found = fast_weights(
            features_q, features_k, values, mask=mask, return_weights=return_weights, **keywords
        )
    elif keywords:
        raise ValueError(f"causal=False takes no {', '.join(keywords)}: there is no recurrence")
    else:
        found = _all_keys(features_q, features_k, values, mask, return_weights)
    out, *rest = found if isinstance(found, tuple) else (found,)
    if level is not None and keywords.get("return_state"):
        rest[-1] = _unlevelled(rest[-1], level[:, -1])
    if normalise:
        out = _divide(out[..., :-1], out[..., -1:])
        if return_weights:
            rest[0] = _divide(rest[0], jnp.sum(rest[0], axis=-1, keepdims=True))
    out = out.astype(q.dtype)
    return (out, *rest) if rest else out


def _levelled(
    feature_map: RandomFeatures,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    mask: Bool[Array, "#B #N 1 S"] | None,
    causal: bool,
    start: Float[Array, "B N F _"] | None,
) -> tuple[Float[Array, "B T N F"], Float[Array, "B S N F"], Float[Array, "B _ N F"]]:
    """Return features of q and k, scaled so that no denominator underflows, and their level.

    The factors cancel in the normalised output. The level c of each feature is the largest
    logarithm of any key so far (causal; the initial state counts too), or of all keys.
    exp(log phi(k) - c) and exp(log phi(q) + c - max(log phi(q) + c)) have products of 1 somewhere
    in each row: no denominator underflows.
    """
    logs_q, logs_k = (feature_map.logarithms(finite_or_zero(x)) for x in (q, k))
    real = ~has_non_finite(k)[..., None]
    if mask is not None:
        real = real & jnp.moveaxis(mask[:, :, 0], 1, 2)[..., None]
    logs_k = jnp.where(real, logs_k, -jnp.inf)
    level = jax.lax.stop_gradient(logs_k)
    if causal:
        first = jnp.full_like(level[:, :1], -jnp.inf)
        if start is not None:
            first = jnp.log(jax.lax.stop_gradient(start[..., -1])).astype(level.dtype)[:, None]
        level = jax.lax.cummax(jnp.concatenate([first, level], axis=1), axis=1)
        here = level[:, 1:]
    else:
        here = level = jnp.max(level, axis=1, keepdims=True, initial=-jnp.inf)
    here = finite_or_zero(here)  # -inf where there is no key
    summed = logs_q + here
    highest = jax.lax.stop_gradient(jnp.max(summed, axis=-1, keepdims=True))
    features_q = poison(jnp.exp(summed - highest), has_non_finite(q)[..., None])
    features_k = poison(jnp.exp(logs_k - here), has_non_finite(k)[..., None])
    return features_q, features_k, level


def _differences(level: Float[Array, "B L N F"]) -> Float[Array, "B T N F"]:
    """Return log-decays that offset each rise of the level; 0 while the memory is empty."""
    before, after = level[:, :-1], level[:, 1:]
    return jnp.where(jnp.isneginf(before), jnp.zeros_like(before), before - finite_or_zero(after))


def _unlevelled(state: Float[Array, "B N F Hv"], level: Float[Array, "B N F"]) -> Array:
    """Return the memory of the unscaled features, NaN where they have all underflowed."""
    held = jnp.exp(level)
    lost = jnp.all(held == 0, axis=-1) & jnp.any(~jnp.isneginf(level), axis=-1)
    return poison(state * held[..., None], lost[..., None, None])


def _all_keys(
    q: Float[Array, "B T N F"],
    k: Float[Array, "B S N F"],
    v: Float[Array, "B S N Hv"],
    mask: Bool[Array, "#B #N 1 S"] | None,
    return_weights: bool,
) -> tuple[Array, ...]:
    B, S, N, _ = k.shape
    check_key_mask(mask, B, N, S)
    if mask is not None:
        real = jnp.moveaxis(mask[:, :, 0], 1, 2)[..., None]  # B S N 1
        k, v = (jnp.where(real, x, jnp.zeros_like(x)) for x in (k, v))
    broken = jnp.any(has_non_finite(k) | has_non_finite(v), axis=1)[:, None, :, None]
    broken = broken | has_non_finite(q)[..., None]
    q, k, v = finite_or_zero(q), finite_or_zero(k), finite_or_zero(v)
    memory = jnp.einsum("bsnf,bsnv->bnfv", k, v)
    out = poison(jnp.einsum("btnf,bnfv->btnv", q, memory), broken)
    if not return_weights:
        return (out,)
    weights = jnp.einsum("btnf,bsnf->bnts", q, k)
    return out, poison(weights, jnp.swapaxes(broken, 1, 2))


def _divide(x: Float[Array, "..."], by: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(by == 0, jnp.zeros_like(x), x / jnp.where(by == 0, jnp.ones_like(by), by))


def retention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N Hv"],
    *,
    decay: Float[Array, " N"] | None = None,
    scale: float | None = None,
    **keywords: Any,
) -> Any:
    """Compute retention, M_t = gamma_n M_{t-1} + k^T v with a fixed decay per head.

    RetNet (Sun et al. 2023, arXiv 2307.08621), equation 5. ``decay`` is gamma, 1 - 2^(-5 - n) if
    None; ``scale`` on q is 1/sqrt(H) if None. Rotary embedding, group norm and gate of the paper
    are left to the layer.
    """
    B, T, N, _ = q.shape
    if decay is None:
        decay = 1 - 2.0 ** (-5 - jnp.arange(N, dtype=float))
    if decay.shape != (N,):
        raise ValueError(f"decay has shape {decay.shape}; wanted one per head, ({N},)")
    log_decay = jnp.broadcast_to(jnp.log(decay)[None, None, :], (B, T, N))
    return fast_weights(_scaled(q, scale), k, v, log_decay=log_decay, **keywords)


def gated_linear_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N Hv"],
    log_decay: Float[Array, "B T N H"],
    *,
    scale: float | None = None,
    **keywords: Any,
) -> Any:
    """Compute gated linear attention (GLA), M_t = diag(e^g) M_{t-1} + k^T v.

    Yang et al. 2024 (arXiv 2312.06635), equation 3. ``log_decay`` g <= 0 is one gate per key
    channel; ``scale`` on q is 1/sqrt(H) if None.
    """
    if log_decay.shape != q.shape:
        raise ValueError(f"log_decay has shape {log_decay.shape}; wanted B T N H = {q.shape}")
    return fast_weights(_scaled(q, scale), k, v, log_decay=log_decay, **keywords)


def delta_rule(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N Hv"],
    beta: Float[Array, "B T N"],
    *,
    feature_map: FeatureMap = dpfp,
    **keywords: Any,
) -> Any:
    """Compute the delta rule with features that sum to one, without a denominator.

    M_t = M_{t-1} + phi(k)^T beta (v - phi(k) M_{t-1}): Schlag, Irie and Schmidhuber 2021
    (arXiv 2102.11174), equations 24 to 26. The normalised key both reads the old value and writes
    the new one.
    """
    dtype = compute_dtype(q, k, v)
    features_q, features_k = (
        _map(lambda x: sum_normalise(feature_map(x)), x.astype(dtype)) for x in (q, k)
    )
    return _as(q, fast_weights(features_q, features_k, v.astype(dtype), beta=beta, **keywords))


def delta_net(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N Hv"],
    beta: Float[Array, "B T N"],
    *,
    log_decay: Float[Array, "B T N"] | Float[Array, "B T N H"] | None = None,
    scale: float = 1.0,
    **keywords: Any,
) -> Any:
    """Compute DeltaNet, M_t = (I - beta k^T k) M_{t-1} + beta k^T v with q and k of length 1.

    Yang et al. 2024 (arXiv 2406.06484). See :func:`gated_delta_net` and :func:`kimi_delta` for a
    memory that also decays.
    SiLU, the short convolution and the output norm of the paper are left to the layer.
    """
    dtype = compute_dtype(q, k, v)
    unit_q, unit_k = (_map(l2_normalise, x.astype(dtype)) for x in (q, k))
    return _as(
        q,
        fast_weights(
            scale * unit_q, unit_k, v.astype(dtype), beta=beta, log_decay=log_decay, **keywords
        ),
    )


def gated_delta_net(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N Hv"],
    beta: Float[Array, "B T N"],
    log_decay: Float[Array, "B T N"],
    *,
    scale: float = 1.0,
    **keywords: Any,
) -> Any:
    """Compute gated DeltaNet: the delta rule with a decay per head and q and k of length 1.

    M_t = e^g (I - beta k^T k) M_{t-1} + beta k^T v: Yang, Kautz and Hatamizadeh 2025
    (arXiv 2412.06464), equation 10. ``log_decay`` g <= 0.
    """
    return delta_net(q, k, v, beta, log_decay=log_decay, scale=scale, **keywords)


def kimi_delta(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N Hv"],
    beta: Float[Array, "B T N"],
    log_decay: Float[Array, "B T N H"],
    *,
    scale: float = 1.0,
    **keywords: Any,
) -> Any:
    """Compute Kimi Delta Attention: the delta rule with a decay per channel, q and k of length 1.

    M_t = (I - beta k^T k) diag(e^g) M_{t-1} + beta k^T v: Kimi Team 2025 (arXiv 2510.26692),
    equation 1. ``log_decay`` g <= 0.
    """
    if log_decay.shape != q.shape:
        raise ValueError(f"log_decay has shape {log_decay.shape}; wanted B T N H = {q.shape}")
    return delta_net(q, k, v, beta, log_decay=log_decay, scale=scale, **keywords)


def _map(feature_map: FeatureMap, x: Float[Array, "B T N H"]) -> Float[Array, "B T N F"]:
    """Return the features of x, NaN where x is not finite; there the gradient is 0, not 0 * NaN."""
    return poison(feature_map(finite_or_zero(x)), has_non_finite(x)[..., None])


def _scaled(q: Float[Array, "B T N H"], scale: float | None) -> Float[Array, "B T N H"]:
    return q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)


def _as(q: Float[Array, "..."], found: Any) -> Any:
    """Cast the output to q's dtype, and leave weights and state as they are."""
    if isinstance(found, tuple):
        return (found[0].astype(q.dtype), *found[1:])
    return found.astype(q.dtype)

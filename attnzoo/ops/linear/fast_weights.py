"""Common function of the linear family: checks, padding, non-finite inputs, choice of form.

Schmidhuber 1991/1992: keys and values are written into a matrix of fast weights; queries read it.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.ops.guards import finite_or_zero, has_non_finite, poison
from attnzoo.ops.linear.chunked import chunked, effective_weights
from attnzoo.ops.linear.recurrent import recurrent
from attnzoo.ops.softmax import compute_dtype

Form = Literal["recurrent", "parallel", "chunked"]
FORMS = ("recurrent", "parallel", "chunked")
CACHED = 1 << 20
"""Bytes of all states up to which a CPU scans positions: its caches hold them."""


def fast_weights(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N Hv"],
    *,
    beta: Float[Array, "B T N"] | None = None,
    log_decay: Float[Array, "B T N"] | Float[Array, "B T N H"] | None = None,
    mask: Bool[Array, "#B #N 1 T"] | None = None,
    form: Form | None = None,
    chunk_size: int = 64,
    initial_state: Float[Array, "B N H Hv"] | None = None,
    return_weights: bool = False,
    return_state: bool = False,
) -> Any:
    """Compute causal linear attention with a memory M, by the sum rule or the delta rule.

        M_t = e^{g_t} M_{t-1} + k_t^T v_t,   o_t = q_t M_t

    With ``beta``, the delta rule writes beta_t (v_t - k_t e^{g_t} M_{t-1}) instead of v_t. States
    are float32 (or wider); the output has q's dtype.

    Args:
      beta: write strength of the delta rule, usually in [0, 1] (to 2 for negative eigenvalues).
      log_decay: g, the log of the decay, at most 0: one number per head, or one per key channel.
      mask: True = real position, ``B 1 1 T``: other positions do not write, erase or decay.
      form: "recurrent" scans positions, "parallel" has ``T x T`` products, "chunked" is parallel in
        chunks of ``chunk_size`` and recurrent between them. They agree up to rounding. None: the
        faster one, that is "chunked", but "recurrent" for output alone on a CPU while its caches
        hold the states.
      initial_state: the memory before the first position; zeros if None.
      return_weights: also return the ``B N T T`` float32 matrix that turns values into outputs
        (from an empty memory). Weights may be negative and need not sum to one.
      return_state: also return the memory after the last position, in float32 or wider.

    Returns:
      ``out`` (``B T N Hv``), or a tuple of ``out`` and the requested ones of weights and state.

    To decode, call with T = 1, ``initial_state`` and ``return_state``; or ``fast_weight_step``. NaN
    or inf in a real key, value, beta or decay makes this and all later outputs NaN, but no earlier
    one.

    Raises:
      ValueError: a shape, the form or the chunk size does not fit; the message names the argument.
    """
    check_linear(q, k, v, beta, log_decay, mask, form, chunk_size, initial_state)
    B, T, N, H = q.shape
    if log_decay is not None and log_decay.ndim == 3:
        log_decay = log_decay[..., None]
    dtype = compute_dtype(q, k, v)
    inputs: list[Any] = [x if x is None else x.astype(dtype) for x in (k, v, beta, log_decay)]
    if mask is not None:
        real = jnp.broadcast_to(jnp.moveaxis(mask[:, :, 0], 1, 2), (B, T, N))
        inputs = [_keep(x, real) for x in inputs]
    k, v, beta, log_decay = inputs

    # The computation sees finite numbers only; what must be NaN is overwritten at the end.
    broken = has_non_finite(k) | has_non_finite(v)
    if beta is not None:
        broken = broken | ~jnp.isfinite(beta)
        beta = finite_or_zero(beta)
    if log_decay is not None:
        # -inf is a decay of 0, which is fine.
        wrong = jnp.isnan(log_decay) | jnp.isposinf(log_decay)
        broken = broken | jnp.any(wrong, axis=-1)
        log_decay = jnp.where(wrong, jnp.zeros_like(log_decay), log_decay)
    broken = jnp.cumsum(broken.astype(jnp.int32), axis=1) > 0
    state = initial_state
    if state is None:
        state = jnp.zeros((B, N, H, v.shape[3]), dtype)

    finite = [finite_or_zero(x) for x in (q.astype(dtype), k, v)]
    rows: list[Any] = [
        x if x is None else jnp.swapaxes(x, 1, 2) for x in (*finite, beta, log_decay)
    ]  # B N T ...
    state = state.astype(dtype)
    if form is None:
        out, state = _chosen(chunk_size, tuple(rows), state)
    elif form == "recurrent":
        out, state = recurrent(*rows, state)
    else:
        out, state = chunked(*rows, state, chunk_size if form == "chunked" else max(T, 1))
    bad_row = broken | has_non_finite(q)
    out = poison(jnp.swapaxes(out, 1, 2), bad_row[..., None]).astype(q.dtype)
    results = [out]
    if return_weights:
        weights = effective_weights(rows[0], rows[1], rows[3], rows[4])
        results.append(poison(weights, jnp.swapaxes(bad_row, 1, 2)[..., None]))
    if return_state:
        results.append(poison(state, broken[:, -1, :, None, None]) if T else state)
    return tuple(results) if len(results) > 1 else out


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _chosen(
    chunk_size: int, rows: tuple[Any, ...], state: Float[Array, "B N H Hv"]
) -> tuple[Float[Array, "B N T Hv"], Float[Array, "B N H Hv"]]:
    """Compute the output alone, in the form that is faster on the platform."""
    in_chunks = lambda rows, state: chunked(*rows, state, chunk_size)  # noqa: E731
    # The size of a batch that is exported may be open.
    known = all(isinstance(size, int) for size in state.shape)
    if not known or math.prod(state.shape) * state.dtype.itemsize > CACHED:
        return in_chunks(rows, state)
    scan = lambda rows, state: recurrent(*rows, state)  # noqa: E731
    return jax.lax.platform_dependent(rows, state, cpu=scan, default=in_chunks)


@_chosen.defjvp
def _chosen_jvp(chunk_size: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # A scan keeps the state of every position for the way back.
    in_chunks = lambda rows, state: chunked(*rows, state, chunk_size)  # noqa: E731
    return jax.jvp(in_chunks, primals, tangents)


def _keep(x: Float[Array, "B T N ..."] | None, real: Bool[Array, "B T N"]) -> Any:
    if x is None:
        return None
    real = real.reshape(*real.shape, *[1] * (x.ndim - 3))
    return jnp.where(real, x, jnp.zeros_like(x))


def check_linear(
    q: Array,
    k: Array,
    v: Array,
    beta: Array | None,
    log_decay: Array | None,
    mask: Array | None,
    form: str | None,
    chunk_size: int,
    initial_state: Array | None,
) -> None:
    """Raise ValueError, naming the argument, unless everything fits q of shape ``B T N H``."""
    if q.ndim != 4:
        raise ValueError(f"q has shape {q.shape}; wanted four axes B T N H")
    B, T, N, H = q.shape
    if k.shape != q.shape:
        raise ValueError(f"k has shape {k.shape}; wanted {q.shape} as q (repeat shared key heads)")
    if v.ndim != 4 or v.shape[:3] != (B, T, N):
        raise ValueError(f"v has shape {v.shape}; wanted B T N Hv with {(B, T, N)} as in q")
    if beta is not None and beta.shape != (B, T, N):
        raise ValueError(f"beta has shape {beta.shape}; wanted B T N = {(B, T, N)}")
    if log_decay is not None and log_decay.shape not in ((B, T, N), (B, T, N, H)):
        raise ValueError(
            f"log_decay has shape {log_decay.shape}; wanted B T N = {(B, T, N)} "
            f"or, per channel, B T N H = {(B, T, N, H)}"
        )
    check_key_mask(mask, B, N, T)
    if form is not None and form not in FORMS:
        raise ValueError(f"form={form!r}; wanted one of {', '.join(FORMS)}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}; wanted at least 1")
    if initial_state is not None and initial_state.shape != (B, N, H, v.shape[3]):
        raise ValueError(
            f"initial_state has shape {initial_state.shape}; "
            f"wanted B N H Hv = {(B, N, H, v.shape[3])}"
        )


def check_key_mask(mask: Array | None, B: int, N: int, S: int) -> None:
    """Raise ValueError unless the mask depends on keys alone: ``B N 1 S``."""
    if mask is None:
        return
    if mask.dtype != bool:
        raise ValueError(f"mask has dtype {mask.dtype}; wanted bool, True = real position")
    fits = mask.ndim == 4 and all(g in (1, w) for g, w in zip(mask.shape, (B, N, 1, S)))
    if not fits or mask.shape[3] != S:
        raise ValueError(
            f"mask has shape {mask.shape}; wanted valid[:, None, None, :], that is {(B, 1, 1, S)}: "
            f"what is written into the memory cannot be hidden from one query only"
        )

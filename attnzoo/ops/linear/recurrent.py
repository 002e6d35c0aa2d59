"""Recurrent form of the linear family, one position at a time."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def fast_weight_step(
    state: Float[Array, "B N H Hv"],
    q: Float[Array, "B N H"],
    k: Float[Array, "B N H"],
    v: Float[Array, "B N Hv"],
    *,
    beta: Float[Array, "B N"] | None = None,
    log_decay: Float[Array, "B N #H"] | None = None,
) -> tuple[Float[Array, "B N Hv"], Float[Array, "B N H Hv"]]:
    """Advance one position: decay the memory, write v under k, read with q.

        M' = diag(e^g) M;   M_t = M' + k^T v;   o = q M_t
        with beta:          M_t = M' + k^T beta (v - k M')

    With ``beta`` the old value under k is erased first (the delta rule); the erased value is read
    from the *decayed* memory. Returns the output and the new state, in the state's dtype.
    """
    q, k, v = (x.astype(state.dtype) for x in (q, k, v))
    if log_decay is not None:
        state = state * jnp.exp(log_decay.astype(state.dtype))[..., None]
    if beta is not None:
        v = beta.astype(state.dtype)[..., None] * (v - jnp.einsum("bnh,bnhv->bnv", k, state))
    state = state + k[..., :, None] * v[..., None, :]
    return jnp.einsum("bnh,bnhv->bnv", q, state), state


def recurrent(
    q: Float[Array, "B N T H"],
    k: Float[Array, "B N T H"],
    v: Float[Array, "B N T Hv"],
    beta: Float[Array, "B N T"] | None,
    log_decay: Float[Array, "B N T #H"] | None,
    state: Float[Array, "B N H Hv"],
) -> tuple[Float[Array, "B N T Hv"], Float[Array, "B N H Hv"]]:
    """Scan :func:`fast_weight_step` over the sequence."""

    def step(state: Array, inputs: Any) -> tuple[Array, Array]:
        q, k, v, beta, log_decay = inputs
        out, state = fast_weight_step(state, q, k, v, beta=beta, log_decay=log_decay)
        return state, out

    inputs = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), (q, k, v, beta, log_decay))
    state, out = jax.lax.scan(step, state, inputs)
    return jnp.moveaxis(out, 0, 2), state

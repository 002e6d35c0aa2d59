"""Check of the Pallas kernels on the current device; none is chosen by default before it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from attnzoo.ops import masks, score_mods
from attnzoo.ops.choice import FUSED_KERNELS
from attnzoo.ops.dot_product import explain_choice
from attnzoo.ops.flex import flex_attention
from attnzoo.ops.kernels.verified import remember

ALLOWED = {"bfloat16": 1e-2, "float32": 1e-4}
"""Largest relative root mean square error of output, log-sum-exp and each gradient, by dtype.
Rounding to bfloat16 alone gives 1.7e-3."""


class Check(NamedTuple):
    """Result of the check of one kernel with one dtype."""

    implementation: str
    dtype: str
    error: float | None
    """The largest error of all cases; None if the kernel cannot take the call."""
    what: str
    """The result and case with the largest error, or why the kernel was refused or failed."""

    @property
    def is_right(self) -> bool:
        """True if ``implementation=None`` may choose this kernel from now on."""
        return self.error is not None and self.error <= ALLOWED[self.dtype]


def check_kernels(
    implementations: Sequence[str] = FUSED_KERNELS, dtypes: Sequence[str] = tuple(ALLOWED)
) -> list[Check]:
    """Compare Pallas kernels with ``reference`` on this device, and store which are correct.

    Each kernel computes four attentions: causal with grouped heads, a window with ALiBi and fewer
    queries than keys, documents with a soft cap, and dropout under padding. Output, log-sum-exp and
    the gradients of q, k, v are compared. Lengths are not multiples of a tile, and a second run
    must be equal bit by bit. Correct kernels are stored in the user's cache by kind of device and
    version of jax. From then on they are chosen for calls that no faster implementation takes.
    Takes about a minute, most of it compilation.
    """
    checks = [_checked(name, dtype) for name in implementations for dtype in dtypes]
    right: dict[str, list[str]] = {name: [] for name in implementations}
    for check in checks:
        if check.is_right:
            right[check.implementation].append(check.dtype)
    remember(right)
    return checks


def _cases() -> Iterator[tuple[str, tuple[int, ...], dict[str, Any]]]:
    """Yield the name, the sizes T S N K H and the ``flex_attention`` arguments of each case."""
    yield "causal", (300, 300, 4, 2, 64), {"mask_mod": masks.causal()}
    window = masks.sliding_window(90).offset(170)
    alibi = score_mods.alibi(2)
    yield "window, ALiBi", (130, 300, 2, 2, 128), {"mask_mod": window, "score_mod": alibi}
    ids = jnp.asarray(np.arange(257) // 60, jnp.int32)
    settings = {
        "mask_mod": masks.document(ids) & masks.causal(),
        "score_mod": score_mods.softcap(5.0),
    }
    yield "documents, soft cap", (257, 257, 2, 1, 64), settings
    padding = masks.padding(jnp.asarray([150, 97]))
    dropped = {"dropout_rate": 0.2, "dropout_key": jax.random.key(1)}
    yield "padding, dropout", (97, 150, 2, 2, 64), {"mask_mod": padding, **dropped}


def _checked(name: str, dtype: str) -> Check:
    worst = Check(name, dtype, 0.0, "")
    for case, (T, S, N, K, H), settings in _cases():
        shapes = ((2, T, N, H), (2, S, K, H), (2, S, K, H), (2, T, N, H))
        keys = jax.random.split(jax.random.key(T), 4)
        arrays = [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes)]
        try:
            explain_choice(*arrays[:3], implementation=name, **settings)
        except NotImplementedError as error:
            return Check(name, dtype, None, str(error))
        try:
            got, again = (_everything(name, arrays, settings) for _ in range(2))
        except Exception as error:  # compilers and drivers raise many types
            said = str(error).strip().splitlines() or [type(error).__name__]
            return Check(name, dtype, float("inf"), f"{case}: {said[0]}")
        wide = [x.astype(jnp.float32) for x in arrays]
        with jax.default_matmul_precision("highest"):
            wanted = _everything("reference", wide, settings)
        for what, x, y in zip(("output", "lse", "dq", "dk", "dv"), got, wanted):
            error = float(np.sqrt(np.mean((x - y) ** 2) / np.mean(y**2)))
            error = error if np.isfinite(error) else float("inf")
            if error > (worst.error or 0.0):
                worst = worst._replace(error=error, what=f"{what}, {case}")
        if not all(map(np.array_equal, got, again)):
            return worst._replace(error=float("inf"), what=f"{case}: two runs differ")
    return worst


def _everything(name: str, arrays: Sequence[Array], settings: Any) -> list[np.ndarray]:
    """Return output, log-sum-exp and gradients, in float64."""
    *given, cotangent = arrays

    def attend(q: Array, k: Array, v: Array) -> Any:
        return flex_attention(q, k, v, implementation=name, return_lse=True, **settings)

    @jax.jit
    def run(q: Array, k: Array, v: Array, d_out: Array) -> Any:
        (out, lse), pull = jax.vjp(attend, q, k, v)
        return out, lse, *pull((d_out, jnp.cos(lse)))

    return [np.asarray(x.astype(jnp.float32), np.float64) for x in run(*given, cotangent)]

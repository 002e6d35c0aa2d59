"""Pallas kernels by name, imported only when called, and checks of the calls that they can take.

Importing this file does not import Pallas, parts of which a version of jax may lack.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from attnzoo.ops.kernels import interpreting
from attnzoo.ops.kernels.traced import Traced, mask_of, trace_mask, trace_modify
from attnzoo.ops.softmax import compute_dtype


class Kernel(NamedTuple):
    """Platform, dtypes, head size and kind of reads that a Pallas kernel supports."""

    platform: str
    dtypes: tuple[str, ...]
    widest: int
    """The largest head size."""
    gathers: bool


TRITON = Kernel("gpu", ("float32", "bfloat16", "float16"), 256, gathers=True)
MOSAIC_TPU = Kernel("tpu", ("float32", "bfloat16"), 256, gathers=False)


def triton(*arguments: Any) -> tuple[Array, Array]:
    """``kernels.triton.attend``."""
    from attnzoo.ops.kernels.triton import attend

    return attend(*arguments)


def mosaic_tpu(*arguments: Any) -> tuple[Array, Array]:
    """Compute attention by ``kernels.mosaic_tpu.attend``."""
    from attnzoo.ops.kernels.mosaic_tpu import attend

    return attend(*arguments)


def refused(kernel: Kernel, call: Any) -> str | None:
    """Return the argument that a kernel cannot take, and why; None if it takes the call."""
    if not interpreting() and jax.default_backend() != kernel.platform:
        wanted, have = kernel.platform.upper(), jax.default_backend()
        return f"implementation: it wants a {wanted}, the default is {have}"
    if kernel.platform == "gpu" and not interpreting():
        capability = getattr(jax.devices()[0], "compute_capability", "0")
        if float(capability) < 8:
            return f"implementation: it wants compute capability 8.0, the GPU has {capability}"
    dtypes = (*kernel.dtypes, "float64") if interpreting() else kernel.dtypes
    for name, x in (("q", call.q), ("k", call.k), ("v", call.v)):
        if x.dtype.name not in dtypes:
            return f"{name}: {x.dtype}; wanted {', '.join(kernel.dtypes)}"
        if x.shape[3] > kernel.widest:
            return f"{name}: head size {x.shape[3]}; wanted at most {kernel.widest}"
    return _of_functions(kernel, call)


def _of_functions(kernel: Kernel, call: Any) -> str | None:
    (B, T, N, _), S = call.q.shape, call.k.shape[1]
    shape, tile = (B, N, T, S), (16, 32)
    if 0 in shape:  # nothing is traced
        return None
    mask, dtype = mask_of(call.settings), compute_dtype(call.q, call.k)

    traces = {
        "score_mod": lambda: trace_modify(call.settings, shape, tile, dtype),
        "mask_mod": lambda: (None, ()) if mask is None else trace_mask(mask, shape, tile),
    }
    for name, trace in traces.items():
        try:
            traced, operands = _without_computing(trace)
        except (NotImplementedError, TypeError, ValueError) as error:
            return f"{name}: on a tile it raises {str(error).splitlines()[0]}"
        if traced is not None and traced.gathers and not kernel.gathers:
            return f"{name}: it reads an array at computed indices; wanted b, n, q or k"
        if any(math.prod(x.shape) >= 2**31 for x in operands):
            return f"{name}: it reads an array of 2^31 entries or more, whose indices are int32"
    return None


def _without_computing(trace: Callable[[], Any]) -> tuple[Traced | None, Any]:
    """Return the traced function and the shapes of its operands."""
    found = []

    def operands() -> Any:
        traced, operands = trace()
        found.append(traced)
        return operands

    shapes = jax.eval_shape(operands)
    return found[0], shapes

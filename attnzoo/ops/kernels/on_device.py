"""Lazy import of the TPU kernel, and checks of the calls that the kernel supports.

Importing this file does not import Pallas, parts of which a version of jax may lack.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from attnzoo.ops.kernels import interpreting
from attnzoo.ops.kernels.traced import KEYS, QUERIES, Traced, mask_of, trace_mask, trace_modify
from attnzoo.ops.softmax import compute_dtype

DTYPES = ("float32", "bfloat16")
WIDEST = 256
"""The largest head size."""


def mosaic_tpu(*arguments: Any) -> tuple[Array, Array]:
    """Compute an attention with ``kernels.mosaic_tpu.attend``."""
    from attnzoo.ops.kernels.mosaic_tpu import attend

    return attend(*arguments)


def refused_by_mosaic_tpu(call: Any) -> str | None:
    """Return the argument that the kernel cannot take, and why; None if it takes the call."""
    if not interpreting() and jax.default_backend() != "tpu":
        return f"implementation: it wants a TPU, the default is {jax.default_backend()}"
    dtypes = (*DTYPES, "float64") if interpreting() else DTYPES
    for name, x in (("q", call.q), ("k", call.k), ("v", call.v)):
        if x.dtype.name not in dtypes:
            return f"{name}: {x.dtype}; wanted {', '.join(DTYPES)}"
        if x.shape[3] > WIDEST:
            return f"{name}: head size {x.shape[3]}; wanted at most {WIDEST}"
    return _refused_function(call)


def _refused_function(call: Any) -> str | None:
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
        if traced is not None and traced.gathers:
            return f"{name}: it reads an array at computed indices; wanted b, n, q or k"
        reads = () if traced is None else traced.reads
        if any(read.axes.count(axis) > 1 for read in reads for axis in (QUERIES, KEYS)):
            return f"{name}: it reads two axes of an array by the same position; wanted one"
        if any(math.prod(x.shape) >= 2**31 for x in operands):
            return f"{name}: it reads an array of 2^31 entries or more, whose indices are int32"
    return None


def _without_computing(trace: Callable[[], Any]) -> tuple[Traced | None, Any]:
    """The traced function and the shapes of its operands."""
    found = []

    def operands() -> Any:
        traced, operands = trace()
        found.append(traced)
        return operands

    shapes = jax.eval_shape(operands)
    return found[0], shapes

"""Choice of the implementation that computes an attention, with the reasons."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attnzoo.ops.dropout import AnyKey
from attnzoo.ops.kernels import blockwise, mosaic_gpu, on_device, reference, through_jax
from attnzoo.ops.kernels.blockwise import FEW_QUERIES
from attnzoo.ops.kernels.derivatives import by_need
from attnzoo.ops.kernels.tiles import cores
from attnzoo.ops.kernels.verified import is_checked
from attnzoo.ops.logits import Scoring
from attnzoo.ops.weights import WeightRequest, report


class WholeRowsLimit(NamedTuple):
    """Limits up to which whole rows of weights are at least as fast as tiles on a CPU."""

    size: int
    """Queries times keys."""
    total: int
    """Bytes of all weights, which should stay in the processor's cache."""


FORWARD_LIMIT = WholeRowsLimit(256 * 256, 4 << 20)
"""Limits for the forward pass alone."""
GRADIENT_LIMIT = {False: WholeRowsLimit(128 * 128, 4 << 20), True: FORWARD_LIMIT}
"""Limits for forward and backward, by whether XLA has several cores; a small tile uses only one."""
MIN_TILE_QUERIES = 32
"""Number of queries up to which tiles are too flat to be efficient."""
MAX_WEIGHT_BYTES = 64 << 20
"""Bytes of all weights up to which whole rows are computed for a few queries."""
FUSED_KERNELS = ("mosaic_gpu", "mosaic_tpu")
"""Kernels of this package for accelerators, the faster ones first."""
SOME_WEIGHTS_LIMIT = 80 * 80
"""Queries times keys up to which whole rows are computed on accelerators, or to return weights."""
MANY_KEYS = 32
"""Number of keys from which a few queries read the keys in chunks."""
ALL_WEIGHTS_LIMIT = 512 * 512
"""Queries times keys up to which a call that returns all weights computes them only once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One attention call: arrays and settings that have been checked."""

    q: Any
    """B T N H; an array, or only its shape and dtype if nothing is computed."""
    k: Any
    """B S K H."""
    v: Any
    """B S K Hv."""
    settings: Scoring
    dropout_rate: float = 0.0
    dropout_key: AnyKey | None = None
    return_weights: bool | WeightRequest = False
    return_lse: bool = False

    @property
    def size(self) -> int:
        """Queries times keys."""
        return self.q.shape[1] * self.k.shape[1]


class Implementation(NamedTuple):
    """An attention function, with a check whether it can take a call.

    ``attend`` returns (out, lse). ``refuses`` returns the argument that is not supported and why,
    or None.
    """

    attend: Callable[..., tuple[Array, Array | None]]
    refuses: Callable[[Call], str | None]


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation chosen for a call, with the reason why each other one was not."""

    name: str
    reason: str
    others: dict[str, str]
    differentiated: str
    """The implementation used when the call is differentiated; often the same as ``name``."""

    def __str__(self) -> str:
        width = max(map(len, (self.name, *self.others)))
        lines = [f"{self.name:<{width}}  chosen: {self.reason}"]
        lines += [f"{name:<{width}}  {reason}" for name, reason in self.others.items()]
        return "\n".join(lines)


def _refuses_nothing(call: Call) -> None:
    return None


def _refuses_xla(call: Call) -> str | None:
    settings, dtype = call.settings, call.q.dtype
    same = call.k.dtype == call.v.dtype == dtype
    refused = {
        "score_mod: jax.nn has none": settings.score_mod is not None,
        "softcap: jax.nn has none": settings.softcap is not None,
        "sinks: jax.nn has none": settings.sinks is not None,
        "dropout_rate: jax.nn has none": call.dropout_key is not None,
        "return_lse: jax.nn stops the gradient of its own": call.return_lse,
        "scale: an array; wanted a number": isinstance(settings.scale, jax.Array),
        f"v: width {call.v.shape[3]}; wanted {call.q.shape[3]} as in q": (
            call.v.shape[3] != call.q.shape[3]
        ),
        f"q: {dtype}, k: {call.k.dtype}, v: {call.v.dtype}; wanted one dtype": not same,
        "q: float64, but jax.nn has its softmax in float32": dtype == jnp.float64,
        "q: float16 on a CPU": dtype == jnp.float16 and jax.default_backend() == "cpu",
        f"q: {call.q.shape}, k: {call.k.shape}; wanted no empty axis": 0 in (
            *call.q.shape, *call.k.shape
        ),
    }  # fmt: skip
    return next((reason for reason, true in refused.items() if true), None)


def _refuses_cudnn(call: Call) -> str | None:
    if jax.default_backend() != "gpu":
        return f"implementation: cuDNN wants a CUDA GPU, the default is {jax.default_backend()}"
    dtype = call.q.dtype
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"q: {dtype}; cuDNN wants bfloat16 or float16"
    return _refuses_xla(call)


IMPLEMENTATIONS = {
    "reference": Implementation(reference.attend, _refuses_nothing),
    "blockwise": Implementation(blockwise.attend, _refuses_nothing),
    "xla": Implementation(through_jax.xla, _refuses_xla),
    "cudnn": Implementation(through_jax.cudnn, _refuses_cudnn),
    "mosaic_gpu": Implementation(mosaic_gpu.attend, mosaic_gpu.refuses),
    "mosaic_tpu": Implementation(on_device.mosaic_tpu, on_device.refused_by_mosaic_tpu),
}


# A jax user context: programs compiled under one value are not reused under another.
_NAMED: Any = jax.make_user_context(None)


@contextlib.contextmanager
def implemented_by(name: str) -> Generator[None]:
    """Use this implementation inside the context for every attention call that names none."""
    with _NAMED(name):
        yield


def choose(call: Call, implementation: str | None = None) -> Choice:
    """Choose the implementation for a call; ``implementation`` forces one by name.

    Raises ValueError for an unknown name, and NotImplementedError if the named implementation
    cannot take the call.
    """
    (name, reason), (differentiated, why) = _preferred(call), _preferred(call, True)
    implementation = implementation or _NAMED.value
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"implementation={implementation!r} does not exist; wanted None or one of "
                f"{', '.join(IMPLEMENTATIONS)}"
            )
        refused = IMPLEMENTATIONS[implementation].refuses(call)
        if refused is not None:
            raise NotImplementedError(
                f"implementation={implementation!r} cannot take {refused}; "
                f"{name!r} would take this call"
            )
        name, reason = implementation, "asked for by name"
        differentiated = name
    others = {}
    for other, (_, refuses) in IMPLEMENTATIONS.items():
        if other != name:
            refused = refuses(call)
            others[other] = f"refused {refused}"
            if refused is None:
                others[other] = "would do"
                if other in FUSED_KERNELS and not is_checked(other, call.q.dtype.name):
                    others[other] += "; ops.check_kernels() has not seen it on this kind of device"
    if differentiated != name:
        others[differentiated] = f"chosen where it is differentiated: {why}"
    return Choice(name, reason, others, differentiated)


def _preferred(call: Call, differentiated: bool = False) -> tuple[str, str]:
    T, S = call.q.shape[1], call.k.shape[1]
    if not (isinstance(T, int) and isinstance(S, int)):
        return "reference", f"{T} x {S}: the lengths are known only where an export runs"
    if call.return_weights is True and call.size <= ALL_WEIGHTS_LIMIT:
        return "reference", f"all {T} x {S} weights are asked for, and they are computed once"
    weights = f"{T} x {S} weights"
    B, N = call.q.shape[0], call.q.shape[2]
    # The batch size of an exported program may be symbolic.
    total = 4 * (B if isinstance(B, int) else 1) * N * call.size
    if jax.default_backend() != "cpu":
        return _on_an_accelerator(call, total)
    if call.return_weights:
        if call.size <= SOME_WEIGHTS_LIMIT:
            return "reference", f"{weights} of a head fit into the cache"
        return "blockwise", f"{weights} are never in memory"
    if T <= FEW_QUERIES and S >= MANY_KEYS and not differentiated:
        return "blockwise", f"the keys of {T} queries are read once, in chunks"
    if T <= MIN_TILE_QUERIES and total <= MAX_WEIGHT_BYTES:
        return "reference", f"{T} queries are too few to fill a tile"
    whole = GRADIENT_LIMIT[cores() > 1] if differentiated else FORWARD_LIMIT
    if call.size <= whole.size and total <= whole.total:
        return "reference", f"{weights} fit into the cache, of all heads together"
    return "blockwise", f"{weights} are never in memory"


def _on_an_accelerator(call: Call, total: int) -> tuple[str, str]:
    T, S = call.q.shape[1], call.k.shape[1]
    if T <= FEW_QUERIES:
        return "reference", f"the weights of {T} queries are no larger than the keys"
    if call.size <= SOME_WEIGHTS_LIMIT:
        return "reference", f"{T} x {S} weights of a head fit into the cache"
    if _refuses_cudnn(call) is None:
        return "cudnn", "the fused kernel of the GPU's own library takes it"
    for name in FUSED_KERNELS:
        if is_checked(name, call.q.dtype.name) and IMPLEMENTATIONS[name].refuses(call) is None:
            return name, "a fused kernel, which has been seen to be right on this kind of device"
    if total <= 1 << 30:
        return "reference", "tiles are visited one by one, which leaves an accelerator idle"
    return "blockwise", f"{T} x {S} weights are never in memory"


def compute(call: Call, implementation: str | None = None) -> tuple[Array, Any, Array | None]:
    """Compute a call: return the output, the weights or weight report, and the log-sum-exp."""
    choice = choose(call, implementation)
    name = choice.name
    arguments = (call.q, call.k, call.v, call.settings, call.dropout_rate, call.dropout_key)
    if name == "reference" and call.return_weights is True:
        return reference.attend_with_weights(*arguments)
    if name == "reference" and call.return_weights:
        out, lse = reference.attend_in_blocks(*arguments)
    elif choice.differentiated != name:
        kernels = (
            functools.partial(_of_arrays, attend=IMPLEMENTATIONS[which].attend, call=call)
            for which in (name, choice.differentiated)
        )
        out, lse = by_need(*kernels, call.q, call.k, call.v)
    else:
        out, lse = IMPLEMENTATIONS[name].attend(*arguments)
    if not call.return_weights:
        return out, None, lse
    request = WeightRequest() if call.return_weights is True else call.return_weights
    # Without an lse the report applies the softmax itself, as the reference does.
    seen = report(call.q, call.k, call.settings, request, None if name == "reference" else lse)
    return out, seen.weights if call.return_weights is True else seen, lse


def _of_arrays(q: Array, k: Array, v: Array, *, attend: Any, call: Call) -> tuple[Array, Array]:
    return attend(q, k, v, call.settings, call.dropout_rate, call.dropout_key)

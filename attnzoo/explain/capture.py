"""Attention weights of a whole model, and the gradient of its answer with respect to them."""

import contextlib
import functools
import inspect
import re
from collections.abc import Generator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.explain.attention_modules import (
    attention_modules,
    matching,
    perturb,
    unrolled,
    with_taps,
)
from attnzoo.explain.target import Target, check_output, chosen
from attnzoo.ops.weights import WeightRequest, select

What = Literal["weights", "entropy", "column_mass"] | WeightRequest
Maps = dict[str, Any]


class WeightGradients(NamedTuple):
    """Weights and their gradients by layer, with the model's output."""

    output: Any
    weights: dict[str, Float[Array, "B N T S"]]
    gradients: dict[str, Float[Array, "B N T S"]]


def capture_attention(
    model: nnx.Module,
    *inputs: Any,
    what: What = "weights",
    layers: Sequence[str] | None = None,
    **keywords: Any,
) -> tuple[Any, Maps]:
    """Run ``model(*inputs, **keywords)`` and return its output with its attention maps.

    Maps are named such as "encoder/0/self". They come from one of three sources:

    - the zoo's models, and all others that take ``capture``: works with fused kernels, scan and
      remat;
    - a model that takes ``return_weights``: its only map, "attention";
    - any other model: each attnzoo attention module that it calls, named by its attributes;
      repeated calls have the suffix ":1", ":2", ...

    Inputs are arrays or trees of arrays. The call is compiled, so that maps which are not kept cost
    nothing.

    Args:
      what: "weights" ``B N T S``; "entropy" ``B N T`` or "column_mass" ``B N S``, which need no
        memory for all weights; or a ``WeightRequest``, for a ``WeightReport``.
      layers: names of the maps to keep, in this order; None: all, sorted by name and number.

    Raises:
      ValueError: no such layer; the message lists the layers.
      NotImplementedError: a model without attention; or a user's own model that runs attention
        inside jax.lax.scan, jax.checkpoint or jax.jit, which only results can leave.
    """
    graph, state = nnx.split(model)
    wanted = None if layers is None else tuple(layers)
    with _within_reach(model):
        output, maps = _capture(graph, state, inputs, keywords, what=what, wanted=wanted)
    return output, {name: maps[name] for name in wanted or sorted(maps, key=_in_numbers)}


def attention_names(model: nnx.Module, *inputs: Any, **keywords: Any) -> list[str]:
    """Return the names of a model's maps, without computing any."""
    return sorted(map_shapes(model, inputs, keywords)[1], key=_in_numbers)


def weight_gradients(
    model: nnx.Module,
    target: Target,
    *inputs: Any,
    layers: Sequence[str] | None = None,
    **keywords: Any,
) -> WeightGradients:
    """Return the gradient of ``target`` with respect to all attention weights, and the weights.

    The weights of one layer are varied as free variables: the effect on later layers is included,
    the softmax that produced them is not. Examples of a batch are independent, so each has its own
    gradient. Works under scan and remat. A perturbation of zeros is added to the weights, which
    needs as much memory as all maps together. With classes as target (``attnzoo.explain.target``)
    the call is compiled; with a function, use ``jax.jit`` yourself.

    Raises:
      ValueError: as :func:`capture_attention`, or the target is no class.
      NotImplementedError: an attention whose weights cannot be varied, or one called repeatedly.
    """
    said, shapes = map_shapes(model, inputs, keywords)
    names = sorted(shapes, key=_in_numbers)
    wanted = names if layers is None else matching(layers, names)
    # A model that returns its only map calls that attention once per step.
    steps = not _captures(model) and "return_weights" in _arguments(model)
    placed = {
        n for p in attention_modules(model) for n in p.names if p.module is model or not steps
    }
    missing = [name for name in wanted if name not in placed or f"{name}:1" in shapes]
    if missing:
        raise NotImplementedError(
            f"{missing[0]}: called more than once, or by a model that loops over time; its weights "
            "cannot be varied one call at a time. Those that can: "
            f"{', '.join(sorted(placed)) or 'none'}"
        )
    graph, state = nnx.split(model)
    # In a scanned stack all layers take a perturbation, or none.
    touched = {n for p in attention_modules(model) if set(p.names) & set(wanted) for n in p.names}
    deltas = {name: jnp.zeros(shapes[name].shape, jnp.float32) for name in touched}
    arguments = graph, state, deltas, inputs, keywords
    with _within_reach(model):
        if callable(target):
            output, weights, gradients = _gradients(*arguments, target)
        else:
            check_output(said, target)
            classes = jnp.asarray(target, jnp.int32)
            output, weights, gradients = _differentiate(*arguments, classes)
    return WeightGradients(
        output, {name: weights[name] for name in wanted}, {name: gradients[name] for name in wanted}
    )


def _gradients(
    graph: Any, state: Any, deltas: Maps, inputs: Any, keywords: Any, target: Target
) -> tuple[Any, Maps, Maps]:
    def f(deltas: Maps) -> tuple[Float[Array, ""], Any]:
        model = nnx.merge(graph, state)
        perturb(model, deltas)
        output, maps = _run(model, inputs, keywords, True)
        return jnp.sum(chosen(output, target)), (output, maps)

    gradients, (output, maps) = jax.grad(f, has_aux=True)(deltas)
    return output, maps, gradients


_differentiate = jax.jit(_gradients, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("what", "wanted"))
def _capture(
    graph: Any, state: Any, inputs: Any, keywords: Any, *, what: What, wanted: Any
) -> tuple[Any, Maps]:
    model = nnx.merge(graph, state)
    _has_attention(model)
    request = what
    if what in ("entropy", "column_mass"):
        request = WeightRequest(statistics=(what,))
    asked = True if what == "weights" else request
    if wanted is not None:
        # Scan would compute the maps of all layers.
        model = unrolled(model)
    output, maps = _run(model, inputs, keywords, asked)
    _calls_attention(model, maps)
    if isinstance(what, str) and what != "weights":
        maps = {name: getattr(seen, what) for name, seen in maps.items()}
    if wanted is not None:
        maps = {name: maps[name] for name in matching(wanted, sorted(maps, key=_in_numbers))}
    return output, maps


def _run(model: Any, inputs: Any, keywords: Any, asked: Any) -> tuple[Any, Maps]:
    if _captures(model):
        return model(*inputs, capture=asked, **keywords)
    if "return_weights" in _arguments(model):
        output, weights = model(*inputs, return_weights=True, **keywords)
        return output, {"attention": weights if asked is True else select(weights, asked)}
    maps: Maps = {}

    def keep(name: str, seen: Any) -> None:
        again = sum(other.partition(":")[0] == name for other in maps)
        maps[f"{name}:{again}" if again else name] = seen

    copy: Any = with_taps(model, asked, keep)
    return copy(*inputs, **keywords), maps


def _arguments(model: nnx.Module) -> Any:
    return inspect.signature(type(model).__call__).parameters


def _captures(model: nnx.Module) -> bool:
    return "capture" in _arguments(model)


def map_shapes(
    model: nnx.Module, inputs: Any, keywords: Any
) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """Return the shapes of the output and of every map of weights, without computing any."""
    _has_attention(model)
    graph, state = nnx.split(model)

    def run(state: Any, inputs: Any, keywords: Any) -> tuple[Any, Maps]:
        return _run(nnx.merge(graph, state), inputs, keywords, True)

    output, found = jax.eval_shape(run, state, inputs, keywords)
    _calls_attention(model, found)
    return output, found


def _has_attention(model: nnx.Module) -> None:
    if not attention_modules(model) and not _captures(model):
        raise NotImplementedError(
            f"{type(model).__name__} has no attention: no module of attnzoo.attention"
        )


def _calls_attention(model: nnx.Module, maps: Maps) -> None:
    if not maps:
        raise NotImplementedError(f"{type(model).__name__} did not call any attention")


@contextlib.contextmanager
def _within_reach(model: nnx.Module) -> Generator[None]:
    """Explain the error for weights that cannot leave a jax transformation."""
    try:
        yield
    except jax.errors.UnexpectedTracerError as error:
        raise NotImplementedError(
            f"{type(model).__name__} calls its attention inside jax.lax.scan, jax.checkpoint or "
            "jax.jit; return the weights from there and take a `capture` argument, or use "
            "attnzoo.layers.stack.Stack"
        ) from error


def _in_numbers(name: str) -> list[Any]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"[/:]", name)]

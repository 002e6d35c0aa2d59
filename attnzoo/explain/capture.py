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

from attnzoo.explain.places import matching, perturb, places, tapped, unrolled
from attnzoo.explain.target import Target, check_output, chosen
from attnzoo.ops.weights import WeightRequest, select

What = Literal["weights", "entropy", "column_mass"] | WeightRequest
Maps = dict[str, Any]


class WeightGradients(NamedTuple):
    """Weights and gradients by layer, and the output they belong to."""

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
    """``model(*inputs, **keywords)``, and what its attentions did: {"encoder/0/self": ...}.

    Of a model that takes ``capture``, as the zoo's do, whatever it holds: fused kernels, scan,
    remat. Of one that takes ``return_weights`` its one map, "attention". Of any other, each of our
    attention modules that is called in it, by its attributes; one that is called again has ":1",
    ":2", ... behind its name. Inputs are arrays or trees of them; all is compiled together, so that
    maps that are not kept cost nothing.

    Args:
      what: "weights" ``B N T S``; "entropy" ``B N T`` and "column_mass" ``B N S``, which never
        hold all weights; or a ``WeightRequest``, which gives its ``WeightReport``.
      layers: names of the maps to keep, in this order; None: all, sorted by name and number.

    Raises:
      ValueError: no such layer, with the names that there are.
      NotImplementedError: a model without attention; or an attention of a model of your own runs
        inside jax.lax.scan, jax.checkpoint or jax.jit, from where only a result can bring its
        weights out.
    """
    graph, state = nnx.split(model)
    wanted = None if layers is None else tuple(layers)
    with _within_reach(model):
        output, maps = _capture(graph, state, inputs, keywords, what=what, wanted=wanted)
    return output, {name: maps[name] for name in wanted or sorted(maps, key=_in_numbers)}


def attention_names(model: nnx.Module, *inputs: Any, **keywords: Any) -> list[str]:
    """The names of the maps that a model has, without computing any."""
    return sorted(map_shapes(model, inputs, keywords)[1], key=_in_numbers)


def weight_gradients(
    model: nnx.Module,
    target: Target,
    *inputs: Any,
    layers: Sequence[str] | None = None,
    **keywords: Any,
) -> WeightGradients:
    """The gradient of ``target`` (``attnzoo.explain.target``) by every weight, and the weights.

    The weights of one layer are varied as if they were free: later layers answer, the softmax they
    came from does not. Examples of a batch do not touch each other, so each has its own gradient.
    Works under scan and remat. The weights are added to as a perturbation of zeros, which costs as
    much memory as all maps together. With classes as target it is compiled; with a function put it
    into a ``jax.jit`` of your own.

    Raises:
      ValueError: as :func:`capture_attention`, or the target is no class.
      NotImplementedError: an attention whose weights cannot be varied, or one called repeatedly.
    """
    said, shapes = map_shapes(model, inputs, keywords)
    names = sorted(shapes, key=_in_numbers)
    wanted = names if layers is None else matching(layers, names)
    # A model that gives its one map as a result calls that attention once a step.
    steps = not _captures(model) and "return_weights" in _arguments(model)
    placed = {n for p in places(model) for n in p.names if p.module is model or not steps}
    missing = [name for name in wanted if name not in placed or f"{name}:1" in shapes]
    if missing:
        raise NotImplementedError(
            f"{missing[0]}: called more than once, or by a model that loops over time; its weights "
            "cannot be varied one call at a time. Those that can: "
            f"{', '.join(sorted(placed)) or 'none'}"
        )
    graph, state = nnx.split(model)
    # A scanned stack takes a perturbation for all of its layers or for none.
    touched = {n for p in places(model) if set(p.names) & set(wanted) for n in p.names}
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
        # A loop would compute the maps of all its layers.
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

    copy: Any = tapped(model, asked, keep)
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
    if not places(model):
        raise NotImplementedError(
            f"{type(model).__name__} has no attention: no module of attnzoo.attention"
        )


def _calls_attention(model: nnx.Module, maps: Maps) -> None:
    if not maps:
        raise NotImplementedError(f"{type(model).__name__} has attention, but did not call any")


@contextlib.contextmanager
def _within_reach(model: nnx.Module) -> Generator[None]:
    """Say what it means that weights were computed where nothing but results comes out."""
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

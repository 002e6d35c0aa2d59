"""Attention modules of a model by map name, and how to observe and perturb them.

All functions work on a copy; the caller's model is never changed.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention.contract import Attention
from attnzoo.layers.self_attention import SelfAttention
from attnzoo.layers.stack import Stack
from attnzoo.module import Module

Tap = Callable[[str, Any], None]


class AttentionModule(NamedTuple):
    """Attention module with its map names; in a scanned stack it stands for all layers.

    In a ``Stack`` the names are those of the zoo's maps, "encoder/0/self"; elsewhere they are paths
    of attributes, "pool/attention".
    """

    names: tuple[str, ...]
    module: Attention
    scanned: bool


def attention_modules(model: nnx.Module) -> list[AttentionModule]:
    """Return every attention of a model, in the order of its attributes."""
    found: list[AttentionModule] = []
    within: set[int] = set()
    for prefix, stack in stacks(model):
        layers = range(stack.depth)
        groups = (
            [(stack.blocks, layers)] if stack.scan else [(stack.blocks[i], [i]) for i in layers]
        )
        for block, numbers in groups:
            for kind, module in (
                ("self", block.attention.mechanism),
                ("cross", block.cross_attention),
            ):
                if module is not None:
                    names = tuple("/".join([*prefix, str(i), kind]) for i in numbers)
                    found.append(AttentionModule(names, module, stack.scan))
                    within.add(id(module))
    others = {
        path: module
        for path, module in nnx.iter_graph(model)
        if isinstance(module, Attention) and id(module) not in within
    }
    for path, module in others.items():
        # An attention that contains attentions counts once; its parts lie below its path.
        if not any(path[:end] in others for end in range(len(path))):
            name = "/".join(str(step) for step in path) or "attention"
            found.append(AttentionModule((name,), module, False))
    return found


def stacks(model: nnx.Module) -> list[tuple[tuple[str, ...], Stack]]:
    """Return the stacks of a model, with their paths of attributes."""
    return [
        (tuple(str(step) for step in path), node)
        for path, node in nnx.iter_graph(model)
        if isinstance(node, Stack)
    ]


def is_causal(stack: Stack) -> bool:
    """Return True if tokens of a stack attend only to earlier ones."""
    return (stack.blocks if stack.scan else stack.blocks[0]).attention.is_causal


def matching(wanted: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Return ``wanted``, or raise a ValueError if some are not among ``names``."""
    names, wanted = list(names), tuple(wanted)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"layers names {unknown[0]!r}; the model has {', '.join(names)}")
    return wanted


def unrolled(model: nnx.Module) -> nnx.Module:
    """Return a copy whose stacks run block by block, without scan and rematerialisation."""
    copy: Any = nnx.clone(model)
    for path, stack in stacks(copy):
        plain = Stack(stack.unrolled().blocks, branch_rate=stack.branch_rate)
        if not path:
            return plain
        parent = copy
        for step in path[:-1]:
            parent = parent[int(step)] if step.isdecimal() else getattr(parent, step)
        if path[-1].isdecimal():
            parent[int(path[-1])] = plain
        else:
            setattr(parent, path[-1], plain)
    return copy


def with_taps(model: nnx.Module, what: Any, tap: Tap) -> nnx.Module:
    """Return a copy that calls ``tap(name, report)`` for each attention, with its report."""
    copy = unrolled(model)
    for place in attention_modules(copy):
        place.module.attend = _reporting(place.module.attend, place.names[0], what, tap)
    return copy


def _reporting(attend: Callable[..., Any], name: str, what: Any, tap: Tap) -> Callable[..., Any]:
    def attend_and_report(*arguments: Any, return_weights: Any = False, **keywords: Any) -> Any:
        context, seen = attend(*arguments, return_weights=what, **keywords)
        tap(name, seen)
        if return_weights and return_weights != what:
            raise NotImplementedError(
                f"return_weights={return_weights!r}: the model asks {name} for one thing, and "
                f"what={what!r} for another"
            )
        return (context, seen) if return_weights else context

    return attend_and_report


def perturb(model: nnx.Module, deltas: dict[str, Float[Array, "B N T S"]]) -> None:
    """Add ``deltas`` to the weights of the named attentions, before the values are weighted.

    Raises:
      NotImplementedError: the weights of one of them cannot be varied.
    """
    for place in attention_modules(model):
        if not any(name in deltas for name in place.names):
            continue
        if not place.module.takes_perturbation:
            raise NotImplementedError(
                f"{place.names[0]} is a {type(place.module).__name__}, whose weights cannot be "
                "varied; wanted an attention with takes_perturbation, such as multi_head"
            )
        added = [deltas[name] for name in place.names]
        delta = jnp.stack(added) if place.scanned else added[0]
        module: Any = place.module
        module.perturbation = nnx.data(nnx.Perturbation(delta))


class _Entry(Module):
    """Self-attention whose input passes through a function."""

    def __init__(self, attention: SelfAttention, enter: Callable[[Array], Array]):
        self.attention, self.enter = attention, enter

    def __call__(self, x: Float[Array, "B T D"], **keywords: Any) -> Any:
        return self.attention(self.enter(x), **keywords)


def before_attention(
    model: nnx.Module, layer: str | None, *inputs: Any, **keywords: Any
) -> tuple[Float[Array, "B T D"], Callable[[Float[Array, "B T D"]], Any]]:
    """Return the input X of a block's self-attention, and the model's output as a function of X.

    Only the attention gets the changed X; the residual branch keeps its value. In a pre-norm block,
    X is the output of the norm. ``layer`` is a name such as "encoder/3/self"; None: the last.

    Raises:
      ValueError: no such layer.
      NotImplementedError: a model without such blocks.
    """
    names = [name for p in attention_modules(model) for name in p.names if name.endswith("/self")]
    if not names:
        raise NotImplementedError(f"{type(model).__name__} has no blocks with self-attention")
    (name,) = matching([names[-1] if layer is None else layer], names)
    *prefix, number, _ = name.split("/")

    def run(enter: Callable[[Array], Array]) -> Any:
        copy: Any = unrolled(model)
        stack = dict(stacks(copy))[tuple(prefix)]
        block = stack.blocks[int(number)]
        block.attention = _Entry(block.attention, enter)
        return copy(*inputs, **keywords)

    return split_run(run)


def split_run(
    run: Callable[[Callable[[Array], Array]], Any],
) -> tuple[Array, Callable[[Array], Any]]:
    """Return the states that ``run(enter)`` passes to ``enter``, and the run as a function of them.

    The states have no gradient.
    """
    seen: list[Array] = []

    def look(x: Array) -> Array:
        seen.append(x)
        return x

    run(look)
    return jax.lax.stop_gradient(seen[0]), lambda x: run(lambda _: x)

"""Functions of indices on one tile of ``mosaic_gpu``'s kernels, and their derivatives.

A value is a number, a vector along the queries, a vector along the keys, or a tile. It is broadcast
only where it meets a larger one, so that registers hold no copies.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu
from jaxtyping import Array, Int

from attnzoo.ops.kernels import diagonals
from attnzoo.ops.kernels.traced import (
    HEAD,
    KEYS,
    QUERIES,
    Node,
    OfHead,
    Read,
    Traced,
    apply,
    jaxpr_nodes,
)

# The module differs between the versions of jax that the package imports with.
plgpu: Any = mosaic_gpu

LOG2E = math.log2(math.e)
BLOCK = 128
"""Queries and keys of a tile of the mask: the rows of two warpgroups."""

Value = tuple[Any, frozenset[str]]
"""A number, vector or tile, with the axes of the tile that it has."""
NUMBER: frozenset[str] = frozenset()
TILE = frozenset((QUERIES, KEYS))

ELEMENTWISE = frozenset(
    "add add_any sub mul div rem max min neg abs sign exp exp2 log log2 tanh logistic sqrt rsqrt "
    "round integer_pow square one_minus_square select_n clamp lt le gt ge eq ne and or not xor "
    "shift_left shift_right_logical shift_right_arithmetic convert_element_type sin cos".split()
)
SHAPES = frozenset("broadcast_in_dim reshape squeeze expand_dims copy copy_p reshard".split())
"""Primitives that leave a value as it is, because its axes in a tile are known already."""
CUSTOM = "custom_jvp_call"


@dataclasses.dataclass(frozen=True)
class Frame:
    """One tile of logits in a kernel: its shape, its place, and the axis of the queries."""

    shape: tuple[int, int]
    first: tuple[Any, Any]
    """The first query and the first key."""
    b: Any
    n: Any
    query_axis: int = 0

    def axis(self, kind: str) -> int:
        return self.query_axis if kind == QUERIES else 1 - self.query_axis

    def positions(self, kind: str) -> Int[Array, "_"]:
        axis = self.axis(kind)
        places = plgpu.broadcasted_iota(jnp.int32, (self.shape[axis],), 0, layout=layout_of(axis))
        return places + self.first[kind == KEYS]

    def lift(self, x: Any, has: frozenset[str], wanted: frozenset[str] = TILE) -> Any:
        """Broadcast a number or a vector over the missing axes of a tile."""
        if has == wanted:
            return x
        if len(wanted) == 1:
            (kind,) = wanted
            size = self.shape[self.axis(kind)]
            return lax.broadcast_in_dim(x, (size,), [])
        return lax.broadcast_in_dim(x, self.shape, [self.axis(kind) for kind in has])


class Pullback(NamedTuple):
    """A function of a score with its derivative, in one graph that shares common terms."""

    function: Traced
    """The function; its graph has the inputs ``score`` and ``gradient``, that of the result."""
    score: Node
    """The gradient of the input score."""
    reads: dict[int, Node]
    """The gradients of the wanted reads, each as a whole tile."""


def layout_of(axis: int | None = None) -> Any:
    """Return the register layout of a product, or of a vector along its rows (0) or columns (1)."""
    return plgpu.Layout.WGMMA if axis is None else plgpu.Layout.WGMMA.reduce(1 - axis)


def cannot_lower(traced: Traced) -> str | None:
    """Return the reason why a function cannot run on a tile of this kernel, or None."""
    for read in traced.reads:
        if any(axis not in (HEAD, QUERIES, KEYS) for axis in read.axes):
            return f"{traced.name}: it gathers from an array by both q and k, or by neither alone"
        if read.axes.count(QUERIES) > 1 or read.axes.count(KEYS) > 1:
            return f"{traced.name}: it reads two axes of an array by the same position"
    for node in _computed(traced, [traced.output]):
        operation = _refused(node)
        if operation is not None:
            return f"{traced.name}: it uses {operation}, which no tile can"
        if not _has_place(node, traced):
            return f"{traced.name}: it makes an array of shape {node.shape} in a tile"
    return None


def _computed(traced: Traced, roots: Iterable[Node]) -> list[Node]:
    """Return the nodes that are neither inputs nor reads."""
    seen: set[Node] = set()
    todo, found = list(roots), []
    while todo:
        node = todo.pop()
        node = inline_custom_jvp(node) if node.primitive == CUSTOM else node
        if node in seen or node in traced.at or node.equation is None:
            continue
        seen.add(node)
        found.append(node)
        todo += node.inputs
    return found


@functools.cache
def inline_custom_jvp(node: Node) -> Node:
    """Return the result node inside a call of a function with a custom derivative."""
    inner = node.equation.params["call_jaxpr"]
    constants = [Node(np.shape(x), x.dtype, leaf=np.asarray(x)) for x in inner.consts]
    return jaxpr_nodes(inner.jaxpr, [*constants, *node.inputs])[node.output]


def _refused(node: Node) -> str | None:
    """Return the name of an operation that Mosaic lacks for these operands, or None."""
    is_of_floats = jnp.issubdtype(node.dtype, jnp.floating)
    if node.primitive == "rem" and is_of_floats:
        return "rem of floating-point numbers"
    return None if node.primitive in ELEMENTWISE | SHAPES else node.primitive


def _has_place(node: Node, traced: Traced) -> bool:
    """Return True if a value is a number, or has the tile's size or 1 along both of its axes."""
    sizes = zip(node.shape, traced.shape)
    is_of_tile = len(node.shape) == 2 and all(size in (1, whole) for size, whole in sizes)
    return is_of_tile or math.prod(node.shape) == 1


def without_gathers(
    traced: Traced, operands: Sequence[Array], lengths: tuple[int, int]
) -> tuple[Traced, tuple[Array, ...]]:
    """Replace reads of tables at k - q by reads of slices; ``lengths`` are whole blocks."""

    def evaluate(index: Node, signs: dict[Node, int], distances: Array) -> Array:
        frame = Frame((1, distances.shape[0]), (0, 0), None, None)
        function = Traced(traced.name, index, frame.shape, (), signs)
        along = frozenset([KEYS])
        value = evaluator(
            function, frame, lambda _: (0, NUMBER), lambda sign: (distances * sign, along), apply
        )
        return value(index)[0]

    return diagonals.without_gathers(
        traced, operands, lengths, BLOCK, evaluate, ELEMENTWISE | SHAPES
    )


def pullback(traced: Traced, wanted: Sequence[int]) -> Pullback:
    """Return the derivative by the score and by the ``wanted`` reads, as jax makes it.

    Raises NotImplementedError, naming the function, if it cannot run on a tile of this kernel.
    """
    sizes = dict(zip((QUERIES, KEYS), traced.shape))
    names: list[Any] = ["score", "gradient", "b", "n", "q", "k", *range(len(traced.reads))]
    axes: dict[Any, frozenset[str]] = {
        "score": TILE, "gradient": TILE, "b": NUMBER, "n": NUMBER,
        "q": frozenset([QUERIES]), "k": frozenset([KEYS]),
    }  # fmt: skip
    dtypes: dict[Any, Any] = dict.fromkeys(("b", "n", "q", "k"), jnp.int32)
    dtypes |= dict.fromkeys(("score", "gradient"), jnp.float32)
    for place, read in enumerate(traced.reads):
        # A wanted read is a whole tile, so that the graph does not have to sum its gradient.
        axes[place] = TILE if place in wanted else _axes_of(read)
        dtypes[place] = read.dtype
    frame = Frame(traced.shape, (0, 0), None, None)

    def run(*given: Array) -> list[Array]:
        values = {name: (x, axes[name]) for name, x in zip(names, given)}

        def modified(score: Array, reads: list[Array]) -> Array:
            known = {place: (x, TILE) for place, x in zip(wanted, reads)}
            known = values | known | {"score": (score, TILE)}
            value = evaluator(traced, frame, known.__getitem__, known.__getitem__, apply)
            return frame.lift(*value(traced.output))

        reads = [values[place][0] for place in wanted]
        out, pull = jax.vjp(modified, values["score"][0], reads)
        d_score, d_reads = pull(values["gradient"][0])
        return [out, d_score, *d_reads]

    shapes = [tuple(sizes[x] for x in (QUERIES, KEYS) if x in axes[name]) for name in names]
    closed = jax.make_jaxpr(run)(
        *(jax.ShapeDtypeStruct(shape, dtypes[name]) for shape, name in zip(shapes, names))
    )
    constants = [Node(np.shape(x), np.asarray(x).dtype, leaf=np.asarray(x)) for x in closed.consts]
    inputs = [
        Node(shape, dtypes[name], frozenset(["score"]), leaf=name if isinstance(name, str) else "")
        for shape, name in zip(shapes, names)
    ]
    out, score, *reads = jaxpr_nodes(closed.jaxpr, [*constants, *inputs])
    at = {node: name for node, name in zip(inputs, names) if isinstance(name, int)}
    function = Traced(traced.name, out, traced.shape, traced.reads, at)
    for node in _computed(function, [out, score, *reads]):
        operation = _refused(node)
        if operation is not None:
            raise NotImplementedError(
                f"{traced.name}: its derivative uses {operation}, which "
                "implementation='mosaic_gpu' has not ('blockwise' has)"
            )
    return Pullback(function, score, dict(zip(wanted, reads)))


def evaluator(
    traced: Traced,
    frame: Frame,
    leaf: Callable[[str], Value],
    read: Callable[[int], Value],
    bind: Callable[[Node, list[Any]], Any],
) -> Callable[[Node], Value]:
    """Return a function that computes the value of any node of a graph, each only once."""
    known: dict[Node, Value] = {}

    def value(node: Node) -> Value:
        if node not in known:
            known[node] = compute(node)
        return known[node]

    def compute(node: Node) -> Value:
        if node in traced.at:
            return read(traced.at[node])
        if isinstance(node.leaf, str):
            return leaf(node.leaf)
        if node.equation is None:
            return np.asarray(node.leaf, node.dtype).reshape(-1)[0], NUMBER
        if node.primitive == CUSTOM and bind is _bind:
            return value(inline_custom_jvp(node))
        values = [value(x) for x in node.inputs]
        if node.primitive in SHAPES:
            return values[0]
        axes = frozenset().union(*(has for _, has in values))
        return bind(node, [frame.lift(x, has, axes) for x, has in values]), axes

    return value


def tile_evaluator(
    traced: Traced, frame: Frame, operands: Sequence[Any], given: dict[str, Any]
) -> Callable[[Node], Array]:
    """Return a function that computes a node as a tile in a kernel.

    ``given`` holds the inputs ``score`` and ``gradient``.
    """

    def at(index: Any) -> Any:
        if isinstance(index, OfHead):
            return _entry(operands[index.operand], frame)
        return jnp.int32(index) if isinstance(index, int) else leaf(index.leaf)[0]

    def leaf(name: str) -> Value:
        if name in ("q", "k"):
            kind = QUERIES if name == "q" else KEYS
            return frame.positions(kind), frozenset([kind])
        if name in ("b", "n"):
            return {"b": frame.b, "n": frame.n}[name], NUMBER
        return given[name], TILE

    across = _across(traced, frame.query_axis)

    def read(place: int) -> Value:
        what = traced.reads[place]
        ref = operands[what.operand]
        if place in across:
            ref = operands[len(operands) - len(across) + across.index(place)]
        got = _load(what, ref, frame, at)
        return got != 0 if what.dtype == bool else got, _axes_of(what)

    value = evaluator(traced, frame, leaf, read, _bind)
    return lambda node: frame.lift(*value(node))


def evaluate(traced: Traced, frame: Frame, operands: Sequence[Any], score: Any = None) -> Any:
    """Evaluate a traced function on one tile."""
    return tile_evaluator(traced, frame, operands, {"score": score})(traced.output)


def add_transposed_copies(
    traced: Traced | None, arrays: Sequence[Array], query_axis: int
) -> tuple[Array, ...]:
    """Return the operands, followed by transposed copies of operands that lie across the tiles.

    A register holds two neighbours of a row of the kernel's tile, which are loaded together.
    """
    if traced is None:
        return tuple(arrays)
    copies = []
    for place in _across(traced, query_axis):
        read = traced.reads[place]
        copies.append(jnp.swapaxes(arrays[read.operand], *_tile_axes(read)))
    return (*arrays, *copies)


def _across(traced: Traced, query_axis: int) -> list[int]:
    """Return the reads of tiles whose operand has its axes in the other order than the kernel."""
    return [
        place
        for place, read in enumerate(traced.reads)
        if len(_tile_axes(read)) == 2
        and (read.axes[_tile_axes(read)[0]] == QUERIES) != (query_axis == 0)
    ]


def _tile_axes(read: Read) -> list[int]:
    return [i for i, axis in enumerate(read.axes) if axis != HEAD]


def _axes_of(read: Read) -> frozenset[str]:
    return frozenset(x for x in read.axes if x != HEAD)


def _bind(node: Node, args: list[Any]) -> Any:
    if node.primitive == "tanh":  # the hardware's tanh has 11 correct bits
        e = jnp.exp2(jnp.clip(args[0], -10, 10) * (2 * LOG2E))
        return 1 - 2 / (e + 1)
    if node.primitive == "add_any":
        return lax.add(*args)
    if node.primitive == "not" and node.dtype == bool:  # Mosaic has it for integers only
        return jnp.where(args[0], jnp.int32(0), jnp.int32(1)) > 0
    if node.primitive == "integer_pow" and node.equation.params["y"] < 0:
        return 1 / lax.integer_pow(args[0], -node.equation.params["y"])
    primitive = node.equation.primitive
    return primitive.bind(*args, **primitive.get_bind_params(node.equation.params))


def _entry(ref: Any, frame: Frame) -> Any:
    """Return entry [b, n] of an operand."""
    return ref[tuple(jnp.int32(0) if x == 1 else i for x, i in zip(ref.shape, (frame.b, frame.n)))]


def _load(read: Read, ref: Any, frame: Frame, at: Callable[[Any], Any]) -> Any:
    """Load the part of an operand that a function reads in one tile, from global memory."""
    kinds = [axis for axis in read.axes if axis != HEAD]
    if len(kinds) == 2:
        kinds = sorted(kinds, key=frame.axis)
    starts = dict(zip((QUERIES, KEYS), frame.first))
    if read.offset is not None:
        row = lax.rem(starts[QUERIES], jnp.int32(BLOCK))
        starts = {QUERIES: row, KEYS: starts[KEYS] - starts[QUERIES] + row + read.offset}
    kind = iter(kinds)
    where = []
    for axis, index in zip(read.axes, read.indices):
        if axis == HEAD:
            where.append(at(index))
        else:
            axis = next(kind)
            where.append(pl.ds(starts[axis], frame.shape[frame.axis(axis)]))
    if not kinds:
        return ref[tuple(where)]
    layout = layout_of() if len(kinds) == 2 else layout_of(frame.axis(kinds[0]))
    return plgpu.load(ref.at[tuple(where)], layout=layout, optimized=False)

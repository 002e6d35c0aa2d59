# Over 400 lines: one tracer from functions of indices to operations on tiles, with its cases.
"""Score modifiers and masks inside a kernel: traced on one tile, split, evaluated on refs.

A kernel cannot close over arrays and cannot index a value. So the jaxpr of a function of (score, b,
n, q, k) is cut in three parts. The part that depends on captured arrays alone is computed before
the kernel. So is the part that also depends on b and n, once per head, with axes ``B N`` in front.
The rest runs on a tile. Results of the first two parts are operands of the kernel, which the
function reads through the ``load`` of a backend. A tile of document ids or of a dense bias is a
slice; an entry of a table at k - q is a gather, which not every backend has.

jax differentiates the part before the kernel; the kernel computes the gradients of its reads.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Array

from attnzoo.ops.logits import Scoring
from attnzoo.ops.masks import Broadcast, MaskFunction
from attnzoo.ops.softmax import compute_dtype

INPUTS = ("score", "b", "n", "q", "k")
HEAD, QUERIES, KEYS, GATHER = "head", "queries", "keys", "gather"
"""Ways to read an axis of an array: one entry per head, the tile's queries, its keys, any index."""

Load = Callable[["Read", Sequence[Any]], Array]
"""``load(read, indices)`` returns the entries at integer scalars and tiles, broadcast together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One value of a traced function, with the nodes it is computed from; none for a leaf."""

    shape: tuple[int, ...]
    dtype: Any
    needs: frozenset[str] = frozenset()
    """Names of the INPUTS that it depends on, and "captured" if it depends on an array."""
    inputs: tuple["Node", ...] = ()
    equation: Any = None
    """Equation of the jaxpr; a leaf has none."""
    output: int = 0
    leaf: Any = None
    """The name of an input, the position of a captured array (int), or a literal (np.ndarray)."""

    @property
    def primitive(self) -> str:
        return "" if self.equation is None else self.equation.primitive.name

    @property
    def in_tile(self) -> bool:
        """True if the value depends on queries, keys or the score, so that only a tile has it."""
        return bool(self.needs & {"score", "q", "k"})


class Read(NamedTuple):
    """A place where the function reads an operand in a tile."""

    operand: int
    axes: tuple[str, ...]
    """HEAD, QUERIES, KEYS or GATHER for each axis of the operand."""
    indices: tuple[Any, ...]
    """A node, an int, or a value per head (:class:`OfHead`) for each axis of the operand."""
    shape: tuple[int, ...]
    dtype: Any
    is_floating: bool
    offset: int | None = None
    """Offset in an operand that :mod:`diagonals` made, with one block of query rows; else None."""


class OfHead(NamedTuple):
    """A value that depends on the head alone: entry [b, n] of an operand ``B N``.

    An axis along which the operand is constant has size 1.
    """

    operand: int


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """A function of a tile, without its arrays (static), to be called inside a kernel."""

    name: str
    output: Node
    shape: tuple[int, int]
    reads: tuple[Read, ...]
    """Reads of operands; :meth:`vjp` returns gradients of the floating ones in this order."""
    at: dict[Node, int]
    """Index in ``reads`` of each node that is a read."""

    @property
    def gathers(self) -> bool:
        """True if an array is read at computed indices, which do not form a slice."""
        return any(GATHER in read.axes for read in self.reads)

    @property
    def floating(self) -> tuple[Read, ...]:
        """The reads that have gradients."""
        return tuple(read for read in self.reads if read.is_floating)

    def __call__(self, load: Load, score: Any, b: Any, n: Any, q: Any, k: Any) -> Array:
        """Evaluate the function on a tile.

        b and n are scalars, q is ``t 1``, k ``1 s``, score ``t s`` (None for masks). All indices
        must lie inside the arrays: a tile past the end repeats the last position.
        """
        return self._evaluate(dict(zip(INPUTS, (score, b, n, q, k))), load, {})

    def vjp(
        self, load: Load, score: Array, b: Any, n: Any, q: Any, k: Any
    ) -> tuple[Array, Callable[[Array], tuple[Array, list[Array]]]]:
        """Evaluate the function, with a pullback to the score and to each floating read.

        A gradient has the shape of the read: size 1 where all of the tile shares an entry.
        """
        inputs = dict(zip(INPUTS, (score, b, n, q, k)))
        seen: dict[int, Array] = {}
        self._evaluate(inputs, load, seen)
        places = [i for i, read in enumerate(self.reads) if read.is_floating and i in seen]

        def again(score: Array, values: list[Array]) -> Array:
            given = dict(seen) | dict(zip(places, values))
            return self._evaluate(inputs | {"score": score}, load, given)

        out, pull = jax.vjp(again, score, [seen[i] for i in places])
        return out, pull

    def _evaluate(self, inputs: dict[str, Any], load: Load, given: dict[int, Array]) -> Array:
        values: dict[Node, Any] = {}

        def at(index: Any) -> Any:
            if isinstance(index, OfHead):
                return load(_of_head(index.operand), (inputs["b"], inputs["n"]))
            return index if isinstance(index, int) else value(index)

        def value(node: Node) -> Any:
            if node not in values:
                if node in self.at:
                    place = self.at[node]
                    read = self.reads[place]
                    if place not in given:
                        given[place] = load(read, [at(index) for index in read.indices])
                    got = given[place]
                    got = got != 0 if read.dtype == bool else got
                    values[node] = _shaped(got, node.shape)
                elif node.equation is None:
                    values[node] = inputs[node.leaf] if isinstance(node.leaf, str) else node.leaf
                else:
                    values[node] = apply(node, [value(x) for x in node.inputs])
            return values[node]

        return jnp.broadcast_to(value(self.output), self.shape)


def _of_head(operand: int) -> Read:
    return Read(operand, (HEAD, HEAD), ("b", "n"), (), jnp.int32, False)


def _shaped(x: Array, shape: tuple[int, ...]) -> Array:
    if x.shape == shape:
        return x
    return x.reshape(shape) if x.size == np.prod(shape) else jnp.broadcast_to(x, shape)


def apply(node: Node, args: list[Any]) -> Any:
    equation = node.equation
    args = [
        jnp.asarray(arg, x.dtype) if isinstance(arg, np.ndarray) else arg
        for arg, x in zip(args, node.inputs)
    ]
    got = equation.primitive.bind(*args, **equation.primitive.get_bind_params(equation.params))
    return got[node.output] if equation.primitive.multiple_results else got


def trace_modify(
    settings: Scoring, shape: tuple[int, int, int, int], tile: tuple[int, int], dtype: Any
) -> tuple[Traced | None, tuple[Array, ...]]:
    """Trace soft cap, bias and score modifier as one function of a tile, with its operands.

    ``shape`` is ``B N T S``. Raises NotImplementedError, naming the argument, for a function that
    reads arrays in a way that a tile does not support.
    """
    if settings.softcap is None and settings.bias is None and settings.score_mod is None:
        return None, ()

    def modify(score: Array, b: Array, n: Array, q: Array, k: Array) -> Array:
        if settings.softcap is not None:
            score = settings.softcap * jnp.tanh(score / settings.softcap)
        if settings.bias is not None:
            score = score + _entry(settings.bias, b, n, q, k).astype(dtype)
        if settings.score_mod is not None:
            score = _of_tile(settings.score_mod(score, b, n, q, k), tile).astype(dtype)
        return score

    name = "bias" if settings.score_mod is None else "score_mod"
    return _trace(name, modify, shape, tile, jax.ShapeDtypeStruct(tile, dtype))


def trace_mask(
    mask: MaskFunction,
    shape: tuple[int, int, int, int],
    tile: tuple[int, int],
    name: str = "mask_mod",
) -> tuple[Traced, tuple[Array, ...]]:
    """Trace a mask over ``B N T S`` as a function of a tile, with its operands.

    No gradient passes. Raises NotImplementedError for a mask that reads arrays in a way that a tile
    does not support.
    """

    def visible(b: Array, n: Array, q: Array, k: Array) -> Array:
        seen = _of_tile(mask(b, n, q, k), tile)
        if seen.dtype != bool:
            raise ValueError(
                f"a mask function returned {seen.dtype}; wanted bool, True = may attend "
                "(something that is added is a score modifier)"
            )
        return seen

    return _trace(name, visible, shape, tile, None)


def mask_of(settings: Scoring) -> MaskFunction | None:
    """Return mask array and mask function as one function; a lone block mask is kept as it is."""
    if settings.mask is None:
        return settings.mask_mod
    array = Broadcast(settings.mask)
    return array if settings.mask_mod is None else array & settings.mask_mod


def _entry(array: Array, b: Any, n: Any, q: Any, k: Any) -> Array:
    """Return the entry of an array in which any axis may have size 1."""
    one = (index * 0 if size == 1 else index for index, size in zip((b, n, q, k), array.shape))
    return array[tuple(one)]


def _of_tile(value: Any, tile: tuple[int, int]) -> Array:
    value = jnp.asarray(value)
    if value.ndim not in (0, 2) or any(
        got not in (1, size) for got, size in zip(value.shape, tile)
    ):
        raise ValueError(
            f"an index function returned shape {value.shape}; wanted something that broadcasts to "
            f"a tile {tile}: index captured arrays with b, n, q, k and use jnp operations"
        )
    return value


def _trace(
    name: str, function: Any, shape: tuple[int, int, int, int], tile: tuple[int, int], score: Any
) -> tuple[Traced, tuple[Array, ...]]:
    indices = [jax.ShapeDtypeStruct(s, jnp.int32) for s in ((), (), (tile[0], 1), (1, tile[1]))]
    avals = [*([] if score is None else [score]), *indices]
    closed = jax.make_jaxpr(function)(*avals)
    inputs = [
        Node(aval.shape, aval.dtype, frozenset([leaf]), leaf=leaf)
        for leaf, aval in zip(INPUTS[-len(avals) :], avals)
    ]
    captured = [
        Node(np.shape(const), const.dtype, frozenset(["captured"]), leaf=position)
        for position, const in enumerate(closed.consts)
    ]
    (output,) = jaxpr_nodes(closed.jaxpr, [*captured, *inputs])
    builder = _Builder(name, shape, closed.consts)
    builder.visit(output)
    return (
        Traced(name, output, tile, tuple(builder.reads), builder.at),
        tuple(builder.operands),
    )


def jaxpr_nodes(jaxpr: Any, inputs: Sequence[Node]) -> list[Node]:
    """Return the outputs of a jaxpr as nodes, with nested jits inlined."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs))

    def node(atom: Any) -> Node:
        if not isinstance(atom, Literal):
            return known[atom]
        value = np.asarray(atom.val)
        needs = frozenset(["captured"] if value.ndim else [])
        return Node(value.shape, atom.aval.dtype, needs, leaf=value)

    for equation in jaxpr.eqns:
        args = tuple(node(atom) for atom in equation.invars)
        inner = equation.params.get("jaxpr")
        if equation.primitive.name in ("jit", "pjit", "closed_call", "checkpoint", "remat"):
            consts = [
                Node(np.shape(c), c.dtype, frozenset(["captured"]), leaf=np.asarray(c))
                for c in getattr(inner, "consts", ())
            ]
            outputs = jaxpr_nodes(getattr(inner, "jaxpr", inner), [*consts, *args])
        else:
            needs = frozenset().union(*(x.needs for x in args))
            outputs = [
                Node(var.aval.shape, var.aval.dtype, needs, args, equation, i)
                for i, var in enumerate(equation.outvars)
            ]
        known.update(zip(equation.outvars, outputs))
    return [node(atom) for atom in jaxpr.outvars]


class _Builder:
    """Walk over a function from its result that cuts it where arrays are read."""

    def __init__(self, name: str, shape: tuple[int, int, int, int], captured: Sequence[Any]):
        self.name, self.shape = name, shape
        self.reads: list[Read] = []
        self.at: dict[Node, int] = {}
        self.operands: list[Array] = []
        self._captured = captured
        self._outside: dict[Node, Any] = {}
        self._operand_of: dict[Node, int] = {}
        self._visited: set[Node] = set()

    def visit(self, node: Node) -> None:
        if node in self._visited:
            return
        self._visited.add(node)
        if not node.in_tile and "captured" in node.needs:
            if np.prod(node.shape) != 1:
                raise self._error(f"uses an array of shape {node.shape} as a whole in a tile")
            self._add(node, self._operand(node, of_head=True), (HEAD, HEAD), ("b", "n"))
        elif node.primitive == "gather" and not node.inputs[0].in_tile:
            self._gather(node)
        else:
            for x in node.inputs:
                self.visit(x)

    def _error(self, what: str) -> NotImplementedError:
        return NotImplementedError(f"{self.name}: it {what}; wanted entries at b, n, q, k")

    def _add(
        self, node: Node, operand: int, axes: tuple[str, ...], indices: tuple[Any, ...]
    ) -> None:
        floating = bool(jnp.issubdtype(node.dtype, jnp.floating))
        known = {"b": self._input("b"), "n": self._input("n")}
        heads = self.operands[operand].shape[:2]
        indices = tuple(
            (0 if heads[position] == 1 else known[x]) if isinstance(x, str) else x
            for position, x in enumerate(indices)
        )
        self.at[node] = len(self.reads)
        self.reads.append(Read(operand, axes, indices, node.shape, node.dtype, floating))

    def _input(self, name: str) -> Node:
        return Node((), jnp.dtype(jnp.int32), frozenset([name]), leaf=name)

    def _gather(self, node: Node) -> None:
        array, where = node.inputs
        numbers, sizes = (
            node.equation.params["dimension_numbers"],
            node.equation.params["slice_sizes"],
        )
        every = tuple(range(len(array.shape)))
        if (
            any(size != 1 for size in sizes)
            or tuple(numbers.collapsed_slice_dims) != every
            or tuple(sorted(numbers.start_index_map)) != every
        ):
            raise self._error(f"takes slices of an array of shape {array.shape}")
        found = dict(zip(numbers.start_index_map, _columns(where)))
        if len(found) != len(every):
            raise self._error("computes with a stack of indices")
        of_head = bool(array.needs & {"b", "n"})
        axes: list[str] = [HEAD, HEAD] if of_head else []
        indices: list[Any] = ["b", "n"] if of_head else []
        for axis in every:
            kind, index = self._axis(found[axis], array.shape[axis])
            axes.append(kind)
            indices.append(index)
        self._add(node, self._operand(array, of_head), tuple(axes), tuple(indices))

    def _axis(self, index: Node, size: int) -> tuple[str, Any]:
        index = strip_index_operations(index)
        if isinstance(index.leaf, np.ndarray) and index.leaf.size == 1:
            at = int(index.leaf.reshape(()))
            return HEAD, at + size if at < 0 else at
        if index.leaf in ("b", "n"):
            return HEAD, index
        if index.leaf in ("q", "k"):
            return QUERIES if index.leaf == "q" else KEYS, index
        if not index.in_tile and np.prod(index.shape) == 1:
            return HEAD, OfHead(self._operand(index, of_head=True))
        self.visit(index)
        return GATHER, index

    def _operand(self, node: Node, of_head: bool) -> int:
        """Make a node's value an operand; one per head has ``B N`` before its shape, if any."""
        if node not in self._operand_of:
            value = self._of_heads(node) if of_head else self._value(node, {})
            value = jnp.asarray(value)
            if of_head and np.prod(node.shape) == 1:
                value = value.reshape(value.shape[:2])
            if value.dtype == bool:
                value = value.astype(jnp.int8)
            self._operand_of[node] = len(self.operands)
            self.operands.append(value)
        return self._operand_of[node]

    def _of_heads(self, node: Node) -> Array:
        def one(b: Array, n: Array) -> Array:
            return jnp.asarray(self._value(node, {"b": b, "n": n}), node.dtype)

        sizes = [
            size if name in node.needs else 1 for name, size in zip(("b", "n"), self.shape[:2])
        ]
        b, n = (jnp.arange(size, dtype=jnp.int32) for size in sizes)
        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(b, n)

    def _value(self, node: Node, heads: dict[str, Array]) -> Any:
        if node in self._outside:
            return self._outside[node]
        if isinstance(node.leaf, str):
            return heads[node.leaf]
        if isinstance(node.leaf, int):
            value = self._captured[node.leaf]
        elif node.equation is None:
            value = node.leaf
        else:
            value = apply(node, [self._value(x, heads) for x in node.inputs])
        if not node.needs & {"b", "n"}:
            self._outside[node] = value
        return value


def _columns(node: Node) -> list[Node]:
    """Return the parts of a stack of indices, whose last axis counts them."""
    if node.primitive == "concatenate" and node.equation.params["dimension"] == len(node.shape) - 1:
        return [part for x in node.inputs for part in _columns(x)]
    if node.shape[-1] != 1:
        return []
    if node.primitive in ("broadcast_in_dim", "reshape"):
        inner = node.inputs[0]
        dims = node.equation.params.get("broadcast_dimensions", tuple(range(len(inner.shape))))
        if len(inner.shape) < len(node.shape) and tuple(dims) == tuple(range(len(inner.shape))):
            return [inner]
    return []


def strip_index_operations(node: Node) -> Node:
    """Remove operations that do not change an index inside an array: shapes, signs, times 0."""
    if node.primitive in ("broadcast_in_dim", "reshape", "squeeze"):
        inner = node.inputs[0]
        dims = node.equation.params.get("broadcast_dimensions", ())
        if np.prod(inner.shape) == 1 or (
            len(inner.shape) == len(node.shape) and tuple(dims) == tuple(range(len(inner.shape)))
        ):
            return strip_index_operations(inner)
    if node.primitive == "convert_element_type" and jnp.issubdtype(node.dtype, jnp.integer):
        inner = strip_index_operations(node.inputs[0])
        return inner if inner.leaf is not None else node
    if node.primitive == "mul" and any(_is_zero(x) for x in node.inputs):
        return Node((), node.dtype, leaf=np.zeros((), np.int32))
    if node.primitive == "select_n" and len(node.inputs) == 3:
        # jnp counts an index below 0 from the end; indices of a tile are never below 0.
        test, counted, _ = node.inputs
        if test.primitive == "lt" and test.inputs[0] is counted and _is_zero(test.inputs[1]):
            inner = strip_index_operations(counted)
            if inner.leaf in INPUTS if isinstance(inner.leaf, str) else _is_zero(inner):
                return inner
    return node


def _is_zero(node: Node) -> bool:
    return isinstance(node.leaf, np.ndarray) and node.leaf.size == 1 and not node.leaf.any()


def sum_read_gradients(
    traced: Traced, operands: Sequence[Array], partials: Sequence[Array], B: int, N: int
) -> tuple[Array | None, ...]:
    """Sum the gradients of the floating reads of all heads to those of operands, in fixed order.

    A partial has axes ``B N``, then one for each axis of the operand that is not read by HEAD. An
    operand of integers gets None.
    """
    gradients: list[Any] = [
        jnp.zeros(x.shape, compute_dtype(x)) if jnp.issubdtype(x.dtype, jnp.floating) else None
        for x in operands
    ]
    for read, partial in zip(traced.floating, partials):
        heads = [_by_head(i, operands, B, N) for a, i in zip(read.axes, read.indices) if a == HEAD]
        for axis in (0, 1):  # heads that share entries are summed first
            if all(isinstance(x, int) or x.shape[axis] == 1 for x in heads):
                partial = jnp.sum(partial, axis=axis, keepdims=True)
        total = gradients[read.operand]
        gradients[read.operand] = _add_heads(total, partial, read, heads)
    return tuple(g if g is None else g.astype(x.dtype) for g, x in zip(gradients, operands))


def _add_heads(total: Array, partial: Array, read: Read, heads: list[Any]) -> Array:
    """Add one head after the other, because a scatter would not repeat its order."""
    size = [1 if axis == HEAD else have for axis, have in zip(read.axes, total.shape)]
    B, N = partial.shape[:2]

    def add(i: Array, total: Array) -> Array:
        b, n = i // N, i % N
        entries = iter(heads)
        start = [_entry_of(next(entries), b, n) if a == HEAD else 0 * i for a in read.axes]
        part = partial[b, n].reshape(size).astype(total.dtype)
        part = part + jax.lax.dynamic_slice(total, start, size)
        return jax.lax.dynamic_update_slice(total, part, start)

    return jax.lax.fori_loop(0, B * N, add, total)


def _by_head(index: Any, operands: Sequence[Array], B: int, N: int) -> Any:
    if isinstance(index, OfHead):
        return operands[index.operand]
    if isinstance(index, int):
        return index
    if index.leaf == "b":
        return jnp.arange(B, dtype=jnp.int32)[:, None]
    return jnp.arange(N, dtype=jnp.int32)[None, :]


def _entry_of(index: Any, b: Array, n: Array) -> Array:
    if isinstance(index, int):
        return jnp.full_like(b, index)
    size = index.shape
    entry = index[b if size[0] > 1 else 0 * b, n if size[1] > 1 else 0 * n]
    return entry.astype(b.dtype)

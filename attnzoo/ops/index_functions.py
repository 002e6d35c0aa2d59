"""Functions of absolute indices that are pytrees: the base of masks and score modifiers.

An index function is called with four integer arrays that broadcast against one another: batch
``b``, head ``n``, query ``q`` and key ``k``. The same object therefore serves a whole ``B N T S``
array, a few rows of it, one tile inside a kernel, or one element.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

Index = Int[Array, "..."]
Shape = tuple[int, int, int, int]
T = TypeVar("T")


def setting(default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that is static under jit, not an array."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(setting, dataclasses.field))
def index_function(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree: arrays are leaves, ``setting()`` is static.

    Two instances are equal if their settings are equal and their arrays are the same objects.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    fields = dataclasses.fields(cls)
    static = [f.name for f in fields if f.metadata.get("static")]
    leaves = [f.name for f in fields if not f.metadata.get("static")]

    def flatten(value: T) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(value, n) for n in leaves], tuple(getattr(value, n) for n in static)

    def unflatten(settings: tuple[Any, ...], children: Sequence[Any]) -> T:
        # Not through __init__: tree transformations put tracers, specs and None in the fields.
        value = object.__new__(cls)
        for name, child in (*zip(static, settings), *zip(leaves, children)):
            object.__setattr__(value, name, child)
        return value

    def equal(one: T, other: object) -> bool:
        if type(one) is not type(other):
            return False
        (a, settings), (b, others) = flatten(one), flatten(cast(T, other))
        return settings == others and all(x is y or _same(x, y) for x, y in zip(a, b, strict=True))

    cls.__eq__ = equal
    cls.__hash__ = lambda one: hash((type(one), flatten(one)[1]))
    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
    return cls


def _same(a: Any, b: Any) -> bool:
    """Return True for equal parts that are not arrays (``==`` of arrays is an array)."""
    return not any(hasattr(x, "shape") for x in (a, b)) and a == b


def index_grid(
    B: int, N: int, T: int, S: int
) -> tuple[
    Int[Array, "B 1 1 1"], Int[Array, "1 N 1 1"], Int[Array, "1 1 T 1"], Int[Array, "1 1 1 S"]
]:
    """Return the indices of a whole ``B N T S`` array, each on its own axis."""

    def axis(size: int, position: int) -> Int[Array, "..."]:
        shape = [1, 1, 1, 1]
        shape[position] = size
        return jnp.arange(size, dtype=jnp.int32).reshape(shape)

    return axis(B, 0), axis(N, 1), axis(T, 2), axis(S, 3)


class Tiles(NamedTuple):
    """Positions of the tiles that cover a ``B N T S`` array in R rows and C columns.

    A tile that is shorter than the others repeats its last position.
    """

    b: Int[Array, "B 1 1 1"]
    n: Int[Array, "1 N 1 1"]
    q: Int[Array, "1 1 R 1 t"]
    k: Int[Array, "1 1 1 C s"]

    @property
    def first_q(self) -> Int[Array, "1 1 R 1"]:
        """The smallest query position of each row of tiles."""
        return self.q.min(axis=-1)

    @property
    def last_q(self) -> Int[Array, "1 1 R 1"]:
        """The largest query position of each row of tiles."""
        return self.q.max(axis=-1)

    @property
    def first_k(self) -> Int[Array, "1 1 1 C"]:
        """The smallest key position of each column of tiles."""
        return self.k.min(axis=-1)

    @property
    def last_k(self) -> Int[Array, "1 1 1 C"]:
        """The largest key position of each column of tiles."""
        return self.k.max(axis=-1)


def tiles_of(B: int, N: int, T: int, S: int, block: tuple[int, int]) -> Tiles:
    """Cover ``B N T S`` with tiles of ``block`` queries and keys."""
    b, n, _, _ = index_grid(B, N, 1, 1)
    q, k = (
        jnp.minimum(jnp.arange(-(-length // size) * size, dtype=jnp.int32), length - 1)
        for length, size in ((T, block[0]), (S, block[1]))
    )
    return Tiles(b, n, q.reshape(1, 1, -1, 1, block[0]), k.reshape(1, 1, 1, -1, block[1]))


def as_four_axes(value: Any, shape: Shape) -> Array:
    """Return the result of an index function as an array of four axes, after a shape check.

    A scalar gets four axes of size 1. Raises ValueError if it does not broadcast to ``shape``.
    """
    value = jnp.asarray(value)
    if value.ndim == 0:
        value = value.reshape(1, 1, 1, 1)
    if value.ndim != 4 or any(got not in (1, size) for got, size in zip(value.shape, shape)):
        raise ValueError(
            f"an index function returned shape {value.shape}; wanted something that broadcasts to "
            f"B N T S = {shape}: index captured arrays with b, n, q, k and use jnp operations"
        )
    return value


def check_size(name: str, got: int, wanted: int, axis: str) -> None:
    """Raise ValueError unless an axis of a captured array has size 1 or ``wanted``."""
    if got not in (1, wanted):
        raise ValueError(f"{name} has {got} entries on its {axis} axis; wanted 1 or {wanted}")


def check_length(name: str, got: int, wanted: int, axis: str) -> None:
    """Raise ValueError if a captured array is shorter than the indices that will read it."""
    if got < wanted:
        raise ValueError(f"{name} covers {got} positions, but {axis} has {wanted}")


def broadcast_index(index: Index, size: int) -> Index:
    """Return the index into an axis of ``size`` entries; an axis of size 1 broadcasts."""
    return index * 0 if size == 1 else index


def describe(value: Any) -> str:
    """Describe an index function by name and fields, arrays by dtype and shape."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]" if value.ndim else str(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(map(describe, value)) + ")"
    if not dataclasses.is_dataclass(value):
        return getattr(value, "__name__", None) or repr(value)
    fields = (f"{f.name}={describe(getattr(value, f.name))}" for f in dataclasses.fields(value))
    return f"{type(value).__name__}({', '.join(fields)})"


def is_traced(value: Any) -> bool:
    """Return True if a leaf of the pytree is a tracer, without a concrete value."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))

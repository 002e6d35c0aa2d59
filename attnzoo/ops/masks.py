# Over 400 lines: each mask is a small class with its function, and all are read side by side.
"""Masks as functions of indices: ``mask(b, n, q, k)`` is True where query q may attend to key k.

Masks combine with ``&``, ``|`` and ``~``, and ``print(mask)`` draws them. They are pytrees: jit
traces captured arrays such as document ids. All indices are absolute and 0-based; to decode with a
cache, shift the queries: ``causal().offset(step)``.

>>> print(causal() & (sliding_window(3) | sink_tokens(1)))

A plain function ``lambda b, n, q, k: ...`` that broadcasts is accepted wherever a mask is.
"""

import html
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from attnzoo.ops.index_functions import (
    Index,
    Shape,
    Tiles,
    as_four_axes,
    broadcast_index,
    check_length,
    check_size,
    describe,
    index_function,
    index_grid,
    is_traced,
    setting,
)

MaskFunction = Callable[[Any, Any, Any, Any], Any]
MAY, MAY_NOT = "█", "░"

# (some, every) for each tile, without evaluating its elements: False in ``some`` proves that the
# tile is empty, True in ``every`` that the tile is full.
Bounds = tuple[Bool[Array, "..."], Bool[Array, "..."]]


def evaluate_mask(mask: MaskFunction, shape: Shape) -> Bool[Array, "#B #N #T #S"]:
    """Evaluate a mask function over ``B N T S``; axes along which it does not vary have size 1."""
    if isinstance(mask, Mask):
        mask.check(*shape)
    return dense_mask(mask, *index_grid(*shape), shape=shape)


def dense_mask(
    mask: MaskFunction, b: Index, n: Index, q: Index, k: Index, *, shape: Shape
) -> Bool[Array, "#B #N #T #S"]:
    """Evaluate a mask function at given indices; raise ValueError if the result is not bool."""
    if 0 in shape:  # captured arrays may have no entry to read
        return jnp.zeros(shape, bool)
    visible = as_four_axes(mask(b, n, q, k), shape)
    if visible.dtype != bool:
        raise ValueError(
            f"a mask function returned {visible.dtype}; wanted bool, True = may attend "
            "(something that is added is a score modifier)"
        )
    return visible


class Mask:
    """Interface of masks: callable on indices, composable, drawable."""

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        """Return True where query ``q`` of head ``n``, batch row ``b``, may attend to key ``k``."""
        raise NotImplementedError

    def check(self, B: int, N: int, T: int, S: int) -> None:
        """Raise ValueError if a captured array does not fit ``B N T S`` (jax would clamp)."""

    def bounds(self, tiles: Tiles) -> Bounds | None:
        """Return (some, every) for each tile: may some, may all of its pairs attend?

        ``some`` must be True unless no pair may; ``every`` must be False unless all may. None
        (the default) means that the mask has to be evaluated for every pair.
        """
        return None

    def lengths(self) -> tuple[int, int]:
        """Return the numbers of queries and keys to draw, enough to show the pattern."""
        return 8, 8

    def __and__(self, other: MaskFunction) -> "Mask":
        return And(self, other)

    def __or__(self, other: MaskFunction) -> "Mask":
        return Or(self, other)

    def __invert__(self) -> "Mask":
        return Not(self)

    def offset(self, queries: int | Int[Array, ""]) -> "Mask":
        """Return the same mask with query 0 at absolute position ``queries``, for decoding."""
        if isinstance(queries, jax.Array | np.ndarray | np.generic):
            queries = jnp.asarray(queries, jnp.int32)  # as indices, also under jax_enable_x64
        return Offset(self, queries)

    def to_dense(self, B: int, N: int, T: int, S: int) -> Bool[Array, "B N T S"]:
        """Return the mask as an array."""
        return jnp.broadcast_to(evaluate_mask(self, (B, N, T, S)), (B, N, T, S))

    def draw(self, T: int | None = None, S: int | None = None, b: int = 0, n: int = 0) -> str:
        """Draw the mask of one batch row and head as text: a row is a query, █ = may attend."""
        S = S or T or self.lengths()[1]
        T = T or self.lengths()[0]
        _, _, q, k = index_grid(1, 1, T, S)
        here = [jnp.full((1, 1, 1, 1), index, jnp.int32) for index in (b, n)]
        visible = dense_mask(self, *here, q, k, shape=(1, 1, T, S))
        rows = np.asarray(jnp.broadcast_to(visible, (1, 1, T, S)))[0, 0]
        return "\n".join("".join(MAY if may else MAY_NOT for may in row) for row in rows)

    def __repr__(self) -> str:
        return describe(self)

    def __str__(self) -> str:
        return repr(self) if is_traced(self) else f"{self!r}\n{self.draw()}"

    def _repr_html_(self) -> str:
        return f"<pre style='line-height:1'>{html.escape(str(self))}</pre>"


@index_function
class And(Mask):
    """Intersection of two masks: both must permit."""

    first: Any
    second: Any

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return self.first(b, n, q, k) & self.second(b, n, q, k)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        first, second = bounds_of(self.first, tiles), bounds_of(self.second, tiles)
        if first is None or second is None:
            known = first or second
            # One mask alone can still prove that a tile is empty.
            return None if known is None else (known[0], jnp.zeros_like(known[1]))
        return first[0] & second[0], first[1] & second[1]

    def check(self, B: int, N: int, T: int, S: int) -> None:
        _check_parts((self.first, self.second), B, N, T, S)

    def lengths(self) -> tuple[int, int]:
        return _largest((self.first, self.second))


@index_function
class Or(Mask):
    """Union of two masks: at least one must permit."""

    first: Any
    second: Any

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return self.first(b, n, q, k) | self.second(b, n, q, k)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        first, second = bounds_of(self.first, tiles), bounds_of(self.second, tiles)
        if first is None or second is None:
            known = first or second
            return None if known is None else (jnp.ones_like(known[0]), known[1])
        return first[0] | second[0], first[1] | second[1]

    def check(self, B: int, N: int, T: int, S: int) -> None:
        _check_parts((self.first, self.second), B, N, T, S)

    def lengths(self) -> tuple[int, int]:
        return _largest((self.first, self.second))


@index_function
class Not(Mask):
    """Complement of a mask: permits where the mask forbids."""

    mask: Mask

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return ~self.mask(b, n, q, k)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        inner = bounds_of(self.mask, tiles)
        return None if inner is None else (~inner[1], ~inner[0])

    def check(self, B: int, N: int, T: int, S: int) -> None:
        self.mask.check(B, N, T, S)

    def lengths(self) -> tuple[int, int]:
        return self.mask.lengths()


@index_function
class Offset(Mask):
    """A mask with shifted query positions; a traced shift cannot be checked against lengths."""

    mask: Mask
    queries: int | Int[Array, ""]

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return self.mask(b, n, q + self.queries, k)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        return bounds_of(self.mask, tiles._replace(q=tiles.q + self.queries))

    def check(self, B: int, N: int, T: int, S: int) -> None:
        shift = 0 if is_traced(self.queries) else int(self.queries)
        self.mask.check(B, N, T + shift, S)

    def lengths(self) -> tuple[int, int]:
        T, S = self.mask.lengths()
        return (T, S) if is_traced(self.queries) else (max(T - int(self.queries), 1), S)


@index_function
class Full(Mask):
    """Mask in which all pairs are permitted; see :func:`full`."""

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return (q == q) & (k == k)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        everything = (tiles.first_q == tiles.first_q) & (tiles.first_k == tiles.first_k)
        return everything, everything


@index_function
class Causal(Mask):
    """Mask of the past and the query itself; see :func:`causal`."""

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return k <= q

    def bounds(self, tiles: Tiles) -> Bounds | None:
        return tiles.first_k <= tiles.last_q, tiles.last_k <= tiles.first_q


@index_function
class Window(Mask):
    """Mask of a window of keys around the query; see :func:`window`."""

    left: int | None = setting()
    right: int | None = setting()

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        visible = (q == q) & (k == k)
        if self.left is not None:
            visible = visible & (k >= q - self.left)
        if self.right is not None:
            visible = visible & (k <= q + self.right)
        return visible

    def bounds(self, tiles: Tiles) -> Bounds | None:
        some = every = (tiles.first_q == tiles.first_q) & (tiles.first_k == tiles.first_k)
        if self.left is not None:
            some = some & (tiles.last_k >= tiles.first_q - self.left)
            every = every & (tiles.first_k >= tiles.last_q - self.left)
        if self.right is not None:
            some = some & (tiles.first_k <= tiles.last_q + self.right)
            every = every & (tiles.last_k <= tiles.first_q + self.right)
        return some, every


@index_function
class Prefix(Mask):
    """Causal mask with a prefix that all queries see; see :func:`prefix_lm`."""

    length: Int[Array, " B"]

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return (k <= q) | (k < self.length[broadcast_index(b, self.length.shape[0])])

    def bounds(self, tiles: Tiles) -> Bounds | None:
        length = self.length[broadcast_index(tiles.b, self.length.shape[0])]
        some = (tiles.first_k <= tiles.last_q) | (tiles.first_k < length)
        return some, (tiles.last_k <= tiles.first_q) | (tiles.last_k < length)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("prefix_lm: length", self.length.shape[0], B, "batch")


@index_function
class Document(Mask):
    """Mask of keys in the same document as the query; see :func:`document`."""

    query_ids: Int[Array, "B T"]
    key_ids: Int[Array, "B S"]

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        row = broadcast_index(b, self.query_ids.shape[0])
        return self.query_ids[row, q] == self.key_ids[row, k]

    def bounds(self, tiles: Tiles) -> Bounds | None:
        row = broadcast_index(tiles.b, self.query_ids.shape[0])[..., None]
        queries = self.query_ids[row, tiles.q]
        keys = self.key_ids[row, tiles.k]
        (q_low, q_high), (k_low, k_high) = ((x.min(-1), x.max(-1)) for x in (queries, keys))
        # Exact for sorted ids; for others an empty tile may count as partial.
        some = (q_low <= k_high) & (k_low <= q_high)
        return some, some & (q_low == q_high) & (k_low == k_high)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("document: ids", self.query_ids.shape[0], B, "batch")
        check_length("document: query ids", self.query_ids.shape[1], T, "T")
        check_length("document: key ids", self.key_ids.shape[1], S, "S")

    def lengths(self) -> tuple[int, int]:
        return min(self.query_ids.shape[1], 64), min(self.key_ids.shape[1], 64)


@index_function
class Padding(Mask):
    """Padding mask given as a bool per key; see :func:`padding`."""

    valid: Bool[Array, "B S"]

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return self.valid[broadcast_index(b, self.valid.shape[0]), k] & (q == q)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        keys = self.valid[broadcast_index(tiles.b, self.valid.shape[0])[..., None], tiles.k]
        return _for_every_query(keys.any(-1), keys.all(-1), tiles)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("padding: valid", self.valid.shape[0], B, "batch")
        check_length("padding: valid", self.valid.shape[1], S, "S")

    def lengths(self) -> tuple[int, int]:
        length = min(self.valid.shape[1], 64)
        return length, length


@index_function
class Lengths(Mask):
    """Padding mask given as a length per batch row; see :func:`padding`."""

    keys: Int[Array, " B"]

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return (k < self.keys[broadcast_index(b, self.keys.shape[0])]) & (q == q)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        length = self.keys[broadcast_index(tiles.b, self.keys.shape[0])]
        return _for_every_query(tiles.first_k < length, tiles.last_k < length, tiles)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("padding: lengths", self.keys.shape[0], B, "batch")


@index_function
class Dilated(Mask):
    """Mask of every ``step``-th key; see :func:`dilated`."""

    step: int = setting()

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return (q - k) % self.step == 0


@index_function
class SinkTokens(Mask):
    """Mask of the first ``count`` keys; see :func:`sink_tokens`."""

    count: int = setting()

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return (k < self.count) & (q == q)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        return _for_every_query(tiles.first_k < self.count, tiles.last_k < self.count, tiles)


@index_function
class GlobalTokens(Mask):
    """Mask of the first ``count`` queries and keys; see :func:`global_tokens`."""

    count: int = setting()

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return (q < self.count) | (k < self.count)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        some = (tiles.first_q < self.count) | (tiles.first_k < self.count)
        return some, (tiles.last_q < self.count) | (tiles.last_k < self.count)


@index_function
class Neighbourhood(Mask):
    """Mask of nearby positions in an image; see :func:`neighbourhood`."""

    width: int = setting()
    radius: int = setting()

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        rows = abs(q // self.width - k // self.width)
        columns = abs(q % self.width - k % self.width)
        return (rows <= self.radius) & (columns <= self.radius)

    def lengths(self) -> tuple[int, int]:
        return self.width**2, self.width**2


@index_function
class Dense(Mask):
    """Mask given as a bool array; see :func:`from_array`."""

    array: Bool[Array, "B N T S"]

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        B, N, _, _ = self.array.shape
        return self.array[broadcast_index(b, B), broadcast_index(n, N), q, k]

    def bounds(self, tiles: Tiles) -> Bounds | None:
        B, N, T, S = self.array.shape
        b, n = broadcast_index(tiles.b, B)[..., None], broadcast_index(tiles.n, N)[..., None]
        one = jnp.zeros((1, 1), jnp.int32)
        queries = one if T == 1 else tiles.q[0, 0, :, 0]
        keys = one if S == 1 else tiles.k[0, 0, 0]
        keys = keys[None, None, :, None, :]

        def row(q: Int[Array, " t"]) -> Bounds:  # one row at a time, in less memory than the mask
            seen = self.array[b, n, q.reshape(1, 1, 1, -1, 1), keys]
            return seen.any((-2, -1)), seen.all((-2, -1))

        some, every = jax.lax.map(row, queries)
        return jnp.moveaxis(some, 0, 2), jnp.moveaxis(every, 0, 2)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        check_size("from_array: mask", self.array.shape[0], B, "batch")
        check_size("from_array: mask", self.array.shape[1], N, "head")
        check_length("from_array: mask", self.array.shape[2], T, "T")
        check_length("from_array: mask", self.array.shape[3], S, "S")

    def lengths(self) -> tuple[int, int]:
        return min(self.array.shape[2], 64), min(self.array.shape[3], 64)


@index_function
class Broadcast(Dense):
    """Mask given as a bool array that broadcasts: the ``mask`` argument of attention."""

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        B, N, T, S = self.array.shape
        return self.array[
            broadcast_index(b, B),
            broadcast_index(n, N),
            broadcast_index(q, T),
            broadcast_index(k, S),
        ]

    def check(self, B: int, N: int, T: int, S: int) -> None:
        for got, wanted, axis in zip(self.array.shape, (B, N, T, S), ("batch", "head", "T", "S")):
            check_size("mask", got, wanted, axis)


def bounds_of(mask: MaskFunction, tiles: Tiles) -> Bounds | None:
    """Return the bounds of a mask, or None for a plain function."""
    return mask.bounds(tiles) if isinstance(mask, Mask) else None


def _for_every_query(some: Bool[Array, "..."], every: Bool[Array, "..."], tiles: Tiles) -> Bounds:
    """Broadcast bounds that do not depend on the query over all rows of tiles."""
    rows = tiles.first_q == tiles.first_q
    return some & rows, every & rows


def _check_parts(parts: tuple[MaskFunction, ...], B: int, N: int, T: int, S: int) -> None:
    for part in parts:
        if isinstance(part, Mask):
            part.check(B, N, T, S)


def _largest(parts: tuple[MaskFunction, ...]) -> tuple[int, int]:
    sizes = [part.lengths() for part in parts if isinstance(part, Mask)]
    # A picture must stay inside the arrays of every part, and 8 is only a default.
    telling = [size for size in sizes if size != (8, 8)] or [(8, 8)]
    return min(T for T, _ in telling), min(S for _, S in telling)


def _positive(name: str, value: int, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}={value!r}: wanted an integer of at least {least}")
    return int(value)


def full() -> Mask:
    """Return the mask in which every query may attend to every key."""
    return Full()


def causal() -> Mask:
    """Return the causal mask: query q sees the keys k <= q (absolute, see ``Mask.offset``)."""
    return Causal()


def sliding_window(size: int) -> Mask:
    """Return a causal window: query q sees ``size`` keys, itself included, q - size < k <= q."""
    return Window(left=_positive("sliding_window: size", size) - 1, right=0)


def window(left: int | None, right: int | None) -> Mask:
    """Return a window: query q sees q - left <= k <= q + right; None is unlimited on that side."""
    for name, value in (("left", left), ("right", right)):
        if value is not None:
            _positive(f"window: {name}", value, least=0)
    return Window(left=left, right=right)


def symmetric_window(radius: int) -> Mask:
    """Return a window of 2 radius + 1 keys: those at most ``radius`` away (Longformer)."""
    radius = _positive("symmetric_window: radius", radius, least=0)
    return Window(left=radius, right=radius)


def prefix_lm(length: int | Int[Array, ""] | Int[Array, " B"]) -> Mask:
    """Return a causal mask whose first ``length`` keys are visible to every query.

    ``length`` is one number, or one per batch row.
    """
    return Prefix(jnp.atleast_1d(jnp.asarray(length, dtype=jnp.int32)))


def document(ids: Int[Array, "..."], key_ids: Int[Array, "..."] | None = None) -> Mask:
    """Return a mask for packed sequences: query and key must have the same document id.

    ``ids`` has shape T (for all batch rows) or ``B T``; ``key_ids`` likewise, ``ids`` if None. A
    decoder adds ``& causal()``.
    """
    query_ids = _two_axes("document: ids", ids, "B T")
    key_ids = query_ids if key_ids is None else _two_axes("document: key_ids", key_ids, "B S")
    # Under strict promotion jax.numpy does not compare ids of 32 bits with ids of 64 bits.
    wider = np.promote_types(query_ids.dtype, key_ids.dtype)
    query_ids, key_ids = query_ids.astype(wider), key_ids.astype(wider)
    if query_ids.shape[0] != key_ids.shape[0]:
        raise ValueError(
            f"document: ids has {query_ids.shape[0]} batch rows, key_ids has {key_ids.shape[0]}"
        )
    return Document(query_ids, key_ids)


def padding(valid_or_lengths: Bool[Array, "..."] | Int[Array, "..."]) -> Mask:
    """Return a padding mask from bool ``B S`` (True = real key) or from a length per batch row."""
    array = jnp.asarray(valid_or_lengths)
    if array.dtype == bool and array.ndim == 2:
        return Padding(array)
    if jnp.issubdtype(array.dtype, jnp.integer) and array.ndim == 1:
        return Lengths(array.astype(jnp.int32))
    raise ValueError(
        f"padding: got {array.dtype} of shape {array.shape}; "
        "wanted bool B S (True = real) or integer lengths B"
    )


def dilated(step: int) -> Mask:
    """Return a mask of every ``step``-th key, counted from the query in both directions.

    ``& sliding_window(w)`` limits the distance.
    """
    return Dilated(_positive("dilated: step", step))


def sink_tokens(count: int) -> Mask:
    """Return a mask of the first ``count`` keys.

    StreamingLLM uses ``causal() & (sliding_window(w) | sink_tokens(4))``.
    """
    return SinkTokens(_positive("sink_tokens: count", count, least=0))


def global_tokens(count: int) -> Mask:
    """Return a mask of the first ``count`` tokens, which see all keys and are seen by all queries.

    Longformer (Beltagy et al. 2020, arXiv 2004.05150, section 3.1) uses ``symmetric_window(w) |
    global_tokens(count)``.
    """
    return GlobalTokens(_positive("global_tokens: count", count, least=0))


def neighbourhood(width: int, radius: int) -> Mask:
    """Return a mask of image positions at most ``radius`` rows and ``radius`` columns away.

    Positions are row-major. At an edge of the image the neighbourhood is cut, not shifted.
    """
    width = _positive("neighbourhood: width", width)
    return Neighbourhood(width, _positive("neighbourhood: radius", radius, least=0))


def from_array(mask: Bool[Array, "B N T S"]) -> Mask:
    """Return a bool array as a mask function; its first two axes may have size 1."""
    mask = jnp.asarray(mask)
    if mask.dtype != bool or mask.ndim != 4:
        raise ValueError(
            f"from_array: mask is {mask.dtype} of shape {mask.shape}; wanted bool B N T S"
        )
    return Dense(mask)


def random(key: Key[Array, ""], keep: float, N: int, T: int, S: int) -> Mask:
    """Return a mask that permits each pair with probability ``keep`` (random part of BigBird).

    It is drawn once per head, and all batch rows share it.
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"random: keep={keep}; wanted a probability in [0, 1]")
    return Dense(jax.random.bernoulli(key, keep, (1, N, T, S)))


def _two_axes(name: str, ids: Int[Array, "..."], wanted: str) -> Int[Array, "B L"]:
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim not in (1, 2):
        raise ValueError(f"{name} is {ids.dtype} of shape {ids.shape}; wanted integers {wanted}")
    return ids[None, :] if ids.ndim == 1 else ids

"""Tables that a function reads at k - q, turned into slices for kernels without gathers.

``table[n, bucket(k - q)]`` is constant along diagonals. So the entries of all distances are laid
out as one block of rows of the whole bias, each row shifted by one,

    Z[i, x] = table[bucket(x - offset - i)]        i < block, x < T - block + S, offset = T - block

and a tile that starts at query q and key k is a slice of it, at row q % block and column
k - (q - q % block) + offset. Memory is linear in length.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from attnzoo.ops.kernels.traced import (
    GATHER,
    HEAD,
    KEYS,
    QUERIES,
    Node,
    Read,
    Traced,
    strip_index_operations,
)

CHUNK = 1024
"""Number of distances that are added to a table at once."""


def distance_nodes(
    index: Node, traced: Traced, elementwise: frozenset[str]
) -> dict[Node, int] | None:
    """Find the nodes k - q (1) and q - k (-1) that an index is computed from.

    Returns None if the index depends on anything else in the tile.
    """
    cuts: dict[Node, int] = {}
    todo = [index]
    while todo:
        node = todo.pop()
        if node in cuts or (node.equation is None and not isinstance(node.leaf, str)):
            continue
        pair = (
            [strip_index_operations(x).leaf for x in node.inputs] if node.primitive == "sub" else []
        )
        if pair in (["k", "q"], ["q", "k"]):
            cuts[node] = 1 if pair[0] == "k" else -1
        elif node in traced.at or node.primitive not in elementwise:
            return None
        else:
            todo += node.inputs
    return cuts


def diagonal_rows(
    table: Shaped[Array, "*heads R"], where: Int[Array, " P"], block: int
) -> Shaped[Array, "*heads block X"]:
    """Return Z of the module's docstring, the entries of a table along diagonals.

    ``where`` is the index into the last axis of ``table`` at each distance 1 - T ... S - 1.
    """
    entries = _entries(table, where)
    heads, P = entries.shape[:-1], entries.shape[-1]
    # Rows of P are read as rows of P - 1: each starts one entry earlier than the row before.
    rows = jnp.broadcast_to(entries[..., None, :], (*heads, block, P)).reshape(*heads, block * P)
    rows = rows[..., block - 1 : block - 1 + block * (P - 1)].reshape(*heads, block, P - 1)
    return rows[..., : P - block + 1]


@jax.custom_vjp
def _entries(table: Shaped[Array, "*heads R"], where: Int[Array, " P"]) -> Any:
    return jnp.take(table, where, axis=-1, mode="clip")


def _entries_forward(table: Array, where: Array) -> Any:
    return _entries(table, where), (where, jnp.zeros((0, table.shape[-1]), table.dtype))


def _entries_backward(saved: Any, d_entries: Array) -> Any:
    where, like = saved
    R, P = like.shape[1], where.shape[0]
    room = -P % CHUNK
    where = jnp.pad(where, (0, room)).reshape(-1, CHUNK)
    d_entries = jnp.pad(d_entries, [(0, 0)] * (d_entries.ndim - 1) + [(0, room)])
    chunks = jnp.moveaxis(d_entries.reshape(*d_entries.shape[:-1], -1, CHUNK), -2, 0)

    # A scatter would not repeat its order of addition.
    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        places, found = chunk
        is_one = jax.nn.one_hot(jnp.clip(places, 0, R - 1), R, dtype=total.dtype)
        found = found.astype(total.dtype)
        return total + jnp.dot(found, is_one, precision=jax.lax.Precision.HIGHEST), None

    total = jnp.zeros((*d_entries.shape[:-1], R), jnp.promote_types(like.dtype, jnp.float32))
    total, _ = jax.lax.scan(add, total, (where, chunks))
    return total.astype(like.dtype), None


_entries.defvjp(_entries_forward, _entries_backward)


def without_gathers(
    traced: Traced,
    operands: Sequence[Array],
    lengths: tuple[int, int],
    block: int,
    evaluate: Any,
    elementwise: frozenset[str],
) -> tuple[Traced, tuple[Array, ...]]:
    """Replace gathers at indices computed from k - q by slices; return function and operands.

    ``lengths`` are whole blocks; ``evaluate(node, cuts, distances)`` computes an index.
    """
    T, S = lengths
    distances = jnp.arange(T + S - 1, dtype=jnp.int32) - (T - 1)
    reads, operands = list(traced.reads), list(operands)
    for place, read in enumerate(reads):
        if not set(read.axes) <= {HEAD, GATHER} or GATHER not in read.axes:
            continue
        table, where = operands[read.operand], jnp.zeros_like(distances)
        kept = [i for i, axis in enumerate(read.axes) if axis == HEAD]
        gathered = [i for i, axis in enumerate(read.axes) if axis == GATHER]
        cuts = [distance_nodes(read.indices[i], traced, elementwise) for i in gathered]
        if any(x is None for x in cuts):
            continue
        for axis, cut in zip(gathered, cuts):
            size = table.shape[axis]
            index = jnp.clip(evaluate(read.indices[axis], cut, distances), 0, size - 1)
            where = where * size + jnp.broadcast_to(index, where.shape)
        table = jnp.transpose(table, (*kept, *gathered))
        table = table.reshape(*table.shape[: len(kept)], -1)
        reads[place] = Read(
            operand=len(operands),
            axes=(*(HEAD for _ in kept), QUERIES, KEYS),
            indices=(*(read.indices[i] for i in kept), None, None),
            shape=read.shape,
            dtype=read.dtype,
            is_floating=read.is_floating,
            offset=T - block,
        )
        operands.append(diagonal_rows(table, where, block))
    changed = Traced(traced.name, traced.output, traced.shape, tuple(reads), traced.at)
    return changed, tuple(operands)

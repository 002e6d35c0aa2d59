"""Masks whose tiles are classified as empty, full or partial, so that attention can skip work.

Empty tiles are not computed at all, full tiles are computed without looking at the mask, and only
partial tiles evaluate it (Dong et al. 2024, arXiv 2412.05496).
"""

import contextlib
import dataclasses
import math
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType
from jaxtyping import Array, Bool, Int

from attnzoo.ops.index_functions import Index, Tiles, describe, index_grid, is_traced, tiles_of
from attnzoo.ops.masks import Bounds, Mask, MaskFunction, bounds_of, dense_mask

EMPTY, PARTIAL, FULL = "░", "▒", "█"
CHUNK = 1 << 22
"""Number of mask elements that are evaluated together while tiles are classified."""

# Concrete lists are numpy arrays, which stay concrete under every trace.
Count = Int[Array, "b n R"] | Int[np.ndarray, "b n R"]
Columns = Int[Array, "b n R _"] | Int[np.ndarray, "b n R _"]
Marks = Bool[Array, "b n R C"] | Bool[np.ndarray, "b n R C"]


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BlockMask(Mask):
    """A mask with its tiles classified as empty, partial or full; made by :meth:`from_mask`.

    It is accepted wherever a mask is. Each row of tiles stores its number of full and of partial
    tiles, and their columns in ascending order; entries past the number are undefined. The axes b
    and n have size 1 where the mask does not depend on the batch row or the head.
    """

    mask_mod: MaskFunction
    shape: tuple[int, int, int, int]
    """Sizes B, N, T, S that the mask was made for."""
    block_size: tuple[int, int]
    """Number of queries and of keys in a tile."""
    full_count: Count
    full_columns: Columns
    partial_count: Count
    partial_columns: Columns

    @classmethod
    def from_mask(
        cls,
        mask_mod: MaskFunction,
        B: int,
        N: int,
        T: int,
        S: int,
        *,
        block_size: int | tuple[int, int] | None = None,
    ) -> "BlockMask":
        """Classify the tiles of ``mask_mod`` over ``B N T S`` as empty, partial or full.

        ``block_size`` is the number of queries and keys in a tile; None chooses by shape. A mask
        whose arrays are concrete is classified exactly, also inside jit. For a traced mask (such as
        the document ids of a batch) the lists have room for every tile. If a traced mask has
        :meth:`Mask.bounds`, only these are used: an empty or full tile may then count as partial,
        which costs time but changes no result. A tile past the end of T or S is never full.
        """
        for name, size in (("B", B), ("N", N), ("T", T), ("S", S)):
            if size < 1:
                raise ValueError(f"{name}={size}: a block mask wants at least one tile")
        block = chosen_block(T, S) if block_size is None else _pair(block_size)
        if isinstance(mask_mod, Mask):
            mask_mod.check(B, N, T, S)
        with _early(mask_mod):
            some, full = _sort(mask_mod, (B, N, T, S), block)
            partial = some & ~full
        if not isinstance(full, Tracer):
            full, partial = np.asarray(full), np.asarray(partial)
        return cls(mask_mod, (B, N, T, S), block, *tile_lists(full), *tile_lists(partial))

    @property
    def is_concrete(self) -> bool:
        """True if the numbers of tiles are known while tracing; False for a traced mask."""
        return not is_traced((self.full_count, self.partial_count))

    def tiles(self) -> tuple[Marks, Marks]:
        """Return bool grids of the full and of the partial tiles; numpy arrays if concrete."""
        # numpy keeps concrete lists concrete inside jit; a jax operation would trace them.
        xp: Any = np if self.is_concrete else jnp
        columns = xp.arange(-(-self.shape[3] // self.block_size[1]), dtype=np.int32)

        def marked(count: Any, listed: Any) -> Any:
            count, listed = xp.asarray(count), xp.asarray(listed)
            room = xp.arange(listed.shape[-1], dtype=np.int32).reshape(1, 1, 1, -1)
            real = room < count[..., None]
            hits = listed[..., None] == columns.reshape(1, 1, 1, 1, -1)
            return xp.any(hits & real[..., None], axis=3)

        return (
            marked(self.full_count, self.full_columns),
            marked(self.partial_count, self.partial_columns),
        )

    def joined(self, rows: int, columns: int) -> "BlockMask":
        """Merge ``rows`` by ``columns`` tiles into one, without evaluating the mask again."""
        xp: Any = np if self.is_concrete else jnp

        def whole(tiles: Any) -> Any:
            room = [
                (0, 0),
                (0, 0),
                *((0, -x % n) for x, n in zip(tiles.shape[2:], (rows, columns))),
            ]
            tiles = xp.pad(tiles, room)
            b, n, R, C = tiles.shape
            return tiles.reshape(b, n, R // rows, rows, C // columns, columns)

        full, partial = self.tiles()
        some, every = whole(full | partial).any((3, 5)), whole(full).all((3, 5))
        size = (self.block_size[0] * rows, self.block_size[1] * columns)
        lists = (*tile_lists(every), *tile_lists(some & ~every))
        return BlockMask(self.mask_mod, self.shape, size, *lists)

    def visited(self) -> int:
        """Count the entries of all non-empty tiles of a concrete mask, padding included."""
        full, partial = self.tiles()
        return int(np.sum(full | partial)) * math.prod(self.block_size)

    def sparsity(self) -> float:
        """Return the fraction of tiles that are skipped, between 0 and 1."""
        full, partial = self.tiles()
        return 1 - float((full | partial).mean())

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return self.mask_mod(b, n, q, k)

    def check(self, B: int, N: int, T: int, S: int) -> None:
        if self.shape[2:] != (T, S) or any(
            axis.shape[0] not in (1, B) or axis.shape[1] not in (1, N)
            for axis in (self.full_count, self.partial_count)
        ):
            raise ValueError(
                f"block_mask was made for B N T S = {self.shape}, but attention has {(B, N, T, S)}"
            )

    def bounds(self, tiles: Tiles) -> Bounds | None:
        return bounds_of(self.mask_mod, tiles)

    def lengths(self) -> tuple[int, int]:
        return min(self.shape[2], 64), min(self.shape[3], 64)

    def draw_tiles(self, b: int = 0, n: int = 0) -> str:
        """Draw the tiles of one batch row and head as text: █ full, ▒ partial, ░ empty."""
        full, partial = (np.asarray(x) for x in self.tiles())
        b, n = b if full.shape[0] > 1 else 0, n if full.shape[1] > 1 else 0
        kinds = np.where(full[b, n], FULL, np.where(partial[b, n], PARTIAL, EMPTY))
        return "\n".join("".join(row) for row in kinds)

    def __repr__(self) -> str:
        rows, keys = self.block_size
        return f"BlockMask({describe(self.mask_mod)}, {rows} x {keys} tiles of {self.shape})"

    def __str__(self) -> str:
        if not self.is_concrete:
            return repr(self)
        return f"{self!r}, {100 * self.sparsity():.1f} % skipped\n{self.draw_tiles()}"

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        lists = (self.full_count, self.full_columns, self.partial_count, self.partial_columns)
        if isinstance(self.mask_mod, Mask):
            return (self.mask_mod, *lists), (None, self.shape, self.block_size)
        return (None, *lists), (self.mask_mod, self.shape, self.block_size)

    @classmethod
    def tree_unflatten(cls, settings: tuple[Any, ...], children: tuple[Any, ...]) -> "BlockMask":
        function, shape, block = settings
        mask_mod, *lists = children
        values = (mask_mod if function is None else function, shape, block, *lists)
        # Not through __init__: tree transformations put tracers, specs and None in the fields.
        mask = object.__new__(cls)
        for field, value in zip(dataclasses.fields(cls), values):
            object.__setattr__(mask, field.name, value)
        return mask


def chosen_block(T: int, S: int, wanted: tuple[int, int] = (128, 128)) -> tuple[int, int]:
    """Choose the queries and keys of a tile: near ``wanted``, with little padding at the end."""
    return _near(T, wanted[0]), _near(S, wanted[1])


def _near(length: int, wanted: int) -> int:
    tiles = max(-(-length // wanted), 1)
    return -(-length // (16 * tiles)) * 16 if length > 16 else length


@contextlib.contextmanager
def _early(mask_mod: MaskFunction) -> Generator[None]:
    """Evaluate operations on concrete arrays at trace time, not in the traced program."""
    mesh = jax.sharding.get_abstract_mesh()
    if AxisType.Manual not in mesh.axis_types:
        with jax.ensure_compile_time_eval():
            yield
        return
    # Under shard_map an operation evaluated at trace time cannot take traced arrays.
    one = jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.int32)
    if any(isinstance(x, Tracer) for x in jax.make_jaxpr(mask_mod)(one, one, one, one).consts):
        yield
        return
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())), jax.ensure_compile_time_eval():
        yield


def _pair(block_size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (block_size, block_size) if isinstance(block_size, int) else tuple(block_size)
    if len(pair) != 2 or not all(isinstance(size, int) and size > 0 for size in pair):
        raise ValueError(f"block_size={block_size!r}: wanted one or two positive integers")
    return pair[0], pair[1]


def tile_lists(marked: Any) -> tuple[Any, Any]:
    """Return the number and the columns of the marked tiles in each row of tiles."""
    xp = np if isinstance(marked, np.ndarray) else jnp
    count = xp.sum(marked, axis=-1, dtype=np.int32)
    columns = xp.argsort(~marked, axis=-1, stable=True).astype(np.int32)
    if isinstance(marked, np.ndarray):
        columns = columns[..., : int(count.max())]
    return count, columns


def _sort(mask_mod: MaskFunction, shape: tuple[int, int, int, int], block: tuple[int, int]) -> Any:
    """Return (some, every) for each tile, of size 1 along batch and heads that do not vary."""
    B, N, T, S = shape
    tiles = tiles_of(*shape, block)
    R, C = tiles.q.shape[2], tiles.k.shape[3]
    whole = (tiles.last_q - tiles.first_q == block[0] - 1) & (
        tiles.last_k - tiles.first_k == block[1] - 1
    )
    bounds = bounds_of(mask_mod, tiles)
    if bounds is not None:
        b, n = (max(x.shape[axis] for x in bounds) for axis in (0, 1))
        some, every = (jnp.broadcast_to(x, (b, n, R, C)) for x in bounds)
        if isinstance(some, Tracer) or isinstance(every, Tracer):
            return some, every & some & whole
        undecided = np.asarray(some & ~every)
    else:
        seen = jax.eval_shape(lambda: dense_mask(mask_mod, *_probe(B, N), shape=(B, N, 1, 1)))
        b, n = seen.shape[:2]
        undecided = np.ones((b, n, R, C), bool)
        some = every = jnp.zeros(undecided.shape, bool)
    if not undecided.any():
        return some, every & whole

    at = np.argwhere(undecided).astype(np.int32)
    chunk = max(1, min(CHUNK // (block[0] * block[1]), len(at)))
    padded = np.concatenate([at, np.repeat(at[-1:], -len(at) % chunk, axis=0)])
    chunks = padded.reshape(-1, chunk, 4)

    def look(at: Int[Array, "chunk 4"]) -> Bounds:
        b, n, r, c = (at[:, axis].reshape(-1, 1, 1, 1) for axis in range(4))
        inside = [jnp.arange(size, dtype=jnp.int32) for size in block]
        q = r * block[0] + inside[0].reshape(1, 1, -1, 1)
        k = c * block[1] + inside[1].reshape(1, 1, 1, -1)
        # Past the end the last position is repeated, which changes neither result.
        q, k = jnp.minimum(q, T - 1), jnp.minimum(k, S - 1)
        size = (at.shape[0], 1, block[0], block[1])
        seen = jnp.broadcast_to(dense_mask(mask_mod, b, n, q, k, shape=size), size)
        return seen.any((1, 2, 3)), seen.all((1, 2, 3))

    captured = jax.make_jaxpr(look)(chunks[0]).consts
    where = tuple(at[:, axis] for axis in range(4))
    if any(isinstance(const, Tracer) for const in captured):
        found = jax.lax.map(look, jnp.asarray(chunks))
        found_some, found_every = (x.reshape(-1)[: len(at)] for x in found)
        some, every = some.at[where].set(found_some), every.at[where].set(found_every)
        return some, every & whole
    # One program for all chunks; in numpy, nothing else is compiled.
    sort = jax.jit(look)
    found = zip(*(sort(part) for part in chunks))
    some, every = np.array(some), np.array(every)
    some[where], every[where] = (np.concatenate([*x])[: len(at)] for x in found)
    return some, every & np.asarray(whole)


def _probe(B: int, N: int) -> tuple[Index, Index, Index, Index]:
    """Return the indices of all batch rows and heads, and of one query and key."""
    b, n, _, _ = index_grid(B, N, 1, 1)
    return b, n, *index_grid(1, 1, 1, 1)[2:]

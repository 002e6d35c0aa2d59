"""Attention on several devices: batch and heads stay in place, sequences travel around a ring.

Inside ``with sharded(mesh):`` every ``dot_product_attention`` and ``flex_attention`` is computed
under ``shard_map``. Each device computes its own batch rows and heads, with the implementation that
it would choose alone. A sequence that is sharded over devices travels around a ring (``ops.ring``).
Without ``shard_map``, XLA would gather the arrays that the tiles of a kernel index.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from attnzoo.ops import choice
from attnzoo.ops.block_mask import BlockMask
from attnzoo.ops.choice import Call
from attnzoo.ops.dropout import ShardedKey
from attnzoo.ops.index_functions import Index, Tiles, index_function
from attnzoo.ops.int8 import Int8Matrix
from attnzoo.ops.logits import Scoring
from attnzoo.ops.masks import And, Bounds, Causal, Mask, MaskFunction, Offset, bounds_of
from attnzoo.ops.operands import extract_arrays
from attnzoo.ops.ring import attend_on_ring, from_zigzag, to_zigzag
from attnzoo.ops.score_mods import ScoreFunction


@dataclasses.dataclass(frozen=True)
class Placement:
    """Mesh axes that shard batch, heads and sequence; an axis missing in the mesh has size 1."""

    mesh: Mesh
    batch: tuple[str, ...] = ("data", "fsdp")
    heads: str = "tensor"
    sequence: str = "sequence"

    def devices(self, *axes: str) -> int:
        """Return the number of devices along these axes together."""
        return math.prod(self.mesh.shape.get(axis, 1) for axis in axes)


# A jax user context: programs compiled under one value are not reused under another.
_PLACEMENT: Any = jax.make_user_context(None)


@contextlib.contextmanager
def sharded(
    mesh: Mesh,
    *,
    batch: tuple[str, ...] = ("data", "fsdp"),
    heads: str = "tensor",
    sequence: str = "sequence",
) -> Generator[None]:
    """Compute the attention inside on the devices of ``mesh``.

    ``batch`` names the mesh axes that shard the rows of a batch, ``heads`` the axis of heads,
    ``sequence`` that of positions. An array that an axis does not divide is whole on each of its
    devices; a sequence is padded instead. jit compiles again in a context with other settings.
    """
    with _PLACEMENT(Placement(mesh, batch, heads, sequence)):
        yield


def on_a_mesh() -> bool:
    """Return whether arrays may be spread over devices: inside ``with sharded(mesh)``."""
    return _PLACEMENT.value is not None


def constrain(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Constrain the states between two blocks: rows and positions sharded, features whole."""
    placement = _PLACEMENT.value
    if placement is None:
        return x
    rows = placement.batch if x.shape[0] % placement.devices(*placement.batch) == 0 else ()
    rows = tuple(axis for axis in rows if placement.devices(axis) > 1)
    ring = placement.devices(placement.sequence)
    positions = placement.sequence if ring > 1 and x.shape[1] % ring == 0 else None
    where = NamedSharding(placement.mesh, PartitionSpec(rows or None, positions))
    return jax.lax.with_sharding_constraint(x, where)


def product(
    x: Float[Array, "*batch D"],
    kernel: Float[Array, "_ _"] | Int8Matrix,
    *,
    transposed: bool = False,
) -> Float[Array, "*batch F"]:
    """Multiply ``x`` by a matrix ``D F``, or ``F D`` if ``transposed``, along its last axis.

    The other axes are flattened, which XLA:CPU computes faster, unless the sequence is sharded: a
    flattened axis of rows and positions would have to be gathered.
    """
    axis = 1 if transposed else 0
    rows, shape = x.reshape(-1, x.shape[-1]), (*x.shape[:-1], kernel.shape[1 - axis])
    if isinstance(kernel, Int8Matrix):
        return kernel.multiply(rows, axis).reshape(shape)
    placement = _PLACEMENT.value
    if placement is not None and placement.devices(placement.sequence) > 1:
        return jnp.einsum("...d,fd->...f" if transposed else "...d,df->...f", x, kernel)
    if transposed and rows.shape[0] != 1:
        return (rows @ kernel.T).reshape(shape)
    # XLA:CPU would multiply a single row with a transposed table number by number.
    return jax.lax.dot_general(rows, kernel, (((1,), (axis,)), ((), ()))).reshape(shape)


def by_tokens(
    function: Callable[[Any, Any, Any], Array],
    tokens: tuple[Shaped[Array, "B T ..."], ...],
    experts: tuple[Shaped[Array, "E ..."], ...],
) -> Float[Array, "B T D"]:
    """Apply ``function(tokens, experts, first)`` where the tokens and the experts are.

    Each device has its own rows and positions of ``tokens``, and its part of the ``experts`` along
    the axis of heads, from the expert ``first`` on; the results of all its experts are added.
    """
    placement = _PLACEMENT.value
    if placement is None:
        return function(tokens, experts, 0)
    (B, T), count = tokens[0].shape[:2], len(experts[0])
    rows = tuple(axis for axis in placement.batch if axis in placement.mesh.shape)
    rows = () if B % placement.devices(*rows) else rows
    ring, spread = placement.devices(placement.sequence), placement.devices(placement.heads)
    positions = placement.sequence if ring > 1 and T % ring == 0 else None
    heads = placement.heads if spread > 1 and count % spread == 0 else None

    def on_device(tokens: Any, experts: Any) -> Array:
        with _PLACEMENT(None):
            first = 0 if heads is None else jax.lax.axis_index(heads) * len(experts[0])
            found = function(tokens, experts, first)
        return found if heads is None else jax.lax.psum(found, heads)

    where = PartitionSpec(rows or None, positions)
    return jax.shard_map(
        on_device,
        mesh=placement.mesh,
        in_specs=(where, PartitionSpec(heads)),
        out_specs=where,
        check_vma=False,
    )(tokens, experts)


def gather_rows(table: Float[Array, "V D"]) -> Float[Array, "V D"]:
    """Constrain a table to whole rows on every device, before its rows are read.

    Features that are sharded to save memory are then gathered in the table, not in the rows read.
    """
    placement = _PLACEMENT.value
    if placement is None:
        return table
    rows = placement.devices(placement.heads)
    spread = placement.heads if rows > 1 and table.shape[0] % rows == 0 else None
    where = NamedSharding(placement.mesh, PartitionSpec(spread))
    return jax.lax.with_sharding_constraint(table, where)


def compute(call: Call, implementation: str | None) -> tuple[Array, Any, Array | None]:
    """Compute output, requested weights and log-sum-exp, on a mesh inside ``with sharded(...)``."""
    placement = _PLACEMENT.value
    # Returned weights serve inspection, not training: XLA may place them.
    if placement is None or call.return_weights:
        return choice.compute(call, implementation)
    layout = _layout(placement, call)
    if placement.devices(*layout.batch, *filter(None, layout[1:])) == 1:
        return choice.compute(call, implementation)
    return _on_devices(placement, layout, call, implementation)


class _Layout(NamedTuple):
    batch: tuple[str, ...]
    heads: str | None
    sequence: str | None


def _layout(placement: Placement, call: Call) -> _Layout:
    """Return the mesh axes that divide this call."""
    (B, T, N, _), (S, K) = call.q.shape, call.k.shape[1:3]
    batch = tuple(axis for axis in placement.batch if axis in placement.mesh.shape)
    heads, ring = placement.devices(placement.heads), placement.devices(placement.sequence)
    fits = {
        placement.heads: N % heads == K % heads == 0,
        # A step of decoding has fewer positions than devices.
        placement.sequence: ring == 1 or min(T, S) >= ring,
    }
    heads, sequence = (
        axis if axis in placement.mesh.shape and fits[axis] else None
        for axis in (placement.heads, placement.sequence)
    )
    return _Layout(() if B % placement.devices(*batch) else batch, heads, sequence)


def _on_devices(
    placement: Placement, layout: _Layout, call: Call, implementation: str | None
) -> tuple[Array, None, Array | None]:
    T, S = call.q.shape[1], call.k.shape[1]
    batch, heads, sequence = layout.batch or None, layout.heads, layout.sequence
    ring = placement.devices(sequence) if sequence else 1
    if ring > 1 and implementation not in (None, "blockwise"):
        raise NotImplementedError(
            f"implementation={implementation!r} cannot take sequences that are spread over the "
            f"devices of mesh axis {sequence!r}; 'blockwise' takes them"
        )
    settings = call.settings
    # Under a causal mask the last device would have most of the work. Not on a CPU: its emulated
    # devices share the cores, and XLA:CPU mixes up concurrent messages.
    zigzag = ring > 1 and T == S and T % (2 * ring) == 0 and _is_causal(settings.mask_mod)
    zigzag = zigzag and jax.default_backend() != "cpu"
    mask_arrays, mask_of = extract_arrays(settings.mask_mod)
    modify_arrays, modify_of = extract_arrays(settings.score_mod)
    arrays = {"bias": settings.bias, "mask": settings.mask, "sinks": settings.sinks}
    whole = (mask_arrays, modify_arrays, settings.scale, call.dropout_key)

    def on_device(q: Array, k: Array, v: Array, arrays: Any, whole: Any) -> tuple[Any, ...]:
        mask, modify, scale, key = whole
        b = _first(placement, layout.batch, q.shape[0])
        n = _first(placement, (heads,) if heads else (), q.shape[2])
        here = Scoring(
            scale=scale,
            softcap=settings.softcap,
            score_mod=_placed_mod(modify_of(modify), b, n),
            mask_mod=_placed_mask(mask_of(mask), b, n),
            **arrays,
        )
        key = None if key is None else ShardedKey(key, b, n)
        with _PLACEMENT(None):
            if ring > 1:
                assert sequence is not None
                if zigzag:
                    q, k, v = (to_zigzag(x, sequence, ring) for x in (q, k, v))
                out, lse = attend_on_ring(
                    q,
                    k,
                    v,
                    _as_functions(here, S, ring, b, n),
                    axis_name=sequence,
                    devices=ring,
                    order="zigzag" if zigzag else "contiguous",
                    dropout_rate=call.dropout_rate,
                    dropout_key=key,
                )
                if zigzag:
                    out = from_zigzag(out, sequence, ring)
                    lse = jnp.moveaxis(from_zigzag(jnp.moveaxis(lse, 2, 1), sequence, ring), 1, 2)
            else:
                local = dataclasses.replace(call, q=q, k=k, v=v, settings=here, dropout_key=key)
                out, _, lse = choice.compute(local, implementation)
        return (out, lse) if call.return_lse else (out,)

    def spread(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % ring), (0, 0), (0, 0)))

    def spec_of(name: str, x: Array | None) -> PartitionSpec | None:
        if x is None:
            return None
        if name == "sinks":
            return PartitionSpec(heads)
        if ring > 1:  # a ring looks up parts of the whole array
            return PartitionSpec()
        sizes = zip(x.shape, (batch, heads))
        return PartitionSpec(*(axes if size > 1 else None for size, axes in sizes))

    rows = PartitionSpec(batch, sequence, heads)
    specs = {name: spec_of(name, x) for name, x in arrays.items()}
    # Under jit whatever a plain function closes over becomes an operand.
    out, *lse = jax.jit(
        jax.shard_map(
            on_device,
            mesh=placement.mesh,
            in_specs=(rows, rows, rows, specs, PartitionSpec()),
            out_specs=(rows, PartitionSpec(batch, heads, sequence))[: 1 + call.return_lse],
            check_vma=False,
        ),
        inline=True,
    )(spread(call.q), spread(call.k), spread(call.v), arrays, whole)
    return out[:, :T], None, lse[0][:, :, :T] if lse else None


def _first(placement: Placement, axes: tuple[str, ...], size: int) -> Int[Array, ""]:
    """Return the global index of the first of ``size`` entries that this device holds."""
    return jax.lax.axis_index(axes) * size if axes else jnp.int32(0)


def _as_functions(
    settings: Scoring, S: int, ring: int, b: Int[Array, ""], n: Int[Array, ""]
) -> Scoring:
    """Replace mask and bias arrays by functions that look up entries at global positions."""
    mask, modify = settings.mask_mod, settings.score_mod
    if settings.mask is not None:
        array = _looked_up(settings.mask, b, n)
        mask = array if mask is None else And(array, mask)
    if S % ring:
        end = KeyLimit(jnp.int32(S))
        mask = end if mask is None else And(end, mask)
    if settings.bias is not None:
        bias = _looked_up(settings.bias, b, n)

        def modify(score: Array, b: Index, n: Index, q: Index, k: Index) -> Array:
            score = score + bias(b, n, q, k).astype(score.dtype)
            later = settings.score_mod
            return score if later is None else later(score, b, n, q, k)

    return dataclasses.replace(settings, mask=None, bias=None, mask_mod=mask, score_mod=modify)


def _looked_up(
    x: Shaped[Array, "#B #N #T #S"], b: Int[Array, ""], n: Int[Array, ""]
) -> Callable[[Index, Index, Index, Index], Array]:
    def function(b_here: Index, n_here: Index, q: Index, k: Index) -> Array:
        # Positions past the end are looked up too, and hidden by another mask.
        indices = zip((b_here + b, n_here + n, q, k), x.shape)
        return x[tuple(jnp.minimum(i, size - 1) if size > 1 else i * 0 for i, size in indices)]

    return function


@index_function
class KeyLimit(Mask):
    """Mask of the keys before ``end``; hides padding that makes the devices divide a sequence."""

    end: Int[Array, ""]

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return (k < self.end) & (q == q)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        rows = tiles.first_q == tiles.first_q
        return (tiles.first_k < self.end) & rows, (tiles.last_k < self.end) & rows


@index_function
class ShardedMask(Mask):
    """Part of a mask for a device whose first batch row is ``b`` and first head is ``n``."""

    mask: Any
    b: Int[Array, ""]
    n: Int[Array, ""]

    def __call__(self, b: Index, n: Index, q: Index, k: Index) -> Bool[Array, "..."]:
        return self.mask(b + self.b, n + self.n, q, k)

    def bounds(self, tiles: Tiles) -> Bounds | None:
        return bounds_of(self.mask, tiles._replace(b=tiles.b + self.b, n=tiles.n + self.n))


def _placed_mod(
    modify: ScoreFunction | None, b: Int[Array, ""], n: Int[Array, ""]
) -> ScoreFunction | None:
    if modify is None:
        return None

    def placed(score: Array, b_here: Index, n_here: Index, q: Index, k: Index) -> Array:
        return modify(score, b_here + b, n_here + n, q, k)

    return placed


def _placed_mask(
    mask: MaskFunction | None, b: Int[Array, ""], n: Int[Array, ""]
) -> MaskFunction | None:
    """Shift rows and heads in the parts of a mask that depend on them; others stay concrete."""
    if mask is None:
        return None
    if isinstance(mask, BlockMask):
        return _placed_mask(mask.mask_mod, b, n)
    if isinstance(mask, And):
        return And(*(_placed_mask(part, b, n) for part in (mask.first, mask.second)))
    return ShardedMask(mask, b, n) if _asks_for_rows(mask) else mask


def _is_causal(mask: MaskFunction | None) -> bool:
    if isinstance(mask, And):
        return _is_causal(mask.first) or _is_causal(mask.second)
    return isinstance(mask.mask if isinstance(mask, Offset) else mask, Causal)


def _asks_for_rows(mask: MaskFunction) -> bool:
    """Return True if the mask may differ between batch rows or between heads."""
    one = jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.int32)
    program = jax.make_jaxpr(mask)(one, one, one, one).jaxpr
    used: set[Any] = set(program.invars[:2])

    def reads(variables: Any) -> bool:
        return any(not isinstance(x, jax.extend.core.Literal) and x in used for x in variables)

    for equation in program.eqns:
        if reads(equation.invars):
            used.update(equation.outvars)
    return reads(program.outvars)

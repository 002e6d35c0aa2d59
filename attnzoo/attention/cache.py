"""Key/value caches for step-by-step decoding.

Multi-head attention caches keys and values: all, the last W, or all in int8. ``extend`` takes the
next T keys (after rotary embedding) and values, and returns the keys and values to attend to, their
positions, and the extended cache. A mechanism without a cache of its own caches its inputs.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

from attnzoo.ops.kernels.few_queries import reads_at_once

MOST_UPDATES = 16
"""Number of rows up to which a CPU writes one after the other; a scatter of them takes longer."""
Kind = Literal["plain", "window", "int8"]
Keys = Float[Array, "B S K H"]
Values = Float[Array, "B S K Hv"]
NewKeys = Float[Array, "B T K H"]
NewValues = Float[Array, "B T K Hv"]


class Cache(NamedTuple):
    """Key/value cache of the positions decoded so far, with room for L positions.

    Rows may differ in length. After a prompt that was padded on the right, replace ``length`` by
    the true lengths: positions beyond them are masked, and overwritten later.
    """

    keys: Float[Array, "B L K H"]
    values: Float[Array, "B L K Hv"]
    length: Int[Array, " B"]

    @property
    def slots(self) -> int:
        """Number of slots: L."""
        return self.keys.shape[1]

    @property
    def room(self) -> int:
        """Number of positions that fit into the cache: L."""
        return self.slots

    def extend(self, keys: NewKeys, values: NewValues) -> tuple[Keys, Values, None, "Cache"]:
        """Return all L keys and values, None (slot i holds position i), and the extended cache."""
        held = write(self.keys, keys, self.length), write(self.values, values, self.length)
        return *held, None, Cache(*held, self.length + keys.shape[1])


class HeadsFirstCache(NamedTuple):
    """A :class:`Cache` with its heads in front of positions, for a CPU.

    A product with all keys of a head then reads them as they are. A large cache is read in chunks
    of positions instead, which lie together in the other order.
    """

    keys: Float[Array, "B K L H"]
    values: Float[Array, "B K L Hv"]
    length: Int[Array, " B"]

    @property
    def slots(self) -> int:
        """Number of slots: L."""
        return self.keys.shape[2]

    @property
    def room(self) -> int:
        """Number of positions that fit into the cache: L."""
        return self.slots

    def extend(
        self, keys: NewKeys, values: NewValues
    ) -> tuple[Keys, Values, None, "HeadsFirstCache"]:
        """Return all L keys and values, None (slot i holds position i), and the extended cache."""
        held = [
            write(old, jnp.swapaxes(new, 1, 2), self.length, axis=2)
            for old, new in ((self.keys, keys), (self.values, values))
        ]
        seen = [jnp.swapaxes(x, 1, 2) for x in held]
        return seen[0], seen[1], None, HeadsFirstCache(*held, self.length + keys.shape[1])


class WindowCache(NamedTuple):
    """Ring buffer of the last W keys and values of any text: position p lies in slot p mod W."""

    keys: Float[Array, "B W K H"]
    values: Float[Array, "B W K Hv"]
    length: Int[Array, " B"]

    @property
    def slots(self) -> int:
        """Number of slots: W."""
        return self.keys.shape[1]

    @property
    def room(self) -> None:
        """No limit (None): the ring takes any number of positions."""
        return

    def extend(
        self, keys: NewKeys, values: NewValues
    ) -> tuple[Keys, Values, Int[Array, "B S"], "WindowCache"]:
        """Return the keys and values to attend to, their positions, and the new cache.

        Several new positions get the old ring followed by the new keys, because the first of them
        still sees keys that the last overwrites. A negative position marks an empty slot.
        """
        T, W = keys.shape[1], self.keys.shape[1]
        new = self.length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
        last = min(T, W)
        slots = new[:, T - last :] % W
        put = jax.vmap(lambda held, at, given: held.at[at].set(given))
        ring = WindowCache(
            put(self.keys, slots, keys[:, T - last :].astype(self.keys.dtype)),
            put(self.values, slots, values[:, T - last :].astype(self.values.dtype)),
            self.length + T,
        )
        if T == 1:
            return ring.keys, ring.values, ring.positions(), ring
        both = lambda held, given: jnp.concatenate([held, given.astype(held.dtype)], 1)  # noqa: E731
        places = jnp.concatenate([self.positions(), new], axis=1)
        return both(self.keys, keys), both(self.values, values), places, ring

    def positions(self) -> Int[Array, "B W"]:
        """Return the position that each slot holds; negative for an empty slot."""
        W = self.keys.shape[1]
        last = self.length[:, None] - 1
        return last - (last - jnp.arange(W, dtype=jnp.int32)[None]) % W


class QuantisedCache(NamedTuple):
    """Key/value cache in int8, with one scale per head and position: a quarter of float32.

    The error of a number is at most half a step: 1/254 of the largest magnitude in its vector of H.
    """

    keys: Int8[Array, "B L K H"]
    values: Int8[Array, "B L K Hv"]
    key_scale: Float[Array, "B L K 1"]
    value_scale: Float[Array, "B L K 1"]
    length: Int[Array, " B"]

    @property
    def slots(self) -> int:
        """Number of slots: L."""
        return self.keys.shape[1]

    @property
    def room(self) -> int:
        """Number of positions that fit into the cache: L."""
        return self.keys.shape[1]

    def extend(
        self, keys: NewKeys, values: NewValues
    ) -> tuple[Keys, Values, None, "QuantisedCache"]:
        """Return all L keys and values, dequantised, None for their positions, and the cache."""
        parts = [part for pair in zip(quantise(keys), quantise(values)) for part in pair]
        old = self.keys, self.values, self.key_scale, self.value_scale
        held = [write(one, part, self.length) for one, part in zip(old, parts, strict=True)]
        k, v = (held[i].astype(keys.dtype) * held[i + 2].astype(keys.dtype) for i in (0, 1))
        return k, v, None, QuantisedCache(*held, self.length + keys.shape[1])


class InputCache(NamedTuple):
    """Cache of the inputs of all positions so far, and of their positions in the text."""

    inputs: Float[Array, "B L D"]
    positions: Int[Array, "B L"]
    length: Int[Array, " B"]


AnyCache = Cache | HeadsFirstCache | WindowCache | QuantisedCache


def empty(
    cache: Kind, batch: int, length: int, heads: int, width: int, window: int | None, dtype: Any
) -> AnyCache:
    """Return an empty cache; ``window`` is the number of keys that attention sees, None for all.

    ValueError for an unknown kind of cache, or for "window" if attention has no window.
    """
    none = jnp.zeros((batch,), jnp.int32)
    if cache == "int8":
        zeros = jnp.zeros((batch, length, heads, width), jnp.int8)
        scale = jnp.zeros((batch, length, heads, 1), jnp.float32)
        return QuantisedCache(zeros, zeros, scale, scale, none)
    if cache == "window":
        if window is None:
            raise ValueError('cache="window": this attention looks back at all; wanted a window')
        length = min(window, length)
        zeros = jnp.zeros((batch, length, heads, width), dtype)
        return WindowCache(zeros, zeros, none)
    if cache != "plain":
        raise ValueError(f"cache={cache!r}; wanted 'plain', 'window' or 'int8'")
    if reads_at_once(batch, length, heads, width, dtype):
        zeros = jnp.zeros((batch, heads, length, width), dtype)
        return HeadsFirstCache(zeros, zeros, none)
    zeros = jnp.zeros((batch, length, heads, width), dtype)
    return Cache(zeros, zeros, none)


def quantise(x: Float[Array, "B S K H"]) -> tuple[Int8[Array, "B S K H"], Float[Array, "B S K 1"]]:
    """Quantise to integers -127 .. 127, with a step size for each head and position."""
    wide = x.astype(jnp.float32)
    step = jnp.max(jnp.abs(wide), axis=-1, keepdims=True) / 127
    whole = jnp.round(wide / jnp.where(step == 0, 1, step))
    return whole.astype(jnp.int8), step


def next_slots(
    length: Int[Array, " B"], T: int, L: int
) -> tuple[Int[Array, "B T"], Bool[Array, "B 1 T L"]]:
    """Return the slots of the next T positions, and which slots each sees; ValueError if T > L."""
    if T > L:
        raise ValueError(f"query has {T} positions, but the cache has room for {L}")
    slots = length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    seen = jnp.arange(L, dtype=jnp.int32)[None, None, :] <= slots[:, :, None]
    return slots, seen[:, None]


def write(
    held: Float[Array, "B *F"] | Int[Array, "B *F"],
    new: Float[Array, "B *G"] | Int[Array, "B *G"],
    length: Int[Array, " B"],
    axis: int = 1,
) -> Any:
    """Write new positions into a cache, after the ``length`` positions of each row.

    ``axis`` is that of positions in ``held`` and ``new``.
    """
    zero, new = jnp.zeros((), length.dtype), new.astype(held.dtype)
    rows = held.shape[0]
    if isinstance(rows, int) and rows <= MOST_UPDATES and jax.default_backend() == "cpu":
        for row in range(rows):
            starts = [zero] * held.ndim
            starts[0], starts[axis] = zero + row, length[row]
            held = jax.lax.dynamic_update_slice(held, new[row : row + 1], starts)
        return held

    def put(held: Array, new: Array, at: Array) -> Array:
        starts = [at if i == axis - 1 else zero for i in range(held.ndim)]
        return jax.lax.dynamic_update_slice(held, new, starts)

    return jax.vmap(put)(held, new, length)

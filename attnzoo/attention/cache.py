"""What attention keeps of a sequence that it reads step by step.

Multi-head attention keeps keys and values: all of them, the last of them, or all of them in int8.
Each of its caches takes the next T keys (already turned) and values with ``extend`` and gives back
the keys and values to attend to, where those stand, and itself with them in it. A mechanism without
a cache of its own keeps its inputs.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

Kind = Literal["plain", "window", "int8"]
Keys = Float[Array, "B S K H"]
Values = Float[Array, "B S K Hv"]
NewKeys = Float[Array, "B T K H"]
NewValues = Float[Array, "B T K Hv"]


class Cache(NamedTuple):
    """Keys and values of what was decoded so far, in room for L positions.

    Rows may differ in length. After a prompt that was padded on the right, replace ``length`` by
    the true lengths: what lies beyond them is never seen, and is overwritten.
    """

    keys: Float[Array, "B L K H"]
    values: Float[Array, "B L K Hv"]
    length: Int[Array, " B"]

    @property
    def room(self) -> int:
        """Positions that fit: L."""
        return self.keys.shape[1]

    def extend(self, keys: NewKeys, values: NewValues) -> tuple[Keys, Values, None, "Cache"]:
        """All L keys and values: slot and position are one."""
        held = write(self.keys, keys, self.length), write(self.values, values, self.length)
        return *held, None, Cache(*held, self.length + keys.shape[1])


class WindowCache(NamedTuple):
    """The last W keys and values, in a ring: position p lies in slot p mod W.

    It is for attention that looks no further back, whatever the length of the text.
    """

    keys: Float[Array, "B W K H"]
    values: Float[Array, "B W K Hv"]
    length: Int[Array, " B"]

    @property
    def room(self) -> None:
        """There is always room."""
        return

    def extend(
        self, keys: NewKeys, values: NewValues
    ) -> tuple[Keys, Values, Int[Array, "B S"], "WindowCache"]:
        """The ring, and of several new positions these too: a first one sees what a last one
        drives out. Positions below 0 hold nothing yet.
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
        """The position that each slot holds: the last one below the length that falls to it."""
        W = self.keys.shape[1]
        last = self.length[:, None] - 1
        return last - (last - jnp.arange(W, dtype=jnp.int32)[None]) % W


class QuantisedCache(NamedTuple):
    """Keys and values as int8, with a scale for each head and position: a quarter of float32.

    A number is off by half a step at most: 1/254 of the largest of its H neighbours.
    """

    keys: Int8[Array, "B L K H"]
    values: Int8[Array, "B L K Hv"]
    key_scale: Float[Array, "B L K 1"]
    value_scale: Float[Array, "B L K 1"]
    length: Int[Array, " B"]

    @property
    def room(self) -> int:
        """Positions that fit: L."""
        return self.keys.shape[1]

    def extend(
        self, keys: NewKeys, values: NewValues
    ) -> tuple[Keys, Values, None, "QuantisedCache"]:
        """All L keys and values, multiplied out."""
        parts = [part for pair in zip(quantise(keys), quantise(values)) for part in pair]
        old = self.keys, self.values, self.key_scale, self.value_scale
        held = [write(one, part, self.length) for one, part in zip(old, parts, strict=True)]
        k, v = (held[i].astype(keys.dtype) * held[i + 2].astype(keys.dtype) for i in (0, 1))
        return k, v, None, QuantisedCache(*held, self.length + keys.shape[1])


class InputCache(NamedTuple):
    """The inputs of all positions so far, and their places in the text."""

    inputs: Float[Array, "B L D"]
    positions: Int[Array, "B L"]
    length: Int[Array, " B"]


AnyCache = Cache | WindowCache | QuantisedCache


def empty(
    cache: Kind, batch: int, length: int, heads: int, width: int, window: int | None, dtype: Any
) -> AnyCache:
    """A cache with nothing in it; ``window`` is how far back attention looks."""
    none = jnp.zeros((batch,), jnp.int32)
    if cache == "int8":
        zeros = jnp.zeros((batch, length, heads, width), jnp.int8)
        scale = jnp.zeros((batch, length, heads, 1), jnp.float32)
        return QuantisedCache(zeros, zeros, scale, scale, none)
    if cache == "window":
        if window is None:
            raise ValueError('cache="window": this attention looks back at all; wanted a window')
        length = min(window, length)
    elif cache != "plain":
        raise ValueError(f"cache={cache!r}; wanted 'plain', 'window' or 'int8'")
    zeros = jnp.zeros((batch, length, heads, width), dtype)
    return (WindowCache if cache == "window" else Cache)(zeros, zeros, none)


def quantise(x: Float[Array, "B S K H"]) -> tuple[Int8[Array, "B S K H"], Float[Array, "B S K 1"]]:
    """Whole numbers from -127 to 127, and the step that they count, for each head and position."""
    wide = x.astype(jnp.float32)
    step = jnp.max(jnp.abs(wide), axis=-1, keepdims=True) / 127
    whole = jnp.round(wide / jnp.where(step == 0, 1, step))
    return whole.astype(jnp.int8), step


def next_slots(
    length: Int[Array, " B"], T: int, L: int
) -> tuple[Int[Array, "B T"], Bool[Array, "B 1 T L"]]:
    """Return the slots of a cache that the next T positions fill, and which slots each may see.

    Raises:
      ValueError: more positions than the cache has room for.
    """
    if T > L:
        raise ValueError(f"query has {T} positions, but the cache has room for {L}")
    slots = length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    seen = jnp.arange(L, dtype=jnp.int32)[None, None, :] <= slots[:, :, None]
    return slots, seen[:, None]


def write(
    held: Float[Array, "B L *F"] | Int[Array, "B L *F"],
    new: Float[Array, "B T *F"] | Int[Array, "B T *F"],
    length: Int[Array, " B"],
) -> Any:
    """Put new positions into a cache, behind the ``length`` positions that each row has."""
    rest = [jnp.zeros((), length.dtype)] * (held.ndim - 2)
    put = jax.vmap(lambda held, new, at: jax.lax.dynamic_update_slice(held, new, (at, *rest)))
    return put(held, new.astype(held.dtype), length)

"""Dropout of attention weights as a function of indices, like a mask.

A hash of the indices replaces a stream of random numbers. Every implementation, forward or
backward, for one weight or a tile, gets the same result without storing it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt32

from attnzoo.ops.index_functions import Index


class ShardedKey(NamedTuple):
    """A dropout key for a part of a batch and of its heads, with its first row and head."""

    key: Key[Array, ""]
    b: Int[Array, ""]
    n: Int[Array, ""]


AnyKey = Key[Array, ""] | ShardedKey


def seed_of(key: AnyKey) -> UInt32[Array, " words"]:
    """Return the 64 bits of a key that the hash starts from, then the place of a placed key."""
    if not isinstance(key, ShardedKey):
        return jax.random.bits(key, (2,), jnp.uint32)
    place = jnp.stack([key.b, key.n]).astype(jnp.uint32)
    return jnp.concatenate([jax.random.bits(key.key, (2,), jnp.uint32), place])


def dropout_keep_mask(
    seed: UInt32[Array, " words"] | tuple[Array, ...],
    rate: float,
    b: Index,
    n: Index,
    q: Index,
    k: Index,
) -> Bool[Array, "..."]:
    """Return True, with probability 1 - ``rate``, where the weight of query q and key k is kept."""
    # A row is hashed to 64 bits, so that two rows are unlikely to share a pattern.
    row, other = seed[0], seed[1]
    b, n, q = (index.astype(jnp.uint32) for index in (b, n, q))
    if len(seed) == 4:
        b, n = b + seed[2], n + seed[3]
    for index in (b, n, q):
        row = _mix(row ^ index)
        other = _mix(other + row)
    bits = _mix(_mix(row ^ k.astype(jnp.uint32)) + other)
    return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Permute 32-bit integers so that every bit of x affects every bit of the result.

    The multiply-xorshift permutation with constants found by C. Wellons' search (hash prospector).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)

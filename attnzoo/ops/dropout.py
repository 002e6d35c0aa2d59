"""Which attention weights survive dropout: a function of indices, like a mask.

A counter hash instead of a stream of random numbers: whoever computes a weight, alone or in a tile,
forward or backward, in any implementation, finds the same answer without storing it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt32

from attnzoo.ops.index_functions import Index


class PlacedKey(NamedTuple):
    """A key for a part of a batch and of its heads: which row and head are the first there."""

    key: Key[Array, ""]
    b: Int[Array, ""]
    n: Int[Array, ""]


AnyKey = Key[Array, ""] | PlacedKey


def seed_of(key: AnyKey) -> UInt32[Array, " words"]:
    """The 64 bits of a key that the hash starts from; then its place, if it has one."""
    if not isinstance(key, PlacedKey):
        return jax.random.bits(key, (2,), jnp.uint32)
    place = jnp.stack([key.b, key.n]).astype(jnp.uint32)
    return jnp.concatenate([jax.random.bits(key.key, (2,), jnp.uint32), place])


def kept(
    seed: UInt32[Array, " words"] | tuple[Array, ...],
    rate: float,
    b: Index,
    n: Index,
    q: Index,
    k: Index,
) -> Bool[Array, "..."]:
    """True with probability 1 - ``rate`` where the weight of query q and key k survives."""
    # 64 bits say which row it is, so that two rows with the same pattern are not to be expected.
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
    """A bijection of 32 bits in which every bit of x moves every bit of the result.

    The multiply-xorshift permutation with constants found by C. Wellons' search (hash prospector).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)

"""Which attention weights survive dropout: a function of indices, like a mask.

A counter hash instead of a stream of random numbers: whoever computes a weight, alone or in a tile,
forward or backward, in any implementation, finds the same answer without storing it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, UInt32

from attnzoo.ops.index_functions import Index


def seed_of(key: Key[Array, ""]) -> UInt32[Array, "2"]:
    """The 64 bits of a key that the hash starts from."""
    return jax.random.bits(key, (2,), jnp.uint32)


def kept(
    seed: UInt32[Array, "2"] | tuple[Array, Array],
    rate: float,
    b: Index,
    n: Index,
    q: Index,
    k: Index,
) -> Bool[Array, "..."]:
    """True with probability 1 - ``rate`` where the weight of query q and key k survives."""
    # 64 bits say which row it is, so that two rows with the same pattern are not to be expected.
    row, other = seed[0], seed[1]
    for index in (b, n, q):
        row = _mix(row ^ index.astype(jnp.uint32))
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

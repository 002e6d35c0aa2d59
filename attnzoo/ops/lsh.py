"""Locality-sensitive hashing of keys: Kitaev, Kaiser and Levskaya 2020 (arXiv 2001.04451)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def buckets_of(
    x: Float[Array, "B L N H"], num_buckets: int, rounds: int, seed: int
) -> Int[Array, "B N R L"]:
    """Return the bucket of each vector in each round: arg max [x R ; -x R] (section 2).

    The rotations R are drawn from ``seed``: H x ``num_buckets / 2`` normal numbers a round, the
    same for all heads. Only the direction of a vector matters.
    """
    shape = (rounds, x.shape[-1], num_buckets // 2)
    rotations = jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(x.dtype)
    rotated = jnp.einsum("blnh,rhc->bnrlc", x, rotations)
    both = jnp.concatenate([rotated, -rotated], axis=-1)
    return jnp.argmax(both, axis=-1).astype(jnp.int32)


class SortedKeys(NamedTuple):
    """Keys of a memory, sorted by bucket and then by position, in each round.

    Hidden keys are last, in a bucket of their own. The batch is the first axis of every array.
    """

    bucket: Int[Array, "B N R S"]
    """Bucket of each key, in the order of the keys."""
    chunk: Int[Array, "B N R S"]
    """Number of the chunk of its bucket that a key is in, in the order of the keys."""
    order: Int[Array, "B N R S"]
    """Index of the key at each place of the sorted sequence."""
    codes: Int[Array, "B N R S"]
    """Bucket and position as one number, ascending."""


def _code(bucket: Int[Array, "..."], position: Int[Array, "..."]) -> Int[Array, "..."]:
    """Join a bucket and a position below 2^20 to one number."""
    return bucket * (1 << 20) + position


def sort_keys(
    buckets: Int[Array, "B N R S"],
    positions: Int[Array, "#B S"],
    valid: Bool[Array, "#B #N S"],
    num_buckets: int,
    chunk: int,
) -> SortedKeys:
    """Sort keys into chunks of ``chunk`` keys; each bucket begins a chunk of its own.

    In the paper chunks are cut from the sequence of all buckets, so that where a chunk ends depends
    on keys of other buckets, and on later ones. Here a key's chunk follows from the earlier keys of
    its bucket: nothing that a query reads depends on later keys or on padding.
    """
    bucket = jnp.where(valid[:, :, None], buckets, num_buckets)
    at = jnp.broadcast_to(positions[:, None, None], bucket.shape)
    code = _code(bucket, at)
    order = jnp.argsort(code, axis=-1).astype(jnp.int32)
    codes = jnp.take_along_axis(code, order, axis=-1)
    rank = _first(codes, code) - _first(codes, _code(bucket, jnp.zeros_like(bucket)))
    return SortedKeys(bucket, rank // chunk, order, codes)


def candidates(
    memory: SortedKeys, buckets: Int[Array, "B N R T"], positions: Int[Array, "B T"], chunk: int
) -> tuple[Int[Array, "B N T C"], Bool[Array, "B N T C"]]:
    """Return the keys that queries may look at, and which of them count.

    In each of R rounds these are two chunks of the query's bucket: the one that it would be in
    itself, and the one before; C = 2 R ``chunk``. A key that several rounds find counts once, which
    is what dividing by the number of rounds does in the paper (equations 7 to 9 of appendix A).
    """
    first = _first(memory.codes, _code(buckets, jnp.zeros_like(buckets)))
    at = jnp.broadcast_to(positions[:, None, None], buckets.shape)
    own = (_first(memory.codes, _code(buckets, at)) - first) // chunk
    start = first + jnp.maximum(own - 1, 0) * chunk
    steps = jnp.arange(2 * chunk, dtype=jnp.int32).reshape(1, 1, 1, 1, -1)
    places = start[..., None] + steps  # B N R T W
    (B, N, R, T, W), S = places.shape, memory.order.shape[-1]
    flat = jnp.minimum(places, S - 1).reshape(B, N, R, T * W)
    keys = jnp.take_along_axis(memory.order, flat, axis=-1).reshape(B, N, R, T, W)
    keys = jnp.moveaxis(keys, 2, 3).reshape(B, N, T, R * W)
    every = jnp.broadcast_to(keys[:, :, None], (B, N, R, T, R * W)).reshape(B, N, R, T * R * W)
    bucket, number = (
        jnp.take_along_axis(part, every, axis=-1).reshape(B, N, R, T, R, W)
        for part in (memory.bucket, memory.chunk)
    )
    away = own[..., None, None] - number
    seen = (bucket == buckets[..., None, None]) & (away >= 0) & (away <= 1)  # by each round
    earlier = jnp.cumsum(seen, axis=2, dtype=jnp.int32) - seen.astype(jnp.int32)
    found = jnp.diagonal(seen & (earlier == 0), axis1=2, axis2=4)  # B N T W R
    found = jnp.swapaxes(found, 3, 4) & jnp.swapaxes(places < S, 2, 3)
    return keys, found.reshape(B, N, T, R * W)


def _first(codes: Int[Array, "B N R S"], wanted: Int[Array, "B N R T"]) -> Int[Array, "B N R T"]:
    """Return the number of codes below each wanted one."""
    search = lambda codes, wanted: jnp.searchsorted(codes, wanted).astype(jnp.int32)  # noqa: E731
    for _ in range(3):
        search = jax.vmap(search)
    return search(codes, wanted)

"""What decoders without an encoder share: positions of packed rows, and decoding with caches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.cache import Kind
from attnzoo.layers.stack import Stack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderState:
    """What a decoder keeps of its past: a cache a layer, and the number of slots filled."""

    caches: tuple[Any, ...]
    length: Int[Array, " B"]


def positions_in_documents(documents: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """The place of each token in its run of equal ids: 0, 1, 2, 0, 1 of 5, 5, 5, 7, 7."""
    places = jnp.broadcast_to(
        jnp.arange(documents.shape[1], dtype=jnp.int32)[None], documents.shape
    )
    starts = jnp.pad(documents[:, 1:] != documents[:, :-1], ((0, 0), (1, 0)))
    return places - jax.lax.cummax(jnp.where(starts, places, 0), axis=1)


def next_positions(
    state: DecoderState, T: int, visible: Bool[Array, "B L"] | None
) -> Int[Array, "B T"]:
    """Positions of the next T tokens: padding before them does not count."""
    slots = state.length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    if visible is None:
        return slots
    counted = jnp.cumsum(visible.astype(jnp.int32), axis=1) - 1
    return jnp.maximum(jnp.take_along_axis(counted, slots, axis=1, mode="clip"), 0)


def empty_state(stack: Stack, batch: int, max_length: int, dtype: Any, cache: Kind) -> DecoderState:
    """Room for ``max_length`` slots, none of them filled."""
    blocks = stack.unrolled().blocks
    caches = tuple(block.empty_cache(batch, max_length, dtype, cache) for block in blocks)
    return DecoderState(caches, jnp.zeros((batch,), jnp.int32))


def decode_stack(
    stack: Stack,
    x: Float[Array, "B T D"],
    state: DecoderState,
    visible: Bool[Array, "B L"] | None,
) -> tuple[Float[Array, "B T D"], DecoderState]:
    """The next T states through all blocks, and the state with them in it."""
    caches = []
    for block, cache in zip(stack.unrolled().blocks, state.caches, strict=True):
        x, cache, _ = block.decode(x, cache, visible=visible)
        caches.append(cache)
    return x, DecoderState(tuple(caches), state.length + x.shape[1])


def last_states(x: Float[Array, "B T D"], at: Int[Array, " B"] | None) -> Float[Array, "B t D"]:
    """The states at one place a row, ``B 1 D``; all of them if None."""
    return x if at is None else jnp.take_along_axis(x, at[:, None, None], axis=1)


def unrolled(model: Any) -> Any:
    """The model with the parameters of each block apart: what a loop over tokens should start
    from, lest it take stacked ones apart at every step.
    """
    if not model.decoder.scan:
        return model
    copy = nnx.merge(*nnx.split(model))
    copy.decoder = copy.decoder.unrolled()
    return copy

"""Positions of tokens in their texts, for rows with padding or several documents."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def positions_in_text(
    valid: Bool[Array, "B T"] | None, documents: Int[Array, "B T"] | None = None
) -> Int[Array, "B T"] | None:
    """Count the tokens of each text from 0: 0, 1, 2, 0, 1 for documents 5, 5, 5, 7, 7.

    Padding, where ``valid`` is False, does not count. Returns None if both arguments are None: each
    row is then one text without padding, with positions 0 .. T-1.
    """
    if valid is None and documents is None:
        return None
    if valid is None:
        assert documents is not None
        valid = jnp.ones(documents.shape, bool)
    counted = jnp.cumsum(valid, axis=1, dtype=jnp.int32)
    if documents is None:
        return jnp.maximum(counted - 1, 0)
    before = counted - valid.astype(jnp.int32)
    starts = jnp.pad(documents[:, 1:] != documents[:, :-1], ((0, 0), (1, 0)))
    return jnp.maximum(counted - 1 - jax.lax.cummax(jnp.where(starts, before, 0), axis=1), 0)


def positions_from_end(
    valid: Bool[Array, "B T"] | None, documents: Int[Array, "B T"] | None, length: int
) -> Int[Array, "B T"] | None:
    """Count the tokens of each text back from ``length - 1`` at its last one.

    With length 9: 6, 7, 8, 7, 8 for documents 5, 5, 5, 7, 7. Padding, where ``valid`` is False,
    does not count. Returns None if both arguments are None, as ``positions_in_text``.
    """
    back = (None if x is None else x[:, ::-1] for x in (valid, documents))
    counted = positions_in_text(*back)
    return None if counted is None else length - 1 - counted[:, ::-1]


def next_positions(
    length: Int[Array, " B"], T: int, visible: Bool[Array, "B L"] | None
) -> Int[Array, "B T"]:
    """Return the positions of the next T tokens of a cache with ``length`` slots filled.

    Slots that are not ``visible`` hold padding, which does not count.
    """
    slots = length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    if visible is None:
        return slots
    counted = jnp.cumsum(visible, axis=1, dtype=jnp.int32) - 1
    return jnp.maximum(jnp.take_along_axis(counted, slots, axis=1, mode="clip"), 0)

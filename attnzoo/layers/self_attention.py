"""Self-attention with any mechanism: padding, packed documents, and decoding."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnzoo.attention.cache import Kind
from attnzoo.attention.contract import Attention, RotaryPositions
from attnzoo.module import Module
from attnzoo.ops.logits import ScoreFunction
from attnzoo.ops.masks import MaskFunction


class SelfAttention(Module):
    """Self-attention with a causal or bidirectional mask, and its decoding.

    If ``is_causal``, position t sees positions 0 .. t, or fewer if the mechanism has its own mask.
    ValueError for a mechanism that is always causal without ``is_causal``, and for one without a
    causal form with it.
    """

    def __init__(self, mechanism: Attention, *, is_causal: bool):
        if mechanism.always_causal and not is_causal:
            raise ValueError(
                f"{type(mechanism).__name__} is causal; an encoder wants another attention "
                "(attention.kind=linear is the two-sided relative)"
            )
        if is_causal and not mechanism.takes_causal_mask:
            raise ValueError(
                f"{type(mechanism).__name__} has no causal form; a decoder wants another attention "
                "(attention.kind=multi_head, or linear in O(T))"
            )
        self.mechanism, self.is_causal = mechanism, is_causal

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        valid: Bool[Array, "B T"] | None = None,
        mask: MaskFunction | None = None,
        score_mod: ScoreFunction | None = None,
        positions: RotaryPositions | None = None,
        is_causal: bool | None = None,
        places: Float[Array, "#B T D"] | None = None,
        **reading: Any,
    ) -> Any:
        """Apply self-attention to ``B T D``; ``reading`` is ``dropout_key`` and ``return_weights``.

        ``valid`` is False at padding. ``mask`` is a further restriction (``masks.document(ids)``
        for packed rows). ``score_mod`` is for mechanisms that support it. ``positions`` are
        positions in the text, for mechanisms that depend on them; 0 .. T-1 if None. ``is_causal``
        replaces the module's own setting; NotImplementedError for a mechanism that is causal.
        ``places`` are added to the queries and keys, not to the values.
        """
        causal = self.is_causal if is_causal is None else is_causal
        if self.mechanism.always_causal and not causal:
            raise NotImplementedError(f"{type(self.mechanism).__name__} is causal")
        if causal and not self.mechanism.takes_causal_mask:
            raise NotImplementedError(f"{type(self.mechanism).__name__} has no causal form")
        seen = self.mechanism.self_mask(x, is_causal=causal, valid=valid, mask=mask)
        placed: dict[str, Any] = {"positions": positions, "key_positions": positions}
        sequences = (x, x) if places is None else (x + places, x + places, x)
        return self.mechanism(
            *sequences, mask=seen, **placed, **reading, **self._modified(score_mod)
        )

    def empty_cache(
        self, batch: int, max_length: int, dtype: Any = jnp.float32, cache: Kind = "plain"
    ) -> Any:
        """Return an empty cache of the mechanism; NotImplementedError without ``is_causal``."""
        if not self.is_causal:
            raise NotImplementedError("is_causal=False: an encoder cannot be decoded step by step")
        return self.mechanism.empty_cache(batch, max_length, dtype, cache)

    def decode(
        self,
        x: Float[Array, "B T D"],
        cache: Any,
        *,
        visible: Bool[Array, "B L"] | None = None,
        score_mod: ScoreFunction | None = None,
        **reading: Any,
    ) -> tuple[Any, Any]:
        """Return the result for the next T positions (a prompt, or one), and the updated cache.

        ``visible`` is False where the cache's L positions are padding. ``reading`` is
        ``return_weights`` and ``positions``: positions in the text, not counting padding.
        """
        mask = None if visible is None else visible[:, None, None, :]
        reading |= self._modified(score_mod)
        return self.mechanism.decode(x, cache, mask=mask, **reading)

    def _modified(self, score_mod: ScoreFunction | None) -> dict[str, Any]:
        if score_mod is None:
            return {}
        if not self.mechanism.takes_score_mod:
            raise NotImplementedError(
                f"score_mod: {type(self.mechanism).__name__} has no scores of dot products to "
                "modify; wanted attention.kind=multi_head, or a model without relative positions"
            )
        return {"score_mod": score_mod}

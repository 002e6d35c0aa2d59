"""A sequence that attends to itself by any mechanism: padding, packed documents, decoding."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.cache import Kind
from attnzoo.attention.contract import Asked, Attention, Memory
from attnzoo.attention.fast_weight import FastWeights
from attnzoo.attention.latent import LatentAttention
from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.ops.logits import ScoreFunction
from attnzoo.ops.masks import And, MaskFunction, causal, evaluate_mask, padding


class InputCache(NamedTuple):
    """All that a mechanism without a cache of its own needs to go on: what it has been given."""

    inputs: Float[Array, "B L D"]
    length: Int[Array, " B"]


class SelfAttention(nnx.Module):
    """``mechanism(x, x)`` under one call and one way to decode, whatever the mechanism.

    ``MultiHeadAttention`` sees masks as functions, which costs no memory; a mechanism that
    recurs (``FastWeights``) is causal by itself and takes no mask but padding; all others get the
    mask written out, and decode by reading all their former inputs again.

    Args:
      is_causal: position t sees positions 0 .. t. A ``MultiHeadAttention`` may have a narrower
        ``mask_mod`` of its own beside it.
    """

    def __init__(self, mechanism: Attention, *, is_causal: bool):
        if isinstance(mechanism, FastWeights) and not is_causal:
            raise ValueError(
                f"{type(mechanism).__name__} is causal; an encoder wants another attention "
                "(attention.kind=linear is the two-sided relative)"
            )
        self.mechanism, self.is_causal = mechanism, is_causal

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        valid: Bool[Array, "B T"] | None = None,
        mask: MaskFunction | None = None,
        score_mod: ScoreFunction | None = None,
        positions: Int[Array, "#B T"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
        return_weights: Asked = False,
    ) -> Any:
        """``B T D`` -> ``B T D``, with the weights ``B N T T`` or their report beside it if asked.

        ``valid`` is False at padding; ``mask`` joins it (``masks.document(ids)`` for packed rows);
        ``score_mod`` is for scores of dot products alone, ``positions`` for rotary ones: 0 .. T-1
        if None.
        """
        mechanism = self.mechanism
        if isinstance(mechanism, MultiHeadAttention):
            return mechanism(
                x,
                x,
                mask=self._mask(valid, mask),
                score_mod=score_mod,
                dropout_key=dropout_key,
                return_weights=return_weights,
                turns=positions,
            )
        _no_score_mod(mechanism, score_mod)
        array = None if valid is None else valid[:, None, None, :]
        if isinstance(mechanism, FastWeights):
            if mask is not None:
                raise NotImplementedError(
                    f"mask={mask!r}: {type(mechanism).__name__} recurs over the whole row; packed "
                    "documents want attention.kind=multi_head, or training without packing"
                )
        else:
            function = self._mask(None, mask)
            if function is not None:
                T = x.shape[1]
                pattern = evaluate_mask(function, (x.shape[0], 1, T, T))
                array = pattern if array is None else array & pattern
        return mechanism(x, x, mask=array, return_weights=return_weights)

    @property
    def keeps_keys(self) -> bool:
        """Whether :meth:`decode` can tell its weights: a recurrent state cannot."""
        return not isinstance(self.mechanism, FastWeights)

    def empty_cache(
        self,
        batch: int,
        max_length: int,
        dtype: Any = jnp.float32,
        cache: Kind = "plain",
    ) -> Any:
        """What is kept of the past, with room for ``max_length`` positions, before the first.

        Multi-head attention alone has other caches than the plain one (``attention.cache``).
        """
        mechanism = self.mechanism
        if not self.is_causal:
            raise NotImplementedError("is_causal=False: an encoder cannot be decoded step by step")
        if isinstance(mechanism, MultiHeadAttention):
            return mechanism.empty_cache(batch, max_length, dtype, cache)
        if cache != "plain":
            raise ValueError(
                f"cache={cache!r}: {type(mechanism).__name__} has one kind of memory; wanted "
                "'plain', or attention.kind=multi_head"
            )
        if isinstance(mechanism, FastWeights):
            return mechanism.empty_state(batch)
        if isinstance(mechanism, LatentAttention):
            return mechanism.empty_cache(batch, max_length, dtype)
        raise NotImplementedError(
            f"{type(mechanism).__name__} has no cache; wanted input_cache(batch, max_length, dim)"
        )

    def decode(
        self,
        x: Float[Array, "B T D"],
        cache: Any,
        *,
        visible: Bool[Array, "B L"] | None = None,
        score_mod: ScoreFunction | None = None,
        return_weights: Asked = False,
    ) -> tuple[Any, Any]:
        """The next T positions (a prompt, or one): their result, and the cache with them in it.

        ``visible`` is False where the cache's L positions are padding. Weights of a mechanism that
        has no cache of its own then count keys from the first that is none.
        """
        mechanism = self.mechanism
        if isinstance(mechanism, MultiHeadAttention):
            mask = None if visible is None else visible[:, None, None, :]
            return mechanism.decode(
                x, cache, mask=mask, score_mod=score_mod, return_weights=return_weights
            )
        _no_score_mod(mechanism, score_mod)
        if isinstance(mechanism, LatentAttention):
            mask = None if visible is None else visible[:, None, None, :]
            return mechanism.decode(x, cache, mask=mask, return_weights=return_weights)
        if isinstance(mechanism, FastWeights):
            if return_weights:
                raise NotImplementedError(
                    f"return_weights: the state of {type(mechanism).__name__} does not know the "
                    "keys that it was made of; wanted a call on the whole sequence"
                )
            return self._recur(mechanism, x, cache, visible)
        return self._again(x, cache, visible, return_weights)

    def _recur(
        self,
        mechanism: FastWeights,
        x: Float[Array, "B T D"],
        cache: Any,
        visible: Bool[Array, "B L"] | None,
    ) -> tuple[Float[Array, "B T D"], Any]:
        mask = None
        if visible is not None:
            places = cache.length[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)[None]
            mask = jnp.take_along_axis(visible, places, axis=1)[:, None, None, :]
        form = "recurrent" if x.shape[1] == 1 else "chunked"
        return mechanism(x, x, mask=mask, state=cache, form=form, return_state=True)

    def _again(
        self,
        x: Float[Array, "B T D"],
        cache: InputCache,
        visible: Bool[Array, "B L"] | None,
        return_weights: Asked,
    ) -> tuple[Any, InputCache]:
        """Attend to all former inputs once more."""
        T, L = x.shape[1], cache.inputs.shape[1]
        write = jax.vmap(lambda held, new, at: jax.lax.dynamic_update_slice(held, new, (at, 0)))
        held = write(cache.inputs, x.astype(cache.inputs.dtype), cache.length)
        inputs, positions = held, cache.length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
        if visible is not None:
            # A mechanism with a slot for each position counts from the first that is no padding.
            first = jnp.argmax(visible, axis=1).astype(jnp.int32)[:, None]
            order = (jnp.arange(L, dtype=jnp.int32)[None] + first) % L
            inputs, visible = (
                jnp.take_along_axis(inputs, order[:, :, None], axis=1),
                jnp.take_along_axis(visible, order, axis=1),
            )
            positions = jnp.maximum(positions - first, 0)
        seen = (jnp.arange(L)[None, None, :] <= positions[:, :, None])[:, None]
        seen = seen if visible is None else seen & visible[:, None, None, :]
        prepared = self.mechanism.prepare(inputs.astype(x.dtype))
        memory = Memory(prepared.keys, prepared.values, seen)
        result = self.mechanism.attend(
            x, memory, positions=positions, return_weights=return_weights
        )
        return result, InputCache(held, cache.length + T)

    def _mask(
        self, valid: Bool[Array, "B T"] | None, mask: MaskFunction | None
    ) -> MaskFunction | None:
        function = causal() if self.is_causal else None
        for one in (None if valid is None else padding(valid), mask):
            if one is not None:
                function = one if function is None else And(function, one)
        return function


def input_cache(batch: int, max_length: int, dim: int, dtype: Any = jnp.float32) -> InputCache:
    """The empty cache of a mechanism that has none of its own."""
    return InputCache(jnp.zeros((batch, max_length, dim), dtype), jnp.zeros((batch,), jnp.int32))


def _no_score_mod(mechanism: Attention, score_mod: ScoreFunction | None) -> None:
    if score_mod is not None:
        raise NotImplementedError(
            f"score_mod: {type(mechanism).__name__} has no scores of dot products to modify; "
            "wanted attention.kind=multi_head, or a model without relative positions"
        )

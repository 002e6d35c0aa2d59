"""Base of decoder-only models: packed rows, padding, and decoding with caches."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.cache import Kind
from attnzoo.attention.contract import ReturnWeights
from attnzoo.layers.stack import Stack
from attnzoo.models.model import Model, dropout_key
from attnzoo.ops.masks import document
from attnzoo.ops.positions import next_positions, positions_in_text


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderState:
    """Decoding state: one cache per layer, and the number of filled slots."""

    caches: tuple[Any, ...]
    length: Int[Array, " B"]


class CausalModel(Model):
    """Causal language model; an architecture defines ``_embed`` and ``_logits``.

    The attribute ``decoder`` has the blocks, ``table`` the token embeddings.
    """

    token_tables: ClassVar[Mapping[str, str]] = {"tokens": "embedding"}

    decoder: Stack
    embedding: Any

    @property
    def max_length(self) -> int:
        """Longest context in tokens."""
        return self.config.max_length

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        documents: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        valid: Bool[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return logits ``B T V`` of each next token; with ``capture`` also the requested maps.

        Maps are named "decoder/0/self", ... ValueError: more positions than the table has rows.

        Args:
          documents: document ids in a packed row; tokens attend only within their document.
          positions: positions in the text; if None, counted from 0 in every document, without
            padding. An attention window counts slots of the row instead.
          valid: False at padding, to which no token attends. rngs: switches dropout on.
        """
        if positions is None:
            positions = positions_in_text(valid, documents)
        x, maps = self.decoder(
            self._embed(tokens, positions, rngs),
            valid=valid,
            mask=None if documents is None else document(documents),
            positions=positions,
            key=dropout_key(rngs),
            return_weights=capture,
        )
        logits = self._logits(x)
        return (logits, {f"decoder/{name}": m for name, m in maps.items()}) if capture else logits

    def start(
        self,
        batch: int,
        max_length: int | None = None,
        *,
        dtype: Any = None,
        cache: Kind = "plain",
    ) -> DecoderState:
        """Return the state before the first token, with room for ``max_length`` tokens.

        ``max_length`` is the config's if None. ``dtype`` is that of the cache, by default that of
        the embeddings; ``cache`` is the kind of cache (``attnzoo.attention.cache``).
        """
        room = self.max_length if max_length is None else max_length
        self._check(room)
        dtype = self.embedding.table[...].dtype if dtype is None else dtype
        blocks = self.decoder.unrolled().blocks
        caches = tuple(
            block.empty_cache(batch, room, dtype, self._cache(layer, cache))
            for layer, block in enumerate(blocks)
        )
        return DecoderState(caches, jnp.zeros((batch,), jnp.int32))

    def decode(
        self,
        tokens: Int[Array, "B T"],
        state: DecoderState,
        visible: Bool[Array, "B L"] | None = None,
        *,
        at: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B t V"], DecoderState]:
        """Return logits after each of the next T tokens (a prompt, or one), and the updated state.

        ``visible`` is False where the state's L slots hold padding; positions do not count padding.
        ``at`` selects one of the T tokens per row, whose logits alone are computed.
        """
        T = tokens.shape[1]
        positions = next_positions(state.length, T, visible)
        x = self._embed(tokens, positions, None)
        caches = []
        for block, cache in zip(self.decoder.unrolled().blocks, state.caches, strict=True):
            x, cache, _ = block.decode(x, cache, visible=visible, positions=positions)
            caches.append(cache)
        x = x if at is None else jnp.take_along_axis(x, at[:, None, None], axis=1)
        return self._logits(x), DecoderState(tuple(caches), state.length + T)

    def _cache(self, layer: int, cache: Kind) -> Kind:
        """Return the kind of cache of a layer for that of the model."""
        return cache

    def _embed(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "#B T"] | None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B T D"]:
        raise NotImplementedError

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        raise NotImplementedError

    def _check(self, length: int) -> None:
        """Raise a ValueError if the architecture has no positions for this length."""


def unrolled(model: Any) -> Any:
    """Return the model with separate parameters for each block, for use before a decoding loop.

    Otherwise each step of the loop would split the stacked parameters again.
    """
    if not model.decoder.scan:
        return model
    copy = nnx.merge(*nnx.split(model))
    copy.decoder = copy.decoder.unrolled()
    return copy

"""What decoders without an encoder share: packed rows, padding, and decoding with caches."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.cache import Kind
from attnzoo.attention.contract import Asked
from attnzoo.layers.stack import Stack
from attnzoo.models.model import Model, dropout_key
from attnzoo.ops.masks import document
from attnzoo.ops.positions import next_positions, positions_in_text


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderState:
    """What a decoder keeps of its past: a cache a layer, and the number of slots filled."""

    caches: tuple[Any, ...]
    length: Int[Array, " B"]


class CausalModel(Model):
    """A model that predicts each next token: ``_embed`` and ``_logits`` are an architecture's own.

    Attributes:
      decoder: the blocks. table: the embeddings of tokens.
    """

    token_tables: ClassVar[Mapping[str, str]] = {"tokens": "embedding"}

    decoder: Stack
    embedding: Any

    @property
    def max_length(self) -> int:
        """Context in tokens."""
        return self.config.max_length

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        documents: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        valid: Bool[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: Asked = False,
    ) -> Any:
        """Logits ``B T V`` of each next token; with ``capture`` the maps "decoder/0/self", ... too.

        Args:
          documents: ids of the texts that are packed into a row: none sees another.
          positions: places in the text; if None, counted from 0 in every document, without padding.
            A window counts slots of the row, not these.
          valid: False at padding, which is never read.
          rngs: switches dropout on.

        Raises:
          ValueError: more positions than a table has rows.
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
        """The state before the first token, with room for ``max_length`` tokens (the config's).

        ``dtype`` is that of what is kept, the embeddings' if None; ``cache`` says how
        (``attnzoo.attention.cache``).
        """
        room = self.max_length if max_length is None else max_length
        self._check(room)
        dtype = self.embedding.table[...].dtype if dtype is None else dtype
        blocks = self.decoder.unrolled().blocks
        caches = tuple(block.empty_cache(batch, room, dtype, cache) for block in blocks)
        return DecoderState(caches, jnp.zeros((batch,), jnp.int32))

    def decode(
        self,
        tokens: Int[Array, "B T"],
        state: DecoderState,
        visible: Bool[Array, "B L"] | None = None,
        *,
        at: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B t V"], DecoderState]:
        """Logits after each of the next T tokens (a prompt, or one), and the state with them in it.

        ``visible`` is False where the state's L slots hold padding, before which positions do not
        count; ``at`` asks for the logits of one place a row alone.
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
        """Refuse a length that the architecture has no positions for."""


def unrolled(model: Any) -> Any:
    """The model with the parameters of each block apart: what a loop over tokens should start
    from, lest it take stacked ones apart at every step.
    """
    if not model.decoder.scan:
        return model
    copy = nnx.merge(*nnx.split(model))
    copy.decoder = copy.decoder.unrolled()
    return copy

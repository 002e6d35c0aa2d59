"""Base of Transformers with an encoder and a decoder: teacher forcing and step-by-step decoding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.contract import Memory, ReturnWeights
from attnzoo.layers.block import Maps
from attnzoo.layers.stack import Stack
from attnzoo.models.alignment_head import AlignmentHead
from attnzoo.models.model import TranslationModel, dropout_key
from attnzoo.models.sources import Source
from attnzoo.ops.logits import ScoreFunction
from attnzoo.ops.positions import positions_in_text


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TransformerState:
    """Decoding state: one cache per layer, and the number of target tokens so far."""

    caches: tuple[Any, ...]
    position: Int[Array, "B"]


class EncoderDecoder(TranslationModel):
    """Encoder-decoder Transformer; an architecture defines its embeddings and its logits.

    ``encoder_bias`` and ``decoder_bias`` are score modifiers of all layers of a stack, or None.
    ``alignment_heads`` are (layer, head) of cross-attentions whose weights ``extend`` returns;
    None: those of the alignment layer.
    """

    encoder: Stack
    decoder: Stack
    encoder_bias: ScoreFunction | None = None
    decoder_bias: ScoreFunction | None = None
    alignment_heads: tuple[tuple[int, int], ...] | None = None
    takes_alignment_module = True

    @property
    def max_length(self) -> int:
        """Longest source or target in tokens."""
        return self.config.max_length

    @property
    def max_target_length(self) -> int | None:
        """Longest target in tokens, for a decoder with a table of positions or slots; None: any."""
        slots = (self.config.decoder_attention or self.config.attention).slots
        return self.max_length if self.has_positions or slots is not None else None

    @property
    def has_full_context(self) -> bool:
        """True unless self-attention of the decoder is causal by its nature."""
        first = self.decoder.blocks if self.decoder.scan else self.decoder.blocks[0]
        return not first.attention.mechanism.always_causal

    @property
    def has_positions(self) -> bool:
        """True if there is a position table, with one row per position."""
        return False

    def choose_alignment_layer(self) -> None:
        """Set the alignment layer: that of the config, by default the last but one.

        The default is that of Garg et al. 2019 (arXiv 1909.02074); middle layers may be better
        (Chen et al. 2020, arXiv 2004.14837). ``align --survey`` finds the best of a trained model.
        """
        self.layers = self.decoder.depth
        layer = self.config.alignment_layer
        self.alignment_layer = max(self.layers - 2, 0) if layer is None else layer

    def encode(
        self,
        source: Source,
        *,
        valid: Bool[Array, "B S"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"], Maps]:
        """Return the source states, their padding mask, and the maps requested by ``capture``.

        ``valid`` is False at padding; by default where the source is ``config.pad_id``.
        """
        if self.source_encoder is not None:
            features, valid = self.source_encoder(source, rngs=rngs)
            positions = positions_in_text(valid)
            embedded = self._project(features, positions, rngs)
        else:
            valid = source != self.config.pad_id if valid is None else valid
            positions = positions_in_text(valid)
            embedded = self._embed(source, positions, "source", rngs)
        x, maps = self.encoder(
            embedded,
            valid=valid,
            positions=positions,
            score_mod=self.encoder_bias,
            key=dropout_key(rngs),
            return_weights=capture,
        )
        return self._encoded(x, rngs), valid, {f"encoder/{name}": m for name, m in maps.items()}

    def start(
        self,
        source: Source,
        *,
        max_length: int | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[tuple[Memory, ...], TransformerState]:
        """Return the source memory of each decoder layer, and the state before the first token.

        ValueError if ``max_length`` (the config's if None) is more than the model has positions.
        """
        encoded, valid, _ = self.encode(source, rngs=rngs)
        room, B = max_length or self.max_length, encoded.shape[0]
        self._check(room)
        blocks = self.decoder.unrolled().blocks
        memory = tuple(block.prepare_cross(encoded, valid) for block in blocks)
        caches = tuple(
            block.empty_cache(B, room, encoded.dtype, memory=read)
            for block, read in zip(blocks, memory, strict=True)
        )
        return memory, TransformerState(caches, jnp.zeros((B,), jnp.int32))

    def step(
        self, token: Int[Array, "B"], state: TransformerState, memory: tuple[Memory, ...]
    ) -> tuple[Float[Array, "B V"], TransformerState, Float[Array, "B N S"]]:
        """Read one target token; return the logits of the next one, the new state, and weights."""
        logits, state, weights = self.extend(token[:, None], state, memory)
        return logits[:, 0], state, weights[:, :, 0]

    def extend(
        self, tokens: Int[Array, "B T"], state: TransformerState, memory: tuple[Memory, ...]
    ) -> tuple[Float[Array, "B T V"], TransformerState, Float[Array, "B N T S"]]:
        """Read the next T target tokens; return logits, new state, and alignment weights."""
        T = tokens.shape[1]
        positions = state.position[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
        x = self._embed(tokens, positions, "target", None)
        heads = self.alignment_heads
        layers = {self.alignment_layer} if heads is None else {layer for layer, _ in heads}
        caches, found = [], {}
        blocks = self.decoder.unrolled().blocks
        for i, (block, cache, read) in enumerate(zip(blocks, state.caches, memory, strict=True)):
            x, cache, maps = block.decode(
                x,
                cache,
                memory=read,
                positions=positions,
                score_mod=self.decoder_bias,
                return_weights=i in layers,
            )
            caches.append(cache)
            found[i] = maps.get("cross")
        if heads is None:
            weights = found[self.alignment_layer]
        else:
            weights = jnp.stack([found[layer][:, head] for layer, head in heads], axis=1)
        return self._logits(x, None), TransformerState(tuple(caches), state.position + T), weights

    def all_weights(
        self, source: Source, target: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T V"], Float[Array, "L B N T S"]]:
        """Return the logits of a known target, and the weights of all cross-attentions.

        These are the layers' own, also with an alignment module.
        """
        logits, found = self._read(source, target, self.full_context, capture=True)
        return logits, jnp.stack([m for name, m in found.items() if name.endswith("/cross")])

    def __call__(
        self,
        source: Source,
        target: Int[Array, "B T"],
        *,
        source_valid: Bool[Array, "B S"] | None = None,
        rngs: nnx.Rngs | None = None,
        return_weights: bool = False,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return logits ``B T V`` of every next token of a known target (``target[:, 0]`` is BOS).

        ``source_valid`` is that of :meth:`encode`. ``return_weights`` adds the weights ``B N T S``
        of the alignment layer, or ``B 1 T S`` of the alignment module. ``capture`` adds the
        requested maps of all layers, "encoder/0/self", "decoder/0/self", "decoder/0/cross", ...;
        these are of the causal pass.
        """
        weights = return_weights and not capture
        logits, maps = self._read(
            source,
            target,
            weights and self.full_context,
            source_valid=source_valid,
            rngs=rngs,
            capture=capture or return_weights,
            module=self.alignment_module if weights else None,
        )
        if capture:
            return logits, maps
        return (logits, maps[f"decoder/{self.alignment_layer}/cross"]) if return_weights else logits

    def _read(
        self,
        source: Source,
        target: Int[Array, "B T"],
        again: bool,
        *,
        source_valid: Bool[Array, "B S"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
        module: AlignmentHead | None = None,
    ) -> tuple[Float[Array, "B T V"], Maps]:
        """Return the logits of a known target, and the requested maps by name.

        The maps of the decoder are those of a second pass without a causal mask if ``again``. The
        map of the alignment layer's cross-attention is that of ``module``, if there is one.
        """
        encoded, valid, maps = self.encode(source, valid=source_valid, rngs=rngs, capture=capture)
        embedded = self._embed(target, None, "target", rngs)

        def decode(captured: ReturnWeights, **more: Any) -> tuple[Array, Maps]:
            return self.decoder(
                embedded,
                score_mod=self.decoder_bias,
                encoded=encoded,
                encoded_valid=valid,
                key=dropout_key(rngs),
                return_weights=captured,
                **more,
            )

        # Padding comes after the target, where a causal decoder does not look.
        x, found = decode(capture and not again)
        if again:
            _, found = decode(capture, is_causal=False, valid=target != self.config.pad_id)
        if module is not None:
            asking = self._asking(embedded, encoded, valid)
            found[f"{self.alignment_layer}/cross"] = module(asking, encoded, valid)
        return self._logits(x, rngs), maps | {f"decoder/{name}": m for name, m in found.items()}

    def _asking(
        self, x: Float[Array, "B T D"], encoded: Float[Array, "B S D"], valid: Bool[Array, "B S"]
    ) -> Float[Array, "B T D"]:
        """Return the states that the cross-attention of the alignment layer asks with."""
        blocks = self.decoder.unrolled().blocks
        shared: dict[str, Any] = {"score_mod": self.decoder_bias}
        for block in blocks[: self.alignment_layer]:
            x, _ = block(x, encoded=encoded, encoded_valid=valid, **shared)
        return blocks[self.alignment_layer].asking(x, **shared)

    def _embed(
        self,
        ids: Int[Array, "B L"],
        positions: Int[Array, "#B L"] | None,
        side: str,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B L D"]:
        raise NotImplementedError

    def _project(
        self,
        features: Float[Array, "B S F"],
        positions: Int[Array, "B S"] | None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B S D"]:
        raise NotImplementedError

    def _encoded(self, x: Float[Array, "B S D"], rngs: nnx.Rngs | None) -> Float[Array, "B S D"]:
        raise NotImplementedError

    def _logits(self, x: Float[Array, "B T D"], rngs: nnx.Rngs | None) -> Float[Array, "B T V"]:
        raise NotImplementedError

    def _check(self, length: int, what: str = "target") -> None:
        """Raise a ValueError if the architecture has no positions for this length."""

"""The Transformer of Vaswani et al., NeurIPS 2017 (arXiv 1706.03762), and its variants."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.projection import LayerNorm, Projection
from attnzoo.config.attention import SelfAttention as SelfAttentionConfig
from attnzoo.config.transformer import TransformerConfig
from attnzoo.layers.block import Block, build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding, sinusoidal_positions
from attnzoo.layers.stack import Stack
from attnzoo.models.encoder_decoder import EncoderDecoder
from attnzoo.models.model import check_length, default_positions, dropout_key
from attnzoo.models.source_registry import build_source
from attnzoo.ops.wide_sums import broadcast_parameter


class Transformer(EncoderDecoder):
    """Encoder-decoder Transformer; ``attnzoo.config.transformer`` documents the settings."""

    def __init__(
        self, config: TransformerConfig, source_vocab: int, target_vocab: int, *, rngs: nnx.Rngs
    ):
        if config.source is not None and config.tied == "all":
            raise ValueError("model.source has no vocabulary: wanted model.tied=target or none")
        if config.tied == "all" and source_vocab != target_vocab:
            raise ValueError(
                f"model.tied=all wants one vocabulary, the source has {source_vocab} tokens and "
                f"the target {target_vocab}: set shared_vocabulary=true or model.tied=target"
            )
        self.config, dim = config, config.dim
        embed = jax.nn.initializers.normal(dim**-0.5 if config.scale_embeddings else 0.02)
        self.source_encoder = build_source(config.source, rngs=rngs)
        if self.source_encoder is None:
            self.source_embedding = Embedding(source_vocab, dim, init=embed, rngs=rngs)
        else:
            width, direct = self.source_encoder.dim, self.source_encoder.is_embedding
            self.source_projection = (
                None
                if direct and width == dim
                else Projection(width, dim, use_bias=True, rngs=rngs)
            )
        own = config.tied != "all"
        self.target_embedding = Embedding(target_vocab, dim, init=embed, rngs=rngs) if own else None
        self.output = Embedding(target_vocab, dim, rngs=rngs) if config.tied == "none" else None
        bias = jnp.zeros((target_vocab,), jnp.float32)
        self.output_bias = nnx.Param(bias) if config.output_bias else None
        rows = config.max_length + config.position_offset
        learned = config.positions == "learned"
        counted = self.source_encoder is None or not self.source_encoder.has_positions
        self.source_positions = Embedding(rows, dim, rngs=rngs) if learned and counted else None
        self.target_positions = Embedding(rows, dim, rngs=rngs) if learned else None
        norm = functools.partial(LayerNorm, eps=config.norm_eps)
        self.source_norm = norm(dim, rngs=rngs) if config.embedding_norm else None
        self.target_norm = norm(dim, rngs=rngs) if config.embedding_norm else None
        depths = config.encoder_layers, config.decoder_layers
        encoder = [_block(config, config.attention, False, rngs) for _ in range(depths[0])]
        past = config.decoder_attention or config.attention
        decoder = [_block(config, past, True, rngs) for _ in range(depths[1])]
        self.encoder = Stack(encoder, scan=config.scan, remat=config.remat)
        self.decoder = Stack(decoder, scan=config.scan, remat=config.remat)
        pre = config.norm == "pre"
        self.encoder_norm = norm(dim, rngs=rngs) if pre else None
        self.decoder_norm = norm(dim, rngs=rngs) if pre else None
        self.choose_alignment_layer()
        self.check_settings(attention_dropout="dropout", use_bias="bias")

    @property
    def has_positions(self) -> bool:
        """True if there is a position table, with one row per position."""
        return self.config.positions == "learned"

    def _embed(
        self,
        ids: Int[Array, "B L"],
        positions: Int[Array, "#B L"] | None,
        side: str,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B L D"]:
        config = self.config
        table = (
            self.source_embedding
            if side == "source"
            else (self.target_embedding or self.source_embedding)
        )
        x = table(ids)
        if config.scale_embeddings:
            x = x * jnp.asarray(math.sqrt(config.dim), x.dtype)
        return self._placed(x, positions, side, rngs)

    def _project(
        self,
        features: Float[Array, "B S F"],
        positions: Int[Array, "B S"] | None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B S D"]:
        x = features if self.source_projection is None else self.source_projection(features)
        assert self.source_encoder is not None
        if self.source_encoder.has_positions:
            return self._normed(x, "source", rngs)
        return self._placed(x, positions, "source", rngs)

    def _placed(
        self,
        x: Float[Array, "B L D"],
        positions: Int[Array, "#B L"] | None,
        side: str,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B L D"]:
        """Add the positions of the config, and finish as ``_normed``."""
        config, source = self.config, side == "source"
        learned = self.source_positions if source else self.target_positions
        if source or positions is None:  # a whole text, not the next tokens of one
            self._check(x.shape[1], side)
        every, offset = default_positions(x), config.position_offset
        places = every if positions is None else positions
        sines = functools.partial(
            sinusoidal_positions,
            dim=config.dim,
            halves=config.positions != "sinusoidal",
            slowest=config.positions == "sinusoidal_tensor2tensor",
        )
        if learned is not None:
            added = learned(places + offset)
        elif config.positions == "none":
            added = None
        elif source:  # rows of a table are gathered faster than sines are computed
            added = jnp.take(sines(every[0] + offset).astype(x.dtype), places, axis=0, mode="clip")
        else:
            added = sines(places + offset).astype(x.dtype)
        x = x if added is None else x + broadcast_parameter(added, x.shape)
        return self._normed(x, side, rngs)

    def _normed(
        self, x: Float[Array, "B L D"], side: str, rngs: nnx.Rngs | None
    ) -> Float[Array, "B L D"]:
        """Apply the norm of the embeddings, if there is one, and dropout."""
        norm = self.source_norm if side == "source" else self.target_norm
        x = x if norm is None else norm(x)
        return dropout(x, self.config.dropout, dropout_key(rngs))

    def _encoded(self, x: Float[Array, "B S D"], rngs: nnx.Rngs | None) -> Float[Array, "B S D"]:
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def _logits(self, x: Float[Array, "B T D"], rngs: nnx.Rngs | None) -> Float[Array, "B T V"]:
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        table = self.output or self.target_embedding or self.source_embedding
        logits = table.logits(x)
        if self.output_bias is None:
            return logits
        return logits + broadcast_parameter(
            self.output_bias[...].astype(logits.dtype), logits.shape
        )

    def _check(self, length: int, what: str = "target") -> None:
        if self.has_positions:
            check_length(what, length, self.config.max_length)


def _block(
    config: TransformerConfig, attention: SelfAttentionConfig, decoder: bool, rngs: nnx.Rngs
) -> Block:
    site = Site.of_itself(
        config.dim,
        is_causal=decoder,
        max_length=config.max_length,
        use_bias=config.use_bias,
        dropout=config.attention_dropout,
    )
    return build_block(
        config,
        attention,
        site,
        LayerNorm,
        cross_attention=config.cross_attention if decoder else None,
        order=config.norm,
        hidden_dropout=config.activation_dropout,
        rngs=rngs,
    )

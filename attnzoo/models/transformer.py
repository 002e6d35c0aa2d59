"""The Transformer of Vaswani et al., NeurIPS 2017 (arXiv 1706.03762), and its relatives.

It speaks the language of the recurrent translators to decoders and tasks: ``start``, ``step`` and
teacher forcing (``attnzoo.models.rnn_seq2seq``). The weights that stand for all are those of one
decoder layer's cross-attention; ``capture`` gives every layer's.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.contract import Asked, Attention, Memory
from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import LayerNorm
from attnzoo.config.attention import SelfAttention as SelfAttentionConfig
from attnzoo.config.transformer import Transformer as TransformerConfig
from attnzoo.layers.block import Block, Maps
from attnzoo.layers.dropout import drop
from attnzoo.layers.embedding import Embedding, sinusoidal_positions
from attnzoo.layers.feed_forward import FeedForward
from attnzoo.layers.stack import Stack
from attnzoo.models.cross_attention import build_cross_attention
from attnzoo.models.self_attention import build_self_attention
from attnzoo.ops.logits import ScoreFunction


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TransformerState:
    """What the decoder keeps of the target so far: a cache a layer, and the number of tokens."""

    caches: tuple[Any, ...]
    position: Int[Array, "B"]


class Transformer(nnx.Module):
    """Encoder and decoder; see ``attnzoo.config.transformer`` for what can be chosen."""

    def __init__(
        self, config: TransformerConfig, source_vocab: int, target_vocab: int, *, rngs: nnx.Rngs
    ):
        if config.tied == "all" and source_vocab != target_vocab:
            raise ValueError(
                f"model.tied=all wants one vocabulary, the source has {source_vocab} tokens and "
                f"the target {target_vocab}: set shared_vocabulary=true or model.tied=target"
            )
        self.config, dim = config, config.dim
        embed = jax.nn.initializers.normal(dim**-0.5 if config.scale_embeddings else 0.02)
        self.source_embedding = Embedding(source_vocab, dim, init=embed, rngs=rngs)
        own = config.tied != "all"
        self.target_embedding = Embedding(target_vocab, dim, init=embed, rngs=rngs) if own else None
        self.output = Embedding(target_vocab, dim, rngs=rngs) if config.tied == "none" else None
        bias = jnp.zeros((target_vocab,), jnp.float32)
        self.output_bias = nnx.Param(bias) if config.output_bias else None
        rows = config.max_length + config.position_offset
        learned = config.positions == "learned"
        self.source_positions = Embedding(rows, dim, rngs=rngs) if learned else None
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
        self.layers = depths[1]
        self.heads = getattr(config.cross_attention, "num_heads", 1)
        layer = config.alignment_layer
        self.alignment_layer = max(depths[1] - 2, 0) if layer is None else layer
        # As Garg et al. 2019 (arXiv 1909.02074); Chen et al. 2020 (arXiv 2004.14837) find the input
        # better in middle layers. `align --survey` says which it is of a trained model.
        self.credits = "predicted"

    @property
    def max_target_length(self) -> int | None:
        """Longest target in tokens, if positions are learned; None: any."""
        return self.config.max_length if self.config.positions == "learned" else None

    def encode(
        self,
        source: Int[Array, "B S"],
        *,
        rngs: nnx.Rngs | None = None,
        capture: Asked = False,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"], Maps]:
        """States of the source, where it is no padding, and the maps asked for by ``capture``."""
        valid = source != self.config.pad_id
        places = jnp.arange(source.shape[1], dtype=jnp.int32)[None]
        x = self._embed(source, places, "source", rngs)
        x, maps = self.encoder(x, valid=valid, key=_key(rngs), return_weights=capture)
        x = x if self.encoder_norm is None else self.encoder_norm(x)
        return x, valid, {f"encoder/{name}": m for name, m in maps.items()}

    def start(
        self,
        source: Int[Array, "B S"],
        *,
        max_length: int | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[tuple[Memory, ...], TransformerState]:
        """The source as each decoder layer reads it, and the state before the first token, with
        room for ``max_length`` tokens (the config's, if None).
        """
        encoded, valid, _ = self.encode(source, rngs=rngs)
        return start_decoder(self.decoder, encoded, valid, max_length or self.config.max_length)

    def step(
        self, token: Int[Array, "B"], state: TransformerState, memory: tuple[Memory, ...]
    ) -> tuple[Float[Array, "B V"], TransformerState, Float[Array, "B N S"]]:
        """From one target token and the state before it to the logits of the next."""
        x = self._embed(token[:, None], state.position[:, None], "target", None)
        x, state, weights = step_decoder(self.decoder, x, state, memory, self.alignment_layer)
        return self._logits(x)[:, 0], state, weights

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
        return_weights: bool = False,
        capture: Asked = False,
    ) -> Any:
        """Logits of every next token of a known target (``target[:, 0]`` is BOS).

        With ``return_weights`` beside them the alignment layer's ``B N T S``; with ``capture`` the
        maps of all layers, "encoder/0/self", "decoder/0/self", "decoder/0/cross", ...
        """
        encoded, valid, maps = self.encode(source, rngs=rngs, capture=capture)
        places = jnp.arange(target.shape[1], dtype=jnp.int32)[None]
        x = self._embed(target, places, "target", rngs)
        # Padding lies behind the target, where a causal decoder does not look.
        x, found = self.decoder(
            x,
            encoded=encoded,
            encoded_valid=valid,
            key=_key(rngs),
            return_weights=capture or return_weights,
        )
        logits = self._logits(x)
        if capture:
            return logits, maps | {f"decoder/{name}": m for name, m in found.items()}
        return (logits, found[f"{self.alignment_layer}/cross"]) if return_weights else logits

    def _embed(
        self,
        ids: Int[Array, "B L"],
        places: Int[Array, "#B L"],
        side: str,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B L D"]:
        config, source = self.config, side == "source"
        table = (
            self.source_embedding if source else (self.target_embedding or self.source_embedding)
        )
        x = table(ids)
        if config.scale_embeddings:
            x = x * jnp.asarray(math.sqrt(config.dim), x.dtype)
        learned = self.source_positions if source else self.target_positions
        if learned is not None:
            added = learned(places + config.position_offset)
        elif config.positions == "none":
            added = None
        else:
            halves = config.positions == "sinusoidal_halves"
            added = sinusoidal_positions(places, config.dim, halves=halves).astype(x.dtype)
        x = x if added is None else x + jnp.broadcast_to(added, x.shape)
        norm = self.source_norm if source else self.target_norm
        x = x if norm is None else norm(x)
        return drop(x, config.dropout, _key(rngs))

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        table = self.output or self.target_embedding or self.source_embedding
        logits = table.logits(x)
        if self.output_bias is None:
            return logits
        return logits + self.output_bias[...].astype(logits.dtype)[None, None]


def start_decoder(
    decoder: Stack, encoded: Float[Array, "B S D"], valid: Bool[Array, "B S"], room: int
) -> tuple[tuple[Memory, ...], TransformerState]:
    """The source as each layer of a decoder reads it, and its state before the first token."""
    blocks, B = decoder.unrolled().blocks, encoded.shape[0]
    memory = tuple(block.prepare_cross(encoded, valid) for block in blocks)
    caches = tuple(block.empty_cache(B, room, encoded.dtype) for block in blocks)
    return memory, TransformerState(caches, jnp.zeros((B,), jnp.int32))


def step_decoder(
    decoder: Stack,
    x: Float[Array, "B 1 D"],
    state: TransformerState,
    memory: tuple[Memory, ...],
    alignment_layer: int,
    score_mod: ScoreFunction | None = None,
) -> tuple[Float[Array, "B 1 D"], TransformerState, Float[Array, "B N S"]]:
    """One more position through a decoder, and how the alignment layer reads the source."""
    caches, weights = [], None
    blocks = decoder.unrolled().blocks
    for i, (block, cache, read) in enumerate(zip(blocks, state.caches, memory, strict=True)):
        asked = i == alignment_layer
        x, cache, maps = block.decode(
            x, cache, memory=read, score_mod=score_mod, return_weights=asked
        )
        caches.append(cache)
        weights = maps["cross"][:, :, 0] if asked else weights
    assert weights is not None
    return x, TransformerState(tuple(caches), state.position + 1), weights


def _block(
    config: TransformerConfig, attention: SelfAttentionConfig, decoder: bool, rngs: nnx.Rngs
) -> Block:
    mechanism = build_self_attention(
        attention,
        config.dim,
        is_causal=decoder,
        max_length=config.max_length,
        use_bias=config.use_bias,
        dropout=config.attention_dropout,
        rngs=rngs,
    )
    feed = FeedForward(
        config.dim,
        config.hidden,
        config.activation,
        dropout=config.activation_dropout,
        rngs=rngs,
    )
    return Block(
        config.dim,
        mechanism,
        feed,
        cross_attention=_cross(config, rngs) if decoder else None,
        norm=functools.partial(LayerNorm, eps=config.norm_eps),
        order=config.norm,
        dropout=config.dropout,
        rngs=rngs,
    )


def _cross(config: TransformerConfig, rngs: nnx.Rngs) -> Attention:
    attention, dim = config.cross_attention, config.dim
    if attention.kind == "multi_head":
        return MultiHeadAttention(
            dim,
            attention.num_heads,
            num_kv_heads=attention.num_kv_heads,
            head_dim=attention.head_dim,
            use_bias=config.use_bias,
            sinks=attention.sinks,
            dropout=config.attention_dropout,
            rngs=rngs,
        )
    return build_cross_attention(attention, dim, dim, dim, scaled=True, rngs=rngs)


def _key(rngs: nnx.Rngs | None) -> Key[Array, ""] | None:
    return None if rngs is None else rngs.dropout()

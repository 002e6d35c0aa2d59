"""T5, Raffel et al., JMLR 2020 (arXiv 1910.10683): W_q is divided by sqrt(H), not the scores."""

import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention import Site, attention_class
from attnzoo.attention.projection import RMSNorm
from attnzoo.attention.relative_bias import T5RelativeBias
from attnzoo.config.attention import SelfAttention as SelfAttentionConfig
from attnzoo.config.t5 import T5Config
from attnzoo.layers.block import Block, build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.stack import Stack
from attnzoo.models.encoder_decoder import EncoderDecoder
from attnzoo.models.model import dropout_key

FAN_IN = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class T5(EncoderDecoder):
    """T5: pre-norm encoder-decoder with one vocabulary; ``attnzoo.config.t5`` has the settings.

    All layers of a stack share one table of relative biases (section 2.1). Embeddings start at
    N(0, 1), other matrices at N(0, 1 / inputs), W_q further divided by sqrt(H).
    """

    token_tables: ClassVar[Mapping[str, str]] = {"source": "tokens", "target": "tokens"}

    def __init__(
        self, config: T5Config, vocab: int, target_vocab: int | None = None, *, rngs: nnx.Rngs
    ):
        if target_vocab not in (None, vocab):
            raise ValueError(
                f"T5 has one vocabulary, the source has {vocab} tokens and the target "
                f"{target_vocab}: set shared_vocabulary=true"
            )
        self.config, dim = config, config.dim
        normal = jax.nn.initializers.normal
        self.tokens = Embedding(vocab, dim, init=normal(1.0), rngs=rngs)
        own = functools.partial(Embedding, init=normal(dim**-0.5))
        self.output = None if config.tied else own(vocab, dim, rngs=rngs)
        past = config.decoder_attention or config.attention
        self.encoder_bias = _bias(config, config.attention, True, rngs)
        self.decoder_bias = _bias(config, past, False, rngs)
        encoder = [
            _block(config, config.attention, False, rngs) for _ in range(config.encoder_layers)
        ]
        decoder = [_block(config, past, True, rngs) for _ in range(config.decoder_layers)]
        self.encoder = Stack(encoder, scan=config.scan, remat=config.remat)
        self.decoder = Stack(decoder, scan=config.scan, remat=config.remat)
        self.encoder_norm = RMSNorm(dim, eps=config.norm_eps, rngs=rngs)
        self.decoder_norm = RMSNorm(dim, eps=config.norm_eps, rngs=rngs)
        self.choose_alignment_layer()
        self.check_settings(buckets="score_mod", max_distance="score_mod")

    def _embed(
        self,
        ids: Int[Array, "B L"],
        positions: Int[Array, "#B L"] | None,
        side: str,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B L D"]:
        return dropout(self.tokens(ids), self.config.dropout, dropout_key(rngs))

    def _encoded(self, x: Float[Array, "B S D"], rngs: nnx.Rngs | None) -> Float[Array, "B S D"]:
        return dropout(self.encoder_norm(x), self.config.dropout, dropout_key(rngs))

    def _logits(self, x: Float[Array, "B T D"], rngs: nnx.Rngs | None) -> Float[Array, "B T V"]:
        x = dropout(self.decoder_norm(x), self.config.dropout, dropout_key(rngs))
        if self.config.scaled_head:
            x = x * jnp.asarray(self.config.dim**-0.5, x.dtype)
        return (self.output or self.tokens).logits(x)


def _bias(
    config: T5Config, attention: SelfAttentionConfig, bidirectional: bool, rngs: nnx.Rngs
) -> T5RelativeBias | None:
    if not attention_class(attention).takes_score_mod:
        return None
    return T5RelativeBias(
        attention.heads,
        bidirectional=bidirectional,
        num_buckets=config.buckets,
        max_distance=config.max_distance,
        std=config.dim**-0.5,
        rngs=rngs,
    )


def _block(
    config: T5Config, attention: SelfAttentionConfig, decoder: bool, rngs: nnx.Rngs
) -> Block:
    site = Site.of_itself(
        config.dim,
        is_causal=decoder,
        max_length=config.max_length,
        scale=1.0,
        norm_eps=config.norm_eps,
        dropout=config.dropout,
        kernel_init=FAN_IN,
        out_init=FAN_IN,
    )
    return build_block(
        config,
        attention,
        site,
        RMSNorm,
        cross_attention=config.cross_attention if decoder else None,
        gated=config.gated,
        use_bias=False,
        hidden_dropout=config.dropout,
        rngs=rngs,
    )

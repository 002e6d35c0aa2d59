"""T5, Raffel et al., JMLR 2020 (arXiv 1910.10683), versions 1.0 and 1.1.

It speaks the language of the translators: ``start``, ``step`` and teacher forcing
(``attnzoo.models.transformer``). Scores are not divided by sqrt(H): the first values of W_q are.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention.contract import Asked, Attention, Memory
from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import RMSNorm
from attnzoo.attention.relative_bias import T5RelativeBias
from attnzoo.config.attention import SelfAttention as SelfAttentionConfig
from attnzoo.config.t5 import T5 as T5Config
from attnzoo.layers.block import Block, Maps
from attnzoo.layers.dropout import drop
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.feed_forward import FeedForward
from attnzoo.layers.stack import Stack
from attnzoo.models.cross_attention import build_cross_attention
from attnzoo.models.self_attention import build_self_attention
from attnzoo.models.transformer import TransformerState, start_decoder, step_decoder

FAN_IN = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class T5(nnx.Module):
    """Pre-norm encoder and decoder over one vocabulary; see ``attnzoo.config.t5``.

    All layers of a stack share one table of relative biases (section 2.1). Embeddings start at
    N(0, 1), all other matrices at N(0, 1 / inputs), W_q at a factor 1/sqrt(H) less.
    """

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
        past, layers = config.decoder_attention or config.attention, config.decoder_layers
        self.encoder_bias = _bias(config, config.attention, True, rngs)
        self.decoder_bias = _bias(config, past, False, rngs)
        encoder = [
            _block(config, config.attention, False, rngs) for _ in range(config.encoder_layers)
        ]
        decoder = [_block(config, past, True, rngs) for _ in range(layers)]
        self.encoder = Stack(encoder, scan=config.scan, remat=config.remat)
        self.decoder = Stack(decoder, scan=config.scan, remat=config.remat)
        self.encoder_norm = RMSNorm(dim, eps=config.norm_eps, rngs=rngs)
        self.decoder_norm = RMSNorm(dim, eps=config.norm_eps, rngs=rngs)
        layer = config.alignment_layer
        self.alignment_layer = max(layers - 2, 0) if layer is None else layer
        self.layers = layers
        self.heads = getattr(config.cross_attention, "num_heads", 1)
        self.credits = "predicted"

    @property
    def max_target_length(self) -> int | None:
        """Longest target in tokens; None: any."""
        return None

    def encode(
        self,
        source: Int[Array, "B S"],
        *,
        rngs: nnx.Rngs | None = None,
        capture: Asked = False,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"], Maps]:
        """States of the source, where it is no padding, and the maps asked for by ``capture``."""
        valid = source != self.config.pad_id
        x, maps = self.encoder(
            self._embed(source, rngs),
            valid=valid,
            score_mod=self.encoder_bias,
            key=_key(rngs),
            return_weights=capture,
        )
        x = drop(self.encoder_norm(x), self.config.dropout, _key(rngs))
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
        x, state, weights = step_decoder(
            self.decoder,
            self._embed(token[:, None], None),
            state,
            memory,
            self.alignment_layer,
            self.decoder_bias,
        )
        return self._logits(x, None)[:, 0], state, weights

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
        return_weights: bool = False,
        capture: Asked = False,
    ) -> Any:
        """Logits of every next token of a known target (``target[:, 0]`` is the start token).

        With ``return_weights`` beside them the alignment layer's ``B N T S``; with ``capture`` the
        maps of all layers, "encoder/0/self", "decoder/0/self", "decoder/0/cross", ...
        """
        encoded, valid, maps = self.encode(source, rngs=rngs, capture=capture)
        # Padding lies behind the target, where a causal decoder does not look.
        x, found = self.decoder(
            self._embed(target, rngs),
            score_mod=self.decoder_bias,
            encoded=encoded,
            encoded_valid=valid,
            key=_key(rngs),
            return_weights=capture or return_weights,
        )
        logits = self._logits(x, rngs)
        if capture:
            return logits, maps | {f"decoder/{name}": m for name, m in found.items()}
        return (logits, found[f"{self.alignment_layer}/cross"]) if return_weights else logits

    def _embed(self, ids: Int[Array, "B L"], rngs: nnx.Rngs | None) -> Float[Array, "B L D"]:
        return drop(self.tokens(ids), self.config.dropout, _key(rngs))

    def _logits(self, x: Float[Array, "B T D"], rngs: nnx.Rngs | None) -> Float[Array, "B T V"]:
        x = drop(self.decoder_norm(x), self.config.dropout, _key(rngs))
        if self.config.scaled_head:
            x = x * jnp.asarray(self.config.dim**-0.5, x.dtype)
        return (self.output or self.tokens).logits(x)


def _bias(
    config: T5Config, attention: SelfAttentionConfig, bidirectional: bool, rngs: nnx.Rngs
) -> T5RelativeBias | None:
    if attention.kind != "multi_head":
        return None
    return T5RelativeBias(
        attention.num_heads,
        bidirectional=bidirectional,
        num_buckets=config.buckets,
        max_distance=config.max_distance,
        std=config.dim**-0.5,
        rngs=rngs,
    )


def _block(
    config: T5Config, attention: SelfAttentionConfig, decoder: bool, rngs: nnx.Rngs
) -> Block:
    mechanism = build_self_attention(
        attention,
        config.dim,
        is_causal=decoder,
        max_length=config.max_length,
        scale=1.0,
        norm_eps=config.norm_eps,
        dropout=config.dropout,
        kernel_init=FAN_IN,
        out_init=FAN_IN,
        rngs=rngs,
    )
    _absorb_scale(mechanism.mechanism)
    feed = FeedForward(
        config.dim,
        config.hidden,
        config.activation,
        gated=config.gated,
        use_bias=False,
        dropout=config.dropout,
        kernel_init=FAN_IN,
        out_init=FAN_IN,
        rngs=rngs,
    )
    return Block(
        config.dim,
        mechanism,
        feed,
        cross_attention=_cross(config, rngs) if decoder else None,
        norm=functools.partial(RMSNorm, eps=config.norm_eps),
        order="pre",
        dropout=config.dropout,
        rngs=rngs,
    )


def _cross(config: T5Config, rngs: nnx.Rngs) -> Attention:
    attention, dim = config.cross_attention, config.dim
    if attention.kind != "multi_head":
        return build_cross_attention(attention, dim, dim, dim, scaled=True, rngs=rngs)
    mechanism = MultiHeadAttention(
        dim,
        attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        scale=1.0,
        sinks=attention.sinks,
        dropout=config.dropout,
        kernel_init=FAN_IN,
        out_init=FAN_IN,
        rngs=rngs,
    )
    _absorb_scale(mechanism)
    return mechanism


def _absorb_scale(mechanism: Attention) -> None:
    if isinstance(mechanism, MultiHeadAttention):
        kernel = mechanism.query.kernel
        kernel[...] = kernel[...] / math.sqrt(mechanism.head_dim)


def _key(rngs: nnx.Rngs | None) -> Key[Array, ""] | None:
    return None if rngs is None else rngs.dropout()

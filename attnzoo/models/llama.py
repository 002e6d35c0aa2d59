"""The decoder of Llama (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288) and its relatives."""

import functools
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.cache import Kind
from attnzoo.attention.contract import Asked
from attnzoo.attention.multi_head import Rotary
from attnzoo.attention.projection import RMSNorm
from attnzoo.config.llama import Llama as LlamaConfig
from attnzoo.config.rotary import RotaryScaling
from attnzoo.layers.block import Block
from attnzoo.layers.dropout import drop
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.feed_forward import FeedForward
from attnzoo.layers.stack import Stack
from attnzoo.models.causal import (
    DecoderState,
    decode_stack,
    empty_state,
    last_states,
    positions_in_documents,
)
from attnzoo.models.self_attention import build_self_attention
from attnzoo.ops import rotary
from attnzoo.ops.masks import document


class Llama(nnx.Module):
    """A causal language model with rotary positions; see ``attnzoo.config.llama`` for what can be
    chosen.

    Weights start as N(0, 0.02^2), those that end a residual branch divided by sqrt(2 layers) as in
    GPT-2 (the papers do not say); an attention that is not multi-head has its own paper's start,
    and its own way to tell positions.
    """

    def __init__(self, config: LlamaConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config, dim = config, config.dim
        self.embedding = Embedding(vocab_size, dim, rngs=rngs)
        self.output = None if config.tied else Embedding(vocab_size, dim, rngs=rngs)
        blocks = [_block(config, rngs) for _ in range(config.layers)]
        self.decoder = Stack(blocks, scan=config.scan, remat=config.remat)
        self.norm = RMSNorm(dim, eps=config.norm_eps, rngs=rngs)

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
          positions: how far queries and keys turn; 0 .. T - 1 if None, from 0 anew in every
            document. A window counts slots of the row, not these.
          valid: False at padding, which is never read.
          rngs: switches dropout on.
        """
        if positions is None and documents is not None:
            positions = positions_in_documents(documents)
        x, maps = self.decoder(
            self._embed(tokens, rngs),
            valid=valid,
            mask=None if documents is None else document(documents),
            positions=positions,
            key=None if rngs is None else rngs.dropout(),
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
        room = self.config.max_length if max_length is None else max_length
        dtype = self.embedding.table[...].dtype if dtype is None else dtype
        return empty_state(self.decoder, batch, room, dtype, cache)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        state: DecoderState,
        visible: Bool[Array, "B L"] | None = None,
        *,
        at: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B t V"], DecoderState]:
        """Logits after each of the next T tokens (a prompt, or one), and the state with them in it.

        ``visible`` is False where the state's L slots hold padding; turning by slots is as good as
        by positions, since only differences count. ``at`` asks for the logits of one place a row.
        """
        x, state = decode_stack(self.decoder, self._embed(tokens, None), state, visible)
        return self._logits(last_states(x, at)), state

    def _embed(self, tokens: Int[Array, "B T"], rngs: nnx.Rngs | None) -> Float[Array, "B T D"]:
        x = self.embedding(tokens)
        return drop(x, self.config.dropout, None if rngs is None else rngs.dropout())

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        return (self.output or self.embedding).logits(self.norm(x))


def _block(config: LlamaConfig, rngs: nnx.Rngs) -> Block:
    init = jax.nn.initializers.normal(0.02)
    out_init = jax.nn.initializers.normal(0.02 / (2 * config.layers) ** 0.5)
    attention = build_self_attention(
        config.attention,
        config.dim,
        is_causal=True,
        max_length=config.max_length,
        use_bias=config.qkv_bias,
        out_bias=config.out_bias,
        rotary=Rotary(
            base=config.rotary_base,
            scaling=_scaling(config.rotary_scaling),
            width=config.rotary_width,
        ),
        norm_eps=config.norm_eps,
        dropout=config.attention_dropout,
        kernel_init=init,
        out_init=out_init,
        rngs=rngs,
    )
    feed = FeedForward(
        config.dim,
        config.hidden,
        config.activation,
        gated=True,
        use_bias=config.hidden_bias,
        kernel_init=init,
        out_init=out_init,
        rngs=rngs,
    )
    return Block(
        config.dim,
        attention,
        feed,
        norm=functools.partial(RMSNorm, eps=config.norm_eps),
        order="pre",
        dropout=config.dropout,
        rngs=rngs,
    )


def _scaling(config: RotaryScaling | None) -> rotary.Scaling | None:
    if config is None:
        return None
    match config.kind:
        case "linear":
            return rotary.LinearScaling(config.factor)
        case "ntk":
            return rotary.NTKScaling(config.factor)
        case "dynamic":
            return rotary.DynamicNTKScaling(config.factor, config.original_length)
        case "yarn":
            return rotary.YaRNScaling(
                config.factor, config.original_length, config.fast, config.slow
            )
        case "llama3":
            return rotary.Llama3Scaling(
                config.factor, config.low, config.high, config.original_length
            )

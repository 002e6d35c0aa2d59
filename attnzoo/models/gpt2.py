"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.cache import Kind
from attnzoo.attention.contract import Asked
from attnzoo.attention.projection import LayerNorm
from attnzoo.config import gpt2
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
    next_positions,
    positions_in_documents,
)
from attnzoo.models.self_attention import build_self_attention
from attnzoo.ops.masks import document


class GPT2(nnx.Module):
    """A causal language model over learned positions; see ``attnzoo.config.gpt2`` for what can be
    chosen.

    Weights start as N(0, 0.02^2), those that end a residual branch divided by sqrt(2 layers)
    (section 2.3 of the paper); an attention that is not multi-head has its own paper's start.
    """

    def __init__(self, config: gpt2.GPT2, vocab_size: int, *, rngs: nnx.Rngs):
        self.config, dim = config, config.dim
        self.embedding = Embedding(vocab_size, dim, rngs=rngs)
        self.positions = Embedding(config.max_length, dim, rngs=rngs)
        self.output = None if config.tied else Embedding(vocab_size, dim, rngs=rngs)
        blocks = [_block(config, rngs) for _ in range(config.layers)]
        self.decoder = Stack(blocks, scan=config.scan, remat=config.remat)
        self.norm = LayerNorm(dim, eps=config.norm_eps, rngs=rngs)

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
          positions: rows of the table; 0 .. T - 1 if None, from 0 anew in every document.
          valid: False at padding, which is never read.
          rngs: switches dropout on.

        Raises:
          ValueError: more positions than the table has rows.
        """
        if positions is None:
            self._check(tokens.shape[1])
            places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
            positions = places if documents is None else positions_in_documents(documents)
        x, maps = self.decoder(
            self._embed(tokens, positions, rngs),
            valid=valid,
            mask=None if documents is None else document(documents),
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
        self._check(room)
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

        ``visible`` is False where the state's L slots hold padding, before which positions do not
        count; ``at`` asks for the logits of one place a row alone.
        """
        positions = next_positions(state, tokens.shape[1], visible)
        x = self._embed(tokens, positions, None)
        x, state = decode_stack(self.decoder, x, state, visible)
        return self._logits(last_states(x, at)), state

    def _embed(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "#B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B T D"]:
        x = self.embedding(tokens)
        x = x + jnp.broadcast_to(self.positions(positions), x.shape)
        return drop(x, self.config.dropout, None if rngs is None else rngs.dropout())

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        return (self.output or self.embedding).logits(self.norm(x))

    def _check(self, length: int) -> None:
        if length > self.config.max_length:
            raise ValueError(
                f"{length} positions, but max_length={self.config.max_length} of the model: "
                "the table of positions has no more rows"
            )


def _block(config: gpt2.GPT2, rngs: nnx.Rngs) -> Block:
    init = jax.nn.initializers.normal(0.02)
    out_init = jax.nn.initializers.normal(0.02 / (2 * config.layers) ** 0.5)
    attention = build_self_attention(
        config.attention,
        config.dim,
        is_causal=True,
        max_length=config.max_length,
        use_bias=config.use_bias,
        dropout=config.attention_dropout,
        kernel_init=init,
        out_init=out_init,
        rngs=rngs,
    )
    feed = FeedForward(
        config.dim,
        config.hidden or 4 * config.dim,
        config.activation,
        use_bias=config.use_bias,
        kernel_init=init,
        out_init=out_init,
        rngs=rngs,
    )
    return Block(
        config.dim,
        attention,
        feed,
        norm=functools.partial(LayerNorm, eps=config.norm_eps),
        order="pre",
        dropout=config.dropout,
        rngs=rngs,
    )

"""Pointer-generator network: See, Liu and Manning, ACL 2017 (arXiv 1704.04368)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention import Memory, Site, build_attention
from attnzoo.config.pointer_generator import PointerGeneratorConfig
from attnzoo.layers.recurrent import LSTM
from attnzoo.models.rnn_seq2seq import RecurrentTranslator
from attnzoo.ops.softmax import compute_dtype
from attnzoo.special_tokens import PAD, UNK

LEAST = -69.0
"""Least log-probability: that of 1e-30, for words that can neither be written nor copied."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CopiedMemory:
    """Source states as the attention reads them, and the ids to copy."""

    states: Memory
    ids: Int[Array, "B S"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PointerState:
    """Decoder state: (cell, hidden), the last context, steps, and the attention's past."""

    layer: tuple[Float[Array, "B D"], Float[Array, "B D"]]
    context: Float[Array, "B Dv"]
    position: Int[Array, "B"]
    past: Any


class PointerGenerator(RecurrentTranslator):
    """Recurrent encoder and decoder that writes words of its vocabulary or copies source words.

    The last ``config.source_words`` ids are temporary: in a source, and in its target, they are the
    words that the vocabulary lacks (``attnzoo.data.copying``). They are read as the unknown word.
    Logits are log-probabilities of the mixture of both ways (equation 9), at least ``LEAST``.
    """

    def __init__(
        self,
        config: PointerGeneratorConfig,
        source_vocab: int,
        target_vocab: int,
        *,
        rngs: nnx.Rngs,
    ):
        if source_vocab != target_vocab:
            raise ValueError(
                f"pointer_generator wants one vocabulary, the source has {source_vocab} tokens and "
                f"the target {target_vocab}: set shared_vocabulary=true"
            )
        self.config, n, m = config, config.hidden, config.embedding
        self.words = source_vocab - config.source_words
        if self.words <= UNK:
            raise ValueError(
                f"source_words={config.source_words} of {source_vocab} ids leave no vocabulary"
            )
        embed = jax.nn.initializers.normal(m**-0.5)
        self.source_embedding = nnx.Embed(self.words, m, embedding_init=embed, rngs=rngs)
        self.target_embedding = None
        self.forward_encoder = LSTM(m, n, rngs=rngs)
        self.backward_encoder = LSTM(m, n, rngs=rngs)
        self.initial_cell = nnx.Linear(2 * n, n, rngs=rngs)
        self.initial_hidden = nnx.Linear(2 * n, n, rngs=rngs)
        self.feed = nnx.Linear(m + 2 * n, m, rngs=rngs)
        self.decoder = LSTM(m, n, rngs=rngs)
        site = Site(query_dim=2 * n, key_dim=2 * n, value_dim=2 * n)
        self.attention = build_attention(config.attention, site, rngs=rngs)
        self.combine = nnx.Linear(3 * n, n, rngs=rngs)  # V of equation 4
        self.output = nnx.Linear(n, self.words, rngs=rngs)  # V' of equation 4
        self.gate = nnx.Linear(4 * n + m, 1, rngs=rngs)  # w_h*, w_s and w_x of equation 8
        self.dropout = nnx.Dropout(config.dropout)

    def start(
        self,
        source: Int[Array, "B S"],
        *,
        max_length: int | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[CopiedMemory, PointerState]:
        """Return the memory of both directions' states, and the state before the first token."""
        valid = source != PAD
        embedded = self._drop(self._embed(source), rngs)
        forward, first = self.forward_encoder(embedded, valid)
        backward, last = self.backward_encoder(embedded, valid, reverse=True)
        memory, past = self.prepare(jnp.concatenate([forward, backward], axis=-1), None, valid)
        cell, hidden = (jnp.concatenate(both, axis=-1) for both in zip(first, last, strict=True))
        layer = jax.nn.relu(self.initial_cell(cell)), jax.nn.relu(self.initial_hidden(hidden))
        position = jnp.zeros(source.shape[0], jnp.int32)
        state = PointerState(layer, jnp.zeros_like(hidden), position, past)
        return CopiedMemory(memory, source), state

    def step(
        self, token: Int[Array, "B"], state: PointerState, memory: CopiedMemory
    ) -> tuple[Float[Array, "B V"], PointerState, Float[Array, "B N S"]]:
        """Read y_{t-1} with the state; return the logits of y_t, the new state, and the weights."""
        embedded = self._embed(token)
        new, fed, weights = self._advance(embedded, state, memory.states)
        states = jnp.concatenate(new.layer, axis=-1)
        logits, _ = self._mixed(
            *(x[:, None] for x in (states, new.context, fed)), weights[:, :, None], memory.ids, None
        )
        return logits[:, 0], new, weights

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
        return_weights: bool = False,
    ) -> Float[Array, "B T V"] | tuple[Float[Array, "B T V"], Float[Array, "B N T S"]]:
        """Return the logits of every next token of a known target (``target[:, 0]`` is BOS)."""
        logits, weights, _ = self.pointing(source, target, rngs=rngs)
        return (logits, weights) if return_weights else logits

    def pointing(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "B T V"], Float[Array, "B N T S"], Float[Array, "B T"]]:
        """Return the logits and weights of a known target, and the probability to write (p_gen)."""
        memory, state = self.start(source, rngs=rngs)
        embedded = self._drop(self._embed(target), rngs)

        def body(state: PointerState, x: Array) -> tuple[PointerState, Any]:
            new, fed, weights = self._advance(x, state, memory.states)
            return new, (jnp.concatenate(new.layer, axis=-1), new.context, fed, weights)

        _, found = jax.lax.scan(body, state, jnp.swapaxes(embedded, 0, 1))
        *read, weights = found
        weights = jnp.moveaxis(weights, 0, 2)
        logits, p_gen = self._mixed(
            *(jnp.swapaxes(x, 0, 1) for x in read), weights, memory.ids, rngs
        )
        return logits, weights, p_gen

    def p_gen(self, source: Int[Array, "B S"], target: Int[Array, "B T"]) -> Float[Array, "B T"]:
        """Return the probability to write a word rather than to copy one, at each step."""
        return self.pointing(source, target)[2]

    def posterior(
        self, source: Int[Array, "B S"], target: Int[Array, "B T"], *, exponent: float = 1.0
    ) -> tuple[Float[Array, "B T-1"], Float[Array, "B T-1 S"]]:
        """Raise NotImplementedError: the weights copy words, besides giving the context."""
        raise NotImplementedError(
            "posterior: a word of pointer_generator depends on the weights themselves, not on the "
            "context alone"
        )

    def _embed(self, ids: Int[Array, "*rows"]) -> Float[Array, "*rows D"]:
        known = jnp.where(ids < self.words, ids, UNK)
        return jnp.take(self.source_embedding.embedding[...], known, axis=0)

    def _advance(
        self, embedded: Float[Array, "B D"], state: PointerState, memory: Memory
    ) -> tuple[PointerState, Float[Array, "B D"], Float[Array, "B N S"]]:
        """Return the new state, the input of the decoder, and the weights of one step."""
        fed = self.feed(jnp.concatenate([embedded, state.context], axis=-1))
        layer = self.decoder.step(self.decoder.project(fed), state.layer)
        context, weights, past = self.attention.step(
            jnp.concatenate(layer, axis=-1), memory, position=state.position, past=state.past
        )
        return PointerState(layer, context, state.position + 1, past), fed, weights

    def _mixed(
        self,
        states: Float[Array, "B T D2"],
        contexts: Float[Array, "B T Dv"],
        fed: Float[Array, "B T D"],
        weights: Float[Array, "B N T S"],
        ids: Int[Array, "B S"],
        rngs: nnx.Rngs | None,
    ) -> tuple[Float[Array, "B T V"], Float[Array, "B T"]]:
        """Return log P(w) of equation 9 over the extended vocabulary, and p_gen (equation 8)."""
        hidden = states[..., states.shape[-1] // 2 :]
        both = self._drop(self.combine(jnp.concatenate([hidden, contexts], axis=-1)), rngs)
        gate = self.gate(jnp.concatenate([contexts, states, fed], axis=-1))
        wide = compute_dtype(both)
        written, gate = self.output(both).astype(wide), gate.astype(wide)
        share = jnp.mean(weights, axis=1).astype(wide)
        logs = mixture(written, gate, share, ids, self.config.source_words)
        return logs.astype(both.dtype), jax.nn.sigmoid(gate[..., 0])


def mixture(
    logits: Float[Array, "B T W"],
    gate: Float[Array, "B T 1"],
    weights: Float[Array, "B T S"],
    ids: Int[Array, "B S"],
    extra: int,
) -> Float[Array, "B T V"]:
    """Return log(p_gen P_vocab(w) + (1 - p_gen) sum of weights where the source has w).

    ``gate`` is the logit of p_gen, ``ids`` are below V = W + ``extra``, and the weights of padding
    0. Results are at least ``LEAST`` (equation 9 of See et al. 2017).
    """
    B, T, W = logits.shape
    nothing = jnp.full((B, T, extra), -1e30, logits.dtype)
    written = jax.nn.log_sigmoid(gate) + jax.nn.log_softmax(logits, axis=-1)
    written = jnp.concatenate([written, nothing], axis=-1)

    def gather(weights: Array, ids: Array) -> Array:
        return jnp.zeros((T, W + extra), weights.dtype).at[:, ids].add(weights)

    copied = jax.vmap(gather)(weights, ids)
    there = copied > 0
    logs = jnp.log(jnp.where(there, copied, jnp.ones_like(copied)))
    copied = jnp.where(there, jax.nn.log_sigmoid(-gate) + logs, jnp.full_like(logs, -1e30))
    return jnp.maximum(jnp.logaddexp(written, copied), jnp.asarray(LEAST, logits.dtype))

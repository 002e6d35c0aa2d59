# Over 400 lines: two translators that share their base and helpers.
"""Recurrent translators with attention (Bahdanau et al. 2015, Luong et al. 2015); 0 is padding."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention import Attention, Memory, Site, build_attention
from attnzoo.config.model import BahdanauConfig, LuongConfig
from attnzoo.layers.recurrent import GRU, LSTM, uniform
from attnzoo.models.model import TranslationModel
from attnzoo.models.source_registry import build_source
from attnzoo.models.sources import Source
from attnzoo.ops.positions import positions_in_text
from attnzoo.ops.softmax import masked_softmax
from attnzoo.special_tokens import PAD


class RecurrentTranslator(TranslationModel):
    """Recurrent encoder and decoder with one cross-attention."""

    attention: Attention
    dropout: nnx.Dropout

    def attentions(self) -> dict[str, Attention]:
        """Return the only attention, by map name."""
        return {"attention": self.attention}

    def prepare(
        self,
        keys: Float[Array, "B S D"],
        values: Float[Array, "B S Dv"] | None,
        valid: Bool[Array, "B S"],
    ) -> tuple[Memory, Any]:
        """Return the prepared source, and the attention's past before the first step."""
        positions = positions_in_text(valid)
        memory = self.attention.prepare(
            keys, values, mask=valid[:, None, None, :], positions=positions
        )
        return memory, self.attention.empty_past(memory)

    def __call__(
        self,
        source: Source,
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
        return_weights: bool = False,
    ) -> Float[Array, "B T V"] | tuple[Float[Array, "B T V"], Float[Array, "B N T S"]]:
        """Return the logits of every next token of a known target (``target[:, 0]`` is BOS)."""
        logits, weights, *_ = self._unroll(source, target, rngs, return_weights)
        return (logits, weights) if return_weights else logits

    def posterior(
        self, source: Source, target: Int[Array, "B T"], *, exponent: float = 1.0
    ) -> tuple[Float[Array, "B T-1"], Float[Array, "B T-1 S"]]:
        """Return log p(y_t), and the alignment after y_t is known, of a target from BOS to its end.

        The posterior is proportional to alpha_ts^exponent p(y_t | c_t = v_s), where alpha are the
        weights (the mean of several heads) and v_s is the context that reads source token s alone
        (Shankar and Sarawagi, ICLR 2019, equation 5; Deng et al. 2018, section 2). An exponent
        below 1 flattens the prior. The readout is computed once for each source token, one after
        the other. NotImplementedError for attention without explicit weights of values.
        """
        if not self.attention.takes_perturbation:
            raise NotImplementedError(
                f"posterior: {type(self.attention).__name__} does not weight values one by one"
            )
        inputs, labels = target[:, :-1], target[:, 1:]
        logits, weights, memory, readout = self._unroll(source, inputs, None, True)
        B = inputs.shape[0]
        contexts = self._contexts(memory)

        def likelihood(context: Float[Array, "B Dv"]) -> Float[Array, "B T"]:
            wide = jnp.broadcast_to(context[:, None], (B, inputs.shape[1], context.shape[1]))
            return _log_probs(readout(wide), labels)

        likelihoods = jax.lax.map(likelihood, jnp.swapaxes(contexts, 0, 1))  # S B T
        prior = jnp.mean(weights, axis=1)
        logs = exponent * jnp.log(jnp.maximum(prior, 1e-30)) + jnp.moveaxis(likelihoods, 0, 2)
        seen = prior > 0
        if self.source_encoder is None:
            seen = (source != PAD)[:, None, :] & seen
        return _log_probs(logits, labels), masked_softmax(logs, seen)

    def _contexts(self, memory: Memory) -> Float[Array, "B S Dv"]:
        """Return the context of each source token if it is the only one that is read."""
        attention, (B, S) = self.attention, memory.values.shape[:2]
        alone = jnp.eye(S, dtype=bool)[None, None]
        if type(attention).attend is Attention.attend:  # weights of any kind, and their result
            weights = jnp.broadcast_to(alone, (B, attention.num_heads, S, S)).astype(jnp.float32)
            return attention.read(weights, memory, memory.mask, False, None)
        mask = alone if memory.mask is None else alone & memory.mask
        only = dataclasses.replace(memory, mask=jnp.broadcast_to(mask, (B, 1, S, S)))
        return attention.attend(jnp.zeros((B, S, self.config.hidden), memory.values.dtype), only)

    def _unroll(self, source, inputs, rngs, return_weights):
        """Return logits, weights, the memory, and the readout as a function of contexts."""
        raise NotImplementedError(f"{type(self).__name__}._unroll")

    def _drop(self, x, rngs):
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BahdanauState:
    """Decoder state: s_i, the number of steps per sentence, and the past of the attention."""

    hidden: Float[Array, "B D"]
    position: Int[Array, "B"]
    past: Any


class BahdanauSeq2Seq(RecurrentTranslator):
    """RNNsearch (arXiv 1409.0473, appendix A): bidirectional GRU encoder, GRU decoder, attention.

    ``attention.kind = "none"`` gives RNNencdec: the same decoder with c_i fixed to the annotation
    of the last source token.
    """

    reads_before_attending = False  # the query is s_{i-1}, which has read the tokens before y_{i-1}

    def __init__(
        self, config: BahdanauConfig, source_vocab: int, target_vocab: int, *, rngs: nnx.Rngs
    ):
        self.config, n, m = config, config.hidden, config.embedding
        scaled = config.init == "fan_in"
        normal = jax.nn.initializers.normal
        init = jax.nn.initializers.lecun_normal() if scaled else normal(0.01)
        embed = normal(m**-0.5) if scaled else normal(0.01)

        def linear(width_in: int, width_out: int, *, use_bias: bool) -> nnx.Linear:
            return nnx.Linear(width_in, width_out, use_bias=use_bias, kernel_init=init, rngs=rngs)

        self.source_encoder = build_source(config.source, rngs=rngs)
        if self.source_encoder is None:
            self.source_embedding = nnx.Embed(source_vocab, m, embedding_init=embed, rngs=rngs)
        self.target_embedding = nnx.Embed(target_vocab, m, embedding_init=embed, rngs=rngs)
        if self.source_encoder is None:
            self.forward_encoder = GRU(m, n, kernel_init=init, rngs=rngs)
            self.backward_encoder = GRU(m, n, kernel_init=init, rngs=rngs)
            summary = n  # width of what the initial state is made of
            keys = 2 * n if config.reads == "annotations" else 2 * n + m
        elif config.reads != "annotations":
            raise ValueError(
                f"reads={config.reads}; wanted annotations, since an image or a sound has no words"
            )
        else:
            summary = keys = self.source_encoder.dim
        if config.initial_state == "backward":
            self.initial = linear(summary, n, use_bias=True)  # W_s
        self.reads, self.initial_state = config.reads, config.initial_state
        width = m if config.reads == "words" else keys  # width of the contexts
        site = Site(query_dim=n, key_dim=keys, value_dim=width, fan_in=scaled)
        self.attention = build_attention(config.attention, site, rngs=rngs)
        self.decoder = GRU(m, n, kernel_init=init, rngs=rngs)
        self.context_kernel = linear(width, 3 * n, use_bias=False)  # C_z | C_r | C
        self.readout_state = linear(n, 2 * config.maxout, use_bias=True)  # U_o
        self.readout_embedding = linear(m, 2 * config.maxout, use_bias=False)  # V_o
        self.readout_context = linear(width, 2 * config.maxout, use_bias=False)  # C_o
        self.output = linear(config.maxout, target_vocab, use_bias=True)  # W_o
        self.dropout = nnx.Dropout(config.dropout)

    def start(
        self,
        source: Source,
        *,
        max_length: int | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Memory, BahdanauState]:
        """Return the memory of h_j = [forward; backward], and s_0 = tanh(W_s backward_1).

        For the features of an image or a sound, s_0 = tanh(W_s their mean) (Xu et al. 2015,
        section 3.1.2).
        """
        if self.source_encoder is not None:
            features, valid = self.source_encoder(source, rngs=rngs)
            keys = self._drop(features, rngs)
            memory, past = self.prepare(keys, keys, valid)
            return memory, self._first(mean_of_valid(features, valid), past)
        valid = source != PAD
        embedded = self._drop(_lookup(self.source_embedding, source), rngs)
        forward = self.forward_encoder(embedded, valid)
        backward = self.backward_encoder(embedded, valid, reverse=True)
        if self.reads == "annotations":
            keys = jnp.concatenate([forward, backward], axis=-1)
        else:
            keys = jnp.concatenate([forward, backward, embedded], axis=-1)
        values = embedded if self.reads == "words" else keys
        memory, past = self.prepare(keys, values, valid)
        return memory, self._first(backward[:, 0], past)

    def _first(self, summary: Float[Array, "B D"], past: Any) -> BahdanauState:
        """Return the state before the first token."""
        B = summary.shape[0]
        if self.initial_state == "backward":
            hidden = jnp.tanh(self.initial(summary))
        else:
            hidden = jnp.zeros((B, self.config.hidden), summary.dtype)
        return BahdanauState(hidden, jnp.zeros(B, jnp.int32), past)

    def step(
        self, token: Int[Array, "B"], state: BahdanauState, memory: Memory
    ) -> tuple[Float[Array, "B V"], BahdanauState, Float[Array, "B N S"]]:
        """Read y_{i-1} with s_{i-1}; return the logits of y_i, the state s_i, and the weights."""
        embedded = _lookup(self.target_embedding, token)
        new, context, weights = self._advance(self.decoder.project(embedded), state, memory)
        return self._readout(state.hidden, embedded, context), new, weights

    def _unroll(self, source, inputs, rngs, return_weights):
        memory, state = self.start(source, rngs=rngs)
        embedded = self._drop(_lookup(self.target_embedding, inputs), rngs)

        def body(state, projected):
            new, context, weights = self._advance(projected, state, memory)
            return new, (state.hidden, context, weights if return_weights else None)

        steps = jnp.swapaxes(self.decoder.project(embedded), 0, 1)
        _, (hidden, context, weights) = jax.lax.scan(body, state, steps)
        hidden = jnp.swapaxes(hidden, 0, 1)

        def readout(context):
            return self._readout(hidden, embedded, context, rngs)

        weights = jnp.moveaxis(weights, 0, 2) if return_weights else None
        return readout(jnp.swapaxes(context, 0, 1)), weights, memory, readout

    def _advance(self, projected, state, memory):
        """Attend with s_{i-1}, then apply the GRU, whose gates all have a context term."""
        context, weights, past = self.attention.step(
            state.hidden, memory, position=state.position, past=state.past
        )
        projected = projected + jnp.einsum("bi,io->bo", context, self.context_kernel.kernel[...])
        hidden = self.decoder.step(projected, state.hidden)
        return BahdanauState(hidden, state.position + 1, past), context, weights

    def _readout(self, hidden, embedded, context, rngs=None):
        """Apply the deep output with a maxout layer to the *previous* state (appendix A.2.2)."""
        pairs = (
            self.readout_state(hidden)
            + self.readout_embedding(embedded)
            + self.readout_context(context)
        )
        maxout = jnp.max(pairs.reshape(*pairs.shape[:-1], pairs.shape[-1] // 2, 2), axis=-1)
        return self.output(self._drop(maxout, rngs))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LuongState:
    """Decoder state: (cell, hidden) of every layer, attentional vector, steps, attention's past."""

    layers: tuple[tuple[Float[Array, "B D"], Float[Array, "B D"]], ...]
    attentional: Float[Array, "B D"]
    position: Int[Array, "B"]
    past: Any


class LuongSeq2Seq(RecurrentTranslator):
    """Stacked LSTM encoder and decoder with input feeding (arXiv 1508.04025).

    The source is read in reverse; the memory is then reversed back, so that local windows and
    weights refer to source positions in their natural order. ``attention.kind = "none"`` is the
    paper's base system, with the decoder's hidden state in place of the attentional vector.
    """

    def __init__(
        self, config: LuongConfig, source_vocab: int, target_vocab: int, *, rngs: nnx.Rngs
    ):
        self.config, n, m = config, config.hidden, config.embedding
        scaled = config.init == "fan_in"
        init = jax.nn.initializers.lecun_uniform() if scaled else uniform
        embed = jax.nn.initializers.normal(m**-0.5) if scaled else uniform
        self.input_feeding = config.input_feeding
        self.reverse_source = config.reverse_source
        self.source_encoder = build_source(config.source, rngs=rngs)
        if self.source_encoder is None:
            self.source_embedding = nnx.Embed(source_vocab, m, embedding_init=embed, rngs=rngs)
        self.target_embedding = nnx.Embed(target_vocab, m, embedding_init=embed, rngs=rngs)
        widths = [m] + [n] * (config.layers - 1)
        lstm = functools.partial(LSTM, kernel_init=init, forget_bias=float(scaled), rngs=rngs)
        if self.source_encoder is None:
            self.encoder = nnx.List([lstm(width, n) for width in widths])
        self.decoder = nnx.List([lstm(width, n) for width in widths])
        if self.input_feeding:
            self.feed = nnx.Linear(n, 4 * n, use_bias=False, kernel_init=init, rngs=rngs)
        keys = n if self.source_encoder is None else self.source_encoder.dim
        site = Site(query_dim=n, key_dim=keys, value_dim=keys, fan_in=scaled)
        self.attention = build_attention(config.attention, site, rngs=rngs)
        # Content scores at step t are computed before y_t is known: footnote 14 assigns them to
        # y_{t-1}, and scores that do not depend on keys (location-based) to y_t.
        self.credits = "input" if self.attention.asks_keys else "predicted"
        self.attentive = config.attention.kind != "none"
        if self.attentive:
            self.combine = nnx.Linear(
                keys + n, n, use_bias=False, kernel_init=init, rngs=rngs
            )  # W_c
        self.output = nnx.Linear(n, target_vocab, kernel_init=init, rngs=rngs)  # W_s
        self.dropout = nnx.Dropout(config.dropout)

    def start(
        self,
        source: Source,
        *,
        max_length: int | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Memory, LuongState]:
        """Encode the source; the decoder starts from the encoder's final states, layer by layer.

        It starts from zero states if the source is no text.
        """
        if self.source_encoder is not None:
            features, valid = self.source_encoder(source, rngs=rngs)
            memory, past = self.prepare(self._drop(features, rngs), None, valid)
            B, n = features.shape[0], self.config.hidden
            zero = jnp.zeros((B, n), features.dtype)
            layers = tuple((zero, zero) for _ in self.decoder)
            return memory, LuongState(layers, zero, jnp.zeros(B, jnp.int32), past)
        valid = source != PAD
        turn = _reverse_words if self.reverse_source else lambda x, valid: x
        states = self._drop(_lookup(self.source_embedding, turn(source, valid)), rngs)
        finals = []
        for index, layer in enumerate(self.encoder):
            states, final = layer(states if index == 0 else self._drop(states, rngs), valid)
            finals.append(final)
        memory, past = self.prepare(turn(states, valid), None, valid)
        position = jnp.zeros(source.shape[0], jnp.int32)
        attentional = jnp.zeros_like(finals[-1][1])
        return memory, LuongState(tuple(finals), attentional, position, past)

    def step(
        self, token: Int[Array, "B"], state: LuongState, memory: Memory
    ) -> tuple[Float[Array, "B V"], LuongState, Float[Array, "B N S"]]:
        """Read y_{t-1} with the state; return the logits of y_t, the new state, and the weights."""
        projected = self.decoder[0].project(_lookup(self.target_embedding, token))
        state, weights = self._advance(projected, state, memory, None)
        return self.output(state.attentional), state, weights

    def _unroll(self, source, inputs, rngs, return_weights):
        memory, state = self.start(source, rngs=rngs)
        embedded = self._drop(_lookup(self.target_embedding, inputs), rngs)
        projected = jnp.swapaxes(self.decoder[0].project(embedded), 0, 1)
        keys = None if rngs is None else jax.random.split(rngs.dropout(), inputs.shape[1])

        def body(state, step):
            projected, key = step
            step_rngs = None if key is None else nnx.Rngs(dropout=key)
            state, weights = self._advance(projected, state, memory, step_rngs)
            top = state.layers[-1][1]
            return state, (state.attentional, top, weights if return_weights else None)

        _, (attentional, top, weights) = jax.lax.scan(body, state, (projected, keys))
        top = jnp.swapaxes(top, 0, 1)

        def readout(context):
            return self.output(self._combined(context, top))

        logits = self.output(self._drop(jnp.swapaxes(attentional, 0, 1), rngs))
        weights = jnp.moveaxis(weights, 0, 2) if return_weights else None
        return logits, weights, memory, readout

    def _advance(self, projected, state, memory, rngs):
        """Compute h_t -> a_t -> c_t -> attentional vector (section 3 of the paper, figure 2)."""
        if self.input_feeding:
            feed = jnp.einsum("bi,io->bo", state.attentional, self.feed.kernel[...])
            projected = projected + feed
        layers = []
        for index, (layer, before) in enumerate(zip(self.decoder, state.layers, strict=True)):
            if index > 0:
                projected = layer.project(self._drop(layers[-1][1], rngs))
            layers.append(layer.step(projected, before))
        hidden = layers[-1][1]
        context, weights, past = self.attention.step(
            hidden, memory, position=state.position, past=state.past
        )
        attentional = self._combined(context, hidden)
        return LuongState(tuple(layers), attentional, state.position + 1, past), weights

    def _combined(self, context, hidden):
        """Return the attentional vector tanh(W_c [c; h]) (equation 5)."""
        if not self.attentive:
            return hidden
        both = jnp.concatenate([context, hidden], axis=-1)
        return jnp.tanh(jnp.einsum("...i,io->...o", both, self.combine.kernel[...]))


def _lookup(embedding: nnx.Embed, ids: Int[Array, "..."]) -> Float[Array, "... D"]:
    """Look up rows in the table's dtype, since ``nnx.Embed`` returns that of its construction."""
    return jnp.take(embedding.embedding[...], ids, axis=0)


def mean_of_valid(
    features: Float[Array, "B S D"], valid: Bool[Array, "B S"]
) -> Float[Array, "B D"]:
    """Return the mean of the features that are no padding; 0 if all are."""
    real = valid[:, :, None].astype(features.dtype)
    count = jnp.maximum(jnp.sum(real, axis=1), 1)
    return jnp.sum(jnp.where(valid[:, :, None], features, 0), axis=1) / count


def _log_probs(logits: Float[Array, "B T V"], labels: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Return the float32 log-probability of each label."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _reverse_words(x: Array, valid: Bool[Array, "B S"]) -> Array:
    """Reverse the real tokens of each sentence (ids B S or states B S D); padding stays."""
    length = jnp.sum(valid, axis=1, keepdims=True, dtype=jnp.int32)
    first = jnp.argmax(valid, axis=1, keepdims=True).astype(jnp.int32)
    place = jnp.arange(valid.shape[1], dtype=jnp.int32)[None, :]
    index = jnp.where(valid, 2 * first + length - 1 - place, place)
    return jnp.take_along_axis(x, index if x.ndim == 2 else index[:, :, None], axis=1)

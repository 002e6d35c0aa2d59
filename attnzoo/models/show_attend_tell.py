"""Show, Attend and Tell: Xu et al., ICML 2015 (arXiv 1502.03044)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention import Attention, HardAttention, Memory, Site, build_attention
from attnzoo.attention.hard import moving_baseline
from attnzoo.config.captioning import ShowAttendTellConfig
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.recurrent import LSTM
from attnzoo.models.model import TranslationModel
from attnzoo.models.source_registry import build_source
from attnzoo.models.sources import Source
from attnzoo.special_tokens import PAD


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TellState:
    """Decoding state: (cell, hidden) of the LSTM, number of steps, and the attention's past."""

    layer: tuple[Float[Array, "B D"], Float[Array, "B D"]]
    position: Int[Array, "B"]
    past: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choices:
    """Log-probability and entropy (nats) of the places that hard attention sampled, per step.

    All are 0 for soft attention.
    """

    log_probability: Float[Array, "..."]
    entropy: Float[Array, "..."]


class ShowAttendTell(TranslationModel):
    """LSTM decoder that reads the features of an image through attention, word by word.

        z_t = beta_t sum_i alpha_ti a_i,  beta_t = sigmoid(f_beta(h_{t-1}))    (section 4.2.1)
        h_t = LSTM([E y_{t-1}; z_t], h_{t-1})                                  (equation 1)
        p(y_t) ~ exp(L_o tanh(E y_{t-1} + L_h h_t + L_z z_t))                  (equation 7)

    The weights alpha_t come from h_{t-1}. The initial cell and state are tanh layers of the mean
    feature. As in the authors' code, and not in equation 7, the output layer has a tanh. With
    ``attention.kind = "none"`` every context is the mean feature, and the weights are uniform.
    """

    reads_before_attending = False

    def __init__(
        self, config: ShowAttendTellConfig, source_vocab: int, target_vocab: int, *, rngs: nnx.Rngs
    ):
        encoder = build_source(config.source, rngs=rngs)
        assert encoder is not None
        self.config, self.source_encoder = config, encoder
        n, m, D = config.hidden, config.embedding, encoder.dim
        init = jax.nn.initializers.lecun_normal()

        def linear(width_in: int, width_out: int, *, use_bias: bool = True) -> nnx.Linear:
            return nnx.Linear(width_in, width_out, use_bias=use_bias, kernel_init=init, rngs=rngs)

        normal = jax.nn.initializers.normal(m**-0.5)
        self.target_embedding = Embedding(target_vocab, m, init=normal, rngs=rngs)  # E
        self.initial = linear(D, 2 * n)  # f_init,c | f_init,h
        site, kind = Site(query_dim=n, key_dim=D, value_dim=D), config.attention.kind
        self.attention: Attention | None = (
            None if kind == "none" else build_attention(config.attention, site, rngs=rngs)
        )
        if isinstance(self.attention, HardAttention):
            self.attention.estimator = config.estimator
        # The baseline b of REINFORCE, a moving average of log p(y | s).
        self.reward = nnx.Variable(jnp.float32(0)) if self.samples else None
        self.selector = linear(n, 1) if config.selector else None  # f_beta
        self.decoder = LSTM(m, n, rngs=rngs)
        self.context_kernel = linear(D, 4 * n, use_bias=False)
        self.readout_state = linear(n, m)  # L_h
        self.readout_context = linear(D, m, use_bias=False)  # L_z
        self.output = linear(m, target_vocab)  # L_o
        self.dropout = nnx.Dropout(config.dropout)

    @property
    def samples(self) -> bool:
        """True if places are sampled in training, and learnt by REINFORCE."""
        return self.config.attention.kind == "hard" and self.config.estimator == "reinforce"

    def attentions(self) -> dict[str, Attention]:
        """Return the only attention, by map name; none for the decoder without one."""
        return {} if self.attention is None else {"attention": self.attention}

    def start(
        self, source: Source, *, max_length: int | None = None, rngs: nnx.Rngs | None = None
    ) -> tuple[Memory, TellState]:
        """Return the memory of the features, and the state made of their mean (section 3.1.2)."""
        assert self.source_encoder is not None
        features, valid = self.source_encoder(source, rngs=rngs)
        real = valid.astype(features.dtype)[:, :, None]
        mean = jnp.sum(features * real, axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1)
        first = jnp.tanh(self.initial(self._drop(mean, rngs)))
        cell, hidden = jnp.split(first, 2, axis=-1)
        if self.attention is None:
            wide = jnp.broadcast_to(mean[:, None], features.shape)
            memory, past = Memory(wide[..., :0], wide, valid[:, None, None]), None
        else:
            memory = self.attention.prepare(features, features, mask=valid[:, None, None, :])
            past = self.attention.empty_past(memory)
        return memory, TellState((cell, hidden), jnp.zeros(mean.shape[:1], jnp.int32), past)

    def step(
        self, token: Int[Array, "B"], state: TellState, memory: Memory
    ) -> tuple[Float[Array, "B V"], TellState, Float[Array, "B N S"]]:
        """Read y_{t-1} with h_{t-1}; return the logits of y_t, the state h_t, and the weights."""
        embedded = self.target_embedding(token)
        context, weights, past, _ = self._look(state, memory, None)
        state = self._advance(self.decoder.project(embedded), context, state, past)
        return self._readout(embedded, state.layer[1], context, None), state, weights

    def __call__(
        self,
        source: Source,
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Return logits ``B T V`` of every next token of a known target (``target[:, 0]`` is BOS).

        ``return_weights`` adds the weights ``B N T S``. With ``rngs`` hard attention samples.
        """
        logits, weights, _ = self._unroll(source, target, rngs)
        return (logits, weights) if return_weights else logits

    def in_training(
        self, source: Source, target: Int[Array, "B L"], *, rngs: nnx.Rngs
    ) -> tuple[Float[Array, "B T V"], Float[Array, "B"]]:
        """Return the logits of a target from BOS to its end, and the loss that is added per row.

        It is the doubly stochastic penalty sum_i (1 - sum_t alpha_ti)^2 (equation 14), times
        ``penalty``, and for sampled places the loss whose gradient is the second and third term
        of the estimator in section 4.1. The baseline is updated.
        """
        config, labels = self.config, target[:, 1:]
        real = (labels != PAD).astype(jnp.float32)
        logits, weights, choices = self._unroll(source, target[:, :-1], rngs)
        more = jnp.zeros(target.shape[:1], jnp.float32)
        if config.penalty and self.attention is not None:
            read = jnp.sum(jnp.mean(weights, axis=1) * real[:, :, None], axis=1)
            more += config.penalty * jnp.sum((1 - read) ** 2, axis=1)
        if self.reward is not None:
            wide = jax.nn.log_softmax(logits.astype(jnp.float32))
            gold = jnp.take_along_axis(wide, labels[..., None], axis=-1)[..., 0]
            likelihood = jnp.sum(gold * real, axis=1)
            advantage = jax.lax.stop_gradient(likelihood - self.reward[...])
            of_places = jnp.sum(choices.log_probability * real, axis=1)
            entropy = jnp.sum(choices.entropy * real, axis=1)
            more -= config.reward_weight * advantage * of_places + config.entropy_weight * entropy
            rows = jnp.any(labels != PAD, axis=1)
            known = jnp.where(rows, likelihood, jnp.mean(likelihood, where=rows))
            self.reward[...] = moving_baseline(self.reward[...], known)
        return logits, more * real[:, 0]

    def _unroll(
        self, source: Source, target: Int[Array, "B T"], rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "B T V"], Float[Array, "B N T S"], Choices]:
        memory, state = self.start(source, rngs=rngs)
        embedded = self._drop(self.target_embedding(target), rngs)
        steps = jnp.swapaxes(self.decoder.project(embedded), 0, 1)
        keys = expected = None
        if rngs is not None and self.samples:
            keys = jax.random.split(rngs.dropout(), target.shape[1])
            shape = (target.shape[0],)
            expected = jax.random.bernoulli(rngs.dropout(), self.config.expected, shape)

        def body(state: TellState, step: Any) -> tuple[TellState, Any]:
            projected, key = step
            context, weights, past, choice = self._look(state, memory, key, expected)
            state = self._advance(projected, context, state, past)
            return state, (state.layer[1], context, weights, choice)

        _, (hidden, context, weights, choices) = jax.lax.scan(body, state, (steps, keys))
        hidden, context = (jnp.swapaxes(x, 0, 1) for x in (hidden, context))
        choices = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), choices)
        return self._readout(embedded, hidden, context, rngs), jnp.moveaxis(weights, 0, 2), choices

    def _look(
        self,
        state: TellState,
        memory: Memory,
        key: Key[Array, ""] | None,
        expected: Bool[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N S"], Any, Choices]:
        """Return the context z_t after the gate, the weights, the past, and what was sampled.

        Rows that are ``expected`` read the expectation over the places.
        """
        query, none = state.layer[1], jnp.zeros(state.position.shape, jnp.float32)
        choice, past, attention = Choices(none, none), state.past, self.attention
        if attention is None:
            assert memory.mask is not None
            context, real = memory.values[:, 0], memory.mask[:, 0].astype(jnp.float32)
            weights = real / jnp.maximum(jnp.sum(real, axis=-1, keepdims=True), 1)
        elif key is None:
            context, weights, past = attention.step(
                query, memory, position=state.position, past=past
            )
        else:
            assert isinstance(attention, HardAttention)
            assert expected is not None
            context, weights, choice = _sampled(attention, query, memory, key, expected)
        if self.selector is not None:
            context = context * jax.nn.sigmoid(self.selector(query))
        return context, weights, past, choice

    def _advance(
        self,
        projected: Float[Array, "B G"],
        context: Float[Array, "B D"],
        state: TellState,
        past: Any,
    ) -> TellState:
        layer = self.decoder.step(projected + self.context_kernel(context), state.layer)
        return TellState(layer, state.position + 1, past)

    def _readout(
        self,
        embedded: Float[Array, "*batch m"],
        hidden: Float[Array, "*batch n"],
        context: Float[Array, "*batch D"],
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "*batch V"]:
        """Apply the deep output layer (equation 7)."""
        state = self.readout_state(self._drop(hidden, rngs)) + self.readout_context(context)
        return self.output(self._drop(jnp.tanh(embedded + state), rngs))

    def _drop(self, x: Float[Array, "*batch D"], rngs: nnx.Rngs | None) -> Float[Array, "*batch D"]:
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)


def _sampled(
    attention: HardAttention,
    query: Float[Array, "B n"],
    memory: Memory,
    key: Key[Array, ""],
    expected: Bool[Array, "B"],
) -> tuple[Float[Array, "B D"], Float[Array, "B N S"], Choices]:
    """Return the context at a sampled place, or the expected one, and what REINFORCE needs.

    The log-probability of a place is 0 in the rows that read the expectation.
    """
    queries = query[:, None]
    drawn, chosen = attention.attend(queries, memory, sample_key=key, return_weights=True)
    mean, soft = attention.content.attend(queries, memory, return_weights=True)
    log_probability, entropy = attention.log_probability(queries, memory, chosen)
    context = jnp.where(expected[:, None], mean[:, 0], drawn[:, 0])
    log_probability = jnp.where(expected, jnp.zeros_like(entropy[:, 0]), log_probability[:, 0])
    return context, soft[:, :, 0], Choices(log_probability, entropy[:, 0])

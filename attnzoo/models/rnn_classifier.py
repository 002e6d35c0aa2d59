"""Recurrent classifiers of texts, with an attention, several hops of one, or none."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention import Attention, Site, StructuredSelfAttention, build_attention
from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.intra import LSTMN
from attnzoo.attention.projection import Projection
from attnzoo.config.rnn_classifier import RnnClassifierConfig
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.recurrent import BidirectionalLSTM
from attnzoo.models.model import Model, dropout_key
from attnzoo.ops.positions import positions_in_text
from attnzoo.ops.wide_sums import broadcast_parameter

VECTORS = jax.nn.initializers.normal(0.1)


class RnnClassifier(Model):
    """Classifier with a recurrent encoder; ``attnzoo.config.rnn_classifier`` has the settings.

    With the states h_1 .. h_S of the tokens (Jain and Wallace 2019, arXiv 1902.10186, section 2):

        weights = softmax(score(query, h_s)),  v = sum_s weights_s h_s,  logits = W v + b

    The query is a parameter, or the last state of each direction. Structured self-attention gives
    one sum for every hop; their concatenation is v.
    """

    token_tables: ClassVar[Mapping[str, str]] = {"tokens": "tokens"}

    def __init__(self, config: RnnClassifierConfig, vocab: int, *, rngs: nnx.Rngs):
        self.config, hidden = config, config.hidden
        self.tokens = Embedding(vocab, config.embedding, init=VECTORS, rngs=rngs)
        self.encoder: Any
        match config.encoder:
            case "lstm":
                self.encoder = BidirectionalLSTM(config.embedding, hidden, rngs=rngs)
            case "lstmn":
                self.encoder = LSTMN(config.embedding, hidden, rngs=rngs)
            case "words":
                self.encoder = Projection(config.embedding, hidden, use_bias=True, rngs=rngs)
        width = 2 * hidden if config.encoder == "lstm" else hidden
        attends, structured = (config.pooling == way for way in ("attention", "structured"))
        site = Site(query_dim=width, key_dim=width, value_dim=width)
        self.attention = build_attention(config.attention, site, rngs=rngs) if attends else None
        learned = attends and config.query == "learned"
        start = VECTORS(rngs.params(), (width,), jnp.float32)
        self.query = nnx.Param(start) if learned else None
        sums = config.sums
        hops = StructuredSelfAttention(width, width, sums, rngs=rngs) if structured else None
        self.structured = hops
        self.classifier = Projection(sums * width, config.num_classes, use_bias=True, rngs=rngs)

    @property
    def max_length(self) -> int | None:
        """Longest text in tokens; None: any."""
        return self.config.longest

    def attentions(self) -> dict[str, Attention]:
        """Return the attention that pools the states, by map name; {} without one."""
        return {} if self.attention is None else {"attention": self.attention}

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        segments: Int[Array, "B T"] | None = None,
        valid: Bool[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return the logits ``B C`` of the classes.

        ``capture`` adds a dict of the requested maps: "attention", ``B N 1 T`` (N: heads, or hops),
        and "encoder" of LSTMN, ``B 1 T T``.

        Args:
          segments: unused; the separator between two texts is read as a token.
          valid: False at padding. rngs: switches dropout on.
        """
        valid = jnp.ones(tokens.shape, bool) if valid is None else valid
        x = dropout(self.tokens(tokens), self.config.dropout, dropout_key(rngs))
        states, last, maps = self._encode(x, valid, capture)
        pooled = valid if self.config.ends else _between(valid)
        vector, found = self._pool(states, last, pooled, capture)
        vector = dropout(vector, self.config.dropout, dropout_key(rngs))
        logits = self.classifier(vector)
        return (logits, maps | found) if capture else logits

    def _encode(
        self, x: Float[Array, "B T E"], valid: Bool[Array, "B T"], capture: ReturnWeights
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B D"], dict[str, Any]]:
        """Return the states, the last one of each direction, and the maps."""
        if self.config.encoder == "lstm":
            states = self.encoder(x, valid)
            half = self.config.hidden
            # Padding passes a state on: each direction ends with that of its last token.
            return states, jnp.concatenate([states[:, -1, :half], states[:, 0, half:]], -1), {}
        maps = {}
        if self.config.encoder == "words":
            states = jnp.tanh(self.encoder(x))
        elif capture:
            states, maps["encoder"] = self.encoder(x, valid, return_weights=capture)
        else:
            states = self.encoder(x, valid)
        place = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
        return states, jnp.take_along_axis(states, place[:, None, None], axis=1)[:, 0], maps

    def _pool(
        self,
        states: Float[Array, "B T D"],
        last: Float[Array, "B D"],
        pooled: Bool[Array, "B T"],
        capture: ReturnWeights,
    ) -> tuple[Float[Array, "B F"], dict[str, Any]]:
        """Return the vector of each text, and the maps."""
        mask, B = pooled[:, None, None, :], states.shape[0]
        if self.structured is not None:
            found = self.structured(states, pooled, return_weights=capture)
            sums, maps = (found[0], {"attention": found[1]}) if capture else (found, {})
            return sums.reshape(B, -1), maps
        if self.attention is not None:
            query = last
            if self.query is not None:
                learned = self.query[...].astype(states.dtype)
                query = broadcast_parameter(learned[None], states.shape[::2])
            found = self.attention(
                query[:, None],
                states,
                mask=mask,
                key_positions=positions_in_text(pooled),
                return_weights=capture,
            )
            context, maps = (found[0], {"attention": found[1]}) if capture else (found, {})
            return context[:, 0], maps
        kept = pooled[:, :, None]
        if self.config.pooling == "mean":
            count = jnp.maximum(jnp.sum(kept, axis=1), 1).astype(states.dtype)
            return jnp.sum(jnp.where(kept, states, 0), axis=1) / count, {}
        highest = jnp.max(jnp.where(kept, states, -jnp.inf), axis=1, initial=-jnp.inf)
        return jnp.where(jnp.any(kept, axis=1), highest, 0), {}


def _between(valid: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """Return the tokens that are neither the first nor the last valid one of their row."""
    before = jnp.cumsum(valid, axis=1)
    return valid & (before > 1) & (before < before[:, -1:])

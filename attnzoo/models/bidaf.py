"""Bidirectional attention flow, Seo et al., ICLR 2017 (arXiv 1611.01603): a reader of documents."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.projection import Projection
from attnzoo.config.question_answering import BidafConfig
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.recurrent import BidirectionalLSTM
from attnzoo.models.model import Model, dropout_key
from attnzoo.module import Module
from attnzoo.ops.softmax import masked_softmax
from attnzoo.ops.wide_sums import broadcast_parameter

VECTORS = jax.nn.initializers.normal(0.1)


class Highway(Module):
    """Highway layer (Srivastava et al. 2015): t relu(W x + b) + (1 - t) x with a gate t."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.up = Projection(dim, dim, use_bias=True, rngs=rngs)
        self.gate = Projection(dim, dim, use_bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply the layer to each vector."""
        share = jax.nn.sigmoid(self.gate(x))
        return share * jax.nn.relu(self.up(x)) + (1 - share) * x


class Bidaf(Model):
    """Reader that finds an answer in a document; ``attnzoo.config`` documents the settings.

    A row holds a question and a document, as for BERT. The same LSTM reads each from a zero state.
    With document states h_t and question states u_j, of width 2d (section 2, layer 4):

        S_tj = w . [h_t; u_j; h_t * u_j]
        U_t = sum_j softmax_j(S_tj) u_j         (document to question)
        H = sum_t softmax_t(max_j S_tj) h_t     (question to document, for all t)
        g_t = [h_t; U_t; h_t * U_t; h_t * H]

    Further LSTMs read g; start and end come from [g; m] and [g; m'] with m' one more LSTM over m.
    The first token stands for no answer, with two logits that are parameters (Levy et al. 2017,
    arXiv 1706.04115, section 4).
    """

    token_tables: ClassVar[Mapping[str, str]] = {"tokens": "tokens"}

    def __init__(self, config: BidafConfig, vocab: int, *, rngs: nnx.Rngs):
        self.config, d = config, config.hidden
        self.tokens = Embedding(vocab, d, init=VECTORS, rngs=rngs)
        self.highway = nnx.List([Highway(d, rngs=rngs) for _ in range(config.highway)])
        self.reader = BidirectionalLSTM(d, d, rngs=rngs)
        attends = config.flow != "none"
        make = lambda: nnx.Param(VECTORS(rngs.params(), (2 * d,), jnp.float32))  # noqa: E731
        self.of_document, self.of_question, self.of_both = (
            make() if attends else None for _ in range(3)
        )
        width = 8 * d if config.flow == "both" else 6 * d
        widths = [width] + [2 * d] * (config.layers - 1)
        self.model_layers = nnx.List([BidirectionalLSTM(w, d, rngs=rngs) for w in widths])
        self.end_reader = BidirectionalLSTM(2 * d, d, rngs=rngs)
        self.start = Projection(width + 2 * d, 1, use_bias=False, rngs=rngs)
        self.end = Projection(width + 2 * d, 1, use_bias=False, rngs=rngs)
        self.no_answer = nnx.Param(jnp.zeros((2,), jnp.float32))

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        segments: Int[Array, "B T"] | None = None,
        valid: Bool[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: bool = False,
    ) -> Any:
        """Return the logits ``B T 2`` of the start and the end of the answer at each token.

        ``capture`` adds the maps "context_to_query" ``B 1 T T``, from a token of the document to
        those of the question, and "query_to_context" ``B 1 1 T``, to those of the document.

        Args:
          segments: 0 for the question and 1 for the document; if None, the text is both.
          valid: False at padding. rngs: switches dropout on.
        """
        rate, B = self.config.dropout, tokens.shape[0]
        valid = jnp.ones(tokens.shape, bool) if valid is None else valid
        question = valid if segments is None else valid & (segments == 0)
        document = valid if segments is None else valid & (segments == 1)
        x = self.tokens(tokens)
        for layer in self.highway:
            x = layer(x)
        x = dropout(x, rate, dropout_key(rngs))
        both = self.reader(
            jnp.concatenate([x, x]), jnp.concatenate([document, question])
        )  # one scan reads both
        h, u = both[:B], both[B:]
        g, maps = self._flow(h, u, document, question)
        m = g
        for lstm in self.model_layers:
            m = lstm(dropout(m, rate, dropout_key(rngs)), document)
        later = self.end_reader(dropout(m, rate, dropout_key(rngs)), document)
        ends = [
            output(dropout(jnp.concatenate([g, state], axis=-1), rate, dropout_key(rngs)))
            for output, state in ((self.start, m), (self.end, later))
        ]
        logits = jnp.concatenate(ends, axis=-1)
        none = broadcast_parameter(self.no_answer[...].astype(logits.dtype), logits.shape)
        logits = jnp.where(jnp.arange(tokens.shape[1])[None, :, None] == 0, none, logits)
        return (logits, maps) if capture else logits

    def _flow(
        self,
        h: Float[Array, "B T D"],
        u: Float[Array, "B T D"],
        document: Bool[Array, "B T"],
        question: Bool[Array, "B T"],
    ) -> tuple[Float[Array, "B T G"], dict[str, Float[Array, "B 1 Q T"]]]:
        """Return what each token of the document knows of the question, and the maps."""
        if self.of_both is None or self.of_document is None or self.of_question is None:
            # The forward state stays as it is after the last token, the backward one before the
            # first.
            d = self.config.hidden
            summary = jnp.concatenate([u[:, -1:, :d], u[:, :1, d:]], axis=-1)
            read = jnp.broadcast_to(summary, h.shape)
            return jnp.concatenate([h, read, h * read], axis=-1), {}
        first, second, third = (
            one[...].astype(h.dtype) for one in (self.of_document, self.of_question, self.of_both)
        )
        logits = jnp.einsum("btd,bsd->bts", h * broadcast_parameter(third, h.shape), u)
        logits += jnp.einsum("btd,d->bt", h, first)[:, :, None]
        logits += jnp.einsum("bsd,d->bs", u, second)[:, None, :]
        to_question = masked_softmax(logits, question[:, None, :])
        read = jnp.einsum("bts,bsd->btd", to_question.astype(u.dtype), u)
        maps = {"context_to_query": to_question[:, None]}
        parts = [h, read, h * read]
        if self.config.flow == "both":
            highest = jnp.max(jnp.where(question[:, None, :], logits, -jnp.inf), axis=-1)
            to_document = masked_softmax(highest, document)
            summary = jnp.einsum("bt,btd->bd", to_document.astype(h.dtype), h)[:, None]
            parts.append(h * jnp.broadcast_to(summary, h.shape))
            maps["query_to_context"] = to_document[:, None, None]
        return jnp.concatenate(parts, axis=-1), maps

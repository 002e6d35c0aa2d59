"""BERT, Devlin et al., NAACL 2019 (arXiv 1810.04805): a text encoder with a head."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.projection import LayerNorm, Projection
from attnzoo.config.bert import BertConfig
from attnzoo.layers.block import Block, build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.feed_forward import ACTIVATIONS
from attnzoo.layers.stack import Stack
from attnzoo.models.model import Model, check_length, default_positions, dropout_key
from attnzoo.ops import masks
from attnzoo.ops.positions import positions_in_text
from attnzoo.ops.wide_sums import broadcast_parameter


class Bert(Model):
    """BERT: a post-norm encoder with a head; ``attnzoo.config.bert`` documents the settings.

    Other settings give RoBERTa, XLM-R, DistilBERT and ALBERT.
    All matrices start at N(0, 0.02^2), biases at 0.
    """

    token_tables: ClassVar[Mapping[str, str]] = {"tokens": "tokens"}

    def __init__(self, config: BertConfig, vocab: int, *, rngs: nnx.Rngs):
        self.config, dim = config, config.dim
        narrow = config.embedding_dim or dim
        rows = config.max_length + config.position_offset
        self.tokens = Embedding(vocab, narrow, rngs=rngs)
        self.positions = Embedding(rows, narrow, rngs=rngs)
        self.segments = Embedding(config.segments, narrow, rngs=rngs) if config.segments else None
        self.norm = LayerNorm(narrow, eps=config.norm_eps, rngs=rngs)
        projects = config.embedding_dim is not None
        self.embedding_projection = _projection(narrow, dim, rngs) if projects else None
        different = [_block(config, rngs) for _ in range(config.layer_groups or config.layers)]
        blocks = [different[number] for number in config.block_numbers]
        self.encoder = Stack(blocks, scan=config.scan, remat=config.remat)
        pools = config.head == "sequence" or (config.head == "none" and config.pooler)
        self.pooler = _projection(dim, dim, rngs) if pools else None
        outputs = {"sequence": config.num_classes, "token": config.num_classes, "span": 2}
        width = outputs.get(config.head)
        self.classifier = None if width is None else _projection(dim, width, rngs)
        lm = config.head == "lm"
        self.transform = _projection(dim, narrow, rngs) if lm else None
        self.transform_norm = LayerNorm(narrow, eps=config.norm_eps, rngs=rngs) if lm else None
        self.output_bias = nnx.Param(jnp.zeros((vocab,), jnp.float32)) if lm else None
        self.check_settings(attention_dropout="dropout")

    @property
    def max_length(self) -> int:
        """Longest text in tokens."""
        return self.config.max_length

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        segments: Int[Array, "B T"] | None = None,
        valid: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        documents: Int[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return the output of the head: ``B T V`` (lm), ``B C`` (sequence) or ``B T C`` (token).

        For spans these are logits ``B T 2`` of start and end, without a head the states ``B T D``.
        ``capture`` adds a dict of the requested maps, "encoder/0/self", ... The arguments are those
        of :meth:`states`.
        """
        x, maps = self.states(
            tokens,
            segments=segments,
            valid=valid,
            positions=positions,
            documents=documents,
            rngs=rngs,
            capture=capture,
        )
        said = self.say(x, rngs=rngs)
        return (said, maps) if capture else said

    def states(
        self,
        tokens: Int[Array, "B T"],
        *,
        segments: Int[Array, "B T"] | None = None,
        valid: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        documents: Int[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, Any]]:
        """Return the states after the last block, and the maps requested by ``capture``.

        Args:
          segments: sentence number of each token; all 0 if None. Unused by a model without
            segments. rngs: switches dropout on.
          valid: False at padding, to which no token attends.
          positions: rows of the position table; if None, counted in every document from
            ``position_offset``, without padding.
          documents: document ids in a packed row; tokens attend only within their document.
        """
        if positions is None:
            check_length("tokens", tokens.shape[1], self.max_length)
            positions = self._rows(tokens, valid, documents)
        x = self.embed(tokens, segments=segments, positions=positions, rngs=rngs)
        x, maps = self.encoder(
            x,
            valid=valid,
            positions=positions,
            mask=None if documents is None else masks.document(documents),
            key=dropout_key(rngs),
            return_weights=capture,
        )
        return x, {f"encoder/{name}": m for name, m in maps.items()}

    def embed(
        self,
        tokens: Int[Array, "B T"],
        *,
        segments: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B T D"]:
        """Return the input of the first block: the norm of token + position + segment embeddings.

        ALBERT projects it. ValueError if the text is longer than the position table.
        """
        if positions is None:
            check_length("tokens", tokens.shape[1], self.max_length)
            positions = self._rows(tokens, None, None)
        places = default_positions(tokens) if positions is None else positions
        x = self.tokens(tokens)
        if self.segments is not None:
            x = x + self.segments(jnp.zeros_like(tokens) if segments is None else segments)
        x = self.norm(x + broadcast_parameter(self.positions(places), x.shape))
        x = dropout(x, self.config.dropout, dropout_key(rngs))
        return x if self.embedding_projection is None else self.embedding_projection(x)

    def _rows(
        self,
        tokens: Int[Array, "B T"],
        valid: Bool[Array, "B T"] | None,
        documents: Int[Array, "B T"] | None,
    ) -> Int[Array, "B T"] | None:
        """Return the rows of the position table; None: 0 .. T-1."""
        offset = self.config.position_offset
        if offset == 0:
            return positions_in_text(valid, documents)
        real = tokens != offset - 1
        real = real if valid is None else real & valid
        counted = positions_in_text(real, documents)
        assert counted is not None
        return jnp.where(real, counted + offset, offset - 1)

    def say(self, x: Float[Array, "*batch D"], *, rngs: nnx.Rngs | None = None) -> Array:
        """Apply the head to states: all of them (``B T D``), or selected ones for masked tokens."""
        head, key = self.config.head, dropout_key(rngs)
        if head == "none":
            return x
        if head == "lm":
            assert self.transform is not None
            assert self.transform_norm is not None
            assert self.output_bias is not None
            f = ACTIVATIONS[self.config.activation]
            logits = self.tokens.logits(self.transform_norm(f(self.transform(x))))
            bias = self.output_bias[...].astype(logits.dtype)
            return logits + broadcast_parameter(bias, logits.shape)
        assert self.classifier is not None
        if head == "span":
            return self.classifier(x)
        x = self.pool(x) if head == "sequence" else x
        return self.classifier(dropout(x, self.config.dropout, key))

    def pool(self, x: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """Return f(W x_0 + b), the first token's state as that of the text (f: the config's)."""
        if self.pooler is None:
            raise ValueError(
                f"head={self.config.head!r} has no pooler; wanted head='sequence', or 'none' with "
                "pooler=True"
            )
        return ACTIVATIONS[self.config.pooler_activation](self.pooler(x[:, 0]))


NORMAL = jax.nn.initializers.normal(0.02)


def _projection(dim: int, out: int, rngs: nnx.Rngs) -> Projection:
    return Projection(dim, out, use_bias=True, kernel_init=NORMAL, rngs=rngs)


def _block(config: BertConfig, rngs: nnx.Rngs) -> Block:
    site = Site.of_itself(
        config.dim,
        max_length=config.max_length,
        use_bias=True,
        dropout=config.attention_dropout,
        kernel_init=NORMAL,
        out_init=NORMAL,
    )
    return build_block(config, config.attention, site, LayerNorm, order="post", rngs=rngs)

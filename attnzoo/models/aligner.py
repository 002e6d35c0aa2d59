"""Word aligner: an encoder over both sentences, and scores between the vectors of their words."""

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.projection import LayerNorm, Projection, cast_like
from attnzoo.config.aligner import WordAlignerConfig
from attnzoo.layers.block import build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding, sinusoidal_positions
from attnzoo.layers.stack import Stack
from attnzoo.models.model import Model, check_length, default_positions, dropout_key
from attnzoo.special_tokens import PAD


class WordScores(NamedTuple):
    """Scores of all pairs of a target word and a source word, with a null word last on each side.

    Attributes:
      scores: logits, whose softmax over the last axis is p(source word | target word), and over the
        second p(target word | source word). source, target: True where there is such a word.
    """

    scores: Float[Array, "B U W"]
    source: Bool[Array, "B S"]
    target: Bool[Array, "B T"]

    def log_probs(self) -> tuple[Float[Array, "B T W"], Float[Array, "B S U"]]:
        """Return log p(source | target) and log p(target | source); the null word is last.

        Both are float32, and -1e9 or less for words that a sentence does not have.
        """
        scores = self.scores.astype(jnp.float32)
        with_null = functools.partial(jnp.pad, pad_width=((0, 0), (0, 1)), constant_values=True)
        forward = jnp.where(with_null(self.source)[:, None, :], scores, -1e9)
        backward = jnp.where(with_null(self.target)[:, :, None], scores, -1e9)
        forward = jax.nn.log_softmax(forward, axis=2)[:, :-1]
        backward = jax.nn.log_softmax(backward, axis=1)[:, :, :-1]
        return forward, jnp.swapaxes(backward, 1, 2)


class WordAligner(Model):
    """Word aligner over the joint sequence of a sentence and its translation.

    Both sentences are read by one encoder, each with its own embedding, positions and a vector of
    its side; the end token of the source separates them. A word is the mean of the states of its
    tokens, and two words have the score q_t . k_s / sqrt(dim). A learned null word on each side is
    the partner of words without a translation. The softmax over each axis is as in Dou and Neubig,
    EACL 2021 (arXiv 2101.08231), equation 1; the null word as in Brown et al. 1993. There is a head
    for ``pair_logits`` after ``add_pair_head``.
    """

    token_tables: ClassVar[Mapping[str, str]] = {
        "source": "source_embedding",
        "target": "target_embedding",
    }
    pair_head: Any = None

    def __init__(
        self, config: WordAlignerConfig, source_vocab: int, target_vocab: int, *, rngs: nnx.Rngs
    ):
        self.config, dim = config, config.dim
        embed = jax.nn.initializers.normal(dim**-0.5)
        self.source_embedding = Embedding(source_vocab, dim, init=embed, rngs=rngs)
        self.target_embedding = Embedding(target_vocab, dim, init=embed, rngs=rngs)
        self.sides = Embedding(2, dim, rngs=rngs)
        site = Site.of_itself(
            dim,
            max_length=config.max_length,
            use_bias=True,
            dropout=config.attention_dropout,
        )
        norm, order = LayerNorm, config.norm
        blocks = [
            build_block(config, config.attention, site, norm, order=order, rngs=rngs)
            for _ in range(config.layers)
        ]
        self.encoder = Stack(blocks, scan=config.scan, remat=config.remat)
        pre = config.norm == "pre"
        self.norm = LayerNorm(dim, eps=config.norm_eps, rngs=rngs) if pre else None
        self.source_projection = Projection(dim, dim, use_bias=True, rngs=rngs)
        self.target_projection = Projection(dim, dim, use_bias=True, rngs=rngs)
        self.source_null = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.target_null = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.check_settings(attention_dropout="dropout")

    def add_pair_head(self, rngs: nnx.Rngs) -> None:
        """Add the head that tells translations from other sentences."""
        self.pair_head = Projection(self.config.dim, 1, use_bias=True, rngs=rngs)

    @property
    def max_length(self) -> int:
        """Longest sentence in tokens, with its end token: half of a pair."""
        return self.config.max_length // 2

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        source_words: Int[Array, "B S"],
        target_words: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return the ``WordScores`` of all words; a sentence has at most as many as tokens.

        Args:
          source, target: ids with an end token, padded with 0.
          source_words, target_words: number of the word of each token, from 0; -1 for the end token
            and padding.
          rngs: switches dropout on.
          capture: adds a dict of the requested maps of self-attention, "encoder/0/self", ...
        """
        B, S = source.shape
        x, maps = self._states(source, target, rngs, capture=capture)
        keys, keyed = _words(self.source_projection(x[:, :S]), source_words)
        queries, asked = _words(self.target_projection(x[:, S:]), target_words)
        keys, queries = (
            jnp.concatenate(
                [words, jnp.broadcast_to(cast_like(null, words), (B, 1, words.shape[2]))], axis=1
            )
            for words, null in ((keys, self.source_null), (queries, self.target_null))
        )
        scores = jnp.einsum("btd,bsd->bts", queries, keys) / math.sqrt(self.config.dim)
        found = WordScores(scores, keyed, asked)
        return (found, {f"encoder/{name}": m for name, m in maps.items()}) if capture else found

    def masked_logits(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        source_masked: Bool[Array, "B S"],
        target_masked: Bool[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "B S V"], Float[Array, "B T W"]]:
        """Return logits of every token of both sentences, which the masked ones do not show.

        The output layers are the embeddings (translation language modelling, Dou and Neubig 2021,
        section 2.2).
        """
        x, _ = self._states(source, target, rngs, (source_masked, target_masked))
        S = source.shape[1]
        return self.source_embedding.logits(x[:, :S]), self.target_embedding.logits(x[:, S:])

    def pair_logits(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B"]:
        """Return the logit of the probability that the sentences translate each other.

        A linear map of the mean state (parallel sentence identification, Dou and Neubig 2021,
        section 2.2).
        """
        assert self.pair_head is not None
        x, _ = self._states(source, target, rngs)
        real = (jnp.concatenate([source, target], axis=1) != PAD).astype(x.dtype)
        mean = jnp.einsum("bl,bld->bd", real, x) / jnp.maximum(jnp.sum(real, axis=1), 1)[:, None]
        return self.pair_head(mean)[:, 0]

    def _states(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        rngs: nnx.Rngs | None,
        masked: tuple[Any, Any] = (None, None),
        capture: ReturnWeights = False,
    ) -> tuple[Float[Array, "B L D"], Mapping[str, Any]]:
        """Return the states of the tokens of both sentences, L = S + T, and the requested maps."""
        sides = self._embed(source, 0, rngs, masked[0]), self._embed(target, 1, rngs, masked[1])
        x = jnp.concatenate(sides, axis=1)
        x = dropout(x, self.config.dropout, dropout_key(rngs))
        positions = [
            jnp.broadcast_to(default_positions(ids), ids.shape) for ids in (source, target)
        ]
        x, maps = self.encoder(
            x,
            valid=jnp.concatenate([source, target], axis=1) != PAD,
            positions=jnp.concatenate(positions, axis=1),
            key=dropout_key(rngs),
            return_weights=capture,
        )
        return x if self.norm is None else self.norm(x), maps

    def _embed(
        self, ids: Int[Array, "B L"], side: int, rngs: nnx.Rngs | None, masked: Any
    ) -> Float[Array, "B L D"]:
        config = self.config
        check_length("target" if side else "source", ids.shape[1], self.max_length)
        x = (self.target_embedding if side else self.source_embedding)(ids)
        x = x * jnp.asarray(math.sqrt(config.dim), x.dtype)
        if rngs is not None and config.token_dropout > 0:
            kept = jax.random.bernoulli(rngs.dropout(), 1 - config.token_dropout, ids.shape)
            x = jnp.where(kept[:, :, None], x, jnp.zeros_like(x))
        if masked is not None:
            x = jnp.where(masked[:, :, None], jnp.zeros_like(x), x)
        places = sinusoidal_positions(default_positions(ids), config.dim).astype(x.dtype)
        return x + jnp.broadcast_to(places, x.shape) + self.sides(jnp.full_like(ids, side))


def _words(
    x: Float[Array, "B L D"], words: Int[Array, "B L"]
) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
    """Return the mean of the states of each word's tokens, and True where there is a word."""
    members = words[:, :, None] == jnp.arange(words.shape[1], dtype=words.dtype)[None, None]
    count = jnp.sum(members, axis=1)
    total = jnp.einsum("blw,bld->bwd", members.astype(x.dtype), x)
    return total / jnp.maximum(count, 1)[:, :, None].astype(x.dtype), count > 0

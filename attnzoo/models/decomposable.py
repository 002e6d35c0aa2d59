"""Decomposable attention, Parikh et al., EMNLP 2016 (arXiv 1606.01933): a reader of two texts."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.decomposable import DecomposableAttention
from attnzoo.attention.projection import Projection
from attnzoo.config.decomposable import DecomposableConfig
from attnzoo.layers.embedding import Embedding
from attnzoo.models.model import Model


class DecomposableClassifier(Model):
    """Classifier of pairs of texts without recurrence; ``attnzoo.config`` documents the settings.

    A row holds both texts, as for BERT. Token vectors are projected, then go through
    :class:`attnzoo.attention.DecomposableAttention`. The tokens around the texts (CLS, SEP) are
    read too: they take the place of the paper's NULL, with which a word without a counterpart can
    be aligned. A single text is compared with nothing.
    """

    token_tables: ClassVar[Mapping[str, str]] = {"tokens": "tokens"}

    def __init__(self, config: DecomposableConfig, vocab: int, *, rngs: nnx.Rngs):
        self.config, width = config, config.hidden
        self.tokens = Embedding(
            vocab, config.embedding, init=nnx.initializers.normal(config.embedding**-0.5), rngs=rngs
        )
        self.project = Projection(config.embedding, width, rngs=rngs)
        self.attention = DecomposableAttention(
            width,
            width,
            config.num_classes,
            max_distance=config.max_distance,
            dropout=config.dropout,
            rngs=rngs,
        )

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        segments: Int[Array, "B T"] | None = None,
        valid: Bool[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Float[Array, "B V"] | tuple[Float[Array, "B V"], dict[str, Any]]:
        """Return the logits of the classes.

        ``capture`` adds the maps "premise" and "hypothesis" ``B 1 T T``, from a token of either
        text to those of the other, and with intra-sentence attention "premise/intra" and
        "hypothesis/intra".

        Args:
          segments: 1 for the second text, else 0; if None, there is none.
          valid: False at padding. rngs: switches dropout on.
        """
        valid = jnp.ones(tokens.shape, bool) if valid is None else valid
        second = jnp.zeros(tokens.shape, bool) if segments is None else segments == 1
        words = self.project(self.tokens(tokens))
        sides = valid & ~second, valid & second
        return self.attention(words, words, *sides, rngs=rngs, return_weights=capture)

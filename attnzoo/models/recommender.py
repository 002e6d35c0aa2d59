"""Sequential recommendation: SASRec, PARec and FPARec, which differ in their attention alone.

SASRec: Kang and McAuley 2018 (arXiv 1808.09781). PARec and FPARec: Luo, He, Zhang and Xu 2024
(arXiv 2407.02793).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.projection import LayerNorm
from attnzoo.config.recommender import RecommenderConfig
from attnzoo.layers.block import Block, build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.stack import Stack
from attnzoo.models.model import Model, check_length, dropout_key
from attnzoo.ops import masks
from attnzoo.ops.positions import positions_from_end
from attnzoo.ops.wide_sums import broadcast_parameter


class Recommender(Model):
    """Scores of every next item of a history; ``attnzoo.config.recommender`` has the settings.

    Item embeddings are multiplied by sqrt(D), as in the authors' code of all three models, and are
    the output layer too (Kang and McAuley 2018, section III-D). Positions are counted from the
    end: the latest item has the last row of the position table, and the last slot of a positional
    attention, however long the history is and wherever its padding stands. Blocks are pre-norm, as
    in section III-C of SASRec's paper; the released code also adds the normalised query, instead
    of the input, to the result of the attention, which is not done here.
    """

    token_tables: ClassVar[Mapping[str, str]] = {"tokens": "items"}

    def __init__(self, config: RecommenderConfig, num_items: int, *, rngs: nnx.Rngs):
        self.config, dim = config, config.dim
        self.items = Embedding(num_items, dim, rngs=rngs)
        self.positions = Embedding(config.max_length, dim, rngs=rngs)
        blocks = [_block(config, rngs) for _ in range(config.layers)]
        self.decoder = Stack(blocks, scan=config.scan, remat=config.remat)
        self.norm = LayerNorm(dim, eps=config.norm_eps, rngs=rngs)
        self.check_settings(attention_dropout="dropout")

    @property
    def max_length(self) -> int:
        """Number of latest items that the model reads."""
        return self.config.max_length

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        valid: Bool[Array, "B T"] | None = None,
        documents: Int[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return the scores ``B T V`` of every item as the next one, after each item.

        ``capture`` adds a dict of the requested maps, "decoder/0/self", ... The arguments are those
        of :meth:`states`.
        """
        x, maps = self.states(tokens, valid=valid, documents=documents, rngs=rngs, capture=capture)
        return (self.items.logits(x), maps) if capture else self.items.logits(x)

    def states(
        self,
        tokens: Int[Array, "B T"],
        *,
        valid: Bool[Array, "B T"] | None = None,
        documents: Int[Array, "B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, Any]]:
        """Return the normalised states after the last block, and the maps requested by ``capture``.

        The score of an item is the product of the state and the item's embedding. ValueError: more
        items than ``max_length``.

        Args:
          tokens: numbers of the items, oldest first. rngs: switches dropout on.
          valid: False at padding, to which no item attends.
          documents: numbers of the histories in a packed row.
        """
        T, longest = tokens.shape[1], self.config.max_length
        check_length("tokens", T, longest)
        positions = positions_from_end(valid, documents, longest)
        if positions is None:
            positions = jnp.arange(longest - T, longest, dtype=jnp.int32)[None]
        x = self.items(tokens)
        x = x * jnp.asarray(self.config.dim**0.5, x.dtype)
        x = x + broadcast_parameter(self.positions(positions), x.shape)
        x, maps = self.decoder(
            dropout(x, self.config.dropout, dropout_key(rngs)),
            valid=valid,
            mask=None if documents is None else masks.document(documents),
            positions=positions,
            key=dropout_key(rngs),
            return_weights=capture,
        )
        return self.norm(x), {f"decoder/{name}": m for name, m in maps.items()}


def _block(config: RecommenderConfig, rngs: nnx.Rngs) -> Block:
    site = Site.of_itself(
        config.dim,
        is_causal=True,
        max_length=config.max_length,
        use_bias=True,
        dropout=config.attention_dropout,
    )
    return build_block(
        config,
        config.attention,
        site,
        LayerNorm,
        hidden=config.hidden or config.dim,
        hidden_dropout=config.dropout,
        rngs=rngs,
    )

"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.projection import LayerNorm
from attnzoo.config import gpt2
from attnzoo.layers.block import Block, build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.stack import Stack
from attnzoo.models.causal import CausalModel
from attnzoo.models.model import check_length, default_positions, dropout_key
from attnzoo.ops.wide_sums import broadcast_parameter


class GPT2(CausalModel):
    """Causal language model with learned positions; ``attnzoo.config.gpt2`` documents the settings.

    Weights start at N(0, 0.02^2); output projections of residual branches are divided by
    sqrt(2 layers) (section 2.3 of the paper). Attention other than multi-head starts as in its own
    paper.
    """

    def __init__(self, config: gpt2.GPT2Config, vocab_size: int, *, rngs: nnx.Rngs):
        self.config, dim = config, config.dim
        self.embedding = Embedding(vocab_size, dim, rngs=rngs)
        self.positions = Embedding(config.max_length, dim, rngs=rngs)
        self.output = None if config.tied else Embedding(vocab_size, dim, rngs=rngs)
        blocks = [_block(config, rngs) for _ in range(config.layers)]
        self.decoder = Stack(blocks, scan=config.scan, remat=config.remat)
        self.norm = LayerNorm(dim, eps=config.norm_eps, rngs=rngs)
        self.check_settings(attention_dropout="dropout")

    def _embed(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "#B T"] | None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B T D"]:
        if positions is None:
            self._check(tokens.shape[1])
            positions = default_positions(tokens)
        x = self.embedding(tokens)
        x = x + broadcast_parameter(self.positions(positions), x.shape)
        return dropout(x, self.config.dropout, dropout_key(rngs))

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        return (self.output or self.embedding).logits(self.norm(x))

    def _check(self, length: int) -> None:
        check_length("tokens", length, self.config.max_length)


def _block(config: gpt2.GPT2Config, rngs: nnx.Rngs) -> Block:
    init = jax.nn.initializers.normal(0.02)
    out_init = jax.nn.initializers.normal(0.02 / (2 * config.layers) ** 0.5)
    site = Site.of_itself(
        config.dim,
        is_causal=True,
        max_length=config.max_length,
        use_bias=config.use_bias,
        dropout=config.attention_dropout,
        kernel_init=init,
        out_init=out_init,
    )
    feed: dict[str, Any] = {"hidden": config.hidden or 4 * config.dim, "use_bias": config.use_bias}
    return build_block(config, config.attention, site, LayerNorm, **feed, rngs=rngs)

"""Llama decoder (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288) and related models."""

import dataclasses
from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.projection import RMSNorm
from attnzoo.config.llama import LlamaConfig
from attnzoo.config.rotary import RotaryScaling
from attnzoo.layers.block import Block, build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.stack import Stack
from attnzoo.models.causal import CausalModel
from attnzoo.models.model import dropout_key
from attnzoo.ops import rotary
from attnzoo.ops.rotary import Rotary


class Llama(CausalModel):
    """Causal language model with rotary positions; ``attnzoo.config.llama`` documents the settings.

    Weights start at N(0, 0.02^2); output projections of residual branches are divided by
    sqrt(2 layers) as in GPT-2 (the papers do not say). Attention other than multi-head starts as in
    its own paper, and encodes positions in its own way.
    """

    def __init__(self, config: LlamaConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config, dim = config, config.dim
        self.embedding = Embedding(vocab_size, dim, rngs=rngs)
        self.output = None if config.tied else Embedding(vocab_size, dim, rngs=rngs)
        blocks = [_block(config, rngs) for _ in range(config.layers)]
        self.decoder = Stack(blocks, scan=config.scan, remat=config.remat)
        self.norm = RMSNorm(dim, eps=config.norm_eps, rngs=rngs)
        self.check_settings(
            attention_dropout="dropout",
            rotary_base="rotary",
            rotary_width="rotary",
            rotary_scaling="rotary",
            qkv_bias="bias",
            out_bias="bias",
        )

    def _embed(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "#B T"] | None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B T D"]:
        return dropout(self.embedding(tokens), self.config.dropout, dropout_key(rngs))

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        return (self.output or self.embedding).logits(self.norm(x))


def _block(config: LlamaConfig, rngs: nnx.Rngs) -> Block:
    init = jax.nn.initializers.normal(0.02)
    out_init = jax.nn.initializers.normal(0.02 / (2 * config.layers) ** 0.5)
    site = Site.of_itself(
        config.dim,
        is_causal=True,
        max_length=config.max_length,
        use_bias=config.qkv_bias,
        out_bias=config.out_bias,
        rotary=Rotary(
            base=config.rotary_base,
            scaling=_scaling(config.rotary_scaling),
            width=config.rotary_width,
        ),
        norm_eps=config.norm_eps,
        dropout=config.attention_dropout,
        kernel_init=init,
        out_init=out_init,
    )
    return build_block(
        config, config.attention, site, RMSNorm, gated=True, use_bias=config.hidden_bias, rngs=rngs
    )


SCALINGS: dict[str, Callable[..., rotary.Scaling]] = {
    "linear": rotary.LinearScaling,
    "ntk": rotary.NTKScaling,
    "dynamic": rotary.DynamicNTKScaling,
    "yarn": rotary.YaRNScaling,
    "llama3": rotary.Llama3Scaling,
}


def _scaling(config: RotaryScaling | None) -> rotary.Scaling | None:
    if config is None:
        return None
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return SCALINGS[settings.pop("kind")](**settings)

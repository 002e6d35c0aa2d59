"""Llama decoder (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288) and related models."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.cache import Kind
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
        blocks = [_block(config, layer, rngs) for layer in range(config.layers)]
        self.decoder = Stack(blocks, scan=config.scan, remat=config.remat)
        self.norm = RMSNorm(dim, eps=config.norm_eps, shift=_shift(config), rngs=rngs)
        self.check_settings(
            attention_dropout="dropout",
            rotary_base="rotary",
            local_rotary_base="rotary",
            rotary_width="rotary",
            rotary_scaling="rotary",
            qkv_bias="bias",
            out_bias="bias",
        )

    def _cache(self, layer: int, cache: Kind) -> Kind:
        """Return the kind of cache; layers that see all positions keep them beside windows."""
        config = self.config
        mixed = config.window is not None and config.is_global(layer)
        return "plain" if cache == "window" and mixed else cache

    def _embed(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "#B T"] | None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B T D"]:
        x = self.embedding(tokens)
        if self.config.scale_embeddings:
            x = x * jnp.asarray(math.sqrt(self.config.dim), x.dtype)
        return dropout(x, self.config.dropout, dropout_key(rngs))

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        logits = (self.output or self.embedding).logits(self.norm(x))
        cap = self.config.logit_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)


def _shift(config: LlamaConfig) -> float:
    return 1.0 if config.shifted_norms else 0.0


def _block(config: LlamaConfig, layer: int, rngs: nnx.Rngs) -> Block:
    attention: Any = config.attention
    local = not config.is_global(layer)
    if config.window is not None and not local:
        attention = dataclasses.replace(attention, window=None)
    local_base = config.local_rotary_base if local else None
    turn = functools.partial(Rotary, width=config.rotary_width)
    scaled = functools.partial(turn, scaling=_scaling(config.rotary_scaling))
    init = jax.nn.initializers.normal(0.02)
    out_init = jax.nn.initializers.normal(0.02 / (2 * config.layers) ** 0.5)
    site = Site.of_itself(
        config.dim,
        is_causal=True,
        max_length=config.max_length,
        use_bias=config.qkv_bias,
        out_bias=config.out_bias,
        rotary=scaled(base=config.rotary_base) if local_base is None else turn(base=local_base),
        norm_eps=config.norm_eps,
        norm_shift=_shift(config),
        dropout=config.attention_dropout,
        kernel_init=init,
        out_init=out_init,
    )
    return build_block(
        config,
        attention,
        site,
        functools.partial(RMSNorm, shift=_shift(config)),
        gated=True,
        use_bias=config.hidden_bias,
        branch_norms=config.branch_norms,
        experts=config.experts,
        rngs=rngs,
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

"""From one config line to the attention of a sequence to itself."""

import functools

import jax
from flax import nnx

from attnzoo.attention import (
    AdditiveAttention,
    Attention,
    CausalLinearAttention,
    DeltaNet,
    FactorisedPositionalAttention,
    FastWeightProgrammer,
    GatedLinearAttention,
    LatentAttention,
    LinearAttention,
    MultiHeadAttention,
    MultiplicativeAttention,
    PositionalAttention,
    RetNetAttention,
    Rotary,
    Synthesizer,
)
from attnzoo.attention.projection import Initializer, RMSNorm, glorot_uniform
from attnzoo.config.attention import SelfAttention as SelfAttentionConfig
from attnzoo.config.attention import source_slots
from attnzoo.layers.self_attention import SelfAttention
from attnzoo.models.cross_attention import NORMALISERS
from attnzoo.ops import masks


def build_self_attention(
    config: SelfAttentionConfig,
    dim: int,
    *,
    is_causal: bool,
    max_length: int,
    use_bias: bool = False,
    out_bias: bool | None = None,
    rotary: Rotary | None = None,
    scale: float | None = None,
    norm_eps: float = 1e-6,
    dropout: float = 0.0,
    kernel_init: Initializer = glorot_uniform,
    out_init: Initializer = glorot_uniform,
    rngs: nnx.Rngs,
) -> SelfAttention:
    """Attention of states of width ``dim`` to each other, or to those before them if ``is_causal``.

    What follows ``max_length`` is for multi-head attention: the others have their papers' own.
    A model that has no rotary positions passes None.

    Raises:
      ValueError: sizes that do not fit, or a mechanism that cannot look ahead in an encoder.
    """
    slots = source_slots(config)
    if slots is not None and slots < max_length:
        raise ValueError(
            f"attention.max_length={slots} is below max_length={max_length} of the model: "
            f"attention.kind={config.kind!r} has a slot for each position"
        )
    mechanism = _mechanism(
        config,
        dim,
        is_causal=is_causal,
        use_bias=use_bias,
        out_bias=out_bias,
        rotary=rotary,
        scale=scale,
        norm_eps=norm_eps,
        dropout=dropout,
        kernel_init=kernel_init,
        out_init=out_init,
        rngs=rngs,
    )
    return SelfAttention(mechanism, is_causal=is_causal)


def _mechanism(
    config: SelfAttentionConfig, dim: int, *, is_causal: bool, rngs: nnx.Rngs, **multi_head
) -> Attention:
    match config.kind:
        case "multi_head":
            eps = multi_head.pop("norm_eps")
            window = None
            if config.window is not None:
                size = config.window
                window = masks.sliding_window(size) if is_causal else masks.symmetric_window(size)
            return MultiHeadAttention(
                dim,
                config.num_heads,
                num_kv_heads=config.num_kv_heads,
                head_dim=config.head_dim,
                qk_norm=functools.partial(RMSNorm, eps=eps) if config.qk_norm else None,
                mask_mod=window,
                sinks=config.sinks,
                rngs=rngs,
                **multi_head,
            )
        case "latent":
            return LatentAttention(
                dim,
                config.num_heads,
                latent_dim=config.latent_dim,
                rotary_dim=config.rotary_dim,
                head_dim=config.head_dim,
                rngs=rngs,
            )
        case "linear" if is_causal:
            return CausalLinearAttention(dim, config.num_heads, rngs=rngs)
        case "linear":
            return LinearAttention(dim, config.num_heads, rngs=rngs)
        case "fast_weight":
            return FastWeightProgrammer(dim, config.num_heads, rngs=rngs)
        case "delta_net":
            return DeltaNet(dim, config.num_heads, rngs=rngs)
        case "gated_linear":
            return GatedLinearAttention(dim, config.num_heads, rngs=rngs)
        case "retnet":
            return RetNetAttention(dim, config.num_heads, rngs=rngs)
        case "additive":
            width = config.width or dim
            return AdditiveAttention(
                dim,
                dim,
                width,
                kernel_init=jax.nn.initializers.lecun_normal(),
                score_init=jax.nn.initializers.normal(width**-0.5),
                normalise=NORMALISERS[config.normalise],
                rngs=rngs,
            )
        case "dot" | "scaled_dot" | "general" | "concat":
            return MultiplicativeAttention(
                dim,
                dim,
                config.kind,
                width=config.width if config.kind == "concat" else None,
                normalise=NORMALISERS[config.normalise],
                rngs=rngs,
            )
        case "positional":
            return PositionalAttention(
                dim, config.max_length, config.num_heads, mask_mod=None, rngs=rngs
            )
        case "factorised_positional":
            return FactorisedPositionalAttention(
                dim,
                config.max_length,
                config.num_heads,
                rank=config.rank,
                mask_mod=None,
                rngs=rngs,
            )
        case "synthesizer":
            return Synthesizer(dim, config.max_length, config.num_heads, config.variant, rngs=rngs)
        case kind:
            raise NotImplementedError(f"attention.kind={kind!r} does not read its own sequence")

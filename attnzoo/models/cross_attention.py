"""From one config line to the attention of a decoder over a source."""

import jax
from flax import nnx

from attnzoo.attention import (
    AdditiveAttention,
    Attention,
    FactorisedPositionalAttention,
    FixedAttention,
    HardAttention,
    IntraTemporalAttention,
    LatentAttention,
    LinearAttention,
    LocalMonotonicAttention,
    LocalPredictiveAttention,
    LocationAttention,
    MultiHeadAttention,
    MultiplicativeAttention,
    PositionalAttention,
    Synthesizer,
)
from attnzoo.attention.projection import RMSNorm
from attnzoo.config.attention import Attention as AttentionConfig
from attnzoo.ops.normalisers import Normalise, entmax15, sparsemax
from attnzoo.ops.softmax import masked_softmax

NORMALISERS: dict[str, Normalise] = {
    "softmax": masked_softmax,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
}


def build_cross_attention(
    config: AttentionConfig,
    query_dim: int,
    key_dim: int,
    value_dim: int,
    *,
    scaled: bool = False,
    rngs: nnx.Rngs,
) -> Attention:
    """Attention of queries of ``query_dim`` over keys of ``key_dim``; contexts have ``value_dim``.

    Mechanisms of the zoo that are not here do not fit a decoder over a source: the fast weights
    that are written and read in one causal pass, blocks that return more than what they read
    (MAB), and attention over the neighbours in a graph.

    Args:
      scaled: start additive attention at variance 1 / inputs instead of uniform weights.

    Raises:
      ValueError: widths that do not fit the mechanism, by name.
    """
    match config.kind:
        case "additive":
            width = config.width or query_dim
            return _additive(width, query_dim, key_dim, scaled, config.normalise, rngs)
        case "dot" | "scaled_dot" | "general" | "concat":
            width = config.width if config.kind == "concat" else None
            normalise = NORMALISERS[config.normalise]
            return MultiplicativeAttention(
                query_dim, key_dim, config.kind, width=width, normalise=normalise, rngs=rngs
            )
        case "location":
            return LocationAttention(query_dim, config.max_length, rngs=rngs)
        case "local_m":
            return LocalMonotonicAttention(
                query_dim, key_dim, config.score, window=config.window, rngs=rngs
            )
        case "local_p":
            return LocalPredictiveAttention(
                query_dim, key_dim, config.score, window=config.window, rngs=rngs
            )
        case "intra_temporal":
            return IntraTemporalAttention(query_dim, key_dim, rngs=rngs)
        case "hard":
            if config.score == "additive":
                content = _additive(query_dim, query_dim, key_dim, scaled, "softmax", rngs)
            else:
                content = MultiplicativeAttention(query_dim, key_dim, config.score, rngs=rngs)
            return HardAttention(content)
        case "multi_head":
            return MultiHeadAttention(
                query_dim,
                config.num_heads,
                num_kv_heads=config.num_kv_heads,
                key_dim=key_dim,
                value_dim=value_dim,
                out_dim=value_dim,
                qk_norm=RMSNorm if config.qk_norm else None,
                sinks=config.sinks,
                rngs=rngs,
            )
        case "latent":
            if value_dim != key_dim:
                raise ValueError(
                    f"attention.kind='latent' makes keys and values of one vector, but keys have "
                    f"width {key_dim} and values {value_dim}; model.reads='words' does not fit it"
                )
            return LatentAttention(
                query_dim,
                config.num_heads,
                latent_dim=config.latent_dim,
                rotary_dim=config.rotary_dim,
                head_dim=config.head_dim,
                key_dim=key_dim,
                out_dim=value_dim,
                rngs=rngs,
            )
        case "linear":
            return LinearAttention(
                query_dim,
                config.num_heads,
                key_dim=key_dim,
                value_dim=value_dim,
                out_dim=value_dim,
                rngs=rngs,
            )
        case "positional":
            return PositionalAttention(
                value_dim, config.max_length, config.num_heads, mask_mod=None, rngs=rngs
            )
        case "factorised_positional":
            return FactorisedPositionalAttention(
                value_dim,
                config.max_length,
                config.num_heads,
                rank=config.rank,
                mask_mod=None,
                rngs=rngs,
            )
        case "synthesizer":
            return Synthesizer(
                query_dim,
                config.max_length,
                config.num_heads,
                config.variant,
                value_dim=value_dim,
                out_dim=value_dim,
                rngs=rngs,
            )
        case "none":
            return FixedAttention()
        case kind:
            raise NotImplementedError(f"attention.kind={kind!r} does not fit a decoder")


def _additive(
    width: int, query_dim: int, key_dim: int, scaled: bool, normalise: str, rngs: nnx.Rngs
) -> AdditiveAttention:
    inits = {
        "kernel_init": jax.nn.initializers.lecun_normal(),
        "score_init": jax.nn.initializers.normal(width**-0.5),
    }
    return AdditiveAttention(
        query_dim,
        key_dim,
        width,
        normalise=NORMALISERS[normalise],
        **(inits if scaled else {}),
        rngs=rngs,
    )

"""Which attention a model uses: one line of a config, ``attention: additive``."""

from typing import Annotated, Literal

from attnzoo.config.fields import Kind, Positive, config

Normaliser = Literal["softmax", "sparsemax", "entmax15"]


@config
class Additive:
    """v . tanh(W query + U key) (Bahdanau et al. 2015, appendix A.1.2)."""

    kind: Literal["additive"] = "additive"
    width: Annotated[int, Positive] | None = None
    """Width of the alignment layer; null: that of the queries."""
    normalise: Normaliser = "softmax"
    """From scores to weights: softmax, or with exact zeros, sparsemax (Martins and Astudillo 2016)
    and 1.5-entmax between the two (Peters et al. 2019)."""


@config
class Dot:
    """query . key; both need the same width (Luong et al. 2015, eq. 8)."""

    kind: Literal["dot"] = "dot"
    normalise: Normaliser = "softmax"
    """From scores to weights: softmax, or with exact zeros, sparsemax (Martins and Astudillo 2016)
    and 1.5-entmax between the two (Peters et al. 2019)."""


@config
class ScaledDot:
    """query . key / sqrt(width) (Vaswani et al. 2017, eq. 1)."""

    kind: Literal["scaled_dot"] = "scaled_dot"
    normalise: Normaliser = "softmax"
    """From scores to weights: softmax, or with exact zeros, sparsemax (Martins and Astudillo 2016)
    and 1.5-entmax between the two (Peters et al. 2019)."""


@config
class General:
    """query . W key (Luong et al. 2015, eq. 8)."""

    kind: Literal["general"] = "general"
    normalise: Normaliser = "softmax"
    """From scores to weights: softmax, or with exact zeros, sparsemax (Martins and Astudillo 2016)
    and 1.5-entmax between the two (Peters et al. 2019)."""


@config
class Concat:
    """v . tanh(W [query ; key]) (Luong et al. 2015, eq. 8), all of W learned."""

    kind: Literal["concat"] = "concat"
    width: Annotated[int, Positive] | None = None
    """Width of the hidden layer; null: that of the queries."""
    normalise: Normaliser = "softmax"
    """From scores to weights: softmax, or with exact zeros, sparsemax (Martins and Astudillo 2016)
    and 1.5-entmax between the two (Peters et al. 2019)."""


@config
class Location:
    """Weights from the query alone, one logit a source position (Luong et al. 2015, eq. 9)."""

    kind: Literal["location"] = "location"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error."""


@config
class LocalM:
    """A window around the same position in the source (Luong et al. 2015, section 3.2)."""

    kind: Literal["local_m"] = "local_m"
    score: Literal["dot", "general", "concat"] = "general"
    """How positions inside the window are scored."""
    window: Annotated[int, Positive] = 10
    """Half width D: the window holds 2 D + 1 positions."""


@config
class LocalP:
    """A window around a predicted position, with a Gaussian (Luong et al. 2015, eq. 9 and 10)."""

    kind: Literal["local_p"] = "local_p"
    score: Literal["dot", "general", "concat"] = "general"
    """How positions inside the window are scored."""
    window: Annotated[int, Positive] = 10
    """Half width D: the window holds 2 D + 1 positions, the Gaussian's deviation is D / 2."""


@config
class IntraTemporal:
    """Bilinear, turning away from what former steps have read (Paulus et al. 2018, eq. 1 to 5)."""

    kind: Literal["intra_temporal"] = "intra_temporal"


@config
class Hard:
    """One source position a step, the best one; the gradient is that of the soft weights (Xu et al.
    2015, section 4.1, with the straight-through estimator)."""

    kind: Literal["hard"] = "hard"
    score: Literal["additive", "dot", "scaled_dot", "general", "concat"] = "additive"
    """How positions are scored."""


@config
class MultiHead:
    """Scaled dot products in several subspaces (Vaswani et al. 2017, section 3.2.2)."""

    kind: Literal["multi_head"] = "multi_head"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width of the queries."""
    num_kv_heads: Annotated[int, Positive] | None = None
    """Heads of keys and values: 1 is multi-query, more is grouped-query; null: as many."""
    head_dim: Annotated[int, Positive] | None = None
    """Width of a head; null: width of the queries / heads."""
    window: Annotated[int, Positive] | None = None
    """Self-attention alone: positions that each one sees, itself included; of a model that reads in
    both directions so many on either side; null: all."""
    qk_norm: bool = False
    """Queries and keys go through an RMS norm (Dehghani et al. 2023)."""
    sinks: bool = False
    """A learned logit a head takes a share of the weights and has no value."""


@config
class Latent:
    """Keys and values of all heads from one short vector a word (DeepSeek-V2 2024, section 2.1)."""

    kind: Literal["latent"] = "latent"
    num_heads: Annotated[int, Positive] = 4
    """Heads."""
    latent_dim: Annotated[int, Positive] = 64
    """Width of the short vector."""
    rotary_dim: Annotated[int, Positive] = 16
    """Part of a head that turns with the position; even."""
    head_dim: Annotated[int, Positive] = 32
    """Part of a head that does not turn, and width of its values."""

    def __post_init__(self) -> None:
        if self.rotary_dim % 2:
            raise ValueError(f"rotary_dim={self.rotary_dim} is odd; it turns in pairs")


@config
class Linear:
    """elu + 1 features instead of the exponential: linear in both lengths (Katharopoulos et al.
    2020, eq. 6)."""

    kind: Literal["linear"] = "linear"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width of the queries."""


@config
class Positional:
    """One learned logit for each pair of target and source position (Luo et al. 2024)."""

    kind: Literal["positional"] = "positional"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error. Target words
    beyond it look where the last one does."""
    num_heads: Annotated[int, Positive] = 1
    """Heads; they divide the width of what is read."""


@config
class FactorisedPositional:
    """The same logits as products of two short vectors a position (Luo et al. 2024)."""

    kind: Literal["factorised_positional"] = "factorised_positional"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error. Target words
    beyond it look where the last one does."""
    num_heads: Annotated[int, Positive] = 1
    """Heads; they divide the width of what is read."""
    rank: Annotated[int, Positive] = 8
    """Length of the vectors."""


@config
class Synthesizer:
    """The query writes a logit for each source position, no key is asked (Tay et al. 2021)."""

    kind: Literal["synthesizer"] = "synthesizer"
    variant: Literal["dense", "factorised_dense"] = "dense"
    """One logit a position, or the product of two short vectors."""
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error."""
    num_heads: Annotated[int, Positive] = 1
    """Heads; they divide the width of the queries."""


@config
class NoAttention:
    """The fixed-vector baseline: every target word sees the same summary of the source."""

    kind: Literal["none"] = "none"


Attention = Annotated[
    Additive
    | Dot
    | ScaledDot
    | General
    | Concat
    | Location
    | LocalM
    | LocalP
    | IntraTemporal
    | Hard
    | MultiHead
    | Latent
    | Linear
    | Positional
    | FactorisedPositional
    | Synthesizer
    | NoAttention,
    Kind,
]
"""How a decoder reads a source."""


@config
class FastWeight:
    """A matrix written by the delta rule on DPFP features and read by queries; causal alone (Schlag
    et al. 2021)."""

    kind: Literal["fast_weight"] = "fast_weight"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width."""


@config
class DeltaNet:
    """The delta rule with short convolutions, in chunks; causal alone (Yang et al. 2024)."""

    kind: Literal["delta_net"] = "delta_net"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width."""


@config
class GatedLinear:
    """Linear attention that forgets each feature at a rate of its own; causal alone (Yang et al.
    2024)."""

    kind: Literal["gated_linear"] = "gated_linear"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width."""


@config
class RetNet:
    """Linear attention with one fixed decay a head; causal alone (Sun et al. 2023)."""

    kind: Literal["retnet"] = "retnet"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width."""


SelfAttention = Annotated[
    MultiHead
    | Latent
    | Linear
    | FastWeight
    | DeltaNet
    | GatedLinear
    | RetNet
    | Additive
    | Dot
    | ScaledDot
    | General
    | Concat
    | Positional
    | FactorisedPositional
    | Synthesizer,
    Kind,
]
"""How a sequence reads itself."""


def source_slots(attention: Attention | SelfAttention) -> int | None:
    """Longest source in tokens, the end token included, if the attention has a slot for each."""
    return getattr(attention, "max_length", None)

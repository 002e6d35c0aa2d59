# Over 400 lines: one schema, a short class of settings for each kind of attention.
"""Attention settings of a model; a config names the kind, as in ``attention: additive``."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from attnzoo.config.fields import ByKind, NotNegative, Positive, config
from attnzoo.config.renamed import former_names

Normaliser = Literal["softmax", "sparsemax", "entmax15", "smoothing"]


@config
class AttentionConfig:
    """Settings of one attention; its subclasses are the kinds that a config can name."""

    reads: ClassVar[tuple[Literal["itself", "source"], ...]] = ("itself", "source")
    """Use as self-attention ("itself"), as cross-attention ("source"), or both."""
    mechanism: ClassVar[str | None] = None
    """Name in ``attnzoo.attention.ATTENTIONS``; None: the same as ``kind``."""

    @property
    def heads(self) -> int:
        """Number of heads of the weights; 1 for a kind without such a setting."""
        return getattr(self, "num_heads", 1)

    @property
    def slots(self) -> int | None:
        """Longest sequence in tokens, for attention with one slot per position; None: any."""
        return None


@config
class AdditiveConfig(AttentionConfig):
    """v . tanh(W query + U key) (Bahdanau et al. 2015, appendix A.1.2)."""

    kind: Literal["additive"] = "additive"
    width: Annotated[int, Positive] | None = None
    """Width of the alignment layer; null: that of the queries."""
    normalise: Normaliser = "softmax"
    """Function from scores to weights: softmax; one with exact zeros: sparsemax (Martins and
    Astudillo 2016), or 1.5-entmax between the two (Peters et al. 2019); or smoothing, with the
    sigmoid in the place of the exponential (Chorowski et al. 2015)."""


@config
class CoverageConfig(AttentionConfig):
    """Additive score with the sum of earlier weights as an input (See et al. 2017, eq. 10, 11)."""

    reads = ("source",)
    kind: Literal["coverage"] = "coverage"
    width: Annotated[int, Positive] | None = None
    """Width of the alignment layer; null: that of the queries."""
    normalise: Normaliser = "softmax"
    """Function from scores to weights: softmax, or one with exact zeros: sparsemax (Martins and
    Astudillo 2016), or 1.5-entmax between the two (Peters et al. 2019)."""


@config
class ContentConfig(AttentionConfig):
    """Settings of a content-based score of queries and keys (Luong et al. 2015, section 3.1)."""

    mechanism = "multiplicative"

    if TYPE_CHECKING:
        kind: str = ""

    normalise: Normaliser = "softmax"
    """Function from scores to weights: softmax; one with exact zeros: sparsemax (Martins and
    Astudillo 2016), or 1.5-entmax between the two (Peters et al. 2019); or smoothing, with the
    sigmoid in the place of the exponential (Chorowski et al. 2015)."""

    @property
    def score(self) -> str:
        """Name of the score in the attention module."""
        return self.kind


@config
class DotConfig(ContentConfig):
    """Dot product query . key of equal widths (Luong et al. 2015, section 3.1)."""

    mechanism = "multiplicative"
    kind: Literal["dot"] = "dot"


@config
class ScaledDotConfig(ContentConfig):
    """Scaled dot product query . key / sqrt(width) (Vaswani et al. 2017, eq. 1)."""

    mechanism = "multiplicative"
    kind: Literal["scaled_dot"] = "scaled_dot"


@config
class GeneralConfig(ContentConfig):
    """Bilinear score query . W key (Luong et al. 2015, section 3.1)."""

    mechanism = "multiplicative"
    kind: Literal["general"] = "general"


@config
class ConcatConfig(ContentConfig):
    """Score v . tanh(W [query ; key]) with a learned W (Luong et al. 2015, section 3.1)."""

    mechanism = "multiplicative"
    kind: Literal["concat"] = "concat"
    width: Annotated[int, Positive] | None = None
    """Width of the hidden layer; null: that of the queries."""


@config
class LocationConfig(AttentionConfig):
    """Location-based: the query gives one logit per source position (Luong et al. 2015, eq. 8)."""

    reads = ("source",)
    kind: Literal["location"] = "location"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error."""

    @property
    def slots(self) -> int:
        """Number of positions in the table."""
        return self.max_length


@config
class LocalMConfig(AttentionConfig):
    """Window around the same position in the source (Luong et al. 2015, section 3.2)."""

    reads = ("source",)
    kind: Literal["local_m"] = "local_m"
    score: Literal["dot", "general", "concat"] = "general"
    """Score of positions inside the window."""
    window: Annotated[int, Positive] = 10
    """Half width D: the window holds 2 D + 1 positions."""


@config
class LocalPConfig(AttentionConfig):
    """Window around a predicted position, with a Gaussian (Luong et al. 2015, eq. 9 and 10)."""

    reads = ("source",)
    kind: Literal["local_p"] = "local_p"
    score: Literal["dot", "general", "concat"] = "general"
    """Score of positions inside the window."""
    window: Annotated[int, Positive] = 10
    """Half width D: the window holds 2 D + 1 positions; the Gaussian's standard deviation is D /
    2."""


@config
class LocationAwareConfig(AttentionConfig):
    """Additive score with convolutions of the weights before (Chorowski et al. 2015, eq. 8, 9)."""

    reads = ("source",)
    kind: Literal["location_aware"] = "location_aware"
    width: Annotated[int, Positive] | None = None
    """Width of the hidden layer; null: that of the queries."""
    filters: Annotated[int, Positive] = 10
    """Number of filters over the weights of the step before."""
    kernel: Annotated[int, Positive] = 201
    """Source positions that a filter spans; an odd number."""
    normalise: Normaliser = "softmax"
    """Function from scores to weights; smoothing is that of the paper (section 2.3)."""
    sharpening: Annotated[float, Positive] = 1.0
    """Factor on the scores, 1 / temperature (section 2.2)."""
    window: Annotated[int, Positive] | None = None
    """Largest distance of a source position from the median of the weights before (section 2.2);
    null: any."""

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}; wanted an odd number of positions")


@config
class IntraTemporalConfig(AttentionConfig):
    """Bilinear score that penalises keys read at earlier steps (Paulus et al. 2018, eq. 1 to 5)."""

    reads = ("source",)
    kind: Literal["intra_temporal"] = "intra_temporal"


@config
class HardConfig(AttentionConfig):
    """Hard attention: the best source position at each step (Xu et al. 2015, section 4.1).

    The gradient is that of the soft weights (straight-through estimator).
    """

    reads = ("source",)
    kind: Literal["hard"] = "hard"
    score: Literal["additive", "dot", "scaled_dot", "general", "concat"] = "additive"
    """Score of the source positions."""


@config
class MultiHeadConfig(AttentionConfig):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2.2)."""

    kind: Literal["multi_head"] = "multi_head"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width of the queries."""
    num_kv_heads: Annotated[int, Positive] | None = None
    """Number of heads of keys and values: 1 is multi-query, more is grouped-query attention; null:
    `num_heads`."""
    head_dim: Annotated[int, Positive] | None = None
    """Width of a head; null: width of the queries / num_heads."""
    window: Annotated[int, Positive] | None = None
    """For self-attention: number of positions that each one sees, itself included; in a
    bidirectional model this many to either side; null: all."""
    global_tokens: Annotated[int, NotNegative] = 0
    """With a window: number of first positions that see all positions and are seen by all (Beltagy
    et al. 2020, section 3.1); of a causal model, among the past."""
    qk_norm: bool = False
    """Apply an RMS norm to queries and keys (Dehghani et al. 2023)."""
    key_bias: bool = True
    """Keys have a bias in models whose projections have biases (in Whisper and DINOv3 they have
    none)."""
    sinks: bool = False
    """Attention sinks: a learned logit per head takes a share of the weights, but has no value."""
    scale: Annotated[float, Positive] | None = None
    """Factor on the dot products; null: that of the model, mostly 1 / sqrt(width of a head)."""
    softcap: Annotated[float, Positive] | None = None
    """Scores s become c tanh(s / c) with this c (Gemma 2); null: no cap."""

    def __post_init__(self) -> None:
        if self.global_tokens and self.window is None:
            raise ValueError(
                f"global_tokens={self.global_tokens} has no effect without a window: all positions "
                "see each other"
            )


@config
class DifferentialConfig(AttentionConfig):
    """Differential attention: the difference of two softmaxes (Ye et al. 2024)."""

    kind: Literal["differential"] = "differential"
    num_heads: Annotated[int, Positive] = 2
    """Number of heads, each with two softmaxes: half that of multi-head attention."""
    num_kv_heads: Annotated[int, Positive] | None = None
    """Number of heads of keys and values; null: `num_heads`."""
    head_dim: Annotated[int, Positive] | None = None
    """Width of the two queries of a head; values have twice that; null: width of the queries / (2
    `num_heads`)."""
    qk_norm: bool = False
    """Apply an RMS norm to queries and keys."""
    lambda_init: float | None = None
    """Share of the second softmax that is subtracted at the start; null: 0.8 - 0.6 e^(-0.3 l) in
    layer l = 0, 1, ..."""

    def __post_init__(self) -> None:
        if self.lambda_init is not None and not 0 <= self.lambda_init < 1:
            raise ValueError(f"lambda_init={self.lambda_init}; wanted at least 0 and below 1")


@config
class ForgettingConfig(AttentionConfig):
    """Forgetting attention (FoX): scores decay by learned gates; causal only (Lin et al. 2025)."""

    reads = ("itself",)
    kind: Literal["forgetting"] = "forgetting"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width."""
    num_kv_heads: Annotated[int, Positive] | None = None
    """Number of heads of keys and values; null: `num_heads`."""
    head_dim: Annotated[int, Positive] | None = None
    """Width of a head; null: width of the model / num_heads."""
    qk_norm: bool = False
    """Apply an RMS norm to queries and keys, as the paper's "Pro" block does."""


@config
class LatentConfig(AttentionConfig):
    """Latent attention: keys and values from one short vector per token (DeepSeek-V2 2024)."""

    kind: Literal["latent"] = "latent"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads."""
    latent_dim: Annotated[int, Positive] = 64
    """Width of the latent vector."""
    rotary_dim: Annotated[int, Positive] = 16
    """Width of the part of a head that rotary embedding rotates; even."""
    head_dim: Annotated[int, Positive] = 32
    """Width of the other part of a head, and of its values."""

    def __post_init__(self) -> None:
        if self.rotary_dim % 2:
            raise ValueError(f"rotary_dim={self.rotary_dim}; wanted an even number (pairs rotate)")


@config
class CosineConfig(AttentionConfig):
    """Cosine similarity over a learned temperature per head (Swin V2, Liu et al. 2022, eq. 2)."""

    kind: Literal["cosine"] = "cosine"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width of the queries."""


@config
class LinearConfig(AttentionConfig):
    """Linear attention with the feature map elu + 1 (Katharopoulos et al. 2020, eq. 6)."""

    kind: Literal["linear"] = "linear"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width of the queries."""


@config
class PositionalConfig(AttentionConfig):
    """Positional attention: a learned logit per pair of positions (Luo et al. 2024)."""

    kind: Literal["positional"] = "positional"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error. Target positions
    beyond it have the weights of the last one."""
    num_heads: Annotated[int, Positive] = 1
    """Number of heads; must divide the width of the values."""

    @property
    def slots(self) -> int:
        """Number of positions in the table."""
        return self.max_length


@config
class FactorisedPositionalConfig(AttentionConfig):
    """Positional attention with logits of low rank (Luo et al. 2024)."""

    kind: Literal["factorised_positional"] = "factorised_positional"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error. Target positions
    beyond it have the weights of the last one."""
    num_heads: Annotated[int, Positive] = 1
    """Number of heads; must divide the width of the values."""
    rank: Annotated[int, Positive] = 8
    """Rank of the logits."""

    @property
    def slots(self) -> int:
        """Number of positions in the table."""
        return self.max_length


@config
class SynthesizerConfig(AttentionConfig):
    """Synthesizer: the query gives a logit per source position, without keys (Tay et al. 2021)."""

    kind: Literal["synthesizer"] = "synthesizer"
    variant: Literal["dense", "factorised_dense"] = "dense"
    """Logits from a two-layer network (dense), or as products of two short vectors."""
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error."""
    num_heads: Annotated[int, Positive] = 1
    """Number of heads; must divide the width of the queries."""

    @property
    def slots(self) -> int:
        """Number of positions in the table."""
        return self.max_length


@config
class LinformerConfig(AttentionConfig):
    """Linformer: keys and values projected along the length; not causal (Wang et al. 2020)."""

    kind: Literal["linformer"] = "linformer"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width of the queries."""
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error."""
    rank: Annotated[int, Positive] = 16
    """Number of rows to which keys and values are projected."""
    share: Literal["none", "heads", "all"] = "heads"
    """Projections along the length: for each head and for keys and values (none), one for the keys
    and one for the values of all heads (heads), or one for all (all)."""

    def __post_init__(self) -> None:
        if self.rank > self.max_length:
            raise ValueError(
                f"rank={self.rank} is above max_length={self.max_length}; wanted fewer rows than "
                "positions"
            )

    @property
    def slots(self) -> int:
        """Number of positions in the table."""
        return self.max_length


@config
class HopfieldConfig(AttentionConfig):
    """Hopfield network: queries move to stored patterns before they read (Ramsauer et al. 2020)."""

    kind: Literal["hopfield"] = "hopfield"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width of the queries."""
    beta: Annotated[float, Positive] | None = None
    """Inverse temperature: a large one retrieves single patterns, a small one averages; null: 1 /
    sqrt(width of a head)."""
    steps: Annotated[int, Positive] = 3
    """Largest number of updates; the last one reads the values, so 1 is multi-head attention."""


@config
class LSHConfig(AttentionConfig):
    """Locality-sensitive hashing: queries read keys of their bucket (Kitaev et al. 2020)."""

    reads = ("itself",)
    kind: Literal["lsh"] = "lsh"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width."""
    num_buckets: Annotated[int, Positive] = 8
    """Number of buckets; even. About sequence length / `chunk`."""
    chunk: Annotated[int, Positive] = 16
    """Number of keys in a chunk; a query reads its own chunk and the one before."""
    rounds: Annotated[int, Positive] = 2
    """Number of hashes; a query reads the keys that any of them finds."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the rotations that hash."""

    def __post_init__(self) -> None:
        if self.num_buckets % 2 or self.num_buckets > 2000:
            raise ValueError(f"num_buckets={self.num_buckets}; wanted an even number up to 2000")


@config
class NativeSparseConfig(AttentionConfig):
    """Native sparse attention: blocks, the best of them, a window; causal (Yuan et al. 2025)."""

    reads = ("itself",)
    kind: Literal["native_sparse"] = "native_sparse"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width."""
    num_kv_heads: Annotated[int, Positive] | None = None
    """Number of heads of keys and values; heads that share one select the same blocks; null:
    `num_heads`."""
    head_dim: Annotated[int, Positive] | None = None
    """Width of a head; null: width of the model / num_heads."""
    block: Annotated[int, Positive] = 32
    """Number of positions in a block, which is compressed to one key, and selected as a whole."""
    selected: Annotated[int, Positive] = 16
    """Number of blocks whose positions a query reads: its own, the one before, the first, and the
    best others."""
    window: Annotated[int, Positive] = 512
    """Number of last positions that a query reads, itself included."""


@config
class NoAttentionConfig(AttentionConfig):
    """Fixed-vector baseline: every target token sees the same summary of the source."""

    reads = ("source",)
    kind: Literal["none"] = "none"


@config
class FastWeightConfig(AttentionConfig):
    """Fast weights: the delta rule on DPFP features; causal only (Schlag et al. 2021)."""

    reads = ("itself",)
    kind: Literal["fast_weight"] = "fast_weight"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width."""


@config
class DeltaNetConfig(AttentionConfig):
    """DeltaNet: the delta rule with short convolutions; causal only (Yang et al. 2024)."""

    reads = ("itself",)
    kind: Literal["delta_net"] = "delta_net"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width."""
    gated: bool = False
    """Gated DeltaNet (Yang et al. 2025): the memory decays, and a gate multiplies the output."""
    max_beta: Annotated[float, Positive] = 1.0
    """Largest write strength: 1, or 2 for negative eigenvalues (Grazzi et al. 2025)."""

    def __post_init__(self) -> None:
        if self.max_beta > 2:
            raise ValueError(f"max_beta={self.max_beta}; wanted at most 2, or the memory explodes")


@config
class KimiDeltaConfig(AttentionConfig):
    """Kimi Delta Attention: the delta rule, each channel decays; causal only (Kimi Team 2025)."""

    reads = ("itself",)
    kind: Literal["kimi_delta"] = "kimi_delta"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width."""
    rank: Annotated[int, Positive] | None = None
    """Width between the two factors of the decay's and of the gate's projection; null: that of a
    head."""
    max_beta: Annotated[float, Positive] = 1.0
    """Largest write strength: 1, or 2 for negative eigenvalues (Grazzi et al. 2025)."""

    def __post_init__(self) -> None:
        if self.max_beta > 2:
            raise ValueError(f"max_beta={self.max_beta}; wanted at most 2, or the memory explodes")


@config
class GatedLinearConfig(AttentionConfig):
    """Gated linear attention, a learned decay per feature; causal only (Yang et al. 2024)."""

    reads = ("itself",)
    kind: Literal["gated_linear"] = "gated_linear"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width."""


@config
class RetNetConfig(AttentionConfig):
    """Retention: linear attention with a fixed decay per head; causal only (Sun et al. 2023)."""

    reads = ("itself",)
    kind: Literal["retnet"] = "retnet"
    num_heads: Annotated[int, Positive] = 4
    """Number of heads; must divide the width."""


def _kinds(reads: str) -> Any:
    """Return the union of the kinds in this module that support ``reads``."""
    all_kinds = (*AttentionConfig.__subclasses__(), *ContentConfig.__subclasses__())
    found = [cls for cls in all_kinds if hasattr(cls, "kind") and reads in cls.reads]
    return Union.__getitem__(tuple(found))


if TYPE_CHECKING:
    Attention = Any
    SelfAttention = Any
else:
    Attention = Annotated[_kinds("source"), ByKind(AttentionConfig)]
    """How a decoder reads a source."""
    SelfAttention = Annotated[_kinds("itself"), ByKind(AttentionConfig)]
    """How a sequence reads itself."""

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

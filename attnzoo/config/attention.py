"""Which attention a model uses: one line of a config, ``attention: additive``."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from attnzoo.config.fields import ByKind, Positive, config

Normaliser = Literal["softmax", "sparsemax", "entmax15"]


@config
class AttentionConfig:
    """Settings of one attention; subclasses in this module are the kinds that a config can name."""

    reads: ClassVar[tuple[Literal["itself", "source"], ...]] = ("itself", "source")
    """What a sequence can read with it: itself, or another sequence."""
    mechanism: ClassVar[str | None] = None
    """Name in ``attnzoo.attention.ATTENTIONS``; None: the kind."""

    @property
    def heads(self) -> int:
        """Heads of the weights: 1 of a kind that has no such setting."""
        return getattr(self, "num_heads", 1)

    @property
    def slots(self) -> int | None:
        """Longest sequence in tokens of an attention that has a slot for each; None: any."""
        return None


@config
class Additive(AttentionConfig):
    """v . tanh(W query + U key) (Bahdanau et al. 2015, appendix A.1.2)."""

    kind: Literal["additive"] = "additive"
    width: Annotated[int, Positive] | None = None
    """Width of the alignment layer; null: that of the queries."""
    normalise: Normaliser = "softmax"
    """From scores to weights: softmax, or with exact zeros, sparsemax (Martins and Astudillo 2016)
    and 1.5-entmax between the two (Peters et al. 2019)."""


@config
class ContentConfig(AttentionConfig):
    """Settings of a score of queries and keys (Luong et al. 2015, section 3.1): the kind."""

    mechanism = "multiplicative"

    if TYPE_CHECKING:
        kind: str = ""

    normalise: Normaliser = "softmax"
    """From scores to weights: softmax, or with exact zeros, sparsemax (Martins and Astudillo 2016)
    and 1.5-entmax between the two (Peters et al. 2019)."""

    @property
    def score(self) -> str:
        """The score, by the name that the mechanism has for it."""
        return self.kind


@config
class Dot(ContentConfig):
    """query . key; both need the same width (Luong et al. 2015, eq. 8)."""

    mechanism = "multiplicative"
    kind: Literal["dot"] = "dot"


@config
class ScaledDot(ContentConfig):
    """query . key / sqrt(width) (Vaswani et al. 2017, eq. 1)."""

    mechanism = "multiplicative"
    kind: Literal["scaled_dot"] = "scaled_dot"


@config
class General(ContentConfig):
    """query . W key (Luong et al. 2015, eq. 8)."""

    mechanism = "multiplicative"
    kind: Literal["general"] = "general"


@config
class Concat(ContentConfig):
    """v . tanh(W [query ; key]) (Luong et al. 2015, eq. 8), all of W learned."""

    mechanism = "multiplicative"
    kind: Literal["concat"] = "concat"
    width: Annotated[int, Positive] | None = None
    """Width of the hidden layer; null: that of the queries."""


@config
class Location(AttentionConfig):
    """Weights from the query alone, one logit a source position (Luong et al. 2015, eq. 9)."""

    reads = ("source",)
    kind: Literal["location"] = "location"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error."""

    @property
    def slots(self) -> int:
        """Positions of the table."""
        return self.max_length


@config
class LocalM(AttentionConfig):
    """A window around the same position in the source (Luong et al. 2015, section 3.2)."""

    reads = ("source",)
    kind: Literal["local_m"] = "local_m"
    score: Literal["dot", "general", "concat"] = "general"
    """How positions inside the window are scored."""
    window: Annotated[int, Positive] = 10
    """Half width D: the window holds 2 D + 1 positions."""


@config
class LocalP(AttentionConfig):
    """A window around a predicted position, with a Gaussian (Luong et al. 2015, eq. 9 and 10)."""

    reads = ("source",)
    kind: Literal["local_p"] = "local_p"
    score: Literal["dot", "general", "concat"] = "general"
    """How positions inside the window are scored."""
    window: Annotated[int, Positive] = 10
    """Half width D: the window holds 2 D + 1 positions, the Gaussian's deviation is D / 2."""


@config
class IntraTemporal(AttentionConfig):
    """Bilinear, turning away from what former steps have read (Paulus et al. 2018, eq. 1 to 5)."""

    reads = ("source",)
    kind: Literal["intra_temporal"] = "intra_temporal"


@config
class Hard(AttentionConfig):
    """One source position a step, the best one; the gradient is that of the soft weights (Xu et al.
    2015, section 4.1, with the straight-through estimator)."""

    reads = ("source",)
    kind: Literal["hard"] = "hard"
    score: Literal["additive", "dot", "scaled_dot", "general", "concat"] = "additive"
    """How positions are scored."""


@config
class MultiHead(AttentionConfig):
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
class Latent(AttentionConfig):
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
class Cosine(AttentionConfig):
    """Cosines of queries and keys over a temperature that each head learns (Swin V2, Liu et al.
    2022, eq. 2)."""

    kind: Literal["cosine"] = "cosine"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width of the queries."""


@config
class Linear(AttentionConfig):
    """elu + 1 features instead of the exponential: linear in both lengths (Katharopoulos et al.
    2020, eq. 6)."""

    kind: Literal["linear"] = "linear"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width of the queries."""


@config
class Positional(AttentionConfig):
    """One learned logit for each pair of target and source position (Luo et al. 2024)."""

    kind: Literal["positional"] = "positional"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error. Target words
    beyond it look where the last one does."""
    num_heads: Annotated[int, Positive] = 1
    """Heads; they divide the width of what is read."""

    @property
    def slots(self) -> int:
        """Positions of the table."""
        return self.max_length


@config
class FactorisedPositional(AttentionConfig):
    """The same logits as products of two short vectors a position (Luo et al. 2024)."""

    kind: Literal["factorised_positional"] = "factorised_positional"
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error. Target words
    beyond it look where the last one does."""
    num_heads: Annotated[int, Positive] = 1
    """Heads; they divide the width of what is read."""
    rank: Annotated[int, Positive] = 8
    """Length of the vectors."""

    @property
    def slots(self) -> int:
        """Positions of the table."""
        return self.max_length


@config
class Synthesizer(AttentionConfig):
    """The query writes a logit for each source position, no key is asked (Tay et al. 2021)."""

    kind: Literal["synthesizer"] = "synthesizer"
    variant: Literal["dense", "factorised_dense"] = "dense"
    """One logit a position, or the product of two short vectors."""
    max_length: Annotated[int, Positive] = 52
    """Longest source in tokens, the end token included; longer ones are an error."""
    num_heads: Annotated[int, Positive] = 1
    """Heads; they divide the width of the queries."""

    @property
    def slots(self) -> int:
        """Positions of the table."""
        return self.max_length


@config
class NoAttention(AttentionConfig):
    """The fixed-vector baseline: every target word sees the same summary of the source."""

    reads = ("source",)
    kind: Literal["none"] = "none"


@config
class FastWeight(AttentionConfig):
    """A matrix written by the delta rule on DPFP features and read by queries; causal alone (Schlag
    et al. 2021)."""

    reads = ("itself",)
    kind: Literal["fast_weight"] = "fast_weight"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width."""


@config
class DeltaNet(AttentionConfig):
    """The delta rule with short convolutions, in chunks; causal alone (Yang et al. 2024)."""

    reads = ("itself",)
    kind: Literal["delta_net"] = "delta_net"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width."""


@config
class GatedLinear(AttentionConfig):
    """Linear attention that forgets each feature at a rate of its own; causal alone (Yang et al.
    2024)."""

    reads = ("itself",)
    kind: Literal["gated_linear"] = "gated_linear"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width."""


@config
class RetNet(AttentionConfig):
    """Linear attention with one fixed decay a head; causal alone (Sun et al. 2023)."""

    reads = ("itself",)
    kind: Literal["retnet"] = "retnet"
    num_heads: Annotated[int, Positive] = 4
    """Heads; they divide the width."""


def _kinds(reads: str) -> Any:
    """All kinds of this module that can read so, as a union."""
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

"""Which attention a model uses: one line of a config, ``attention: additive``."""

from typing import Annotated, Literal

from attnzoo.config.fields import Kind, Positive, config


@config
class Additive:
    """v . tanh(W query + U key) (Bahdanau et al. 2015, appendix A.1.2)."""

    kind: Literal["additive"] = "additive"
    width: Annotated[int, Positive] | None = None
    """Width of the alignment layer; null: that of the queries."""


@config
class Dot:
    """query . key; both need the same width (Luong et al. 2015, eq. 8)."""

    kind: Literal["dot"] = "dot"


@config
class ScaledDot:
    """query . key / sqrt(width) (Vaswani et al. 2017, eq. 1)."""

    kind: Literal["scaled_dot"] = "scaled_dot"


@config
class General:
    """query . W key (Luong et al. 2015, eq. 8)."""

    kind: Literal["general"] = "general"


@config
class Concat:
    """v . tanh(W [query ; key]) (Luong et al. 2015, eq. 8), all of W learned."""

    kind: Literal["concat"] = "concat"
    width: Annotated[int, Positive] | None = None
    """Width of the hidden layer; null: that of the queries."""


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
class NoAttention:
    """The fixed-vector baseline: every target word sees the same summary of the source."""

    kind: Literal["none"] = "none"


Attention = Annotated[
    Additive | Dot | ScaledDot | General | Concat | Location | LocalM | LocalP | NoAttention, Kind
]

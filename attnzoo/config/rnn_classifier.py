"""Settings of recurrent classifiers of texts."""

from typing import Annotated, Literal

from attnzoo.config.attention import AdditiveConfig, Attention
from attnzoo.config.fields import DropRate, Positive, config
from attnzoo.config.model_config import ModelConfig

DEFAULTS = AdditiveConfig(), "learned"


@config
class RnnClassifierConfig(ModelConfig):
    """Recurrent classifier of texts, whose states are pooled by an attention or without one."""

    tasks = ("sequence_classification",)
    kind: Literal["rnn_classifier"] = "rnn_classifier"
    attention: Attention = AdditiveConfig()
    """Attention from the text's query to its tokens; "none" reads the last token alone."""
    encoder: Literal["lstm", "lstmn", "words"] = "lstm"
    """Reader of the token vectors: a bidirectional LSTM; LSTMN, one that attends to its own past
    (Cheng et al. 2016); or a layer on each token by itself, without its neighbours (words)."""
    pooling: Literal["attention", "structured", "mean", "max"] = "attention"
    """Vector of the text: the states weighted by `attention`; several weighted sums of them
    (structured self-attention, Lin et al. 2017); their mean, which is attention with uniform
    weights; or the maximum of each channel."""
    query: Literal["learned", "last"] = "learned"
    """Query of `attention`: a learned vector, as in Jain and Wallace 2019, or the last state of
    each direction."""
    hops: Annotated[int, Positive] | None = None
    """Number of weighted sums of structured self-attention; 4 where none is given."""
    ends: bool = True
    """Pool the first and the last token too, which mark the ends of a text (CLS and SEP); false:
    the tokens between them alone. The encoder reads all of them."""
    embedding: Annotated[int, Positive] = 300
    """Width of the token vectors."""
    hidden: Annotated[int, Positive] = 128
    """Units of the encoder, of each direction if it has two."""
    num_classes: Annotated[int, Positive] = 2
    """Number of classes."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the token vectors and of the vector of the text."""

    def __post_init__(self) -> None:
        if self.pooling != "attention" and (self.attention, self.query) != DEFAULTS:
            raise ValueError(
                f"attention and query have no effect with pooling={self.pooling}: leave them out"
            )
        if self.pooling != "structured" and self.hops is not None:
            raise ValueError(f"hops={self.hops} has no effect with pooling={self.pooling}")

    @property
    def sums(self) -> int:
        """Number of weighted sums of the states that are the vector of the text."""
        return (self.hops or 4) if self.pooling == "structured" else 1

    @property
    def longest(self) -> int | None:
        """Longest text in tokens; None: any."""
        return self.attention.slots if self.pooling == "attention" else None

    @classmethod
    def jain_wallace(cls) -> "RnnClassifierConfig":
        """Return the sizes of Jain and Wallace 2019 (arXiv 1902.10186), appendix A."""
        return cls(ends=False)

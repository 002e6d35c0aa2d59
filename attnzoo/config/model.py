"""The translation models and their named sizes."""

from typing import Annotated, Literal

from attnzoo.config.attention import Additive, Attention, General
from attnzoo.config.fields import DropRate, Kind, Positive, config


@config
class Bahdanau:
    """Bidirectional GRU encoder, GRU decoder, maxout readout (Bahdanau et al. 2015, appendix A)."""

    kind: Literal["bahdanau"] = "bahdanau"
    attention: Attention = Additive()
    """How the decoder reads the source."""
    hidden: Annotated[int, Positive] = 1000
    """Units of the decoder and of each direction of the encoder (n)."""
    embedding: Annotated[int, Positive] = 620
    """Width of the word embeddings (m)."""
    maxout: Annotated[int, Positive] = 500
    """Width of the maxout layer before the output (l)."""
    dropout: Annotated[float, DropRate] = 0.0
    """Share of embeddings and readout units dropped while training; the paper has none."""

    @classmethod
    def paper(cls, attention: Attention | None = None) -> "Bahdanau":
        """The sizes of the paper (appendix A.2.1)."""
        return cls(attention=attention or Additive())

    @classmethod
    def small(cls, attention: Attention | None = None) -> "Bahdanau":
        """A quarter of the width: minutes on a CPU for short sentences."""
        return cls(
            attention=attention or Additive(), hidden=256, embedding=128, maxout=128, dropout=0.1
        )


@config
class Luong:
    """Stacked LSTMs with attention over the top layer (Luong et al. 2015, sections 3 and 4.1)."""

    kind: Literal["luong"] = "luong"
    attention: Attention = General()
    """How the decoder reads the source."""
    hidden: Annotated[int, Positive] = 1000
    """Cells of each layer."""
    embedding: Annotated[int, Positive] = 1000
    """Width of the word embeddings."""
    layers: Annotated[int, Positive] = 4
    """Stacked layers, in the encoder and in the decoder."""
    input_feeding: bool = True
    """The attentional state of one step is an input of the next (section 3.3)."""
    reverse_source: bool = True
    """Feed the source backwards; exported alignments are turned round again."""
    dropout: Annotated[float, DropRate] = 0.2
    """Share of the inputs of every layer dropped while training."""

    @classmethod
    def paper(cls, attention: Attention | None = None) -> "Luong":
        """The sizes of the paper (section 4.1)."""
        return cls(attention=attention or General())

    @classmethod
    def small(cls, attention: Attention | None = None) -> "Luong":
        """Two layers of a quarter of the width: minutes on a CPU for short sentences."""
        return cls(attention=attention or General(), hidden=256, embedding=128, layers=2)


Model = Annotated[Bahdanau | Luong, Kind]

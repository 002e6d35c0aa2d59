"""Settings of the pointer-generator network."""

from typing import Annotated, Literal

from attnzoo.config.attention import Attention, CoverageConfig
from attnzoo.config.fields import DropRate, NotNegative, Positive, config
from attnzoo.config.model_config import ModelConfig


@config
class PointerGeneratorConfig(ModelConfig):
    """Bidirectional LSTM encoder, LSTM decoder that writes or copies (See et al. 2017).

    It wants one vocabulary for both sides (`shared_vocabulary: true`).
    """

    tasks = ("summarisation", "translation")
    kind: Literal["pointer_generator"] = "pointer_generator"
    attention: Attention = CoverageConfig()
    """Cross-attention from decoder to source, whose weights are also those of copying."""
    hidden: Annotated[int, Positive] = 256
    """Units of the decoder and of each direction of the encoder."""
    embedding: Annotated[int, Positive] = 128
    """Width of the word embeddings, which both sides share."""
    source_words: Annotated[int, NotNegative] = 100
    """Number of temporary ids for words of a source that the vocabulary lacks, so that they can be
    copied; more in one source are unknown words."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the embeddings and of the layer before the output; the paper has none."""

    @property
    def source_slots(self) -> int | None:
        """Longest source in tokens; None: any."""
        return self.attention.slots

    @property
    def temporary_ids(self) -> int:
        """Number of ids for words of one source that the vocabulary lacks."""
        return self.source_words

    @property
    def one_vocabulary(self) -> bool:
        """True: source and target share one embedding."""
        return True

    @classmethod
    def paper(cls) -> "PointerGeneratorConfig":
        """Return the sizes of the paper (section 5), with coverage."""
        return cls()

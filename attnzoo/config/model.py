"""Settings of recurrent translators; the union of all models."""

from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.aligner import WordAlignerConfig
from attnzoo.config.attention import AdditiveConfig, Attention, GeneralConfig
from attnzoo.config.bert import BertConfig
from attnzoo.config.captioning import ShowAttendTellConfig
from attnzoo.config.decomposable import DecomposableConfig
from attnzoo.config.detection import DetrConfig
from attnzoo.config.fields import ByKind, DropRate, Layers, Positive, config
from attnzoo.config.gpt2 import GPT2Config
from attnzoo.config.llama import LlamaConfig
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.pointer_generator import PointerGeneratorConfig
from attnzoo.config.question_answering import BidafConfig
from attnzoo.config.recommender import RecommenderConfig
from attnzoo.config.renamed import former_names
from attnzoo.config.resnet import ResNetConfig
from attnzoo.config.rnn_classifier import RnnClassifierConfig
from attnzoo.config.sources import TO_TEXT, Source
from attnzoo.config.stories import MemoryNetworkConfig
from attnzoo.config.t5 import T5Config
from attnzoo.config.transformer import TransformerConfig
from attnzoo.config.two_towers import TwoTowersConfig
from attnzoo.config.vit import ViTConfig


@config
class BahdanauConfig(ModelConfig):
    """Bidirectional GRU encoder, GRU decoder, maxout readout (Bahdanau et al. 2015, appendix A)."""

    tasks = ("translation", *TO_TEXT)
    kind: Literal["bahdanau"] = "bahdanau"
    attention: Attention = AdditiveConfig()
    """Cross-attention from decoder to source."""
    source: Source | None = None
    """Encoder of a source that is no text, an image or a sound, instead of the
    embedding and the recurrent encoder of a text; null: text."""
    hidden: Annotated[int, Positive] = 1000
    """Units of the decoder and of each direction of the encoder (n)."""
    embedding: Annotated[int, Positive] = 620
    """Width of the word embeddings (m)."""
    maxout: Annotated[int, Positive] = 500
    """Width of the maxout layer before the output (l)."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of embeddings and readout units; the paper has none."""
    reads: Literal["annotations", "bridged", "words"] = "annotations"
    """Input of attention for a source token: its annotation, as in the paper; its annotation and
    word embedding concatenated (bridged: Kuang et al. 2018, arXiv 1711.05380); or the embedding,
    with weights from both (words: separate keys and values as in Mino et al. 2017). An annotation
    also knows its neighbours, so weights may lie beside the translated word. The more of the word
    itself is read, the closer the weights are to a word alignment."""
    initial_state: Literal["backward", "zero"] = "backward"
    """Initial state of the decoder: the backward encoder's last state, as in the paper, or zero. Of
    a `source` it is the mean of the features that stands for the former (Xu et al. 2015). A
    decoder that knows the first word from the start may attend one word ahead throughout: the
    translations are the same, but the weights are shifted."""
    init: Literal["fan_in", "paper"] = "fan_in"
    """Initial weights: variance 1 / inputs, or the paper's N(0, 0.01^2) with uniform attention,
    which suits widths near 1000 and learns several times more slowly at small ones."""

    @property
    def source_slots(self) -> int | None:
        """Longest source in tokens; None: any."""
        return self.attention.slots

    @classmethod
    def paper(cls, attention: Attention | None = None) -> "BahdanauConfig":
        """Return the sizes of the paper (appendix A.2.1)."""
        return cls(attention=attention or AdditiveConfig(), init="paper")

    @classmethod
    def small(cls, attention: Attention | None = None) -> "BahdanauConfig":
        """Return a quarter of the paper's width: minutes on a CPU for short sentences."""
        return cls(
            attention=attention or AdditiveConfig(),
            hidden=256,
            embedding=128,
            maxout=128,
            dropout=0.1,
        )


@config
class LuongConfig(ModelConfig):
    """Stacked LSTMs with attention over the top layer (Luong et al. 2015, sections 3 and 4.1)."""

    tasks = ("translation", *TO_TEXT)
    kind: Literal["luong"] = "luong"
    attention: Attention = GeneralConfig()
    """Cross-attention from decoder to source."""
    source: Source | None = None
    """Encoder of a source that is no text, an image or a sound, instead of the
    embedding and the recurrent encoder of a text; the decoder then starts from zero; null: text."""
    hidden: Annotated[int, Positive] = 1000
    """Number of cells of each layer."""
    embedding: Annotated[int, Positive] = 1000
    """Width of the word embeddings."""
    layers: Annotated[int, Layers] = 4
    """Number of stacked layers, in the encoder and in the decoder."""
    input_feeding: bool = True
    """The attentional vector of one step is an input of the next (section 3.3)."""
    reverse_source: bool = True
    """Feed the source in reverse; exported alignments are in the natural order."""
    dropout: Annotated[float, DropRate] = 0.2
    """Dropout rate of the inputs of every layer."""
    init: Literal["fan_in", "paper"] = "fan_in"
    """Initial weights: variance 1 / inputs, with forget gates that start open (a bias of 1), or
    uniform in [-0.1, 0.1] as in the paper, which suits widths near 1000 and learns many times more
    slowly at small ones."""

    @property
    def source_slots(self) -> int | None:
        """Longest source in tokens; None: any."""
        return self.attention.slots

    @classmethod
    def paper(cls, attention: Attention | None = None) -> "LuongConfig":
        """Return the sizes of the paper (section 4.1)."""
        return cls(attention=attention or GeneralConfig(), init="paper")

    @classmethod
    def small(cls, attention: Attention | None = None) -> "LuongConfig":
        """Return two layers of a quarter of the width: minutes on a CPU for short sentences."""
        return cls(attention=attention or GeneralConfig(), hidden=256, embedding=128, layers=2)


Model = Annotated[
    BahdanauConfig
    | LuongConfig
    | TransformerConfig
    | T5Config
    | GPT2Config
    | LlamaConfig
    | BertConfig
    | RecommenderConfig
    | ViTConfig
    | ResNetConfig
    | WordAlignerConfig
    | PointerGeneratorConfig
    | DetrConfig
    | BidafConfig
    | RnnClassifierConfig
    | DecomposableConfig
    | MemoryNetworkConfig
    | ShowAttendTellConfig
    | TwoTowersConfig,
    ByKind(ModelConfig),
]
"""Union of the architectures that a config can name."""

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

"""BERT settings, and its named sizes."""

from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.attention import MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, NotNegative, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.renamed import former_names

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


@config
class BertConfig(ModelConfig):
    """Bidirectional encoder with a head (Devlin et al. 2019); also RoBERTa, DistilBERT, ALBERT."""

    tasks = (
        "masked_lm",
        "sequence_classification",
        "token_classification",
        "question_answering",
    )
    kind: Literal["bert"] = "bert"
    attention: SelfAttention = MultiHeadConfig(num_heads=12)
    """Self-attention."""
    dim: Annotated[int, Positive] = 768
    """Width of the states (E)."""
    hidden: Annotated[int, Positive] = 3072
    """Hidden units of the feed-forward layers (F)."""
    layers: Annotated[int, Layers] = 12
    """Number of blocks (N)."""
    activation: Activation = "gelu"
    """Activation of the feed-forward layers and of the masked-token head."""
    max_length: Annotated[int, Positive] = 512
    """Longest text in tokens."""
    position_offset: Annotated[int, NotNegative] = 0
    """Row of the position table for the first token. If it is not 0, the token before that number
    is padding, which counts no position (RoBERTa: 2, with padding 1); it should be the tokenizer's
    padding token plus 1."""
    segments: Annotated[int, NotNegative] = 2
    """Number of segment ids, which tell apart the sentences of a text; 0: the model reads none
    (DistilBERT)."""
    embedding_dim: Annotated[int, Positive] | None = None
    """Width of the embeddings, which a projection brings to `dim` (ALBERT); null: `dim`, without
    projection."""
    layer_groups: Annotated[int, Layers] | None = None
    """Number of different blocks, each applied in several successive layers (ALBERT: 1); null:
    every layer has its own."""
    norm_eps: Annotated[float, Positive] = 1e-12
    """Epsilon added to the variance in the norms."""
    head: Literal["lm", "sequence", "token", "span", "none"] = "lm"
    """Output: vocabulary logits at each position (lm, for masked tokens), classes of the text
    (sequence), classes of each token (token), logits of the start and the end of an answer at each
    token (span), or the states (none)."""
    num_classes: Annotated[int, Positive] = 2
    """Number of classes, for the sequence and token heads."""
    pooler: bool = True
    """With head "none": keep the layer on the first token's state, as in transformers."""
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    """Activation of the layer on the first token's state (relu in DistilBERT)."""
    dropout: Annotated[float, DropRate] = 0.1
    """Dropout rate of the embeddings, of every branch's output and before the classifier."""
    attention_dropout: Annotated[float, DropRate] = 0.1
    """Dropout rate of the attention weights."""
    scan: bool = False
    """Scan over the layers, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, which saves memory in the backward pass: none, whole blocks (full), all
    but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @classmethod
    def tiny(cls) -> "BertConfig":
        """Return two layers of width 128 (Turc et al. 2019, arXiv 1908.08962)."""
        return cls(attention=MultiHeadConfig(num_heads=2), dim=128, hidden=512, layers=2)

    @classmethod
    def mini(cls) -> "BertConfig":
        """Return four layers of width 256 (Turc et al. 2019)."""
        return cls(attention=MultiHeadConfig(num_heads=4), dim=256, hidden=1024, layers=4)

    @classmethod
    def small(cls) -> "BertConfig":
        """Return four layers of width 512 (Turc et al. 2019)."""
        return cls(attention=MultiHeadConfig(num_heads=8), dim=512, hidden=2048, layers=4)

    @classmethod
    def base(cls) -> "BertConfig":
        """Return the base model of the paper: 110 million weights with 30,522 tokens."""
        return cls()

    @classmethod
    def large(cls) -> "BertConfig":
        """Return the large model of the paper: 340 million weights."""
        return cls(attention=MultiHeadConfig(num_heads=16), dim=1024, hidden=4096, layers=24)

    @classmethod
    def roberta_base(cls) -> "BertConfig":
        """Return RoBERTa base (Liu et al. 2019, arXiv 1907.11692), with 125 million weights.

        XLM-R base (Conneau et al. 2020, arXiv 1911.02116) is the same with 250,002 tokens.
        """
        return cls(segments=1, position_offset=2, norm_eps=1e-5)

    @classmethod
    def distilbert_base(cls) -> "BertConfig":
        """Return DistilBERT (Sanh et al. 2019, arXiv 1910.01108), with 67 million weights."""
        return cls(layers=6, segments=0, pooler_activation="relu")

    @classmethod
    def albert_base(cls) -> "BertConfig":
        """Return ALBERT base (Lan et al. 2020, arXiv 1909.11942), with 12 million weights."""
        return cls(
            embedding_dim=128,
            layer_groups=1,
            activation="gelu_tanh",
            dropout=0.0,
            attention_dropout=0.0,
        )

    @property
    def block_numbers(self) -> tuple[int, ...]:
        """Number of the block of each layer, below ``layer_groups``."""
        share = self.layers / (self.layer_groups or self.layers)
        return tuple(int(layer / share) for layer in range(self.layers))

    def __post_init__(self) -> None:
        groups = self.layer_groups
        if groups is not None and groups > self.layers:
            raise ValueError(f"layer_groups={groups}, but there are layers={self.layers}")
        if groups is not None and self.scan:
            raise ValueError("scan=true with layer_groups: a scan would give every layer its own")


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

"""BERT: an encoder over tokens, segments and learned positions, and its named sizes."""

from typing import Annotated, Literal

from attnzoo.config.attention import MultiHead, SelfAttention
from attnzoo.config.fields import DropRate, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


@config
class Bert(ModelConfig):
    """Encoder that sees both sides of a token, with a head over its states (Devlin et al. 2019)."""

    tasks = ("masked_lm", "sequence_classification", "token_classification")
    kind: Literal["bert"] = "bert"
    attention: SelfAttention = MultiHead(num_heads=12)
    """How the text reads itself."""
    dim: Annotated[int, Positive] = 768
    """Width of the states (E)."""
    hidden: Annotated[int, Positive] = 3072
    """Hidden units of the feed-forward layers (F)."""
    layers: Annotated[int, Positive] = 12
    """Blocks (N)."""
    activation: Activation = "gelu"
    """Non-linearity of the feed-forward layers and of the head of masked tokens."""
    max_length: Annotated[int, Positive] = 512
    """Longest text in tokens: rows of the table of positions."""
    segments: Annotated[int, Positive] = 2
    """Kinds of sentence that a token can be told to belong to."""
    norm_eps: Annotated[float, Positive] = 1e-12
    """Added to the variance in the norms."""
    head: Literal["lm", "sequence", "token", "none"] = "lm"
    """What is said of a text: a logit for each token of the vocabulary at each position (masked
    tokens), classes of the text, classes of each token, or nothing but the states."""
    num_classes: Annotated[int, Positive] = 2
    """Classes of the heads that have any."""
    pooler: bool = True
    """Without a head: there is a layer for the first token's state all the same, as transformers
    has it."""
    dropout: Annotated[float, DropRate] = 0.1
    """Share dropped, while training, of the embeddings, of every branch's result and before the
    classes."""
    attention_dropout: Annotated[float, DropRate] = 0.1
    """Share of attention weights dropped while training."""
    scan: bool = False
    """Loop over the layers: compilation takes as long for many layers as for one."""
    remat: Remat = "none"
    """What the backward pass computes again to save memory: nothing, whole blocks (full), all but
    the products with weights (dots), or these kept in the host's memory meanwhile (offload)."""

    @classmethod
    def tiny(cls) -> "Bert":
        """Two layers of width 128 (this and the next two: Turc et al. 2019, arXiv 1908.08962)."""
        return cls(attention=MultiHead(num_heads=2), dim=128, hidden=512, layers=2)

    @classmethod
    def mini(cls) -> "Bert":
        """Four layers of width 256."""
        return cls(attention=MultiHead(num_heads=4), dim=256, hidden=1024, layers=4)

    @classmethod
    def small(cls) -> "Bert":
        """Four layers of width 512."""
        return cls(attention=MultiHead(num_heads=8), dim=512, hidden=2048, layers=4)

    @classmethod
    def base(cls) -> "Bert":
        """The base model of the paper: 110 million weights with 30,522 tokens."""
        return cls()

    @classmethod
    def large(cls) -> "Bert":
        """The large model of the paper: 340 million weights."""
        return cls(attention=MultiHead(num_heads=16), dim=1024, hidden=4096, layers=24)

"""Settings of the trained word aligner."""

from typing import Annotated, Literal

from attnzoo.config.attention import MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.transformer import Activation


@config
class WordAlignerConfig(ModelConfig):
    """Encoder of both sentences as one sequence, whose states score all pairs of words."""

    tasks = ("word_alignment",)
    kind: Literal["word_aligner"] = "word_aligner"
    attention: SelfAttention = MultiHeadConfig(num_heads=4)
    """Self-attention over both sentences."""
    dim: Annotated[int, Positive] = 128
    """Width of the states (E)."""
    hidden: Annotated[int, Positive] = 512
    """Hidden units of the feed-forward layers (F)."""
    layers: Annotated[int, Layers] = 3
    """Number of blocks."""
    norm: Literal["post", "pre"] = "pre"
    """Place of the norms: after each residual sum (post), or before each branch."""
    norm_eps: Annotated[float, Positive] = 1e-6
    """Epsilon added to the variance in the norms."""
    activation: Activation = "gelu"
    """Activation of the feed-forward layers."""
    max_length: Annotated[int, Positive] = 1024
    """Longest pair in tokens, end tokens included; a sentence may have half of them."""
    dropout: Annotated[float, DropRate] = 0.1
    """Dropout rate of the embeddings and of every branch's output."""
    attention_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the attention weights."""
    token_dropout: Annotated[float, DropRate] = 0.0
    """Rate at which whole tokens lose their embedding, so that context must align them."""

    scan: bool = False
    """Scan over the layers, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, which saves memory in the backward pass: none, whole blocks (full), all
    but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @property
    def source_slots(self) -> int:
        """Longest source in tokens, with its end token."""
        return self.max_length // 2

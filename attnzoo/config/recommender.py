"""Settings of the sequential recommender: SASRec, PARec and FPARec by their attention."""

from typing import Annotated, Literal

from attnzoo.config.attention import (
    FactorisedPositionalConfig,
    MultiHeadConfig,
    PositionalConfig,
    SelfAttention,
)
from attnzoo.config.fields import DropRate, Layers, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.transformer import Activation


@config
class RecommenderConfig(ModelConfig):
    """Causal self-attention over a history of items (SASRec: Kang and McAuley 2018).

    With `attention.kind=positional` it is PARec, with `factorised_positional` FPARec (Luo et al.
    2024, arXiv 2407.02793).
    """

    tasks = ("recommendation",)
    kind: Literal["recommender"] = "recommender"
    attention: SelfAttention = MultiHeadConfig(num_heads=1)
    """Causal self-attention."""
    dim: Annotated[int, Positive] = 50
    """Width of the states (D)."""
    hidden: Annotated[int, Positive] | None = None
    """Hidden units of the feed-forward layers (F); null: as many as the width."""
    layers: Annotated[int, Layers] = 2
    """Number of blocks."""
    max_length: Annotated[int, Positive] = 50
    """Number of latest items that the model reads: rows of the position table, of which the last
    belongs to the latest item."""
    activation: Activation = "relu"
    """Activation of the feed-forward layers."""
    norm_eps: Annotated[float, Positive] = 1e-6
    """Epsilon added to the variance in the norms."""
    dropout: Annotated[float, DropRate] = 0.2
    """Dropout rate of the embeddings, of hidden units and of every branch's output."""
    attention_dropout: Annotated[float, DropRate] = 0.2
    """Dropout rate of the attention weights."""
    scan: bool = False
    """Scan over the layers, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, which saves memory in the backward pass: none, whole blocks (full), all
    but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @classmethod
    def sasrec(cls, max_length: int = 200) -> "RecommenderConfig":
        """Return SASRec with the sizes of its paper for MovieLens (section IV)."""
        return cls(max_length=max_length)

    @classmethod
    def parec(cls, max_length: int = 200) -> "RecommenderConfig":
        """Return PARec with the sizes of the authors' code."""
        return cls(attention=PositionalConfig(max_length=max_length), max_length=max_length)

    @classmethod
    def fparec(cls, max_length: int = 500, rank: int = 40) -> "RecommenderConfig":
        """Return FPARec with the sizes of the authors' code."""
        attention = FactorisedPositionalConfig(max_length=max_length, rank=rank)
        return cls(attention=attention, max_length=max_length)

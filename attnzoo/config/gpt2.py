"""GPT-2 settings, and its named sizes."""

from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.attention import MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.renamed import former_names
from attnzoo.config.transformer import Activation


@config
class GPT2Config(ModelConfig):
    """Decoder-only model with learned positions and pre-norm blocks (Radford et al. 2019)."""

    tasks = ("causal_lm",)
    kind: Literal["gpt2"] = "gpt2"
    attention: SelfAttention = MultiHeadConfig(num_heads=12)
    """Causal self-attention."""
    dim: Annotated[int, Positive] = 768
    """Width of the states (D)."""
    hidden: Annotated[int, Positive] | None = None
    """Hidden units of the feed-forward layers (F); null: four times the width."""
    layers: Annotated[int, Layers] = 12
    """Number of blocks."""
    max_length: Annotated[int, Positive] = 1024
    """Context in tokens: number of rows of the position table."""
    activation: Activation = "gelu_tanh"
    """Activation of the feed-forward layers."""
    use_bias: bool = True
    """Projections have biases; norms always have them."""
    norm_eps: Annotated[float, Positive] = 1e-5
    """Epsilon added to the variance in the norms."""
    tied: bool = True
    """The output layer shares the embedding table."""
    dropout: Annotated[float, DropRate] = 0.1
    """Dropout rate of the embeddings and of every branch's output."""
    attention_dropout: Annotated[float, DropRate] = 0.1
    """Dropout rate of the attention weights."""
    scan: bool = False
    """Scan over the layers, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, which saves memory in the backward pass: none, whole blocks (full), all
    but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @classmethod
    def small(cls) -> "GPT2Config":
        """Return ``gpt2``: 124 million weights."""
        return cls()

    @classmethod
    def medium(cls) -> "GPT2Config":
        """Return ``gpt2-medium``: 355 million weights."""
        return cls(attention=MultiHeadConfig(num_heads=16), dim=1024, layers=24)

    @classmethod
    def large(cls) -> "GPT2Config":
        """Return ``gpt2-large``: 774 million weights."""
        return cls(attention=MultiHeadConfig(num_heads=20), dim=1280, layers=36)

    @classmethod
    def xl(cls) -> "GPT2Config":
        """Return ``gpt2-xl``: 1.56 billion weights."""
        return cls(attention=MultiHeadConfig(num_heads=25), dim=1600, layers=48)

    @classmethod
    def char_cpu(cls) -> "GPT2Config":
        """Return the character model of nanoGPT for a CPU: 0.8 million weights, context 64."""
        return cls(
            attention=MultiHeadConfig(num_heads=4),
            dim=128,
            layers=4,
            max_length=64,
            use_bias=False,
            dropout=0.0,
            attention_dropout=0.0,
        )

    @classmethod
    def char_gpu(cls) -> "GPT2Config":
        """Return the character model of nanoGPT for a GPU: 10.6 million weights, context 256."""
        return cls(
            attention=MultiHeadConfig(num_heads=6),
            dim=384,
            layers=6,
            max_length=256,
            use_bias=False,
            dropout=0.2,
            attention_dropout=0.2,
        )


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

"""Llama settings and named sizes, with Mistral, Qwen2, Qwen3, TinyLlama and SmolLM."""

from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.attention import MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.renamed import former_names
from attnzoo.config.rotary import Llama3ScalingConfig, RotaryScaling
from attnzoo.config.transformer import Activation


@config
class LlamaConfig(ModelConfig):
    """Decoder-only model with RMS norms, rotary positions and gated layers (Touvron et al. 2023).

    arXiv 2302.13971, section 2.2.
    """

    tasks = ("causal_lm",)
    kind: Literal["llama"] = "llama"
    attention: SelfAttention = MultiHeadConfig(num_heads=32)
    """Causal self-attention."""
    dim: Annotated[int, Positive] = 4096
    """Width of the states (D)."""
    hidden: Annotated[int, Positive] = 11008
    """Hidden units of the feed-forward layers (F)."""
    layers: Annotated[int, Layers] = 32
    """Number of blocks."""
    max_length: Annotated[int, Positive] = 4096
    """Context in tokens; the room of attention with one slot per position."""
    rotary_base: Annotated[float, Positive] = 10_000.0
    """Base of the rotary frequencies: the slowest pair of channels turns once in about 2 pi times
    this many positions."""
    rotary_width: Annotated[int, Positive] | None = None
    """Number of channels per head that rotary embedding rotates; null: all."""
    rotary_scaling: RotaryScaling | None = None
    """Scaling of the rotary angles for longer contexts; null: none."""
    activation: Activation = "silu"
    """Activation of the gates."""
    qkv_bias: bool = False
    """Biases of queries, keys and values (Qwen2)."""
    out_bias: bool = False
    """Bias of the attention output."""
    hidden_bias: bool = False
    """Biases of the feed-forward layers."""
    norm_eps: Annotated[float, Positive] = 1e-5
    """Epsilon added to the mean square in the norms."""
    tied: bool = False
    """The output layer shares the embedding table."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the embeddings and of every branch's output."""
    attention_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the attention weights."""
    scan: bool = False
    """Scan over the layers, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, which saves memory in the backward pass: none, whole blocks (full), all
    but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @classmethod
    def tiny(cls) -> "LlamaConfig":
        """Return four layers of width 128: minutes on a CPU."""
        heads = MultiHeadConfig(num_heads=4, num_kv_heads=2)
        return cls(attention=heads, dim=128, hidden=384, layers=4, max_length=256, tied=True)

    @classmethod
    def small(cls) -> "LlamaConfig":
        """Return six layers of width 384, as in nanoGPT's GPU setting."""
        heads = MultiHeadConfig(num_heads=6, num_kv_heads=2)
        return cls(attention=heads, dim=384, hidden=1024, layers=6, max_length=512, tied=True)

    @classmethod
    def llama_7b(cls) -> "LlamaConfig":
        """Return Llama 2 7B (arXiv 2307.09288)."""
        return cls()

    @classmethod
    def llama3_8b(cls) -> "LlamaConfig":
        """Return Llama 3.1 8B."""
        return cls(
            attention=MultiHeadConfig(num_heads=32, num_kv_heads=8),
            hidden=14336,
            max_length=131_072,
            rotary_base=500_000.0,
            rotary_scaling=Llama3ScalingConfig(),
        )

    @classmethod
    def llama32_1b(cls) -> "LlamaConfig":
        """Return Llama 3.2 1B."""
        return cls(
            attention=MultiHeadConfig(num_heads=32, num_kv_heads=8),
            dim=2048,
            hidden=8192,
            layers=16,
            max_length=131_072,
            rotary_base=500_000.0,
            rotary_scaling=Llama3ScalingConfig(factor=32.0),
            tied=True,
        )

    @classmethod
    def tinyllama(cls) -> "LlamaConfig":
        """Return TinyLlama 1.1B (Zhang et al. 2024, arXiv 2401.02385)."""
        heads = MultiHeadConfig(num_heads=32, num_kv_heads=4)
        return cls(attention=heads, dim=2048, hidden=5632, layers=22, max_length=2048)

    @classmethod
    def smollm2_135m(cls) -> "LlamaConfig":
        """Return SmolLM2 135M (arXiv 2502.02737)."""
        return cls(
            attention=MultiHeadConfig(num_heads=9, num_kv_heads=3),
            dim=576,
            hidden=1536,
            layers=30,
            max_length=8192,
            rotary_base=100_000.0,
            tied=True,
        )

    @classmethod
    def mistral_7b(cls) -> "LlamaConfig":
        """Return Mistral 7B v0.1, with its window (Jiang et al. 2023, arXiv 2310.06825)."""
        heads = MultiHeadConfig(num_heads=32, num_kv_heads=8, window=4096)
        return cls(attention=heads, hidden=14336, max_length=32_768)

    @classmethod
    def qwen2_05b(cls) -> "LlamaConfig":
        """Return Qwen2.5 0.5B (arXiv 2412.15115)."""
        return cls(
            attention=MultiHeadConfig(num_heads=14, num_kv_heads=2),
            dim=896,
            hidden=4864,
            layers=24,
            max_length=32_768,
            rotary_base=1_000_000.0,
            qkv_bias=True,
            norm_eps=1e-6,
            tied=True,
        )

    @classmethod
    def qwen3_06b(cls) -> "LlamaConfig":
        """Return Qwen3 0.6B (arXiv 2505.09388)."""
        return cls(
            attention=MultiHeadConfig(num_heads=16, num_kv_heads=8, head_dim=128, qk_norm=True),
            dim=1024,
            hidden=3072,
            layers=28,
            max_length=40_960,
            rotary_base=1_000_000.0,
            norm_eps=1e-6,
            tied=True,
        )


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

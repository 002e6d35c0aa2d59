"""Llama settings and named sizes, with Mistral, Qwen2, Qwen3, Gemma, TinyLlama and SmolLM."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.attention import MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, NotNegative, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.renamed import former_names
from attnzoo.config.rotary import Llama3ScalingConfig, RotaryScaling
from attnzoo.config.transformer import Activation


@config
class ExpertsConfig:
    """Feed-forward layers of a block, of which each token is sent to a few by a router."""

    count: Annotated[int, Positive] = 8
    """Number of experts, each with the hidden units of the model."""
    chosen: Annotated[int, Positive] = 2
    """Number of experts of each token."""
    balance_weight: Annotated[float, NotNegative] = 0.0
    """Factor of the loss that spreads the tokens over the experts (Fedus et al. 2021, arXiv
    2101.03961, uses 0.01); it is not part of the reported loss."""

    def __post_init__(self) -> None:
        if self.chosen > self.count:
            raise ValueError(f"chosen={self.chosen} of {self.count} experts; wanted at most all")


@config
class LlamaConfig(ModelConfig):
    """Decoder-only model with RMS norms, rotary positions and gated layers (Touvron et al. 2023).

    arXiv 2302.13971, section 2.2.
    """

    tasks = ("causal_lm",)
    kind: Literal["llama"] = "llama"
    attention: SelfAttention = MultiHeadConfig(num_heads=32)
    """Causal self-attention."""
    global_layers: tuple[int, ...] | None = None
    """Layers, counted from 0, that see all positions where the others have a window (Gemma 2 and 3,
    Qwen); null: all layers are alike."""
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
    local_rotary_base: Annotated[float, Positive] | None = None
    """Base of the rotary frequencies of the layers with a window, which are then not scaled (Gemma
    3); null: as in all layers."""
    activation: Activation = "silu"
    """Activation of the gates."""
    qkv_bias: bool = False
    """Biases of queries, keys and values (Qwen2)."""
    out_bias: bool = False
    """Bias of the attention output."""
    hidden_bias: bool = False
    """Biases of the feed-forward layers."""
    experts: ExpertsConfig | None = None
    """Feed-forward layers of which each token is sent to a few (Mixtral); null: one for all
    tokens."""
    norm_eps: Annotated[float, Positive] = 1e-5
    """Epsilon added to the mean square in the norms."""
    shifted_norms: bool = False
    """Norms multiply by 1 + their weights (Gemma)."""
    branch_norms: bool = False
    """Apply a norm to the result of each branch too (Gemma 2)."""
    scale_embeddings: bool = False
    """Multiply embeddings by sqrt(dim) (Gemma)."""
    logit_softcap: Annotated[float, Positive] | None = None
    """Logits l become c tanh(l / c) with this c (Gemma 2); null: no cap."""
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
    def mixtral_8x7b(cls) -> "LlamaConfig":
        """Return Mixtral 8x7B (Jiang et al. 2024, arXiv 2401.04088)."""
        return cls(
            attention=MultiHeadConfig(num_heads=32, num_kv_heads=8),
            hidden=14336,
            max_length=32_768,
            rotary_base=1_000_000.0,
            experts=ExpertsConfig(),
        )

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

    @classmethod
    def gemma2_2b(cls) -> "LlamaConfig":
        """Return Gemma 2 2B (arXiv 2408.00118), with 256,000 tokens."""
        return dataclasses.replace(
            cls._gemma(layers=26, every=2),
            attention=MultiHeadConfig(
                num_heads=8, num_kv_heads=4, head_dim=256, window=4096, softcap=50.0
            ),
            dim=2304,
            hidden=9216,
            max_length=8192,
            logit_softcap=30.0,
        )

    @classmethod
    def gemma3_1b(cls) -> "LlamaConfig":
        """Return Gemma 3 1B (arXiv 2503.19786), with 262,144 tokens."""
        return dataclasses.replace(
            cls._gemma(layers=26, every=6),
            attention=MultiHeadConfig(
                num_heads=4, num_kv_heads=1, head_dim=256, window=512, qk_norm=True
            ),
            dim=1152,
            hidden=6912,
            max_length=32_768,
            rotary_base=1_000_000.0,
            local_rotary_base=10_000.0,
        )

    @classmethod
    def _gemma(cls, layers: int, every: int) -> "LlamaConfig":
        return cls(
            attention=MultiHeadConfig(window=1),
            layers=layers,
            global_layers=tuple(range(every - 1, layers, every)),
            activation="gelu_tanh",
            norm_eps=1e-6,
            shifted_norms=True,
            branch_norms=True,
            scale_embeddings=True,
            tied=True,
        )

    def is_global(self, layer: int) -> bool:
        """Return True if a layer sees all positions."""
        return self.window is None or layer in (self.global_layers or ())

    @property
    def window(self) -> int | None:
        """Window of the attention; None: none."""
        return getattr(self.attention, "window", None)

    def __post_init__(self) -> None:
        if self.experts is not None and self.hidden_bias:
            raise ValueError("hidden_bias=true: experts have no biases")
        for name in ("global_layers", "local_rotary_base"):
            value = getattr(self, name)
            if value is not None and self.window is None:
                raise ValueError(f"{name}={value} has no effect without attention.window")
        wrong = [one for one in self.global_layers or () if not 0 <= one < self.layers]
        if wrong:
            raise ValueError(
                f"global_layers has {wrong[0]}, but the layers are 0 .. {self.layers - 1}"
            )


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

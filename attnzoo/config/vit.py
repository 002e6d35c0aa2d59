"""Vision Transformer settings, with DeiT, DINOv2 and DINOv3, and named sizes."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attnzoo.config.attention import MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, NotNegative, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.renamed import former_names
from attnzoo.config.transformer import Activation


@config
class ViTConfig(ModelConfig):
    """Pre-norm encoder of image patches (Dosovitskiy et al. 2021).

    Other settings give DeiT (Touvron et al. 2021), DINOv2 (Oquab et al. 2023), DINOv3 (Simeoni et
    al. 2025), and the image encoder of CLIP (Radford et al. 2021).
    """

    tasks = ("image_classification",)
    kind: Literal["vit"] = "vit"
    attention: SelfAttention = MultiHeadConfig(num_heads=12)
    """Self-attention."""
    image_size: Annotated[int, Positive] = 224
    """Side of the training images in pixels; learned positions belong to its grid, and are
    interpolated for other sizes."""
    patch: Annotated[int, Positive] = 16
    """Side of a patch in pixels."""
    channels: Annotated[int, Positive] = 3
    """Channels of the images."""
    dim: Annotated[int, Positive] = 768
    """Width of the states (E)."""
    hidden: Annotated[int, Positive] = 3072
    """Hidden units of the feed-forward layers (F)."""
    layers: Annotated[int, Layers] = 12
    """Number of blocks."""
    pooling: Literal["class", "mean", "class_mean", "attention"] = "class"
    """Input of the head: the class token, the mean of the patches, both concatenated (class_mean,
    DINOv2), or attention pooling of the patches (Zhai et al. 2022, arXiv 2106.04560). Only class
    and class_mean have a class token."""
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = "learned"
    """Positions of the patches: a learned grid or sines and cosines of row and column, which are
    added to them; rotary embedding of row and column in the attention (DINOv3); or none."""
    rotary_base: Annotated[float, Positive] = 100.0
    """With rotary positions: base of the frequencies."""
    antialias: bool = False
    """Use antialiasing when the learned grid is shrunk (DINOv2 with registers)."""
    patch_bias: bool = True
    """The patch embedding has a bias (CLIP: none)."""
    pre_norm: bool = False
    """Apply a norm before the first block (CLIP)."""
    head_hidden: bool = False
    """Apply a tanh layer before the head, as in the paper's pre-training."""
    distillation: Literal["none", "token", "head"] = "none"
    """Distillation token, which learns from a teacher; "head" gives it a head of its own (DeiT)."""
    registers: Annotated[int, NotNegative] = 0
    """Number of register tokens beside the patches (Darcet et al. 2024, arXiv 2309.16588)."""
    mask_token: bool = False
    """Learned vector that replaces masked patches (DINOv2)."""
    norm_eps: Annotated[float, Positive] = 1e-6
    """Epsilon added to the variance in the norms."""
    activation: Activation = "gelu"
    """Activation of the feed-forward layers."""
    gated: bool = False
    """Use gated feed-forward layers: SwiGLU with activation=silu (the giants of DINOv2 and 3)."""
    layer_scale: Annotated[float, Positive] | None = None
    """Initial value of a learned vector that multiplies each branch (Touvron et al. 2021b); null:
    none."""
    use_bias: bool = True
    """Biases of queries, keys and values; all other layers always have biases."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the embeddings and of every branch's output."""
    attention_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the attention weights."""
    activation_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the feed-forward layers' hidden units."""
    branch_rate: Annotated[float, DropRate] = 0.0
    """Stochastic depth: rate at which examples skip a branch of the last block in training; it
    grows linearly from 0 at the first block (Huang et al. 2016)."""
    scan: bool = False
    """Scan over the blocks, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, which saves memory in the backward pass: none, whole blocks (full), all
    but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @classmethod
    def tiny(cls, patch: int = 16, image_size: int = 224) -> "ViTConfig":
        """Return ViT-Ti (Touvron et al. 2021, arXiv 2012.12877, table 1): 5.7 million weights."""
        return _sized(192, 12, 3, patch=patch, image_size=image_size)

    @classmethod
    def small(cls, patch: int = 16, image_size: int = 224) -> "ViTConfig":
        """Return ViT-S (Touvron et al. 2021, table 1): 22 million weights."""
        return _sized(384, 12, 6, patch=patch, image_size=image_size)

    @classmethod
    def base(cls, patch: int = 16, image_size: int = 224) -> "ViTConfig":
        """Return ViT-B (Dosovitskiy et al. 2021, arXiv 2010.11929, table 1): 86 million weights."""
        return _sized(768, 12, 12, patch=patch, image_size=image_size)

    @classmethod
    def large(cls, patch: int = 16, image_size: int = 224) -> "ViTConfig":
        """Return ViT-L (Dosovitskiy et al. 2021, table 1): 307 million weights."""
        return _sized(1024, 24, 16, patch=patch, image_size=image_size)

    @classmethod
    def huge(cls, patch: int = 14, image_size: int = 224) -> "ViTConfig":
        """Return ViT-H (Dosovitskiy et al. 2021, table 1): 632 million weights."""
        return _sized(1280, 32, 16, patch=patch, image_size=image_size)

    @classmethod
    def deit_tiny(cls) -> "ViTConfig":
        """Return DeiT-Ti, distilled (Touvron et al. 2021, arXiv 2012.12877)."""
        return _sized(192, 12, 3, distillation="head")

    @classmethod
    def deit_small(cls) -> "ViTConfig":
        """Return DeiT-S, distilled."""
        return _sized(384, 12, 6, distillation="head")

    @classmethod
    def deit_base(cls) -> "ViTConfig":
        """Return DeiT-B, distilled."""
        return _sized(768, 12, 12, distillation="head")

    @classmethod
    def dinov2_small(cls, registers: int = 4) -> "ViTConfig":
        """Return DINOv2 ViT-S/14 (Oquab et al. 2023, arXiv 2304.07193) with 4 registers or none."""
        return _dinov2(384, 12, 6, registers)

    @classmethod
    def dinov2_base(cls, registers: int = 4) -> "ViTConfig":
        """Return DINOv2 ViT-B/14."""
        return _dinov2(768, 12, 12, registers)

    @classmethod
    def dinov2_large(cls, registers: int = 4) -> "ViTConfig":
        """Return DINOv2 ViT-L/14."""
        return _dinov2(1024, 24, 16, registers)

    @classmethod
    def dinov2_giant(cls, registers: int = 4) -> "ViTConfig":
        """Return DINOv2 ViT-g/14, with SwiGLU of 2/3 of the usual width."""
        return _dinov2(1536, 40, 24, registers, hidden=4096, activation="silu", gated=True)

    @classmethod
    def dinov3_small(cls) -> "ViTConfig":
        """Return DINOv3 ViT-S/16 (Simeoni et al. 2025, arXiv 2508.10104)."""
        return _dinov3(384, 12, 6)

    @classmethod
    def dinov3_base(cls) -> "ViTConfig":
        """Return DINOv3 ViT-B/16."""
        return _dinov3(768, 12, 12)

    @classmethod
    def dinov3_large(cls) -> "ViTConfig":
        """Return DINOv3 ViT-L/16."""
        return _dinov3(1024, 24, 16)

    @classmethod
    def digits(cls) -> "ViTConfig":
        """Return a model of scikit-learn's 8 x 8 grey digits: minutes on a CPU."""
        return _sized(
            64, 4, 4, patch=2, image_size=8, channels=1, pooling="mean", dropout=0.1, hidden=128
        )

    @classmethod
    def cifar(cls) -> "ViTConfig":
        """Return a model of 32 x 32 colour images in patches of 4, to train from scratch."""
        return _sized(192, 9, 3, patch=4, image_size=32, hidden=384, branch_rate=0.1)

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches: class token, distillation token, registers."""
        leading = (self.pooling in ("class", "class_mean")) + (self.distillation != "none")
        return leading + self.registers

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"image_size={self.image_size} is not divisible by patch={self.patch}")
        if self.distillation != "none" and self.pooling != "class":
            raise ValueError(
                f"distillation={self.distillation!r} wants pooling='class', not {self.pooling!r}: "
                "the two tokens stand side by side"
            )
        if self.positions != "rotary" and self.rotary_base != type(self).rotary_base:
            raise ValueError(
                f"rotary_base={self.rotary_base} has no effect with positions={self.positions!r}"
            )
        if self.positions == "sinusoidal" and self.dim % 4:
            raise ValueError(
                f"dim={self.dim} is not divisible by 4: sinusoidal positions have a sine and a "
                "cosine of the row and of the column"
            )


def _sized(dim: int, layers: int, num_heads: int, **settings: Any) -> ViTConfig:
    settings = {"hidden": 4 * dim, **settings}
    return ViTConfig(
        attention=MultiHeadConfig(num_heads=num_heads), dim=dim, layers=layers, **settings
    )


def _dinov2(dim: int, layers: int, num_heads: int, registers: int, **settings: Any) -> ViTConfig:
    return _sized(
        dim,
        layers,
        num_heads,
        patch=14,
        image_size=518,
        pooling="class_mean",
        registers=registers,
        mask_token=True,
        antialias=registers > 0,
        layer_scale=1e-5,
        **settings,
    )


def _dinov3(dim: int, layers: int, num_heads: int) -> ViTConfig:
    sized = _sized(
        dim,
        layers,
        num_heads,
        positions="rotary",
        registers=4,
        mask_token=True,
        layer_scale=1.0,
        norm_eps=1e-5,
    )
    heads = MultiHeadConfig(num_heads=num_heads, key_bias=False)
    return dataclasses.replace(sized, attention=heads)


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

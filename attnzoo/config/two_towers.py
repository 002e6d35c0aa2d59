"""Settings of an image and a text encoder with one space of features, CLIP and SigLIP."""

import dataclasses
from typing import Annotated, Any, Literal

from attnzoo.config.attention import MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, NotNegative, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.transformer import Activation
from attnzoo.config.vit import ViTConfig


@config
class TextTowerConfig:
    """Pre-norm encoder of a text with learned positions (Radford et al. 2021, section 2.4)."""

    attention: SelfAttention = MultiHeadConfig(num_heads=8)
    """Self-attention."""
    dim: Annotated[int, Positive] = 512
    """Width of the states (D)."""
    hidden: Annotated[int, Positive] = 2048
    """Hidden units of the feed-forward layers (F)."""
    layers: Annotated[int, Layers] = 12
    """Number of blocks."""
    max_length: Annotated[int, Positive] = 77
    """Longest text in tokens, its begin and end included."""
    is_causal: bool = True
    """A token sees earlier tokens alone (CLIP)."""
    pooling: Literal["end", "largest", "last"] = "end"
    """State that stands for the text: that of the first end token; of the largest id (files of CLIP
    from before 2023, whose end token has the largest id); or of the last position, where texts are
    padded to `max_length` and padding is read (SigLIP)."""
    activation: Activation = "quick_gelu"
    """Activation of the feed-forward layers."""
    norm_eps: Annotated[float, Positive] = 1e-5
    """Epsilon added to the variance in the norms."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the embeddings and of every branch's output."""
    attention_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the attention weights."""
    eos_id: Annotated[int, NotNegative] = 49407
    """End token, for `pooling: end`; a training takes that of its tokenizer."""
    pad_id: Annotated[int, NotNegative] = 0
    """Padding token; a training takes that of its tokenizer."""
    scan: bool = False
    """Scan over the layers, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, as in the image encoder."""


@config
class TwoTowersConfig(ModelConfig):
    """Image and text encoder whose pooled features are compared (CLIP: Radford et al. 2021).

    Other settings give SigLIP (Zhai et al. 2023).
    """

    tasks = ("contrastive",)
    kind: Literal["two_towers"] = "two_towers"
    image: ViTConfig = ViTConfig(
        patch=32, pre_norm=True, patch_bias=False, activation="quick_gelu", norm_eps=1e-5
    )
    """Encoder of images."""
    text: TextTowerConfig = TextTowerConfig()
    """Encoder of texts."""
    dim: Annotated[int, Positive] | None = 512
    """Width of the features, to which both pooled states are projected without bias (CLIP); null:
    that of the image encoder, to which the text alone is projected, with bias (SigLIP)."""
    scale: Annotated[float, Positive] = 14.285714
    """Initial value of the learned factor on cosines (CLIP: 1 / 0.07; SigLIP: 10)."""
    logit_bias: float | None = None
    """Initial value of a learned number added to every logit (SigLIP: -10); null: none."""

    @classmethod
    def clip_base(cls) -> "TwoTowersConfig":
        """Return CLIP ViT-B/32 (Radford et al. 2021, arXiv 2103.00020): 151 million weights."""
        return cls()

    @classmethod
    def siglip_base(cls) -> "TwoTowersConfig":
        """Return SigLIP ViT-B/16 (Zhai et al. 2023, arXiv 2303.15343): 203 million weights."""
        shared: dict[str, Any] = {"activation": "gelu_tanh", "norm_eps": 1e-6}
        text = TextTowerConfig(
            attention=MultiHeadConfig(num_heads=12),
            dim=768,
            hidden=3072,
            max_length=64,
            is_causal=False,
            pooling="last",
            pad_id=1,
            **shared,
        )
        image = ViTConfig(pooling="attention", **shared)
        return cls(image=image, text=text, dim=None, scale=10.0, logit_bias=-10.0)

    @property
    def longest(self) -> int:
        """Longest text in tokens."""
        return self.text.max_length

    @property
    def padding(self) -> int:
        """Padding token of a batch of texts."""
        return self.text.pad_id

    def with_ids(self, **ids: int) -> "TwoTowersConfig":
        """Return the config with a tokenizer's ``pad_id`` and ``eos_id``."""
        known = {name: ids[name] for name in ("pad_id", "eos_id") if name in ids}
        return dataclasses.replace(self, text=dataclasses.replace(self.text, **known))

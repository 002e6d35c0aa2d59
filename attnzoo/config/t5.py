"""T5 settings, and its named sizes."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.attention import Attention, MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, NotNegative, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.renamed import former_names

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


@config
class T5Config(ModelConfig):
    """Encoder-decoder with a learned relative bias per distance (Raffel et al. 2020).

    Versions 1.0 and 1.1; there are no other positions.
    """

    tasks = ("translation", "span_corruption")
    kind: Literal["t5"] = "t5"
    attention: SelfAttention = MultiHeadConfig(num_heads=8, head_dim=64)
    """Self-attention of the encoder. Only multi-head attention has the relative bias; other kinds
    must encode positions themselves."""
    decoder_attention: SelfAttention | None = None
    """Causal self-attention of the decoder; null: as `attention`."""
    cross_attention: Attention = MultiHeadConfig(num_heads=8, head_dim=64)
    """Cross-attention from target to source."""
    dim: Annotated[int, Positive] = 512
    """Width of the states (E)."""
    hidden: Annotated[int, Positive] = 2048
    """Hidden units of the feed-forward layers (F)."""
    encoder_layers: Annotated[int, Layers] = 6
    """Number of encoder blocks."""
    decoder_layers: Annotated[int, Layers] = 6
    """Number of decoder blocks."""
    activation: Activation = "relu"
    """Activation of the feed-forward layers."""
    gated: bool = False
    """Feed-forward layers are gated, as in version 1.1 (Shazeer 2020)."""
    buckets: Annotated[int, Positive] = 32
    """Number of distance buckets, each with a bias per head."""
    max_distance: Annotated[int, Positive] = 128
    """Distances beyond this share one bias."""
    max_length: Annotated[int, Positive] = 512
    """Longest sequence in tokens, for attention with one slot per position; and the default room
    for an output."""
    norm_eps: Annotated[float, Positive] = 1e-6
    """Epsilon added to the mean square in the norms."""
    tied: bool = True
    """The output layer shares the embedding table (version 1.0)."""
    scaled_head: bool = True
    """Divide the last states by sqrt(dim) before the output layer (version 1.0)."""
    dropout: Annotated[float, DropRate] = 0.1
    """Dropout rate of the embeddings, of every branch's output, of hidden units and of attention
    weights."""
    pad_id: Annotated[int, NotNegative] = 0
    """Padding token, which is always masked."""
    start_id: Annotated[int, NotNegative] = 0
    """Token that the decoder starts from."""
    eos_id: Annotated[int, NotNegative] = 1
    """Token that ends a text."""
    alignment_layer: Annotated[int, NotNegative] | None = None
    """Decoder layer, from 0, whose weights serve as word alignments and in pictures; null: the last
    but one."""
    scan: bool = False
    """Scan over the layers, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, which saves memory in the backward pass: none, whole blocks (full), all
    but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @classmethod
    def tiny(cls) -> "T5Config":
        """Return T5-tiny 1.0: four layers of width 256 (Tay et al. 2022, arXiv 2109.10686)."""
        return _sized(heads=4, dim=256, hidden=1024, layers=4)

    @classmethod
    def small(cls) -> "T5Config":
        """Return T5-small, version 1.0: 60 million weights."""
        return cls()

    @classmethod
    def base(cls) -> "T5Config":
        """Return T5-base, version 1.0: 220 million weights."""
        return _sized(heads=12, dim=768, hidden=3072, layers=12)

    @classmethod
    def large(cls) -> "T5Config":
        """Return T5-large, version 1.0: 770 million weights."""
        return _sized(heads=16, dim=1024, hidden=4096, layers=24)

    @classmethod
    def small_v1_1(cls) -> "T5Config":
        """Return T5-small, version 1.1: 77 million weights."""
        return _version_1_1(heads=6, dim=512, hidden=1024, layers=8)

    @classmethod
    def base_v1_1(cls) -> "T5Config":
        """Return T5-base, version 1.1: 250 million weights."""
        return _version_1_1(heads=12, dim=768, hidden=2048, layers=12)

    @property
    def one_vocabulary(self) -> bool:
        """Always true: source and target share one embedding."""
        return True

    @property
    def source_slots(self) -> int:
        """Longest source in tokens."""
        found = (self.max_length, self.attention.slots, self.cross_attention.slots)
        return min(length for length in found if length is not None)

    def __post_init__(self) -> None:
        if self.alignment_layer is not None and self.alignment_layer >= self.decoder_layers:
            raise ValueError(
                f"alignment_layer={self.alignment_layer}, but the decoder's layers are "
                f"0 .. {self.decoder_layers - 1}"
            )


def _sized(*, heads: int, dim: int, hidden: int, layers: int) -> T5Config:
    attention = MultiHeadConfig(num_heads=heads, head_dim=64)
    return T5Config(
        attention=attention,
        cross_attention=attention,
        dim=dim,
        hidden=hidden,
        encoder_layers=layers,
        decoder_layers=layers,
    )


def _version_1_1(*, heads: int, dim: int, hidden: int, layers: int) -> T5Config:
    return dataclasses.replace(
        _sized(heads=heads, dim=dim, hidden=hidden, layers=layers),
        activation="gelu_tanh",
        gated=True,
        tied=False,
        scaled_head=False,
        dropout=0.0,
    )


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

"""T5: encoder and decoder with relative positions, and its named sizes."""

import dataclasses
from typing import Annotated, Literal

from attnzoo.config.attention import Attention, MultiHead, SelfAttention
from attnzoo.config.fields import DropRate, NotNegative, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


@config
class T5(ModelConfig):
    """Encoder and decoder that know positions only by a learned bias for each distance (Raffel et
    al. 2020); versions 1.0 and 1.1."""

    tasks = ("translation", "span_corruption")
    kind: Literal["t5"] = "t5"
    attention: SelfAttention = MultiHead(num_heads=8, head_dim=64)
    """How the source reads itself. Only multi-head attention has the relative bias; of the others
    take one that knows the order."""
    decoder_attention: SelfAttention | None = None
    """How the target reads its past; null: as `attention`."""
    cross_attention: Attention = MultiHead(num_heads=8, head_dim=64)
    """How the target reads the source."""
    dim: Annotated[int, Positive] = 512
    """Width of the states (E)."""
    hidden: Annotated[int, Positive] = 2048
    """Hidden units of the feed-forward layers (F)."""
    encoder_layers: Annotated[int, Positive] = 6
    """Blocks of the encoder."""
    decoder_layers: Annotated[int, Positive] = 6
    """Blocks of the decoder."""
    activation: Activation = "relu"
    """Non-linearity of the feed-forward layers."""
    gated: bool = False
    """Feed-forward layers are gated, as in version 1.1 (Shazeer 2020)."""
    buckets: Annotated[int, Positive] = 32
    """Kinds of distance with a bias of their own, for each head."""
    max_distance: Annotated[int, Positive] = 128
    """Distances beyond this share one bias."""
    max_length: Annotated[int, Positive] = 512
    """Longest sequence in tokens of attentions with a slot for each; room for an output where none
    is asked for."""
    norm_eps: Annotated[float, Positive] = 1e-6
    """Added to the mean square in the norms."""
    tied: bool = True
    """The output layer is the matrix of embeddings (version 1.0)."""
    scaled_head: bool = True
    """The last states are divided by sqrt(dim) before the output layer (version 1.0)."""
    dropout: Annotated[float, DropRate] = 0.1
    """Share dropped, while training, of the embeddings, of every branch's result, of hidden units
    and of attention weights."""
    pad_id: Annotated[int, NotNegative] = 0
    """Token that fills a batch up; it is never read."""
    start_id: Annotated[int, NotNegative] = 0
    """Token that the decoder starts from."""
    eos_id: Annotated[int, NotNegative] = 1
    """Token that ends a text."""
    alignment_layer: Annotated[int, NotNegative] | None = None
    """Decoder layer, from 0, whose weights are word alignments and pictures; null: the last but
    one."""
    scan: bool = False
    """Loop over the layers: compilation takes as long for many layers as for one."""
    remat: Remat = "none"
    """What the backward pass computes again to save memory: nothing, whole blocks (full), all but
    the products with weights (dots), or these kept in the host's memory meanwhile (offload)."""

    @classmethod
    def tiny(cls) -> "T5":
        """Four layers of width 256, version 1.0 (Tay et al. 2022, arXiv 2109.10686)."""
        return _sized(heads=4, dim=256, hidden=1024, layers=4)

    @classmethod
    def small(cls) -> "T5":
        """Version 1.0, 60 million weights."""
        return cls()

    @classmethod
    def base(cls) -> "T5":
        """Version 1.0, 220 million weights."""
        return _sized(heads=12, dim=768, hidden=3072, layers=12)

    @classmethod
    def large(cls) -> "T5":
        """Version 1.0, 770 million weights."""
        return _sized(heads=16, dim=1024, hidden=4096, layers=24)

    @classmethod
    def small_v1_1(cls) -> "T5":
        """Version 1.1, 77 million weights."""
        return _version_1_1(heads=6, dim=512, hidden=1024, layers=8)

    @classmethod
    def base_v1_1(cls) -> "T5":
        """Version 1.1, 250 million weights."""
        return _version_1_1(heads=12, dim=768, hidden=2048, layers=12)

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


def _sized(*, heads: int, dim: int, hidden: int, layers: int) -> T5:
    attention = MultiHead(num_heads=heads, head_dim=64)
    return T5(
        attention=attention,
        cross_attention=attention,
        dim=dim,
        hidden=hidden,
        encoder_layers=layers,
        decoder_layers=layers,
    )


def _version_1_1(*, heads: int, dim: int, hidden: int, layers: int) -> T5:
    return dataclasses.replace(
        _sized(heads=heads, dim=dim, hidden=hidden, layers=layers),
        activation="gelu_tanh",
        gated=True,
        tied=False,
        scaled_head=False,
        dropout=0.0,
    )

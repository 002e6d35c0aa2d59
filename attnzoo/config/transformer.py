"""Transformer settings, and its named sizes."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.attention import Attention, MultiHeadConfig, SelfAttention
from attnzoo.config.fields import DropRate, Layers, NotNegative, Positive, Remat, config
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.renamed import former_names
from attnzoo.config.sources import TO_TEXT, Source

Activation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu"]


@config
class TransformerConfig(ModelConfig):
    """Encoder-decoder Transformer (Vaswani et al. 2017), with settings for BART and Marian too."""

    tasks = ("translation", "span_corruption", *TO_TEXT)
    kind: Literal["transformer"] = "transformer"
    attention: SelfAttention = MultiHeadConfig(num_heads=8)
    """Self-attention of the encoder."""
    decoder_attention: SelfAttention | None = None
    """Causal self-attention of the decoder; null: as `attention`."""
    cross_attention: Attention = MultiHeadConfig(num_heads=8)
    """Cross-attention from target to source."""
    source: Source | None = None
    """Encoder of a source that is no text, an image or a sound, instead of the
    source embedding; its features are projected to `dim`; null: text."""
    dim: Annotated[int, Positive] = 512
    """Width of the states (E)."""
    hidden: Annotated[int, Positive] = 2048
    """Hidden units of the feed-forward layers (F)."""
    encoder_layers: Annotated[int, Layers] = 6
    """Number of encoder blocks."""
    decoder_layers: Annotated[int, Layers] = 6
    """Number of decoder blocks."""
    norm: Literal["post", "pre"] = "post"
    """Place of the norms: after each residual sum (post, as in the paper), or before each
    branch."""
    norm_eps: Annotated[float, Positive] = 1e-6
    """Epsilon added to the variance in the norms."""
    activation: Activation = "relu"
    """Activation of the feed-forward layers."""
    use_bias: bool = True
    """Projections of attention have biases."""
    positions: Literal[
        "sinusoidal", "sinusoidal_halves", "sinusoidal_tensor2tensor", "learned", "none"
    ] = "sinusoidal"
    """Positions added to the embeddings: sines and cosines alternating (the paper), all sines first
    (Marian), the same with the frequencies of tensor2tensor and fairseq (M2M100), a learned table,
    or none (for attention that encodes positions itself)."""
    position_offset: Annotated[int, NotNegative] = 0
    """Number of the first position (2 in BART, M2M100 and NLLB)."""
    max_length: Annotated[int, Positive] = 1024
    """Longest sequence in tokens, for learned positions and for attention with one slot per
    position."""
    scale_embeddings: bool = True
    """Multiply embeddings by sqrt(dim)."""
    embedding_norm: bool = False
    """Apply a norm after the embeddings (BART)."""
    tied: Literal["all", "target", "none"] = "target"
    """Weight tying: both embeddings and the output layer (needs a shared vocabulary), the target
    embedding and the output layer, or none."""
    output_bias: bool = False
    """The output layer has a bias."""
    dropout: Annotated[float, DropRate] = 0.1
    """Dropout rate of the embeddings and of every branch's output."""
    attention_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the attention weights."""
    activation_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the feed-forward layers' hidden units."""
    pad_id: Annotated[int, NotNegative] = 0
    """Padding token, which is always masked."""
    start_id: Annotated[int, NotNegative] = 1
    """Token that the decoder starts from."""
    eos_id: Annotated[int, NotNegative] = 2
    """Token that ends a sentence."""
    alignment_layer: Annotated[int, NotNegative] | None = None
    """Decoder layer, from 0, whose weights serve as word alignments and in pictures; null: the last
    but one (Garg et al. 2019)."""
    scan: bool = False
    """Scan over the layers, so that compilation time does not grow with their number."""
    remat: Remat = "none"
    """Rematerialisation, which saves memory in the backward pass: none, whole blocks (full), all
    but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @classmethod
    def base(cls) -> "TransformerConfig":
        """Return the base model of the paper (table 3): 44 million weights without embeddings."""
        return cls(tied="all")

    @classmethod
    def big(cls) -> "TransformerConfig":
        """Return the big model of the paper (table 3)."""
        heads = MultiHeadConfig(num_heads=16)
        return cls(
            attention=heads, cross_attention=heads, dim=1024, hidden=4096, dropout=0.3, tied="all"
        )

    @classmethod
    def tiny(cls) -> "TransformerConfig":
        """Return four layers of width 128, for small corpora such as Multi30k.

        Wu et al. 2021, arXiv 2105.14462.
        """
        heads = MultiHeadConfig(num_heads=4)
        return cls(
            attention=heads,
            cross_attention=heads,
            dim=128,
            hidden=256,
            encoder_layers=4,
            decoder_layers=4,
            dropout=0.3,
            tied="all",
        )

    @classmethod
    def bart_base(cls) -> "TransformerConfig":
        """Return BART base (Lewis et al. 2020, arXiv 1910.13461)."""
        heads = MultiHeadConfig(num_heads=12)
        return cls(
            attention=heads,
            cross_attention=heads,
            dim=768,
            hidden=3072,
            norm_eps=1e-5,
            activation="gelu",
            positions="learned",
            position_offset=2,
            scale_embeddings=False,
            embedding_norm=True,
            tied="all",
            output_bias=True,
            pad_id=1,
            start_id=2,
            eos_id=2,
        )

    @classmethod
    def marian_base(cls, pad_id: int = 58100) -> "TransformerConfig":
        """Return the OPUS-MT model (Tiedemann and Thottingal 2020), trained with Marian."""
        return cls(
            norm_eps=1e-5,
            activation="silu",
            positions="sinusoidal_halves",
            max_length=512,
            tied="all",
            output_bias=True,
            pad_id=pad_id,
            start_id=pad_id,
            eos_id=0,
        )

    @classmethod
    def mbart_large(cls) -> "TransformerConfig":
        """Return mBART large (Liu et al. 2020, arXiv 2001.08210).

        It has 610 million weights with 250,027 tokens. The start token is that of
        a language, which a user has to give.
        """
        return dataclasses.replace(
            cls._large(),
            positions="learned",
            position_offset=2,
            embedding_norm=True,
            activation="gelu",
            output_bias=True,
        )

    @classmethod
    def nllb_600m(cls) -> "TransformerConfig":
        """Return NLLB-200 distilled (arXiv 2207.04672): 615 million weights with 256,206 tokens.

        A sentence begins in the target with the token of its language.
        """
        return cls._large()

    @classmethod
    def _large(cls) -> "TransformerConfig":
        heads = MultiHeadConfig(num_heads=16)
        return cls(
            attention=heads,
            cross_attention=heads,
            dim=1024,
            hidden=4096,
            encoder_layers=12,
            decoder_layers=12,
            norm="pre",
            norm_eps=1e-5,
            positions="sinusoidal_tensor2tensor",
            position_offset=2,
            tied="all",
            pad_id=1,
            start_id=2,
            eos_id=2,
        )

    @property
    def one_vocabulary(self) -> bool:
        """True if source and target share one embedding, and so need one tokenizer."""
        return self.tied == "all"

    @property
    def source_slots(self) -> int:
        """Longest source in tokens or features."""
        own = None if self.source is None else self.source.slots
        found = (own or self.max_length, self.attention.slots, self.cross_attention.slots)
        return min(length for length in found if length is not None)

    def __post_init__(self) -> None:
        if self.alignment_layer is not None and self.alignment_layer >= self.decoder_layers:
            raise ValueError(
                f"alignment_layer={self.alignment_layer}, but the decoder's layers are "
                f"0 .. {self.decoder_layers - 1}"
            )


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)

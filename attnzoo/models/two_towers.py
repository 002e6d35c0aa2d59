"""Image and text encoder with one space of features: CLIP and SigLIP.

Radford et al. 2021 (arXiv 2103.00020), section 2 and figure 3; Zhai et al. 2023 (arXiv 2303.15343).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.attention import Site
from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.projection import LayerNorm, Projection, cast_like
from attnzoo.config.two_towers import TextTowerConfig, TwoTowersConfig
from attnzoo.layers.block import Block, Maps, build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.embedding import Embedding
from attnzoo.layers.stack import Stack
from attnzoo.models.model import Model, check_length, default_positions, dropout_key
from attnzoo.models.vit import ViT
from attnzoo.ops.softmax import compute_dtype
from attnzoo.ops.wide_sums import broadcast_parameter

NORMAL = jax.nn.initializers.normal(0.02)


class TextTower(Model):
    """Pre-norm encoder of a text; a call returns the state that stands for the text."""

    def __init__(self, config: TextTowerConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config, dim = config, config.dim
        self.tokens = Embedding(vocab_size, dim, rngs=rngs)
        self.positions = Embedding(config.max_length, dim, rngs=rngs)
        blocks = [_block(config, rngs) for _ in range(config.layers)]
        self.encoder = Stack(blocks, scan=config.scan, remat=config.remat)
        self.norm = LayerNorm(dim, eps=config.norm_eps, rngs=rngs)
        self.check_settings(attention_dropout="dropout")

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        valid: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> tuple[Float[Array, "B D"], Maps]:
        """Return the pooled state of each text, and the requested maps, "encoder/0/self", ...

        Args:
          valid: False at padding, to which no token attends; None: every token is read.
          positions: rows of the position table; 0 .. T-1 if None, padding counted.
        """
        if positions is None:
            check_length("tokens", tokens.shape[1], self.config.max_length)
            positions = default_positions(tokens)
        x = self.tokens(tokens)
        x = x + broadcast_parameter(self.positions(positions), x.shape)
        x = dropout(x, self.config.dropout, dropout_key(rngs))
        key = dropout_key(rngs)
        x, maps = self.encoder(x, valid=valid, key=key, return_weights=capture)
        rows = jnp.arange(tokens.shape[0])
        pooled = self.norm(x[rows, self.place(tokens)])
        return pooled, {f"encoder/{name}": m for name, m in maps.items()}

    def place(self, tokens: Int[Array, "B T"]) -> Int[Array, " B"]:
        """Return the position whose state stands for the text."""
        match self.config.pooling:
            case "end":
                return jnp.argmax(tokens == self.config.eos_id, axis=1)
            case "largest":
                return jnp.argmax(tokens, axis=1)
            case _:
                return jnp.full(tokens.shape[:1], tokens.shape[1] - 1)


class TwoTowers(Model):
    """Image and text encoder; a call returns the logits of every image with every text.

    Features are pooled states, projected to one width and divided by their norm. A logit is their
    cosine times exp(``log_scale``), plus ``logit_bias`` if the config has one.
    """

    def __init__(self, config: TwoTowersConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config = config
        self.image = ViT(config.image, rngs=rngs)
        self.text = TextTower(config.text, vocab_size, rngs=rngs)
        wide = config.image.dim * (2 if config.image.pooling == "class_mean" else 1)
        wide = config.image.dim if config.image.head_hidden else wide
        both, width = config.dim is not None, config.dim or wide

        def projection(dim: int) -> Projection:
            return Projection(dim, width, use_bias=not both, kernel_init=NORMAL, rngs=rngs)

        self.image_projection = projection(wide) if both else None
        self.text_projection = projection(config.text.dim)
        self.log_scale = nnx.Param(jnp.full((1,), jnp.log(config.scale), jnp.float32))
        bias = config.logit_bias
        self.logit_bias = None if bias is None else nnx.Param(jnp.full((1,), bias, jnp.float32))

    @property
    def max_length(self) -> int:
        """Longest text in tokens."""
        return self.config.text.max_length

    def stacks(self) -> dict[str, Stack]:
        """Return the stacks of both encoders, "image/encoder" and "text/encoder"."""
        return {"image/encoder": self.image.encoder, "text/encoder": self.text.encoder}

    def __call__(
        self,
        images: Float[Array, "I h w C"],
        tokens: Int[Array, "J T"],
        *,
        valid: Bool[Array, "J T"] | None = None,
        positions: Int[Array, "#J T"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return logits ``I J``; with ``capture`` also the requested maps.

        Maps are named "image/encoder/0/self" and "text/encoder/0/self". The other arguments are
        those of :class:`TextTower`; ``rngs`` switches dropout on.
        """
        ours, seen = self._image_features(images, rngs, capture)
        theirs, read = self._text_features(tokens, valid, positions, rngs, capture)
        logits = self.logits(ours, theirs)
        if not capture:
            return logits
        named = {"image": seen, "text": read}
        return logits, {f"{at}/{name}": m for at, maps in named.items() for name, m in maps.items()}

    def image_features(
        self, images: Float[Array, "I h w C"], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "I F"]:
        """Return the features of images, of norm 1."""
        return self._image_features(images, rngs, False)[0]

    def text_features(
        self,
        tokens: Int[Array, "J T"],
        *,
        valid: Bool[Array, "J T"] | None = None,
        positions: Int[Array, "#J T"] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "J F"]:
        """Return the features of texts, of norm 1; arguments as in :class:`TextTower`."""
        return self._text_features(tokens, valid, positions, rngs, False)[0]

    def logits(
        self, images: Float[Array, "I F"], texts: Float[Array, "J F"], *, most: float | None = None
    ) -> Float[Array, "I J"]:
        """Return the logits of features; ``most`` bounds the factor on the cosines."""
        return scaled(self, jnp.einsum("if,jf->ij", images, texts), most)

    def zero_shot(self, texts: Float[Array, "V F"]) -> "ZeroShotClassifier":
        """Return a classifier of images whose classes are the texts with these features."""
        return ZeroShotClassifier(self, texts)

    def _image_features(
        self, images: Float[Array, "I h w C"], rngs: nnx.Rngs | None, capture: ReturnWeights
    ) -> tuple[Float[Array, "I F"], Maps]:
        states, maps = self.image.states(images, rngs=rngs, capture=capture)
        pooled = self.image.classify(states)
        projected = pooled if self.image_projection is None else self.image_projection(pooled)
        return unit(projected), maps

    def _text_features(
        self,
        tokens: Int[Array, "J T"],
        valid: Bool[Array, "J T"] | None,
        positions: Int[Array, "#J T"] | None,
        rngs: nnx.Rngs | None,
        capture: ReturnWeights,
    ) -> tuple[Float[Array, "J F"], Maps]:
        pooled, maps = self.text(
            tokens, valid=valid, positions=positions, rngs=rngs, capture=capture
        )
        return unit(self.text_projection(pooled)), maps


class ZeroShotClassifier(ViT):
    """The image encoder of two towers with a text for each class (Radford et al. 2021, 3.1).

    It shares the encoder's parameters.
    """

    def __init__(self, towers: TwoTowers, texts: Float[Array, "V F"]):
        for name, value in vars(towers.image).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        self.image_projection, self.log_scale = towers.image_projection, towers.log_scale
        self.logit_bias, self.texts = towers.logit_bias, nnx.Param(texts)

    def class_logits(self, states: Float[Array, "B T D"]) -> Float[Array, "B V"]:
        """Return the logits of the texts."""
        pooled = super().class_logits(states)
        projected = pooled if self.image_projection is None else self.image_projection(pooled)
        texts = self.texts[...].astype(projected.dtype)
        return scaled(self, jnp.einsum("bf,vf->bv", unit(projected), texts), None)


def unit(x: Float[Array, "B F"]) -> Float[Array, "B F"]:
    """Return the rows divided by their Euclidean norm."""
    wide = x.astype(compute_dtype(x))
    norm = jnp.sqrt(jnp.sum(wide**2, axis=-1, keepdims=True))
    return (wide / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)).astype(x.dtype)


def scaled(model: Any, cosines: Float[Array, "I J"], most: float | None) -> Float[Array, "I J"]:
    """Return the logits of cosines with the factor and the bias of a model."""
    factor = jnp.exp(cast_like(model.log_scale, cosines))
    factor = factor if most is None else jnp.minimum(factor, most)
    logits = cosines * factor[None]
    if model.logit_bias is None:
        return logits
    return logits + cast_like(model.logit_bias, cosines)[None]


def _block(config: TextTowerConfig, rngs: nnx.Rngs) -> Block:
    site = Site.of_itself(
        config.dim,
        is_causal=config.is_causal,
        max_length=config.max_length,
        use_bias=True,
        dropout=config.attention_dropout,
        kernel_init=NORMAL,
        out_init=jax.nn.initializers.normal(0.02 / (2 * config.layers) ** 0.5),
    )
    return build_block(config, config.attention, site, LayerNorm, rngs=rngs)

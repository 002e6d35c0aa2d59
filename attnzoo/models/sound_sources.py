"""Encoders of sounds: a log-mel spectrogram, then convolutions or a pyramid of recurrent layers.

A source is samples ``B L``, NaN after the end of each sound. Padding changes no feature.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.projection import LayerNorm, Projection
from attnzoo.config.speech import (
    SoundConfig,
    SoundConvConfig,
    SoundPyramidConfig,
    SoundWhisperConfig,
)
from attnzoo.layers.embedding import Embedding, sinusoidal_positions
from attnzoo.layers.recurrent import GRU, LSTM
from attnzoo.models.sources import SourceEncoder
from attnzoo.module import Module
from attnzoo.ops.spectrogram import HOP_SECONDS, hop_size, log_mel, spec_augment


class SoundSource(SourceEncoder):
    """Interface of encoders of sounds, with the spectrogram that they read.

    Attributes:
      step: frames from one feature to the next. centre: frame in the middle of feature 0.
    """

    centre: float
    highest: float | None = None
    """Frequency in Hz at which the last mel filter ends; None: half the rate."""

    def __init__(self, config: SoundConfig):
        self.step = config.step
        self.rate, self.mels, self.normalise = config.rate, config.mels, config.normalise
        self.masks = config.augment

    @property
    def seconds(self) -> float:
        """Time from one feature to the next."""
        return self.step * HOP_SECONDS

    def spectrogram(
        self, source: Float[Array, "B L"], rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "B S M"], Bool[Array, "B S"]]:
        """Return the frames, masked in training, and False where they are padding."""
        found = log_mel(source, self.rate, self.mels, highest=self.highest)
        frames, valid = found
        inside = valid[:, :, None]
        if rngs is not None and self.masks is not None:
            frames = spec_augment(
                found,
                rngs.dropout(),
                frequency_masks=self.masks.frequency_masks,
                frequency_width=self.masks.frequency_width,
                time_masks=self.masks.time_masks,
                time_width=self.masks.time_width,
            )
        if self.normalise:
            count = jnp.maximum(jnp.sum(inside, axis=1, keepdims=True), 1).astype(frames.dtype)
            mean = jnp.sum(frames, axis=1, keepdims=True) / count
            spread = jnp.where(inside, frames - mean, jnp.zeros_like(frames))
            variance = jnp.sum(jnp.square(spread), axis=1, keepdims=True) / count
            frames = spread * jax.lax.rsqrt(variance + 1e-5)
        return frames, valid


class Convolution(Module):
    """Convolution over time of three frames, every ``stride``-th one, with bias.

    S frames become S / stride, rounded up.

    Frames outside of the sequence are 0, so padding has to be 0.
    """

    def __init__(self, in_dim: int, out_dim: int, *, stride: int = 2, rngs: nnx.Rngs):
        self.stride = stride
        self.joined = Projection(
            3 * in_dim,
            out_dim,
            use_bias=True,
            kernel_init=jax.nn.initializers.he_normal(),
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S2 F"]:
        S, stride = x.shape[1], self.stride
        whole = S + -S % stride
        padded = jnp.pad(x, ((0, 0), (1, 1 + whole - S), (0, 0)))
        pieces = [padded[:, i : i + whole : stride] for i in range(3)]
        return self.joined(jnp.concatenate(pieces, axis=-1))


class SoundConv(SoundSource):
    """Two convolutions with GELU, each of which halves the length, then bidirectional GRUs or none.

    With ``recurrent=0`` a feature sees 70 ms of frames; the convolutions are near those of Whisper,
    of which one halves the length. With ``recurrent=3`` this is near the encoder of Chorowski et
    al. 2015.
    """

    centre = 0.0

    def __init__(self, config: SoundConvConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.dim, half = config.dim, half_of(config.dim) if config.recurrent else 0
        self.first = Convolution(config.mels, config.dim, rngs=rngs)
        self.second = Convolution(config.dim, config.dim, rngs=rngs)
        self.norm = LayerNorm(config.dim, rngs=rngs)

        def layers() -> Any:
            init = jax.nn.initializers.lecun_normal()
            return nnx.List(
                [
                    GRU(config.dim, half, kernel_init=init, rngs=rngs)
                    for _ in range(config.recurrent)
                ]
            )

        self.forward_layers, self.backward_layers = layers(), layers()
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self, source: Float[Array, "B L"], *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Return the features of a batch of sounds, and False where they are padding."""
        x, valid = self.spectrogram(source, rngs)
        for convolution in (self.first, self.second):
            valid = valid[:, ::2]
            x = jax.nn.gelu(convolution(x))
            x = jnp.where(valid[:, :, None], x, jnp.zeros_like(x))
        x = self.norm(x)
        for forward, backward in zip(self.forward_layers, self.backward_layers, strict=True):
            x = self.dropout(x, deterministic=rngs is None, rngs=rngs)
            x = jnp.concatenate([forward(x, valid), backward(x, valid, reverse=True)], axis=-1)
        return x, valid


class SoundPyramid(SoundSource):
    """Listener of Listen, Attend and Spell (Chan et al. 2016, arXiv 1508.01211, section 3.1).

    A bidirectional LSTM over the frames, then ``halvings`` more, each of which reads two
    neighbouring states of the one below as one step: S frames become S / 2^halvings features,
    rounded up. The paper has three.
    """

    def __init__(self, config: SoundPyramidConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.dim, half = config.dim, half_of(config.dim)
        self.centre = (self.step - 1) / 2
        widths = [config.mels] + [2 * config.dim] * config.halvings

        def layers() -> Any:
            return nnx.List([LSTM(width, half, rngs=rngs) for width in widths])

        self.forward_layers, self.backward_layers = layers(), layers()
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self, source: Float[Array, "B L"], *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Return the features of a batch of sounds, and False where they are padding."""
        x, valid = self.spectrogram(source, rngs)
        layers = zip(self.forward_layers, self.backward_layers, strict=True)
        for number, (forward, backward) in enumerate(layers):
            if number:
                x, valid = joined_pairs(x, valid)
                x = self.dropout(x, deterministic=rngs is None, rngs=rngs)
            ahead, _ = forward(x, valid)
            # Padding, now at the start, does not change the state.
            behind, _ = backward(x[:, ::-1], valid[:, ::-1])
            x = jnp.concatenate([ahead, behind[:, ::-1]], axis=-1)
            x = jnp.where(valid[:, :, None], x, jnp.zeros_like(x))
        return x, valid


class SoundWhisper(SoundSource):
    """Input of Whisper's encoder: two convolutions with GELU, then learned positions.

    Radford et al. 2022 (arXiv 2212.04356), section 2.2. The second convolution halves the length.
    Every window has the same length: a shorter sound is followed by silence, and all features are
    read.
    """

    centre = 0.0
    has_positions = True
    is_embedding = True

    def __init__(self, config: SoundWhisperConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.dim, self.length = config.dim, config.length
        self.highest = min(8_000.0, config.rate / 2)
        self.first = Convolution(config.mels, config.dim, stride=1, rngs=rngs)
        self.second = Convolution(config.dim, config.dim, rngs=rngs)
        places = jnp.arange(config.length, dtype=jnp.int32)
        sines = sinusoidal_positions(places, config.dim, halves=True, slowest=True)
        self.positions = Embedding(config.length, config.dim, rngs=rngs)
        self.positions.table[...] = sines

    @property
    def window(self) -> int:
        """Number of frames of a window."""
        return self.length * self.step

    def __call__(
        self,
        source: Float[Array, "B L"] | Float[Array, "B W M"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Return the features of a window of samples, or of its log-mel frames.

        Samples after the end of the window are left out.
        """
        x = source
        if source.ndim == 2:
            size = self.window * hop_size(self.rate)
            window = jnp.nan_to_num(source[:, :size])
            window = jnp.pad(window, ((0, 0), (0, size - window.shape[1])))
            x, _ = self.spectrogram(window, rngs)
        for convolution in (self.first, self.second):
            x = jax.nn.gelu(convolution(x), approximate=False)
        x = x + self.positions.table[...].astype(x.dtype)[None]
        return x, jnp.ones(x.shape[:2], bool)


def joined_pairs(
    x: Float[Array, "B S D"], valid: Bool[Array, "B S"]
) -> tuple[Float[Array, "B S2 F"], Bool[Array, "B S2"]]:
    """Join each two neighbouring steps to one; the second one of the last may be 0."""
    B, S, D = x.shape
    x = jnp.pad(x, ((0, 0), (0, S % 2), (0, 0)))
    return x.reshape(B, (S + 1) // 2, 2 * D), valid[:, ::2]


def half_of(dim: int) -> int:
    """Return the width of one direction; ValueError for an odd ``dim``."""
    if dim % 2:
        raise ValueError(f"dim={dim} is odd; wanted half of it for each direction")
    return dim // 2

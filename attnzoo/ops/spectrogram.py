"""Log-mel spectrograms of sounds in batches, and SpecAugment.

Samples are ``B L``, and NaN after the end of each sound: a sound needs no mask beside it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.01
# The mel scale of Slaney's Auditory Toolbox: linear up to 1 kHz, then logarithmic.
_LINEAR, _BREAK, _LOG_STEP = 200 / 3, 1000.0, np.log(6.4) / 27


class Spectrogram(NamedTuple):
    """Frames of a batch of sounds, and which of them belong to the sound."""

    frames: Float[Array, "B S M"]
    valid: Bool[Array, "B S"]


def log_mel(
    samples: Float[Array, "B L"], rate: int, mels: int, *, highest: float | None = None
) -> Spectrogram:
    """Compute the log-mel spectrogram of Whisper (Radford et al. 2022, section 2.2).

    Hann windows of 25 ms, every 10 ms, around the start of each hop, with the sound reflected at
    its two ends; power; triangular mel filters; then max(log10 power, largest - 8), and (x + 4) /
    4, where the largest is that of the sound. A sound of n samples has n // hop frames. Frames
    after its end are 0.

    Args:
      samples: sounds between -1 and 1, NaN after the end of each.
      rate: samples in a second. mels: number M of filters, from 0 Hz to ``highest`` (None: half
        the rate).
    """
    logs, valid = _log_energies(samples, rate, mels, highest)
    inside = valid[:, :, None]
    largest = jnp.max(jnp.where(inside, logs, -10.0), axis=(1, 2), keepdims=True)
    scaled = (jnp.maximum(logs, largest - 8.0) + 4.0) / 4.0
    return Spectrogram(jnp.where(inside, scaled, jnp.zeros_like(scaled)), valid)


def long_log_mel(
    samples: Float[np.ndarray, " L"],
    rate: int,
    mels: int,
    *,
    silence: int,
    highest: float | None = None,
    block: int = 3_000,
) -> Float[np.ndarray, "S M"]:
    """Return the frames of ``log_mel`` for one long sound and ``silence`` frames after it.

    They are computed ``block`` frames at a time, so that memory does not grow with the sound.
    """
    hop, margin = hop_size(rate), 4  # frames: more than half of a window
    S = len(samples) // hop + silence
    rows = -(-S // block) * block + margin
    padded = np.zeros(rows * hop, np.float32)
    padded[: len(samples)] = samples
    run = jax.jit(lambda x: _log_energies(x[None], rate, mels, highest)[0][0])
    found = []
    for first in range(0, S, block):
        start = max(first - margin, 0)
        some = np.zeros((block + 2 * margin) * hop, np.float32)
        part = padded[start * hop : (first + block + margin) * hop]
        some[: len(part)] = part
        found.append(np.asarray(run(some))[first - start :][:block])
    logs = np.concatenate(found)[:S]
    return (np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0


def _log_energies(
    samples: Float[Array, "B L"], rate: int, mels: int, highest: float | None
) -> tuple[Float[Array, "B S M"], Bool[Array, "B S"]]:
    """Return log10 of the energy of each frame and filter, and False for frames of padding."""
    size, hop = window_size(rate), hop_size(rate)
    real = ~jnp.isnan(samples)
    lengths = jnp.sum(real, axis=1, dtype=jnp.int32)
    samples = jnp.where(real, samples, jnp.zeros_like(samples))
    S = samples.shape[1] // hop
    windows = hop * jnp.arange(S)[:, None] + jnp.arange(size)[None]
    padded = _reflected(samples, lengths, size // 2)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    spectrum = jnp.fft.rfft(padded[:, windows] * jnp.asarray(hann, samples.dtype)[None, None])
    power = jnp.square(jnp.abs(spectrum))
    filters = jnp.asarray(mel_filters(rate, mels, highest), samples.dtype)
    energy = jnp.einsum("bsf,fm->bsm", power, filters, precision=jax.lax.Precision.HIGHEST)
    valid = jnp.arange(S)[None] < (lengths // hop)[:, None]
    return jnp.log10(jnp.maximum(energy, 1e-10)), valid


def window_size(rate: int) -> int:
    """Return the samples of a window of 25 ms."""
    return round(WINDOW_SECONDS * rate)


def hop_size(rate: int) -> int:
    """Return the samples from one frame to the next, 10 ms."""
    return round(HOP_SECONDS * rate)


def _reflected(
    samples: Float[Array, "B L"], lengths: Int[Array, " B"], pad: int
) -> Float[Array, "B P"]:
    """Add ``pad`` samples at each end of each sound, mirrored at its first and last sample."""
    last = jnp.maximum(lengths - 1, 0)[:, None]
    place = jnp.arange(-pad, samples.shape[1] + pad, dtype=jnp.int32)[None]
    period = jnp.maximum(2 * last, 1)
    place = jnp.abs(place) % period  # a triangle wave: sounds shorter than the padding, too
    place = jnp.where(place > last, 2 * last - place, place)
    return jnp.take_along_axis(samples, place, axis=1, mode="clip")


@functools.cache
def mel_filters(rate: int, mels: int, highest: float | None = None) -> Float[np.ndarray, "F M"]:
    """Return triangular filters of equal area, equally spaced on Slaney's mel scale, float64.

    ValueError for so many filters that one of them is empty.
    """
    highest = rate / 2 if highest is None else highest
    frequencies = np.linspace(0, rate / 2, window_size(rate) // 2 + 1)
    edges = _hertz(np.linspace(0, _mel(highest), mels + 2))
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    if not filters.any(axis=0).all():
        raise ValueError(
            f"mels={mels}: a filter lies between two frequencies of a window of 25 ms at "
            f"{rate:,} Hz; wanted fewer"
        )
    return filters


def _mel(hertz: float) -> float:
    if hertz < _BREAK:
        return hertz / _LINEAR
    return _BREAK / _LINEAR + np.log(hertz / _BREAK) / _LOG_STEP


def _hertz(mel: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    above = np.maximum(mel - _BREAK / _LINEAR, 0)
    return np.where(above > 0, _BREAK * np.exp(_LOG_STEP * above), mel * _LINEAR)


def spec_augment(
    spectrogram: Spectrogram,
    key: Key[Array, ""],
    *,
    frequency_masks: int,
    frequency_width: int,
    time_masks: int,
    time_width: int,
) -> Float[Array, "B S M"]:
    """Hide random bands of mels and random spans of frames: SpecAugment without time warping.

    Park et al. 2019 (arXiv 1904.08779), section 2. Each mask is uniformly 0 to ``width`` wide, and
    lies anywhere within the sound. What it hides becomes the mean of the sound's frame values.
    """
    frames, valid = spectrogram
    B, S, M = frames.shape
    length = jnp.sum(valid, axis=1)
    total = jnp.sum(frames, axis=(1, 2), keepdims=True)
    mean = total / jnp.maximum(length * M, 1).astype(frames.dtype)[:, None, None]
    of_mels, of_time = jax.random.split(key)
    everywhere = jnp.full((B,), M)
    hidden = _bands(of_mels, frequency_masks, frequency_width, everywhere, M)[:, None, :]
    hidden = hidden | _bands(of_time, time_masks, time_width, length, S)[:, :, None]
    return jnp.where(hidden & valid[:, :, None], mean, frames)


def _bands(
    key: Key[Array, ""], count: int, width: int, length: Int[Array, " B"], size: int
) -> Bool[Array, "B size"]:
    """Return True within any of ``count`` random bands of each row, all below its length."""
    for_width, for_start = jax.random.split(key)
    shape = (length.shape[0], count, 1)
    wide = jnp.minimum(jax.random.randint(for_width, shape, 0, width + 1), length[:, None, None])
    room = (length[:, None, None] - wide + 1).astype(jnp.float32)
    start = (jax.random.uniform(for_start, shape) * room).astype(jnp.int32)
    place = jnp.arange(size, dtype=jnp.int32)[None, None]
    return jnp.any((place >= start) & (place < start + wide), axis=1)

"""Rotary position embedding and the ways to stretch it over longer sequences.

Su et al. 2021 (arXiv 2104.09864), equation 34: each pair of features is rotated by an angle
proportional to its position, so that q . k depends only on the difference of positions. Rotate q
and k, not v.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnzoo.ops.softmax import compute_dtype

Layout = Literal["half", "interleaved"]
Frequencies = Float[np.ndarray, " half"]


def _plain(width: int, base: float) -> Frequencies:
    return base ** (-np.arange(0, width, 2) / width)


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Position interpolation (arXiv 2306.15595): every frequency divided by ``factor``."""

    factor: float

    def frequencies(self, width: int, base: float) -> Frequencies:
        return _plain(width, base) / self.factor


@dataclasses.dataclass(frozen=True)
class NTKScaling:
    """NTK-aware scaling: a larger base stretches the slowest pair by ``factor``."""

    factor: float

    def frequencies(self, width: int, base: float) -> Frequencies:
        return _plain(width, base * self.factor ** (width / (width - 2)))


@dataclasses.dataclass(frozen=True)
class DynamicNTKScaling:
    """NTK-aware scaling that grows with the current length beyond ``original_length``."""

    factor: float
    original_length: int

    def stretched(self, width: int, base: float, length: Float[Array, ""]) -> Float[Array, " half"]:
        """Return the frequencies at the current length, which may be traced."""
        longest = jnp.maximum(length, self.original_length)
        stretch = self.factor * longest / self.original_length - (self.factor - 1)
        exponents = jnp.asarray(-np.arange(0, width, 2) / width, length.dtype)
        return (base * stretch ** (width / (width - 2))) ** exponents


@dataclasses.dataclass(frozen=True)
class YaRNScaling:
    """YaRN (Peng et al. 2024, arXiv 2309.00071): interpolates slow pairs and keeps fast ones."""

    factor: float
    original_length: int
    fast: float = 32.0
    """Pairs with more turns than this within the original length are kept."""
    slow: float = 1.0
    """Pairs with fewer turns than this within the original length are interpolated."""
    amplitude: float | None = None
    """Factor on cos and sin; None: 0.1 ln(factor) + 1."""

    def frequencies(self, width: int, base: float) -> Frequencies:
        def pair_that_turns(times: float) -> float:
            turns = self.original_length / (2 * math.pi * times)
            return width * math.log(turns) / (2 * math.log(base))

        low = max(math.floor(pair_that_turns(self.fast)), 0)
        high = min(math.ceil(pair_that_turns(self.slow)), width - 1)
        ramp = np.clip((np.arange(width // 2) - low) / max(high - low, 0.001), 0, 1)
        plain = _plain(width, base)
        return plain / self.factor * ramp + plain * (1 - ramp)

    @property
    def attention_factor(self) -> float:
        """Factor on cos and sin; its square scales the logits."""
        if self.amplitude is not None:
            return self.amplitude
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1 scaling: long wavelengths are stretched by ``factor``, with a smooth transition.

    Frequencies with fewer than ``low`` turns within ``original_length`` are divided by ``factor``,
    those with more than ``high`` turns are kept.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192

    def frequencies(self, width: int, base: float) -> Frequencies:
        plain = _plain(width, base)
        turns = self.original_length * plain / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return ((1 - kept) / self.factor + kept) * plain


Scaling = LinearScaling | NTKScaling | DynamicNTKScaling | YaRNScaling | Llama3Scaling


def rotary_frequencies(
    width: int,
    *,
    base: float = 10_000.0,
    scaling: Scaling | None = None,
    length: int | Int[Array, ""] | None = None,
) -> Float[Array, " half"]:
    """Return the angle per position of each of the ``width / 2`` pairs, in radians.

    Only ``DynamicNTKScaling`` reads ``length``, the number of positions so far, and needs it.
    """
    if width % 2 or width < 2:
        raise ValueError(f"width={width} features do not make pairs; wanted an even number")
    if isinstance(scaling, DynamicNTKScaling):
        if length is None:
            raise ValueError("length is None; DynamicNTKScaling needs the current length")
        return scaling.stretched(width, base, jnp.asarray(length).astype(float))
    plain = _plain(width, base) if scaling is None else scaling.frequencies(width, base)
    return jnp.asarray(plain)


def rotary_embedding(
    x: Float[Array, "B T N H"],
    positions: Int[Array, "#B T"],
    *,
    base: float = 10_000.0,
    layout: Layout = "half",
    scaling: Scaling | None = None,
    width: int | None = None,
    length: int | Int[Array, ""] | None = None,
) -> Float[Array, "B T N H"]:
    """Rotate queries or keys by their absolute positions, in float32; the result has x's dtype.

    Args:
      positions: absolute positions, ``B T`` or ``1 T``, also after cache eviction.
      layout: "half" pairs feature c with c + width/2 (GPT-NeoX, Hugging Face); "interleaved" pairs
        2c with 2c + 1 (the paper, Meta's weights). Weights trained with one do not work with the
        other.
      width: only the first ``width`` features are rotated (partial rotary); all if None.
      length: the number of positions so far, for ``DynamicNTKScaling``.
    """
    H = x.shape[3]
    width = H if width is None else width
    if width > H:
        raise ValueError(f"width={width} is more than the {H} features of a head")
    if layout not in ("half", "interleaved"):
        raise ValueError(f"layout={layout!r}; wanted 'half' or 'interleaved'")
    dtype = compute_dtype(x)
    frequencies = rotary_frequencies(width, base=base, scaling=scaling, length=length)
    angles = positions.astype(dtype)[:, :, None, None] * frequencies.astype(dtype)[None, None, None]
    factor = scaling.attention_factor if isinstance(scaling, YaRNScaling) else 1.0
    turning, still = x[..., :width].astype(dtype), x[..., width:]
    out = _turned(turning, factor * jnp.cos(angles), factor * jnp.sin(angles), layout)
    return jnp.concatenate([out.astype(x.dtype), still], axis=-1)


def _turned(
    x: Float[Array, "B T N H"],
    cos: Float[Array, "#B T 1 half"],
    sin: Float[Array, "#B T 1 half"],
    layout: Layout,
) -> Float[Array, "B T N H"]:
    if layout == "half":
        first, second = jnp.split(x, 2, axis=-1)
    else:
        first, second = x[..., 0::2], x[..., 1::2]
    turned = (first * cos - second * sin, second * cos + first * sin)
    if layout == "half":
        return jnp.concatenate(turned, axis=-1)
    return jnp.stack(turned, axis=-1).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary embedding of queries or keys with fixed settings of ``ops.rotary_embedding``."""

    base: float = 10_000.0
    layout: Layout = "half"
    scaling: Scaling | None = None
    width: int | None = None
    """Only the first ``width`` features of a head are rotated; all if None."""

    def __call__(
        self, x: Float[Array, "B T N H"], positions: Int[Array, "#B T"], length: int
    ) -> Float[Array, "B T N H"]:
        return rotary_embedding(
            x,
            positions,
            base=self.base,
            layout=self.layout,
            scaling=self.scaling,
            width=self.width,
            length=length,
        )

    def check_cache(self) -> None:
        """Raise NotImplementedError if a longer sequence changes the rotation of cached keys."""
        if isinstance(self.scaling, DynamicNTKScaling):
            raise NotImplementedError(
                "rotary.scaling=DynamicNTKScaling turns earlier keys anew as the sequence grows; "
                "the cache holds turned keys. Wanted another scaling"
            )


@dataclasses.dataclass(frozen=True)
class GridRotary:
    """Rotary embedding of image patches by row and column (DINOv3, arXiv 2508.10104).

    A quarter of a head's pairs of features turns by the row, the next one by the column, each by
    2 pi base^(-4 i / H) times the coordinate.
    """

    base: float = 100.0
    width: ClassVar[None] = None

    def check_cache(self) -> None:
        """Raise NotImplementedError: images are not decoded step by step."""
        raise NotImplementedError("rotary rows and columns of an image: there is no cache of them")

    def __call__(
        self, x: Float[Array, "B T N H"], positions: Float[Array, "#B T 2"], length: int
    ) -> Float[Array, "B T N H"]:
        """Rotate queries or keys, in float32; a coordinate of 0 turns nothing."""
        H = x.shape[3]
        if H % 4:
            raise ValueError(f"heads of {H} features; rotary rows and columns want a multiple of 4")
        dtype = compute_dtype(x)
        rates = jnp.asarray(2 * math.pi * self.base ** (-np.arange(0, 1, 4 / H)), dtype)
        angles = positions.astype(dtype)[..., None] * rates[None, None, None]
        angles = angles.reshape(*positions.shape[:2], 1, H // 2)
        return _turned(x.astype(dtype), jnp.cos(angles), jnp.sin(angles), "half").astype(x.dtype)


def patch_coordinates(rows: int, columns: int, prefix: int) -> Float[np.ndarray, "1 T 2"]:
    """Return coordinates of patch centres from -1 to 1 (row, column), after 0 for the prefix."""
    centres = [(2 * np.arange(n) + 1) / n - 1 for n in (rows, columns)]
    grid = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.concatenate([np.zeros((prefix, 2)), grid])[None].astype(np.float32)

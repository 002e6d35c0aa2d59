"""Pictures with the attention of each word of their caption."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from attnzoo.plotting.style import style, text_width

_PANEL, _HEAD, _DPI = 1.25, 0.3, 150
_LIGHT = LinearSegmentedColormap.from_list("light", [(0, 0, 0, 0.82), (0, 0, 0, 0.0)])
"""Shade of a place: none at the largest weight of a word."""


def caption_attention(
    image: Float[np.ndarray, "h w C"],
    words: Sequence[str],
    weights: Float[np.ndarray, "words rows columns"],
    *,
    columns: int = 6,
    title: str = "",
) -> Figure:
    """Draw an image, and again under each word of its caption, dark where the word does not look.

    Weights are scaled up bilinearly to the image, and relative to the largest of each word, which
    is written beside the word. ``image`` has values of 0 to 1 and one or three channels. Raises
    ValueError if there is not a map for each word.
    """
    if len(words) != len(weights) or not len(words):
        raise ValueError(f"{len(words)} words and {len(weights)} maps, wanted as many, and some")
    h, w, C = image.shape
    shown = np.repeat(image, 3, axis=2) if C == 1 else image
    columns = min(columns, len(words) + 1)
    lines = ceil((len(words) + 1) / columns)
    tall = _PANEL * h / w
    head = 0.25 if title else 0.0
    width = max(columns * (_PANEL + 0.08), text_width(title, 8.0) + 0.1)
    height = lines * (tall + _HEAD) + head
    with style():
        figure = Figure(figsize=(width, height), dpi=_DPI)
        figure.text(0.05 / width, 1 - 0.14 / height, title, fontsize=8, va="center")
        for n in range(len(words) + 1):
            line, column = divmod(n, columns)
            bottom = height - head - (line + 1) * (tall + _HEAD) + 0.04
            box: Any = (column * (_PANEL + 0.08) + 0.04, bottom, _PANEL, tall)
            axes = figure.add_axes(
                (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
            )
            axes.set_xticks([])
            axes.set_yticks([])
            axes.imshow(shown, vmin=0, vmax=1)
            if n == 0:
                continue
            largest = float(weights[n - 1].max())
            light = _scaled(weights[n - 1] / (largest or 1.0), h, w)
            axes.imshow(light, cmap=_LIGHT, vmin=0, vmax=1)
            axes.set_title(f"{words[n - 1]}  {largest:.2f}", fontsize=7, pad=2.5)
    return figure


def _scaled(weights: Float[np.ndarray, "rows columns"], h: int, w: int) -> np.ndarray:
    small = Image.fromarray(weights.astype(np.float32))
    return np.asarray(small.resize((w, h), Image.Resampling.BILINEAR))

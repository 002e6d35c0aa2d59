"""Plots of what a model attends to in a sound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from attnzoo.plotting.style import COLORS, DPI, style, text_width


def speech_alignment(
    spectrogram: Float[np.ndarray, "frames mels"],
    weights: Float[np.ndarray, "tokens features"],
    tokens: Sequence[str],
    words: Sequence[str],
    times: Sequence[tuple[float, float]],
    *,
    known: Sequence[tuple[float, float]] | None = None,
    first: float = 0.0,
    step: float = 0.01,
) -> Figure:
    """Draw the attention of each token to a sound under its log-mel spectrogram.

    The time axis is shared. Lines are the starts of words that were found, triangles below the
    spectrogram the ``known`` starts; dark is a large value, in each row of weights relative to its
    largest.

    Args:
      spectrogram: a frame every 10 ms. weights: the time of feature 0 is ``first``, that of the
        next ones ``step`` later each, in seconds.
      times: start and end of each word.
    """
    frames, mels = spectrogram.shape
    seconds = frames * 0.01
    width = float(np.clip(2.2 * seconds, 4.0, 16.0))
    row = float(np.clip(5.0 / max(len(tokens), 1), 0.09, 0.24))
    left = max([0.55, *(text_width(token, 8.0) + 0.2 for token in tokens)])
    top, below, gap, bottom = 0.3, row * max(len(tokens), 1), 0.12, 0.45
    height = top + 1.3 + gap + below + bottom
    with style():
        figure = Figure(figsize=(left + width + 0.1, height), dpi=DPI)

        def panel(low: float, tall: float):
            whole = left + width + 0.1
            return figure.add_axes((left / whole, low / height, width / whole, tall / height))

        sound, attention = panel(bottom + below + gap, 1.3), panel(bottom, below)
        sound.imshow(
            spectrogram.T,
            cmap="Greys",
            origin="lower",
            aspect="auto",
            extent=(-0.005, seconds - 0.005, 0, mels),
        )
        largest = np.maximum(weights.max(axis=1, keepdims=True), 1e-9)
        begin = first - step / 2
        attention.imshow(
            weights / largest,
            cmap="Greys",
            aspect="auto",
            interpolation="nearest",
            extent=(begin, begin + step * weights.shape[1], len(tokens) - 0.5, -0.5),
        )
        for word, (start, end) in zip(words, times):
            for axes in (sound, attention):
                if start > 0:
                    axes.axvline(start, color=COLORS[1], linewidth=0.9)
            sound.annotate(
                word,
                ((start + end) / 2, 1),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        for start, _ in known or ():
            sound.plot(start, 0, marker="^", color=COLORS[0], markersize=5, clip_on=False, zorder=3)
        sound.set_xticks([])
        sound.set_ylabel("mel", fontsize=8)
        sound.tick_params(labelsize=7)
        attention.set_yticks(range(len(tokens)), labels=list(tokens), fontsize=8)
        attention.tick_params(axis="y", length=0)
        attention.tick_params(axis="x", labelsize=7)
        attention.set_xlabel("seconds", fontsize=8)
        for axes in (sound, attention):
            axes.set_xlim(-0.005, seconds - 0.005)
    return figure

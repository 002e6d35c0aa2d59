"""Plots of summaries: the source words that each word of a summary was read from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from attnzoo.plotting.style import COLORS, DPI, style, text_width

MOST_COLUMNS = 40
CELL, POINTS = 0.22, 8.0  # inches, points


def copy_picture(
    weights: Float[np.ndarray, "words source_words"],
    source_words: Sequence[str],
    words: Sequence[str],
    p_gen: Float[np.ndarray, " words"] | None = None,
    least: float = 0.1,
) -> Figure:
    """Draw the attention from each word of a summary (rows) to words of its source (columns).

    White is 0 and black is 1. Source words that never get ``least`` of the attention are left out,
    and so are, of more than 40, those that get less than others. ``p_gen`` is drawn beside it: the
    probability to write a word of the vocabulary rather than to copy one. Raises ValueError if the
    matrix does not have a row for every word and a column for every source word.
    """
    if weights.shape != (len(words), len(source_words)) or not weights.size:
        raise ValueError(
            f"weights has shape {weights.shape}, wanted a row for each of {len(words)} words and "
            f"a column for each of {len(source_words)} source words"
        )
    most = weights.max(axis=0)
    ranked = np.argsort(-most, kind="stable")[:MOST_COLUMNS]
    chosen = sorted(i for i in ranked if most[i] >= min(least, most.max()))
    left = max(text_width(word, POINTS) for word in words) + 0.1
    top = max(text_width(source_words[i], POINTS) for i in chosen) + 0.1
    bars = 0.0 if p_gen is None else 1.0
    wide, high, gap = CELL * len(chosen), CELL * len(words), 0.15
    width, height = left + wide + (gap + bars if bars else 0) + 0.1, top + high + 0.35
    with style():
        figure = Figure(figsize=(width, height), dpi=DPI)
        axes = figure.add_axes((left / width, 0.35 / height, wide / width, high / height))
        axes.imshow(weights[:, chosen], cmap="gray_r", vmin=0.0, vmax=1.0, aspect="auto")
        axes.xaxis.tick_top()
        labels = [source_words[i] for i in chosen]
        axes.set_xticks(range(len(chosen)), labels=labels, fontsize=POINTS, rotation=90)
        axes.set_yticks(range(len(words)), labels=list(words), fontsize=POINTS)
        axes.tick_params(length=0, pad=3)
        if p_gen is not None:
            place = ((left + wide + gap) / width, 0.35 / height, bars / width, high / height)
            beside = figure.add_axes(place, sharey=axes)
            beside.barh(range(len(words)), p_gen, height=0.7, color=COLORS[0])
            beside.set_xlim(0, 1)
            beside.set_xticks([0, 0.5, 1], labels=["copy", "", "write"], fontsize=POINTS)
            beside.tick_params(axis="y", length=0, labelleft=False)
            beside.set_title("p_gen", fontsize=POINTS, pad=4)
    return figure

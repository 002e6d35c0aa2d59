"""Texts of several lines whose words are shaded by weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attnzoo.plotting.explanations import visible
from attnzoo.plotting.style import COLORS, SURE, style, text_width

_LINE, _FONT, _DPI = 0.2, 8.0, 150


class Passage(NamedTuple):
    """One text of `passages`: its pieces, a weight of 0 or more for each, and a framed range.

    `boxed` is the first framed piece and the one after the last; None: no frame.
    """

    title: str
    pieces: Sequence[str]
    weights: Float[np.ndarray, " pieces"]
    boxed: tuple[int, int] | None = None


def passages(texts: Sequence[Passage], *, title: str = "", width: float = 7.5) -> Figure:
    """Draw texts with their words shaded: white is 0, blue the largest weight of the text.

    Pieces follow one another in lines of `width` inches; a frame marks the boxed ones. Raises
    ValueError if a text has another number of weights than of pieces.
    """
    for text in texts:
        if np.shape(text.weights) != (len(text.pieces),):
            raise ValueError(
                f"{text.title}: weights have shape {np.shape(text.weights)}, wanted "
                f"({len(text.pieces)},)"
            )
    lines = [_broken(text.pieces, width) for text in texts]
    height = 0.3 + sum(0.3 + _LINE * len(some) for some in lines)
    with style():
        figure = Figure(figsize=(width + 0.2, height), dpi=_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.1, width + 0.1), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(0, 0.14, title, fontsize=_FONT + 1, va="center")
        y = 0.3
        for text, some in zip(texts, lines, strict=True):
            axes.text(0, y + 0.12, text.title, fontsize=_FONT - 1, va="center", color="#555555")
            y += 0.24
            limit = float(np.max(text.weights, initial=0.0)) or 1.0
            first, last = text.boxed or (0, 0)
            for line in some:
                for i, x, wide in line:
                    share = max(float(text.weights[i]), 0.0) / limit
                    cell = (x, y + 0.01), wide, _LINE - 0.02
                    axes.add_patch(Rectangle(*cell, facecolor=COLORS[0], alpha=0.6 * share, lw=0))
                    axes.text(
                        x + wide / 2,
                        y + _LINE / 2,
                        visible(text.pieces[i]),
                        fontsize=_FONT,
                        ha="center",
                        va="center",
                    )
                inside = [(x, x + wide) for i, x, wide in line if first <= i < last]
                if inside:
                    corner, wide = inside[0][0], inside[-1][1] - inside[0][0]
                    frame = Rectangle((corner, y), wide, _LINE, fill=False, edgecolor=SURE, lw=1.6)
                    axes.add_patch(frame)
                y += _LINE
            y += 0.06
    return figure


def _broken(pieces: Sequence[str], width: float) -> list[list[tuple[int, float, float]]]:
    """Return the pieces of each line: number, left edge and width in inches."""
    lines: list[list[tuple[int, float, float]]] = [[]]
    x = 0.0
    for i, piece in enumerate(pieces):
        wide = max(0.1, 1.12 * text_width(visible(piece), _FONT) + 0.05)
        if lines[-1] and x + wide > width:
            lines.append([])
            x = 0.0
        lines[-1].append((i, x, wide))
        x += wide
    return lines

"""Plots of alignment matrices with their words and reference links."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from attnzoo.alignment.links import Links
from attnzoo.plotting.style import (
    DPI,
    POSSIBLE,
    SURE,
    style,
    text_width,
)


class AlignmentPicture(NamedTuple):
    """One panel of `alignment_grid`: the arguments of `alignment_heatmap`."""

    weights: Float[np.ndarray, "target_words source_words"]
    source_words: Sequence[str]
    target_words: Sequence[str]
    links: Links | None = None
    title: str | None = None


def alignment_heatmap(
    weights: Float[np.ndarray, "target_words source_words"],
    source_words: Sequence[str],
    target_words: Sequence[str],
    links: Links | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the alignment matrix of one sentence pair, as in Bahdanau et al. 2015, figure 3.

    Rows are target words, columns source words (named at the top); black is 0 and white is 1.
    Reference `links` are outlined: sure ones solid, possible ones dashed. Raises ValueError if
    the matrix does not have a row for every target word and a column for every source word.
    """
    return alignment_grid(
        [AlignmentPicture(weights, source_words, target_words, links, title)], columns=1
    )


def alignment_grid(pictures: Sequence[AlignmentPicture], *, columns: int = 2) -> Figure:
    """Draw several alignment matrices in a grid, row by row, each as in `alignment_heatmap`."""
    if not pictures:
        raise ValueError("pictures is empty, wanted at least one alignment")
    panels = [_Panel.measure(picture) for picture in pictures]
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    # Columns share their label width and rows their label height, so that the matrices line up.
    lefts = [max(p.left for p in panels[c::columns]) for c in range(columns)]
    widths = [max(p.right_end for p in panels[c::columns]) for c in range(columns)]
    tops = [max(p.top for p in row) for row in rows]
    heights = [max(p.height for p in row) for row in rows]
    legend = 0.35 if any(p.picture.links and p.picture.links.possible for p in panels) else 0.08
    gap = 0.3
    width = sum(lefts) + sum(widths) + gap * (columns - 1) + 0.1
    height = sum(tops) + sum(heights) + gap * (len(rows) - 1) + legend

    with style():
        figure = Figure(figsize=(width, height), dpi=DPI)
        y = height
        for r, row in enumerate(rows):
            y -= tops[r]
            x = 0.0
            for c, panel in enumerate(row):
                x += lefts[c]
                box = (x, y - panel.height, panel.width, panel.height)
                axes = figure.add_axes(
                    (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
                )
                panel.draw(axes)
                x += widths[c] + gap
            y -= heights[r] + gap
        _link_legend(figure, [p.picture.links for p in panels if p.picture.links])
    return figure


class _Panel(NamedTuple):
    """An alignment matrix and its dimensions in inches."""

    picture: AlignmentPicture
    cell: float
    font: float  # points
    rotation: int  # of the source words, degrees
    left: float  # for the target words
    top: float  # for the source words and the title
    overhang: float  # of slanted source words, beyond the matrix

    @property
    def width(self) -> float:
        return self.cell * len(self.picture.source_words)

    @property
    def height(self) -> float:
        return self.cell * len(self.picture.target_words)

    @property
    def right_end(self) -> float:
        return max(self.width + self.overhang, text_width(self.picture.title or "", self.font + 1))

    @classmethod
    def measure(cls, picture: AlignmentPicture) -> _Panel:
        rows, columns = len(picture.target_words), len(picture.source_words)
        if picture.weights.shape != (rows, columns) or not rows or not columns:
            raise ValueError(
                f"weights has shape {picture.weights.shape}, wanted a row for each of {rows} "
                f"target words and a column for each of {columns} source words"
            )
        longest = max(rows, columns)
        # 8 inches for the longer side while the words stay legible, never more than 30.
        cell = min(max(8 / longest, 0.17), 0.5, 30 / longest)
        font = float(np.clip(0.6 * cell * 72, 4.0, 11.0))
        source = [text_width(word, font) for word in picture.source_words]
        pad = 0.1
        if max(source) <= 0.9 * cell:
            rotation, top, overhang = 0, font / 72, 0.0
        elif columns <= 16:
            rotation, top = 45, 0.71 * (max(source) + font / 72)
            ends = [0.71 * w + (i + 0.5 - columns) * cell for i, w in enumerate(source)]
            overhang = max(0.0, *ends)
        else:
            rotation, top, overhang = 90, max(source), 0.0
        left = max(text_width(word, font) for word in picture.target_words) + pad
        title = (font + 8) / 72 if picture.title else 0.0
        return cls(picture, cell, font, rotation, left, top + pad + title, overhang)

    def draw(self, axes: Axes) -> None:
        picture = self.picture
        axes.imshow(picture.weights, cmap="gray", vmin=0.0, vmax=1.0, aspect="auto")
        axes.xaxis.tick_top()
        # Beyond some 170 words there is no room to label every one.
        every = ceil(self.font / 72 / self.cell)
        for axis, words in ((axes.xaxis, picture.source_words), (axes.yaxis, picture.target_words)):
            axis.set_ticks(
                range(0, len(words), every), labels=list(words[::every]), fontsize=self.font
            )
        if self.rotation:
            for label in axes.get_xticklabels():
                label.set(
                    rotation=self.rotation,
                    rotation_mode="anchor",
                    ha="left",
                    va="bottom" if self.rotation == 45 else "center",
                )
        axes.tick_params(length=0, pad=3)
        if picture.links:
            picture.links.check(len(picture.source_words), len(picture.target_words))
            for i, j in sorted(picture.links.possible):
                axes.add_patch(_outline(i, j, (i, j) in picture.links.sure, self.cell))
        if picture.title:
            axes.annotate(
                picture.title,
                (0, 1),
                (0, (self.top - (self.font + 4) / 72) * 72),
                xycoords="axes fraction",
                textcoords="offset points",
                fontsize=self.font + 1,
                annotation_clip=False,
            )


def _outline(i: int, j: int, sure: bool, cell: float) -> Rectangle:
    line = float(np.clip(5 * cell, 0.5, 1.8))
    # Inside the cell, so that the outlines of neighbours do not touch.
    inset = 0.02 + line / 72 / cell / 2
    return Rectangle(
        (i - 0.5 + inset, j - 0.5 + inset),
        1 - 2 * inset,
        1 - 2 * inset,
        fill=False,
        linewidth=line,
        edgecolor=SURE if sure else POSSIBLE,
        linestyle="-" if sure else (0, (2.2, 1.2)),
    )


def _link_legend(figure: Figure, references: Sequence[Links]) -> None:
    lines = []
    if any(links.sure for links in references):
        lines.append(Line2D([], [], color=SURE, linewidth=1.8, label="sure"))
    if any(links.possible - links.sure for links in references):
        line = Line2D([], [], color=POSSIBLE, linewidth=1.8, linestyle=(0, (2.2, 1.2)))
        line.set_label("possible")
        lines.append(line)
    if lines:
        figure.legend(
            handles=lines,
            title=None,
            loc="lower right",
            ncols=len(lines),
            frameon=False,
            fontsize=8,
            borderaxespad=0.2,
        )

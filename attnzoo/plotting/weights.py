"""Plots of attention weights, gates and masks: numbers as colours or grey values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from attnzoo.plotting.style import (
    COLORS,
    SMALL_DPI,
    SURE,
    style,
    text_width,
)

# -1 to 1: a number has the same colour in every plot of weights.
_NUMBERS = LinearSegmentedColormap.from_list(
    "weights", ["#7A2E00", SURE, "#F6CBA9", "#FFFFFF", "#9CCBE8", COLORS[0], "#00263E"]
)
_ZERO = "#DDDDDD"
_MASK = LinearSegmentedColormap.from_list("mask", [_ZERO, COLORS[0]])


class WeightPanel(NamedTuple):
    """One matrix of `weight_panels`: weights with a name for every row and every column."""

    weights: Float[np.ndarray, "rows columns"]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str


def weight_panels(
    panels: Sequence[WeightPanel],
    *,
    columns: int = 3,
    digits: int | None = None,
    outlined_row: int | None = None,
) -> Figure:
    """Draw attention weights of several mechanisms or heads, all on one colour scale.

    White is near 0, dark blue 1, dark red -1 (larger absolute values are clipped). Grey is exactly
    0, which means masked, out of the window, or cut off by a sparse normaliser. The size of a cell
    does not depend on their number. `digits` writes the numbers into the cells, `outlined_row`
    frames one query. Raises ValueError if a matrix does not have a name for every row and every
    column.
    """
    if not panels:
        raise ValueError("panels is empty, wanted at least one matrix")
    for panel in panels:
        named = (len(panel.rows), len(panel.columns))
        if panel.weights.shape != named:
            raise ValueError(
                f"{panel.title!r} has weights of shape {panel.weights.shape}; wanted {named}, a "
                "row and a column for each name"
            )
    font, cell, gap = 7.0, 0.23 if digits is None else 0.42, 0.22
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    left = max(text_width(name, font) for panel in panels for name in panel.rows) + 0.1
    top = 0.75 * max(text_width(name, font) for panel in panels for name in panel.columns) + 0.42
    widths = [max(cell * len(p.columns) for p in panels[c::columns]) for c in range(columns)]
    heights = [max(cell * len(p.rows) for p in row) for row in rows]
    signed = any((panel.weights < 0).any() for panel in panels)
    bar = 0.55
    width = sum(widths) + columns * (left + gap) + bar
    height = sum(heights) + len(rows) * top + 0.1

    with style():
        figure = Figure(figsize=(width, height), dpi=SMALL_DPI)
        image = None
        y = height
        for row, tall in zip(rows, heights):
            x = 0.0
            y -= top
            for panel, wide in zip(row, widths):
                x += left
                box = (
                    x,
                    y - cell * len(panel.rows),
                    cell * len(panel.columns),
                    cell * len(panel.rows),
                )
                axes = _inches(figure, *box)
                image = _draw_weights(axes, panel, font, digits)
                if outlined_row is not None:
                    axes.add_patch(
                        Rectangle(
                            (-0.5, outlined_row - 0.5),
                            len(panel.columns),
                            1,
                            fill=False,
                            edgecolor=SURE,
                            linewidth=1.6,
                            clip_on=False,
                            zorder=4,
                        )
                    )
                x += wide + gap
            y -= tall
        tall = min(heights[0], 1.84)
        ticks = (-1.0, 0.0, 1.0) if signed else (0.0, 0.5, 1.0)
        _scale_bar(figure, image, (width - bar + 0.05, height - top - tall, 0.09, tall), ticks)
    return figure


def _draw_weights(axes: Axes, panel: WeightPanel, font: float, digits: int | None) -> AxesImage:
    shown = np.ma.masked_where(panel.weights == 0, panel.weights)
    axes.set_facecolor(_ZERO)
    image = axes.imshow(shown, cmap=_NUMBERS, vmin=-1.0, vmax=1.0, aspect="auto")
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(panel.columns)), labels=list(panel.columns), fontsize=font)
    axes.set_yticks(range(len(panel.rows)), labels=list(panel.rows), fontsize=font)
    for label in axes.get_xticklabels():
        label.set(rotation=45, rotation_mode="anchor", ha="left", va="bottom")
    axes.tick_params(length=0, pad=2)
    for edge, count in (("x", len(panel.columns)), ("y", len(panel.rows))):
        line = axes.axvline if edge == "x" else axes.axhline
        for place in range(1, count):
            line(place - 0.5, color="white", linewidth=0.8)
    if digits is not None:
        for (i, j), number in np.ndenumerate(panel.weights):
            color = "white" if abs(number) > 0.45 else "black"
            text = f"{number:.{digits}f}" if number else "0"
            axes.text(j, i, text, ha="center", va="center", fontsize=font, color=color)
    axes.annotate(
        panel.title,
        (0, 1),
        (0, 72 * (0.75 * max(text_width(name, font) for name in panel.columns) + 0.14)),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=font + 1,
        annotation_clip=False,
    )
    return image


def _inches(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches from the figure's lower left corner."""
    w, h = figure.get_size_inches()
    return figure.add_axes((x / w, y / h, width / w, height / h))


def _scale_bar(
    figure: Figure,
    image: Any,
    box: tuple[float, float, float, float],
    ticks: tuple[float, float, float],
) -> None:
    axes = _inches(figure, *box)
    bar = figure.colorbar(image, cax=axes)
    axes.set_ylim(ticks[0], ticks[-1])
    bar.set_ticks(ticks)
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=6.5, length=2, width=0.5, pad=2)


def gate_panels(
    image: Float[np.ndarray, "h w"],
    by_place: Float[np.ndarray, "h w"],
    by_channel: Float[np.ndarray, " C"],
    channels: Sequence[str],
    *,
    place_title: str = "weights by place",
    low: float = 0.0,
) -> Figure:
    """Draw the gates of a convolutional network: a spatial map, and one bar per channel.

    `image` is the network's input. Weights lie between `low` (white) and `low` + 1 (dark blue).
    Raises ValueError if there is not a name for every channel.
    """
    if len(channels) != len(by_channel):
        raise ValueError(f"channels names {len(channels)} of {len(by_channel)} channels")
    size, high = 1.45, low + 1
    width, height = 3 * size + 1.35, size + 0.3
    with style():
        figure = Figure(figsize=(width, height), dpi=SMALL_DPI)
        axes = _inches(figure, 0.05, 0.08, size, size)
        axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
        maps = _inches(figure, 0.2 + size, 0.08, size, size)
        shown = maps.imshow(by_place, cmap=_NUMBERS, vmin=low - 1, vmax=high)
        for panel, title in ((axes, "input"), (maps, place_title)):
            panel.set_xticks([])
            panel.set_yticks([])
            panel.set_title(title, fontsize=8, pad=3)
        box = (0.27 + 2 * size, 0.08, 0.09, size)
        _scale_bar(figure, shown, box, (low, low + 0.5, high))
        bars = _inches(figure, width - size - 0.05, 0.08, size, size)
        places = np.arange(len(channels))
        colors = _NUMBERS((np.asarray(by_channel) - low + 1) / 2)
        bars.barh(places, by_channel, color=colors, edgecolor="#666666", linewidth=0.5, height=0.75)
        bars.set_yticks(places, labels=list(channels), fontsize=6.5)
        bars.set_xticks([low, low + 0.5, high])
        bars.set(xlim=(low, high), ylim=(len(channels) - 0.5, -0.5))
        bars.tick_params(labelsize=6.5, length=2, pad=2)
        bars.tick_params(axis="y", length=0)
        bars.set_title("weights by channel", fontsize=8, pad=3)
        for side in ("top", "right"):
            bars.spines[side].set_visible(False)
    return figure


def matrix_grid(
    matrices: Mapping[str, np.ndarray], *, columns: int = 4, numbers: bool = False
) -> Figure:
    """Draw masks, or tables of numbers, as small squares with titles; a row is a query.

    True is dark. With `numbers` each matrix has a scale of its own, red below 0 and blue above,
    and its smallest and largest number are written under it.
    """
    if not matrices:
        raise ValueError("matrices is empty, wanted at least one")
    columns = min(columns, len(matrices))
    rows = ceil(len(matrices) / columns)
    size, gap, head = 1.25, 0.28, 0.44 if not numbers else 0.5
    width, height = columns * (size + gap), rows * (size + head)
    with style():
        figure = Figure(figsize=(width, height), dpi=SMALL_DPI)
        for n, (title, matrix) in enumerate(matrices.items()):
            r, c = divmod(n, columns)
            box = (c * (size + gap), height - (r + 1) * (size + head) + 0.1 * numbers, size, size)
            axes = _inches(figure, *box)
            if numbers:
                limit = float(np.abs(matrix).max()) or 1.0
                axes.imshow(matrix, cmap=_NUMBERS, vmin=-limit, vmax=limit)
                note = f"{matrix.min():.2f} to {matrix.max():.2f}"
                axes.set_xlabel(note, fontsize=6.5, labelpad=2)
            else:
                axes.imshow(matrix, cmap=_MASK, vmin=0, vmax=1)
            axes.set_title(title, fontsize=6.5, pad=3)
            axes.set_xticks(np.arange(matrix.shape[1] + 1) - 0.5, labels=[])
            axes.set_yticks(np.arange(matrix.shape[0] + 1) - 0.5, labels=[])
            axes.grid(True, color="white", linewidth=0.5)
            axes.tick_params(length=0)
    return figure

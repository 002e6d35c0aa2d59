"""Arrays in, matplotlib Figures out: alignment matrices, attention weights, gates, masks, curves.

No figure needs a display, and none passes through pyplot, so nothing global is left behind. Colours
are Okabe and Ito's, which stay apart for colour-blind readers; grey values carry the weights.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from attnzoo.alignment.links import Links

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SURE, POSSIBLE = "#D55E00", "#56B4E9"

# Asked for glyphs that DejaVu Sans lacks, in this order; only the installed ones are named to
# matplotlib, which would otherwise warn about each of the others.
_FALLBACK_FONTS = (
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans JP",
    "Noto Sans SC",
    "Source Han Sans",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "IPAexGothic",
    "WenQuanYi Micro Hei",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Arial Unicode MS",
    "Unifont",
)
_DPI = 200
_SMALL_DPI = 130  # of the small pictures of a page

# -1 to 1: the same number has the same colour in every picture of weights.
_NUMBERS = LinearSegmentedColormap.from_list(
    "weights", ["#7A2E00", SURE, "#F6CBA9", "#FFFFFF", "#9CCBE8", COLORS[0], "#00263E"]
)
_ZERO = "#DDDDDD"
_MASK = LinearSegmentedColormap.from_list("mask", [_ZERO, COLORS[0]])


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
    """The alignment matrix of one sentence pair, as in Bahdanau et al. 2015, figure 3.

    Rows are target words, columns source words (named at the top); black is 0 and white is 1.
    Reference `links` are outlined: sure ones solid, possible ones dashed. Raises ValueError where
    the matrix does not have a row for every target word and a column for every source word.
    """
    return alignment_grid(
        [AlignmentPicture(weights, source_words, target_words, links, title)], columns=1
    )


def alignment_grid(pictures: Sequence[AlignmentPicture], *, columns: int = 2) -> Figure:
    """Several alignment matrices on one page, row by row, each as `alignment_heatmap` draws it."""
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
        figure = Figure(figsize=(width, height), dpi=_DPI)
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
    """An alignment matrix and the room it takes, in inches."""

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
        # Beyond some 170 words there is no room for every one of them.
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


def training_curves(metrics: Sequence[Mapping[str, object]]) -> Figure:
    """Curves of everything a run has logged, from the records of its metrics file.

    A record holds its `step`, the `part` it was measured on ("train", "validation") and numbers by
    name; `seconds` is left out. Every name is a panel and every part a line in it. What is no
    finite number is left out. Raises ValueError where nothing is left to draw.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in metrics:
        step = record.get("step")
        if not isinstance(step, int | float):
            continue
        for name, value in record.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in ("step", "seconds") and number and np.isfinite(value):
                lines = panels.setdefault(name, {})
                lines.setdefault(str(record.get("part", "")), []).append((step, value))
    if not panels:
        raise ValueError("metrics holds no finite number beside its steps: nothing to draw")

    columns = min(len(panels), 3)
    rows = ceil(len(panels) / columns)
    with style():
        figure = Figure(figsize=(3.4 * columns, 2.5 * rows), dpi=_DPI, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (panel, lines) in zip(grid, panels.items()):
            for n, (name, points) in enumerate(lines.items()):
                xs, ys = np.array(sorted(points)).T
                marker = MARKERS[n % len(MARKERS)] if len(xs) < 30 else ""
                color = COLORS[n % len(COLORS)]
                axes.plot(xs, ys, label=name, color=color, marker=marker, markersize=3.5)
            axes.set(title=panel, xlabel="step")
            if len(lines) > 1:
                axes.legend(frameon=False)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
    return figure


def bleu_by_length(
    buckets: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    *,
    counts: Sequence[int] | None = None,
    ylabel: str = "BLEU",
    title: str | None = None,
) -> Figure:
    """Scores by sentence length, one line a system, as in Bahdanau et al. 2015, figure 2.

    `buckets` names the ranges of source length ("1-10", "11-20", ...), `scores[system]` holds one
    score each, and `intervals[system]` the lower and upper end of its confidence interval, drawn as
    a band. `counts` writes the number of sentences under each range. NaN leaves a gap. Raises
    ValueError where a sequence has another length than `buckets`.
    """
    bands = intervals or {}
    for name, values in [*scores.items(), *bands.items(), ("counts", counts or buckets)]:
        if len(values) != len(buckets):
            raise ValueError(f"{name} has {len(values)} values for {len(buckets)} buckets")
    ticks = [f"{b}\nn = {n:,}" for b, n in zip(buckets, counts)] if counts else list(buckets)
    positions = np.arange(len(buckets))
    with style():
        size = (max(4.2, 1.0 + 0.75 * len(buckets)), 3.1)
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        for n, (name, values) in enumerate(scores.items()):
            color, marker = COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]
            if name in bands:
                low, high = np.array(bands[name], float).T
                axes.fill_between(positions, low, high, color=color, alpha=0.18, linewidth=0)
            axes.plot(positions, values, color=color, marker=marker, markersize=4, label=name)
        axes.set(xlabel="source length (words)", ylabel=ylabel, title=title or "")
        axes.set_xticks(positions, labels=ticks)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    return figure


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
    """Attention weights of several mechanisms or heads, all on one colour scale.

    White is near 0, dark blue 1, dark red -1 (weights beyond are drawn as those); grey is exactly
    0: masked, out of the window, or cut off by a sparse normaliser. Cells have one size whatever
    their number. `digits` writes the numbers into the cells, `outlined_row` frames one query.
    Raises ValueError where a matrix does not have a name for every row and every column.
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
        figure = Figure(figsize=(width, height), dpi=_SMALL_DPI)
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
    """Axes at a place of the figure, in inches from its lower left corner."""
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
    """What a gate of a convolutional network multiplies by: a map, and a bar per channel.

    `image` is what it was given. Weights lie between `low` (white) and `low` + 1 (dark blue).
    Raises ValueError where there is no name for every channel.
    """
    if len(channels) != len(by_channel):
        raise ValueError(f"channels names {len(channels)} of {len(by_channel)} channels")
    size, high = 1.45, low + 1
    width, height = 3 * size + 1.35, size + 0.3
    with style():
        figure = Figure(figsize=(width, height), dpi=_SMALL_DPI)
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
    """Masks, or tables of numbers, as small squares with a title each; a row is a query.

    Booleans are dark where they are True. With `numbers` each matrix has a scale of its own, red
    below 0 and blue above, and its least and greatest number are written under it.
    """
    if not matrices:
        raise ValueError("matrices is empty, wanted at least one")
    columns = min(columns, len(matrices))
    rows = ceil(len(matrices) / columns)
    size, gap, head = 1.25, 0.28, 0.44 if not numbers else 0.5
    width, height = columns * (size + gap), rows * (size + head)
    with style():
        figure = Figure(figsize=(width, height), dpi=_SMALL_DPI)
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


class LinePanel(NamedTuple):
    """One panel of `line_panels`: curves by name, each of x and y."""

    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    xlabel: str
    ylabel: str
    title: str = ""
    log: str = ""
    """Which axes are logarithmic: "", "x", "y" or "xy"."""


def line_panels(panels: Sequence[LinePanel]) -> Figure:
    """Curves side by side, one panel each, with a legend in every panel of more than one curve."""
    if not panels:
        raise ValueError("panels is empty, wanted at least one")
    with style():
        size = (3.0 * len(panels), 2.3)
        figure = Figure(figsize=size, dpi=_SMALL_DPI, layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            for n, (name, (xs, ys)) in enumerate(panel.lines.items()):
                color, marker = COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]
                marker = marker if len(xs) < 20 else ""
                axes.plot(xs, ys, color=color, marker=marker, markersize=3.5, label=name)
            if "x" in panel.log:
                axes.set_xscale("log", base=2)
            if "y" in panel.log:
                axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                # Not as powers, which matplotlib writes as formulas.
                axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
                axis.set_minor_formatter(NullFormatter())
            axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
            axes.tick_params(labelsize=7.5)
            if len(panel.lines) > 1:
                axes.legend(frameon=False, fontsize=7.5)
    return figure


def times_by_length(
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    *,
    ylabel: str = "ms",
    planned: Mapping[str, Mapping[str, Collection[int]]] | None = None,
) -> Figure:
    """Time, or another cost, by sequence length, both logarithmic:
    `panels[panel][contender][length]`; lengths in `planned` were not measured and get hollow marks.

    A contender has the same colour in every panel. Raises ValueError where there is no panel.
    """
    if not panels:
        raise ValueError("panels is empty: nothing to draw")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    columns = min(len(panels), 3)
    rows = ceil(len(panels) / columns)
    with style():
        size = (3.2 * columns, 2.5 * rows + 0.5)
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (panel, lines) in zip(grid, panels.items()):
            for name, points in lines.items():
                n = names.index(name)
                color, marker = COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]
                xs, ys = zip(*sorted(points.items()))
                axes.plot(xs, ys, color=color, marker=marker, markersize=3.5)
                guessed = [*((planned or {}).get(panel, {}).get(name, ()))]
                axes.plot(
                    guessed, [points[x] for x in guessed], linestyle="", color=color,
                    marker=marker, markersize=3.5, markerfacecolor="white",
                )  # fmt: skip
            axes.set(title=panel, xlabel="length", ylabel=ylabel, xscale="log", yscale="log")
            ticks = sorted({length for points in lines.values() for length in points})
            axes.set_xticks(ticks, labels=[f"{length:,}" for length in ticks])
            if max(ticks) >= 100_000:  # such labels would run into each other
                axes.tick_params(axis="x", labelrotation=30, labelsize=7.5)
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        keys = [
            Line2D([], [], color=COLORS[n % 7], marker=MARKERS[n % 7], markersize=3.5, label=name)
            for n, name in enumerate(names)
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 5))
    return figure


def save(figure: Figure, path: str | Path, *, palette: int | None = None) -> Path:
    """Write a figure as PNG or SVG, by the suffix, and return the path; parents are made.

    `palette` writes a PNG of so many colours, at most 256: a third of the size, for pages.

    The same figure gives the same bytes every time: no date, fixed identifiers. Text in an SVG
    stays text, shown in the reader's fonts. A script that no installed font knows is drawn as boxes
    in a PNG. Raises ValueError for another suffix.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    if kind not in metadata:
        raise ValueError(f"path={str(path)!r} ends in neither .png nor .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    if palette is not None and kind != "png":
        raise ValueError(f"palette={palette} is for .png, but path={str(path)!r}")
    file: Path | BytesIO = path if palette is None else BytesIO()
    with style(), _missing_glyphs_are_no_news():
        figure.savefig(
            file, format=kind, metadata=metadata[kind], bbox_inches="tight", pad_inches=0.06
        )
    if palette is not None:
        few = Image.open(file).convert("RGB").quantize(palette, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    return path


def to_rgb(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """The figure's pixels, for loggers of images."""
    canvas = FigureCanvasAgg(figure)
    with style(), _missing_glyphs_are_no_news():
        canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


@contextmanager
def style() -> Generator[None]:
    """Our settings while a figure is made; matplotlib's own are back afterwards."""
    settings: dict[Any, Any] = {
        "font.family": _fonts(),
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.linewidth": 0.7,
        "axes.grid": False,
        "axes.spines.top": True,
        "axes.spines.right": True,
        "legend.fontsize": 8,
        "lines.linewidth": 1.5,
        "svg.fonttype": "none",
        "svg.hashsalt": "attnzoo",
        # A word such as "$5" is no formula.
        "text.parse_math": False,
        "text.usetex": False,
    }
    with mpl.rc_context(settings):
        yield


@contextmanager
def _missing_glyphs_are_no_news() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"Glyph \d+ .* missing from", category=UserWarning
        )
        yield


@cache
def _fonts() -> list[str]:
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed)]


def text_width(text: str, points: float) -> float:
    """About how many inches a text takes: wide scripts fill the em, others some 0.58 of it."""
    ems = 0.0
    for character in text:
        if unicodedata.combining(character):
            continue
        ems += 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.58
    return ems * points / 72

"""Arrays in, matplotlib Figures out: alignment matrices, training curves, scores by length.

No figure needs a display, and none passes through pyplot, so nothing global is left behind. Colours
are Okabe and Ito's, which stay apart for colour-blind readers; grey values carry the weights.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

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

    with _style():
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
        return max(self.width + self.overhang, _width(self.picture.title or "", self.font + 1))

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
        source = [_width(word, font) for word in picture.source_words]
        pad = 0.1
        if max(source) <= 0.9 * cell:
            rotation, top, overhang = 0, font / 72, 0.0
        elif columns <= 16:
            rotation, top = 45, 0.71 * (max(source) + font / 72)
            ends = [0.71 * w + (i + 0.5 - columns) * cell for i, w in enumerate(source)]
            overhang = max(0.0, *ends)
        else:
            rotation, top, overhang = 90, max(source), 0.0
        left = max(_width(word, font) for word in picture.target_words) + pad
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
    with _style():
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
    with _style():
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


def times_by_length(
    panels: Mapping[str, Mapping[str, Mapping[int, float]]], *, ylabel: str = "ms"
) -> Figure:
    """Time by sequence length, both logarithmic: `panels[panel][contender][length]`.

    A contender has the same colour in every panel. Raises ValueError where there is no panel.
    """
    if not panels:
        raise ValueError("panels is empty: nothing to draw")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    columns = min(len(panels), 3)
    rows = ceil(len(panels) / columns)
    with _style():
        size = (3.2 * columns, 2.5 * rows + 0.5)
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (panel, lines) in zip(grid, panels.items()):
            for name, points in lines.items():
                n = names.index(name)
                color, marker = COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]
                xs, ys = zip(*sorted(points.items()))
                axes.plot(xs, ys, color=color, marker=marker, markersize=3.5)
            axes.set(title=panel, xlabel="length", ylabel=ylabel, xscale="log", yscale="log")
            ticks = sorted({length for points in lines.values() for length in points})
            axes.set_xticks(ticks, labels=[f"{length:,}" for length in ticks])
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


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG or SVG, by the suffix, and return the path; parents are made.

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
    with _style(), _missing_glyphs_are_no_news():
        figure.savefig(
            path, format=kind, metadata=metadata[kind], bbox_inches="tight", pad_inches=0.06
        )
    return path


def to_rgb(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """The figure's pixels, for loggers of images."""
    canvas = FigureCanvasAgg(figure)
    with _style(), _missing_glyphs_are_no_news():
        canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


@contextmanager
def _style() -> Generator[None]:
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


def _width(text: str, points: float) -> float:
    """About how many inches a text takes: wide scripts fill the em, others some 0.58 of it."""
    ems = 0.0
    for character in text:
        if unicodedata.combining(character):
            continue
        ems += 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.58
    return ems * points / 72

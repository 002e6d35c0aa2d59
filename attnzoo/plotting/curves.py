"""Plots of curves: training metrics, scores by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from attnzoo.plotting.style import (
    COLORS,
    DPI,
    MARKERS,
    SMALL_DPI,
    style,
)


def training_curves(metrics: Sequence[Mapping[str, object]]) -> Figure:
    """Draw curves of everything a run has logged, from the records of its metrics file.

    A record holds its `step`, the `part` it was measured on ("train", "validation") and numbers by
    name; `seconds` is left out. Every name is a panel and every part a line in it. Values that are
    not finite numbers are left out. Raises ValueError if nothing is left to draw.
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
        figure = Figure(figsize=(3.4 * columns, 2.5 * rows), dpi=DPI, layout="constrained")
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
    """Draw scores by sentence length, one line per system, as in Bahdanau et al. 2015, figure 2.

    `buckets` names the ranges of source length ("1-10", "11-20", ...), `scores[system]` holds one
    score each, and `intervals[system]` the lower and upper end of its confidence interval, drawn as
    a band. `counts` adds the number of sentences under each range. NaN leaves a gap. Raises
    ValueError if a sequence and `buckets` differ in length.
    """
    bands = intervals or {}
    for name, values in [*scores.items(), *bands.items(), ("counts", counts or buckets)]:
        if len(values) != len(buckets):
            raise ValueError(f"{name} has {len(values)} values for {len(buckets)} buckets")
    ticks = [f"{b}\nn = {n:,}" for b, n in zip(buckets, counts)] if counts else list(buckets)
    positions = np.arange(len(buckets))
    with style():
        size = (max(4.2, 1.0 + 0.75 * len(buckets)), 3.1)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
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


class LinePanel(NamedTuple):
    """One panel of `line_panels`: curves by name, each of x and y."""

    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    xlabel: str
    ylabel: str
    title: str = ""
    log: str = ""
    """Logarithmic axes: "", "x", "y" or "xy"."""


def line_panels(panels: Sequence[LinePanel]) -> Figure:
    """Draw panels of curves side by side, with a legend in panels of more than one curve."""
    if not panels:
        raise ValueError("panels is empty, wanted at least one")
    with style():
        size = (3.0 * len(panels), 2.3)
        figure = Figure(figsize=size, dpi=SMALL_DPI, layout="constrained")
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
                # Plain numbers instead of powers, which matplotlib writes as formulas.
                axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
                axis.set_minor_formatter(NullFormatter())
            axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
            axes.tick_params(labelsize=7.5)
            if len(panel.lines) > 1:
                axes.legend(frameon=False, fontsize=7.5)
    return figure

"""Figure of costs by sequence length."""

from collections.abc import Collection, Mapping
from math import ceil

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attnzoo.plotting.style import COLORS, DPI, MARKERS, style


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
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
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

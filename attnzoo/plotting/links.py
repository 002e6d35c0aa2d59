"""Pictures of word links beside reference links: hits, misses and false links."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attnzoo.alignment.links import Link, Links
from attnzoo.plotting.style import COLORS, DPI, style, text_width

HIT, MISS, FALSE, UNJUDGED = COLORS[2], COLORS[4], COLORS[1], "#bbbbbb"
FONT = 9.0


def beads(
    source_words: Sequence[str],
    target_words: Sequence[str],
    links: Set[Link],
    reference: Links | None = None,
    *,
    restrict: bool = False,
) -> Figure:
    """Draw two lines of words with a line for each link.

    With a reference, hits are green, misses (sure links that were not found) dashed yellow, and
    false links (neither sure nor possible) red. With `restrict` a link of a word without reference
    links is grey: neither right nor wrong (`attnzoo.alignment.scores.count_links`).
    ValueError for a side without words, or a link outside of the words.
    """
    sides = [list(source_words), list(target_words)]
    found = kinds_of(sides, links, reference, restrict)
    widths = [[text_width(word, FONT) + 0.12 for word in words] for words in sides]
    total = max(sum(row) for row in widths)
    centres = []
    for row in widths:
        x = (total - sum(row)) / 2
        places = []
        for width in row:
            places.append(x + width / 2)
            x += width
        centres.append(places)
    height = min(max(1.2, 0.12 * total), 3.0)
    with style():
        figure = Figure(figsize=(total + 0.2, height), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.1, total + 0.1), ylim=(-0.22, 1.22))
        axes.axis("off")
        for y, words, places in zip((1.1, -0.1), sides, centres, strict=True):
            for word, x in zip(words, places, strict=True):
                axes.text(x, y, word, ha="center", va="center", fontsize=FONT)
        for kind, some in found.items():
            color, dash = STYLES[kind]
            for i, j in sorted(some):
                axes.plot([centres[0][i], centres[1][j]], [0.98, 0.02], color=color, linestyle=dash)
        if reference is not None:
            _legend(figure)
    return figure


def link_matrix(
    source_words: Sequence[str],
    target_words: Sequence[str],
    links: Set[Link],
    reference: Links,
    *,
    restrict: bool = False,
) -> Figure:
    """Draw links in a matrix, rows target words and columns source words, by hit, miss and false.

    Possible reference links that were not found are no misses, and not drawn. ValueError as for
    `beads`.
    """
    sides = [list(source_words), list(target_words)]
    found = kinds_of(sides, links, reference, restrict)
    cell = min(max(8 / max(map(len, sides)), 0.17), 0.3)
    size = min(cell * 46, FONT)
    left, top = (max(text_width(word, size) for word in words) + 0.15 for words in reversed(sides))
    width, height = cell * len(sides[0]), cell * len(sides[1])
    whole = left + width + 0.1, top + height + 0.35
    with style():
        figure = Figure(figsize=whole, dpi=DPI)
        axes = figure.add_axes(
            (left / whole[0], 0.35 / whole[1], width / whole[0], height / whole[1])
        )
        axes.set(xlim=(-0.5, len(sides[0]) - 0.5), ylim=(len(sides[1]) - 0.5, -0.5))
        axes.xaxis.tick_top()
        axes.set_xticks(range(len(sides[0])), labels=sides[0], fontsize=size, rotation=90)
        axes.set_yticks(range(len(sides[1])), labels=sides[1], fontsize=size)
        axes.tick_params(length=0, pad=3)
        axes.grid(visible=True, linewidth=0.3, alpha=0.5)
        axes.set_axisbelow(True)
        markers = {"hit": ("s", HIT), "miss": ("s", "none"), "false": ("X", FALSE)}
        markers["unjudged"] = (".", UNJUDGED)
        for kind, some in found.items():
            marker, face = markers[kind]
            columns, rows = [i for i, _ in some], [j for _, j in some]
            axes.scatter(
                columns, rows, (cell * 45) ** 2, marker=marker, facecolors=face,
                edgecolors=STYLES[kind][0], linewidths=1.2,
            )  # fmt: skip
        _legend(figure)
    return figure


def kinds_of(
    sides: Sequence[Sequence[str]],
    links: Set[Link],
    reference: Links | None,
    restrict: bool = False,
) -> dict[str, set[Link]]:
    """Return links by kind: hit, miss, false and unjudged; without a reference all are hits."""
    if not all(sides):
        raise ValueError("a side has no words, wanted at least one on both")
    known = set(Links.of(links).check(len(sides[0]), len(sides[1])).sure)
    if reference is None:
        return {"hit": known}
    possible = reference.check(len(sides[0]), len(sides[1])).possible
    sources, targets = {i for i, _ in possible}, {j for _, j in possible}
    judged = {(i, j) for i, j in known if i in sources and j in targets} if restrict else known
    return {
        "hit": known & possible,
        "miss": set(reference.sure) - known,
        "false": judged - possible,
        "unjudged": known - judged,
    }


STYLES: dict[str, tuple[str, Any]] = {
    "hit": (HIT, "-"),
    "miss": (MISS, "--"),
    "false": (FALSE, "-"),
    "unjudged": (UNJUDGED, "-"),
}


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=color, linestyle=dash, label=kind)
        for kind, (color, dash) in STYLES.items()
    ]
    figure.legend(handles=handles, loc="lower right", ncols=4, frameon=False, fontsize=7)

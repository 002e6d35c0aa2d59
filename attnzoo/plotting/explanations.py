"""Plots of explanations: overlays on images, coloured tokens, maps by layer and head.

Colours are those of the pages of ``attnzoo.explain.page`` in a light browser: orange is evidence
for an answer, violet against it, blue is attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attnzoo.plotting.style import COLORS, SURE, style, text_width

_PANEL, _HEAD, _DPI = 1.45, 0.42, 150
FOR, AGAINST, WEIGHT, FRAME = SURE, "#7A3FA0", COLORS[0], COLORS[2]
_OPAQUE = 0.85
"""Opacity of the largest score of a method."""
_WEIGHTS = LinearSegmentedColormap.from_list("attention", ["#FFFFFF", "#9CCBE8", WEIGHT, "#00263E"])
_SIGNED = LinearSegmentedColormap.from_list("scores", [AGAINST, "#FFFFFF", FOR])
_FOOT = 0.36
# Printable signs for whitespace and for the markers of whitespace in tokens.
_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "Ġ": "␣", "Ċ": "↵", "▁": "␣"}


class Overlay(NamedTuple):
    """Scores of an image's patches by one method, with a title and a note."""

    title: str
    scores: Float[np.ndarray, "rows columns"]
    note: str = ""


def overlays(
    image: Float[np.ndarray, "h w C"],
    panels: Sequence[Overlay],
    *,
    title: str = "",
    marked: tuple[int, int] | None = None,
    marking: str = "marked",
    columns: int = 6,
) -> Figure:
    """Draw an image, and every method's scores over it: orange for the class, violet against it.

    All panels share one scale, relative to the largest absolute score of each method, since methods
    have different units; patches of score 0 are transparent. ``image`` has values of 0 to 1 and one
    or three channels; ``marked`` frames a patch (row, column), and ``marking`` labels the frame.
    Raises ValueError if the image does not divide into the grid of scores.
    """
    if not panels:
        raise ValueError("panels is empty, wanted at least one")
    h, w, C = image.shape
    for panel in panels:
        rows, across = panel.scores.shape
        if h % rows or w % across:
            raise ValueError(
                f"{panel.title}: scores of {rows} x {across} do not divide {h} x {w} pixels"
            )
    shown = np.repeat(image, 3, axis=2) if C == 1 else image
    grey = shown.mean(axis=2)
    lines = ceil((len(panels) + 1) / columns)
    columns = ceil((len(panels) + 1) / lines)  # no line much shorter than the others
    width, height = columns * (_PANEL + 0.1), lines * (_PANEL + _HEAD) + 0.25 + _FOOT
    key = _key_width(None if marked is None else marking)
    width = max(width, key, text_width(title, 8.0) + 0.1)
    with style():
        figure = Figure(figsize=(width, height), dpi=_DPI)
        figure.text(0.05 / width, 1 - 0.16 / height, title, fontsize=8, va="center")
        for n in range(len(panels) + 1):
            line, column = divmod(n, columns)
            bottom = height - 0.25 - (line + 1) * (_PANEL + _HEAD) + 0.14
            box = (column * (_PANEL + 0.1) / width, bottom / height, _PANEL / width)
            axes = figure.add_axes((*box, _PANEL / height))
            axes.set_xticks([])
            axes.set_yticks([])
            if n == 0:
                axes.imshow(shown, vmin=0, vmax=1)
                axes.set_title("image", fontsize=6.5, pad=3)
                rows, across = panels[0].scores.shape
            else:
                rows, across = _lay(axes, grey, panels[n - 1])
            if marked is not None:
                tall, wide = h / rows, w / across
                corner = (marked[1] * wide - 0.5, marked[0] * tall - 0.5)
                frame = Rectangle(corner, wide, tall, fill=False, edgecolor=FRAME, linewidth=1.4)
                axes.add_patch(frame)
        _key(figure, None if marked is None else marking)
    return figure


def _key(figure: Figure, marking: str | None) -> None:
    """Draw the legend of colours and frames at the bottom of a figure."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.55 / width, 0.16 / height, 1.1 / width, 0.09 / height))
    shares = np.linspace(-1, 1, 64)[None]
    axes.imshow(shares, cmap=_SIGNED, alpha=_OPAQUE, aspect="auto", extent=(-1, 1, 0, 1))
    axes.set_xticks([])
    axes.set_yticks([])
    y = 0.205 / height
    words: dict[str, Any] = {"fontsize": 6.5, "va": "center"}
    figure.text(0.5 / width, y, "against", ha="right", **words)
    figure.text(1.7 / width, y, "for", **words)
    figure.text(1.87 / width, y, KEY, **words)
    if marking is None:
        return
    x = 1.95 + text_width(KEY, 6.5) + 0.15
    box = Rectangle(
        (x / width, 0.15 / height), 0.11 / width, 0.11 / height, fill=False, edgecolor=FRAME,
        linewidth=1.4, transform=figure.transFigure,
    )  # fmt: skip
    figure.add_artist(box)
    figure.text((x + 0.16) / width, y, marking, **words)


KEY = "the answer; full colour is the largest score of each method"


def _key_width(marking: str | None) -> float:
    width = 1.95 + text_width(KEY, 6.5)
    return width + 0.1 if marking is None else width + 0.45 + text_width(marking, 6.5)


def _lay(
    axes: Axes,
    grey: Float[np.ndarray, "h w"],
    panel: Overlay,
    limit: float | None = None,
    color_above: str = FOR,
) -> tuple[int, int]:
    """Draw scores over a pale image, in full colour at ``limit``; return the grid's size."""
    rows, across = panel.scores.shape
    h, w = grey.shape
    axes.imshow(grey, cmap="gray", vmin=-0.6, vmax=1.2)
    limit = float(np.nanmax(np.abs(panel.scores))) if limit is None else limit
    large = np.kron(panel.scores / (limit or 1.0), np.ones((h // rows, w // across)))
    color = np.zeros((h, w, 4))
    color[large > 0, :3] = _rgb(color_above)
    color[large < 0, :3] = _rgb(AGAINST)
    color[..., 3] = _OPAQUE * np.abs(np.nan_to_num(large))
    axes.imshow(color)
    axes.set_title(panel.title.replace("_", " "), fontsize=6.5, pad=3)
    axes.set_xlabel(panel.note, fontsize=5.5, labelpad=2)
    return rows, across


class TokenRow(NamedTuple):
    """Scores of a text's tokens by one method, with a title and a note."""

    title: str
    scores: Float[np.ndarray, " T"]
    note: str = ""


def token_rows(
    tokens: Sequence[str],
    rows: Sequence[TokenRow],
    *,
    title: str = "",
    notes: str = "",
    marked: int | None = None,
    marking: str = "the token whose answer is explained",
    width: float = 9.0,
) -> Figure:
    """Draw a text once for every method, coloured: orange for the answer, violet against it.

    All rows share one scale, relative to the largest absolute score of each method; tokens of score
    0 or NaN are transparent. ``notes`` is the heading of the rows' notes; ``marked`` frames a
    token, and ``marking`` labels the frame. A text wider than ``width`` inches is broken into
    lines. Raises ValueError if a row does not have a score for every token.
    """
    if not rows or not tokens:
        raise ValueError(f"{len(rows)} rows of {len(tokens)} tokens, wanted at least one of both")
    for row in rows:
        if row.scores.shape != (len(tokens),):
            raise ValueError(
                f"{row.title}: scores have shape {row.scores.shape}, wanted ({len(tokens)},)"
            )
    font, tall, gap, head = 7.5, 0.235, 0.16, 0.34
    shown = [visible(token) for token in tokens]
    widths = [max(0.17, 1.1 * text_width(token, font) + 0.08) for token in shown]
    names = [row.title.replace("_", " ") for row in rows]
    left = max(text_width(name, font) for name in names) + 0.12
    right = max([text_width(text, font) for text in (notes, *(row.note for row in rows))]) + 0.12
    blocks = _broken(widths, width - left)
    across = max(sum(widths[i] for i in block) for block in blocks)
    inches = left + max(across, text_width(title, font + 1) - left - right) + right
    inches = max(inches, _key_width(None if marked is None else marking))
    height = head + len(blocks) * (len(rows) * tall + gap) + _FOOT
    with style():
        figure = Figure(figsize=(inches, height), dpi=_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, inches), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(0.02, 0.1, title, fontsize=font + 1, va="center")
        axes.text(left + across + 0.1, head - 0.09, notes, fontsize=font - 1, va="center")
        y = head
        for number, block in enumerate(blocks):
            for row, name in zip(rows, names, strict=True):
                middle = y + tall / 2
                axes.text(left - 0.06, middle, name, fontsize=font, ha="right", va="center")
                if number == 0:
                    axes.text(left + across + 0.1, middle, row.note, fontsize=font, va="center")
                known = row.scores[np.isfinite(row.scores)]
                limit = float(np.abs(known).max(initial=0)) or 1.0
                x = left
                for i in block:
                    score = float(np.nan_to_num(row.scores[i])) / limit
                    color = FOR if score > 0 else AGAINST
                    cell = Rectangle(
                        (x + 0.01, y + 0.012),
                        widths[i] - 0.02,
                        tall - 0.024,
                        facecolor=(*_rgb(color), _OPAQUE * abs(score)),
                        edgecolor=FRAME if i == marked else "none",
                        linewidth=1.1,
                    )
                    axes.add_patch(cell)
                    axes.text(
                        x + widths[i] / 2, middle, shown[i], fontsize=font, ha="center", va="center"
                    )
                    x += widths[i]
                y += tall
            y += gap
        _key(figure, None if marked is None else marking)
    return figure


def _broken(widths: Sequence[float], room: float) -> list[list[int]]:
    """Return the token indices of each line: as many as fit, at least one."""
    lines: list[list[int]] = [[]]
    used = 0.0
    for i, width in enumerate(widths):
        if lines[-1] and used + width > room:
            lines.append([])
            used = 0.0
        lines[-1].append(i)
        used += width
    return lines


def map_grid(
    maps: Mapping[str, Mapping[str, Float[np.ndarray, "T S"]]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    note: str = "",
) -> Figure:
    """Draw attention maps in lines, such as the heads of each layer: ``maps[line][panel]``.

    Every map has a row for each of ``rows`` and a column for each of ``columns``, labelled if there
    is room. All maps share one colour scale, white near 0 to dark blue at 1, stretched at its low
    end (by the square root); grey is exactly 0. ``note`` is drawn below. Raises ValueError for
    another shape.
    """
    if not maps or not all(maps.values()):
        raise ValueError("maps is empty, wanted at least one map in every line")
    for line, panels in maps.items():
        for panel, weights in panels.items():
            if weights.shape != (len(rows), len(columns)):
                raise ValueError(
                    f"{line}, {panel}: weights of shape {weights.shape}, wanted "
                    f"{(len(rows), len(columns))}, a row and a column for each name"
                )
    T, S = len(rows), len(columns)
    across, longest = max(map(len, maps.values())), max(T, S)
    cell = float(np.clip(8.0 / (across * S), 0.85 / longest, min(0.2, 6.0 / longest)))
    font = min(0.72 * cell * 72, 7.0)
    named = font >= 3.2
    words = [visible(word) for word in rows], [visible(word) for word in columns]
    side = max(text_width(word, font) for word in words[0]) + 0.06 if named else 0.05
    above = max(text_width(word, font) for word in words[1]) + 0.06 if named else 0.03
    label = max(text_width(line, 7.5) for line in maps) + 0.1
    head, foot, bar = 0.48 if title else 0.24, 0.24 if note else 0.05, 0.55
    wide, tall = cell * S, cell * T
    said = [text.split("\n") for panels in maps.values() for text in panels]
    under = 0.05 + 0.12 * max(map(len, said))
    gap = max(0.1, max(text_width(part, 6.5) for parts in said for part in parts) + 0.08 - wide)
    width = max(label + side + across * (wide + gap) + bar, text_width(title, 8.5) + 0.1)
    width = max(width, text_width(note, 7.5) + 0.1)
    height = head + above + len(maps) * (tall + 0.1 + under) + foot
    with style():
        figure = Figure(figsize=(width, height), dpi=_DPI)
        figure.text(0.03 / width, 1 - 0.13 / height, title, fontsize=8.5, va="center")
        figure.text(0.03 / width, 0.1 / height, note, fontsize=7.5, va="center")
        top = height - head - above
        scale = PowerNorm(0.5, 0.0, 1.0)
        for n, (line, panels) in enumerate(maps.items()):
            bottom = top - n * (tall + 0.1 + under) - tall
            figure.text(0.03 / width, (bottom + tall / 2) / height, line, fontsize=7.5, va="center")
            for c, (panel, weights) in enumerate(panels.items()):
                x = label + side + c * (wide + gap)
                axes = figure.add_axes((x / width, bottom / height, wide / width, tall / height))
                axes.set_facecolor("#DDDDDD")
                seen = np.ma.masked_where(weights == 0, weights)
                axes.imshow(seen, cmap=_WEIGHTS, norm=scale, aspect="auto")
                axes.tick_params(length=0, pad=1.5)
                axes.xaxis.tick_top()
                shown = named and n == 0
                axes.set_xticks(range(S) if shown else [])
                axes.set_xticklabels(words[1] if shown else [], fontsize=font, rotation=90)
                shown = named and c == 0
                axes.set_yticks(range(T) if shown else [])
                axes.set_yticklabels(words[0] if shown else [], fontsize=font)
                axes.set_xlabel(panel, fontsize=6.5, labelpad=2)
        high = min(1.4, max(tall, 0.7))
        right = label + side + across * (wide + gap) + 0.05
        box = right / width, (top - high) / height, 0.08 / width, high / height
        colors = ScalarMappable(scale, _WEIGHTS)
        key = figure.colorbar(colors, cax=figure.add_axes(box))
        key.set_ticks([0, 0.1, 0.5, 1], labels=["0", "0.1", "0.5", "1"])
        key.minorticks_off()
        key.ax.tick_params(labelsize=6.5, length=2, width=0.5, pad=2)
        key.ax.set_xlabel("grey: 0", fontsize=6.5, labelpad=3)
    return figure


def patch_grid(
    image: Float[np.ndarray, "h w C"],
    maps: Mapping[str, Mapping[str, Float[np.ndarray, "rows columns"]]],
    *,
    title: str = "",
    note: str = "",
) -> Figure:
    """Draw weights of an image's patches over it, in lines: ``maps[line][panel]``.

    All panels share one scale: transparent is 0, full blue the largest weight of all panels. The
    number under each panel is its own largest weight. Raises ValueError if the image does not
    divide into the grid of a map.
    """
    if not maps or not all(maps.values()):
        raise ValueError("maps is empty, wanted at least one map in every line")
    h, w, _ = image.shape
    across = max(map(len, maps.values()))
    size = float(np.clip(8.0 / across, 0.6, 1.3))
    label = max(text_width(line, 7.5) for line in maps) + 0.1
    limit = max(float(weights.max()) for panels in maps.values() for weights in panels.values())
    gap, below, head, foot = 0.07, 0.17, 0.27 if title else 0.05, _FOOT + (0.2 if note else 0)
    widest = max(label + across * (size + gap), text_width(title, 8.5), text_width(note, 7.5), 2.6)
    width, height = widest + 0.1, head + len(maps) * (size + below) + foot
    with style():
        figure = Figure(figsize=(width, height), dpi=_DPI)
        figure.text(0.03 / width, 1 - 0.13 / height, title, fontsize=8.5, va="center")
        figure.text(0.03 / width, (foot - 0.1) / height, note, fontsize=7.5, va="center")
        for n, (line, panels) in enumerate(maps.items()):
            bottom = height - head - n * (size + below) - size
            figure.text(0.03 / width, (bottom + size / 2) / height, line, fontsize=7.5, va="center")
            for c, (panel, weights) in enumerate(panels.items()):
                rows, columns = weights.shape
                if h % rows or w % columns:
                    raise ValueError(
                        f"{line}, {panel}: weights of {rows} x {columns} do not divide {h} x {w}"
                    )
                x = label + c * (size + gap)
                axes = figure.add_axes((x / width, bottom / height, size / width, size / height))
                axes.set_xticks([])
                axes.set_yticks([])
                _lay(axes, image.mean(axis=2), Overlay("", weights), limit, WEIGHT)
                axes.set_xlabel(f"{panel}: {weights.max():.2f}", fontsize=5.5, labelpad=1.5)
        bar = figure.add_axes((0.55 / width, 0.16 / height, 1.1 / width, 0.09 / height))
        blue = LinearSegmentedColormap.from_list("weights", ["#FFFFFF", WEIGHT])
        bar.imshow(np.linspace(0, 1, 64)[None], cmap=blue, alpha=_OPAQUE, aspect="auto")
        bar.set_xticks([])
        bar.set_yticks([])
        y = 0.205 / height
        figure.text(0.5 / width, y, "weight 0", fontsize=6.5, va="center", ha="right")
        figure.text(1.7 / width, y, f"{limit:.2f}, in all panels", fontsize=6.5, va="center")
    return figure


def visible(token: str) -> str:
    """Replace spaces and line breaks of a token by printable signs; "∅" for an empty token."""
    return "".join(_VISIBLE.get(character, character) for character in token) or "∅"


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))

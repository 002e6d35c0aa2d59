"""Figures of explanations: arrays in, matplotlib Figures out, in the style of ``plotting``."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attnzoo.plotting import SURE, style

_PANEL, _HEAD, _DPI = 1.45, 0.42, 150


class Overlay(NamedTuple):
    """The scores of an image's patches by one method, and what is said of them."""

    title: str
    scores: Float[np.ndarray, "rows columns"]
    note: str = ""


def overlays(
    image: Float[np.ndarray, "h w C"],
    panels: Sequence[Overlay],
    *,
    title: str = "",
    marked: tuple[int, int] | None = None,
    columns: int = 6,
) -> Figure:
    """An image, and every method's scores laid over it: red speaks for the class, blue against it.

    Each panel has a scale of its own, symmetric about 0; patches of score 0 are clear. ``image``
    has values of 0 to 1 and one or three channels; ``marked`` frames a patch (row, column). Raises
    ValueError where scores are not a grid that the image divides into.
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
    columns = min(columns, len(panels) + 1)
    lines = ceil((len(panels) + 1) / columns)
    width, height = columns * (_PANEL + 0.1), lines * (_PANEL + _HEAD) + 0.25
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
                frame = Rectangle(
                    corner, wide, tall, fill=False, edgecolor="#009E73", linewidth=1.4
                )
                axes.add_patch(frame)
    return figure


def _lay(axes: Axes, grey: Float[np.ndarray, "h w"], panel: Overlay) -> tuple[int, int]:
    """The scores over a pale image; returns the grid."""
    rows, across = panel.scores.shape
    h, w = grey.shape
    axes.imshow(grey, cmap="gray", vmin=-0.6, vmax=1.2)
    limit = float(np.nanmax(np.abs(panel.scores))) or 1.0
    large = np.kron(panel.scores / limit, np.ones((h // rows, w // across)))
    color = np.zeros((h, w, 4))
    color[large > 0, :3] = _rgb(SURE)
    color[large < 0, :3] = _rgb("#0072B2")
    color[..., 3] = 0.85 * np.abs(np.nan_to_num(large))
    axes.imshow(color)
    axes.set_title(panel.title.replace("_", " "), fontsize=6.5, pad=3)
    axes.set_xlabel(panel.note, fontsize=5.5, labelpad=2)
    return rows, across


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))

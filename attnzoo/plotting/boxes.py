"""Plots of detected objects: boxes over a picture, and the attention of the query of each."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attnzoo.plotting.style import COLORS, style

_WIDTH, _HEAD, _GAP, _COLUMNS, _DPI = 1.6, 0.22, 0.08, 5, 150
_LINES = ("-", "--", "-.", ":")
_ATTENTION = LinearSegmentedColormap.from_list("attention", ["#FFFFFF00", "#0072B2E6"])
MOST = 14
"""Most boxes whose attention is drawn, the first ones."""


def detections(
    image: Float[np.ndarray, "h w C"],
    boxes: Sequence[tuple[str, Sequence[float]]],
    classes: Sequence[int],
    weights: Sequence[Float[np.ndarray, "y x"]],
) -> Figure:
    """Draw the boxes on a picture, and for each the weights of its query over the picture.

    ``boxes`` are titles with corners in pixels. Each class has a colour and a kind of line.
    ``weights`` cover the picture in any resolution; full colour is the largest weight of a query.
    """
    h, w = image.shape[:2]
    shown = min(len(boxes), MOST)
    lines = ceil((shown + 1) / _COLUMNS)
    across = min(shown + 1, _COLUMNS)
    tall = _WIDTH * h / w
    width, height = across * (_WIDTH + _GAP), lines * (tall + _HEAD)
    with style():
        figure = Figure(figsize=(width, height), dpi=_DPI)
        for n in range(shown + 1):
            line, column = divmod(n, _COLUMNS)
            left, bottom = column * (_WIDTH + _GAP), height - (line + 1) * (tall + _HEAD)
            axes = figure.add_axes((left / width, bottom / height, _WIDTH / width, tall / height))
            axes.set_xticks([])
            axes.set_yticks([])
            if n == 0:
                axes.imshow(image, vmin=0, vmax=1, extent=(0, w, h, 0))
                axes.set_title(f"{len(boxes)} objects", fontsize=6.5, pad=2)
                for (_, corners), label in zip(boxes, classes, strict=True):
                    _frame(axes, corners, label, 0.8)
                continue
            title, corners = boxes[n - 1]
            pale = image.mean(axis=2)
            axes.imshow(pale, cmap="gray", vmin=-0.6, vmax=1.2, extent=(0, w, h, 0))
            largest = float(weights[n - 1].max()) or 1.0
            axes.imshow(
                weights[n - 1] / largest, cmap=_ATTENTION, vmin=0, vmax=1, extent=(0, w, h, 0)
            )
            axes.set_title(title, fontsize=6.5, pad=2)
            _frame(axes, corners, classes[n - 1], 1.0)
    return figure


def _frame(axes: Axes, corners: Sequence[float], label: int, width: float) -> None:
    left, top, right, bottom = corners
    color = COLORS[1:][label % (len(COLORS) - 1)]
    line = _LINES[label % len(_LINES)]
    for edge, thick, kind in (("white", width + 0.8, "-"), (color, width, line)):
        box = Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=edge, linewidth=thick,
            linestyle=kind,
        )  # fmt: skip
        axes.add_patch(box)

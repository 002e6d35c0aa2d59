"""Style of all figures (colours, fonts) and writing them to files.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from attnzoo.files import open_regular

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SURE, POSSIBLE = "#D55E00", "#56B4E9"

# Fonts for glyphs that DejaVu Sans lacks, in this order. Only installed fonts are passed to
# matplotlib, which would otherwise warn about each missing one.
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
DPI = 200
SMALL_DPI = 130  # for small images on a page


def save(figure: Figure, path: str | Path, *, palette: int | None = None) -> Path:
    """Write a figure as PNG or SVG, by the suffix, and return the path; parents are made.

    `palette` limits a PNG to that many colours, at most 256, for a third of the file size.

    The same figure gives the same bytes every time: no date, fixed identifiers. Text in an SVG
    stays text, in the fonts of the viewer. A PNG shows boxes for characters that no installed font
    has. Raises ValueError for another suffix.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    if kind not in metadata:
        raise ValueError(f"path={str(path)!r} ends in neither .png nor .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    if palette is not None and kind != "png":
        raise ValueError(f"palette={palette} is for .png, but path={str(path)!r}")
    file = BytesIO()
    with style(), ignore_missing_glyphs():
        figure.savefig(
            file, format=kind, metadata=metadata[kind], bbox_inches="tight", pad_inches=0.06
        )
    if palette is not None:
        few = Image.open(file).convert("RGB").quantize(palette, dither=Image.Dither.NONE)
        few.save(file := BytesIO(), "png", optimize=True)
    with open(path, "wb", opener=open_regular) as target:
        target.write(file.getvalue())
    return path


def to_rgb(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """Return a figure's pixels, for loggers of images."""
    canvas = FigureCanvasAgg(figure)
    with style(), ignore_missing_glyphs():
        canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


@contextmanager
def style() -> Generator[None]:
    """Apply our matplotlib settings inside the context, and restore the previous ones after it."""
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
        # A word such as "$5" is not a formula.
        "text.parse_math": False,
        "text.usetex": False,
    }
    with mpl.rc_context(settings):
        yield


@contextmanager
def ignore_missing_glyphs() -> Generator[None]:
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
    """Estimate the width of a text in inches: 1 em per wide character, 0.58 em per other one."""
    ems = 0.0
    for character in text:
        if unicodedata.combining(character):
            continue
        ems += 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.58
    return ems * points / 72

"""Parts of a page: checked maps, their 8-bit codes, and the viewer around them."""

import base64
import html
import io
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from attnzoo.errors import UserError
from attnzoo.files import write_text

LARGEST = 10_000_000
"""Largest size of a page in bytes."""

SCRIPTS = (
    "weights",
    "drawing",
    "state",
    "lines",
    "matrix",
    "heads",
    "image",
    "explanations",
    "main",
)
"""Files of viewer/, in the order of their dependencies."""

Weights = Float[np.ndarray, "N T S"]


@dataclass(frozen=True)
class Page:
    """HTML page, which a notebook shows if it is the last expression of a cell."""

    html: str = field(repr=False)
    title: str

    def save(self, path: str | Path) -> Path:
        """Write the page and return the path; raise a UserError if it cannot be written."""
        path = Path(path)
        try:
            write_text(path, self.html)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error
        return path

    def _repr_html_(self) -> str:
        # A frame separates names and styles of pages from each other and from the notebook.
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="{html.escape(self.title)}" '
            'sandbox="allow-scripts" '
            'style="width: 100%; height: 56rem; border: 1px solid #8884; resize: vertical">'
            "</iframe>"
        )


class WeightSet(NamedTuple):
    """Maps with the same queries and keys, which name token lists."""

    label: str
    queries: str
    keys: str
    maps: dict[str, Weights]
    direction: str = ""


def checked_maps(
    argument: str,
    maps: Mapping[str, Any],
    shape: Callable[[str], tuple[int, int]],
    tokens: str,
) -> dict[str, Weights]:
    """Return the maps as float32, after checking them.

    ``shape`` returns the expected T and S for a map name, ``tokens`` is their description in
    errors.

    Raises:
      ValueError: a map that is empty, not finite or of another shape.
    """
    if not maps:
        raise ValueError(f"{argument} is empty, wanted at least one map")
    found: dict[str, Weights] = {}
    for name, given in maps.items():
        try:
            weights = np.asarray(given).astype(np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name}: a {type(given).__name__}, wanted an array N T S of weights"
            ) from error
        T, S = shape(name)
        if weights.ndim != 3:
            more = "; of a batch take one example" if weights.ndim == 4 else ""
            raise ValueError(f"{name}: shape {weights.shape}, wanted N T S = N {T} {S}{more}")
        if weights.shape[1:] != (T, S) or not len(weights):
            raise ValueError(f"{name}: shape {weights.shape}, wanted N {T} {S} for {tokens}")
        if not np.isfinite(weights).all():
            n, t, s = (int(i) for i in np.argwhere(~np.isfinite(weights))[0])
            raise ValueError(
                f"{name}: head {n}, row {t}, column {s} is {weights[n, t, s]}; wanted a number"
            )
        found[name] = weights
    return found


def encode(
    weights: Weights, levels: int
) -> tuple[Float[np.ndarray, "N T"], UInt8[np.ndarray, "N T S"]]:
    """Return the largest absolute weight of each row, and 8-bit codes of the weights.

    A weight is sign(c) (c / levels)^2 times the largest. Negative codes, for ``levels`` 127, are in
    two's complement.
    """
    largest = np.abs(weights).max(axis=2)
    safe = np.where(largest > 0, largest, 1)[..., None]
    codes = np.round(levels * np.sqrt(np.abs(weights) / safe)) * np.sign(weights)
    return largest, codes.astype(np.int16).astype(np.uint8)


def assemble(
    kind: str,
    title: str,
    tokens: dict[str, list[str]],
    sets: Sequence[WeightSet],
    **more: Any,
) -> Page:
    """Return the page of these maps; raise a ValueError if it would be larger than ``LARGEST``."""
    every = [weights for each in sets for weights in each.maps.values()]
    count = sum(weights.size for weights in every)
    if count > 4 * LARGEST:
        # Compression would take seconds, and save less than a quarter.
        raise _too_large(every, count * 4 // 3)
    levels = 127 if any((weights < 0).any() for weights in every) else 255
    encoded = [encode(weights, levels) for weights in every]
    packed = b"".join(largest.astype("<f4").tobytes() for largest, _ in encoded)
    packed += b"".join(codes.tobytes() for _, codes in encoded)
    data = {
        "kind": kind,
        "title": title,
        "tokens": tokens,
        "levels": levels,
        "sets": [
            {
                "label": each.label,
                "direction": each.direction,
                "queries": each.queries,
                "keys": each.keys,
                "maps": [{"name": name, "heads": len(w)} for name, w in each.maps.items()],
            }
            for each in sets
        ],
        **more,
        "weights": base64.b64encode(zlib.compress(packed, 6)).decode(),
    }
    page = _fill(title or "Attention", data)
    size = len(page.encode())
    if size > LARGEST:
        raise _too_large(every, size)
    return Page(page, title or "Attention")


def png(pixels: UInt8[np.ndarray, "H W C"]) -> str:
    """Return a data URL of a PNG image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    size = len(buffer.getvalue())
    if size > LARGEST // 2:
        raise ValueError(
            f"image of {pixels.shape[0]} x {pixels.shape[1]} pixels is a PNG of {size / 1e6:.0f} "
            f"MB, wanted at most {LARGEST / 2e6:.0f}: scale it down"
        )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _fill(title: str, data: dict[str, Any]) -> str:
    viewer = files("attnzoo.explain") / "viewer"

    def read(name: str) -> str:
        return (viewer / name).read_text(encoding="utf-8")

    # ASCII, so that any Python string works; no "<", so that none ends the script.
    packed = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(title).encode("ascii", "xmlcharrefreplace").decode(),
        "style": read("page.css"),
        "data": packed,
        "script": "\n".join(read(f"{name}.js") for name in SCRIPTS),
    }
    # One pass, since inserted text may itself look like a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read("page.html"))


def _too_large(maps: list[Weights], size: int) -> ValueError:
    fit = int(len(maps) * LARGEST / size)
    advice = f"about {fit} maps of these would fit" if fit else "keep fewer heads or tokens"
    shapes = sorted({weights.shape for weights in maps}, key=lambda shape: -np.prod(shape))
    return ValueError(
        f"{len(maps)} maps of up to {' x '.join(map(str, shapes[0]))} make a page of about "
        f"{size / 1e6:.0f} MB, wanted at most {LARGEST / 1e6:.0f}: {advice}"
    )

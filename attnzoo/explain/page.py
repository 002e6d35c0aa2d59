"""Attention in one HTML page that needs no network: text, translations, images.

The page has the weights in 8 bits, with a square-root scale per row. The error is at most 0.4 % of
the row's largest weight (0.8 % in a map with negative weights), and less for small weights. The
page says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attnzoo.explain.page_parts import Page, WeightSet, assemble, checked_maps, png

Links = Iterable[tuple[int, int]]
Explanations = Mapping[str, tuple[Any, str]]

MOST_EXTRA = 16
"""Largest number of tokens before the patches; more indicates a wrong grid."""


def text_page(
    maps: Mapping[str, Any], tokens: Sequence[str], *, title: str = "", scores: Any = None
) -> Page:
    """Return a page of the self-attention of one sequence.

    Args:
      maps: ``N T T`` by name, as from ``capture_attention`` for one example of its batch; or
        ``N 1 T``, of an attention that pools the sequence.
      scores: explanation of an answer, ``T``; or several by method, {"relevance": (scores,
        caption)}.

    Raises:
      ValueError: maps or scores that are empty, not finite, or do not match the tokens; a page
        larger than ``page_parts.LARGEST``.
    """
    words = _words("tokens", tokens)
    T = len(words)
    if scores is None:
        scores = {}
    elif not isinstance(scores, Mapping):
        scores = {"scores": (scores, "")}
    pooled = {name for name, one in maps.items() if np.ndim(one) == 3 and np.shape(one)[1] == 1}
    weights = checked_maps(
        "maps", maps, lambda name: (1 if name in pooled else T, T), f"{T} tokens"
    )
    pooling = {name: one for name, one in weights.items() if name in pooled}
    within = {name: one for name, one in weights.items() if name not in pooled}
    sets = [
        WeightSet("pooling", "text", "tokens", pooling),
        WeightSet("self-attention", "tokens", "tokens", within),
    ]
    return assemble(
        "text",
        title,
        {"tokens": words, "text": ["text"]},
        [each for each in sets if each.maps],
        explanations=_explanations(scores, T, f"{T} tokens"),
    )


def translation_page(
    maps: Mapping[str, Any],
    source: Sequence[str],
    target: Sequence[str],
    *,
    reverse: Mapping[str, Any] | None = None,
    title: str = "",
    links: Links | None = None,
) -> Page:
    """Return a page of a translator's attention, from words of ``target`` to words of ``source``.

    Args:
      maps: ``N T S`` of cross-attention, T words of ``target`` and S of ``source``; also
        self-attention, whose names begin with "encoder/" (``N S S``) or end with "/self"
        (``N T T``).
      reverse: maps of a translator in the other direction, from ``source`` back to ``target``
        (``N S T``). Both directions are then drawn as one matrix each, words of ``target`` by row.
      links: (source, target) pairs to be framed in the matrices, counted from 0.

    Raises:
      ValueError: as :func:`text_page`; no cross-attention; a link to a word out of range.
    """
    words = {"source": _words("source", source), "target": _words("target", target)}
    sets = _directed("maps", maps, words, "source", "target")
    if reverse is not None:
        sets += _directed("reverse", reverse, words, "target", "source")
    pairs = sorted({(int(s), int(t)) for s, t in links or ()})
    S, T = len(words["source"]), len(words["target"])
    for s, t in pairs:
        if not (0 <= s < S and 0 <= t < T):
            raise ValueError(
                f"links has ({s}, {t}), wanted (source, target) below ({S}, {T}), from 0"
            )
    return assemble("translation", title, words, sets, links=pairs)


def image_page(
    image: Any,
    maps: Mapping[str, Any],
    grid: tuple[int, int],
    *,
    explanations: Explanations | None = None,
    title: str = "",
    extra: Sequence[str] | None = None,
) -> Page:
    """Return a page of the self-attention between an image's patches, with explanations.

    Args:
      image: ``H W C`` of 1 or 3 channels, uint8, or numbers from 0 to 1.
      maps: ``N T T``; the T tokens are the extra tokens and then the patches, left to right, then
        down.
      grid: patches down and across.
      explanations: scores of the patches (``P``) and a caption by method, as
        {"cdam": (scores, "deletion 0.15, random 0.63")}.
      extra: names of the tokens before the patches; by default "CLS", "extra 1", "extra 2", ...

    Raises:
      ValueError: as :func:`text_page`; not an image; a grid that does not match maps or image.
    """
    pixels = _pixels(image)
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"grid={grid}, wanted (rows, columns) of at least 1 patch")
    rows, columns = (int(n) for n in grid)
    height, width = pixels.shape[:2]
    if rows > height or columns > width:
        raise ValueError(f"grid={grid}: the image has only {height} x {width} pixels")
    P = rows * columns
    T = _token_count(maps, P, grid)
    if extra is None:
        extra = ["CLS", *(f"extra {n}" for n in range(1, T - P))][: T - P]
    elif len(extra) != T - P:
        raise ValueError(
            f"extra names {len(extra)} tokens, but maps have {T - P} before {P} patches"
        )
    patches = [f"row {r + 1}, column {c + 1}" for r in range(rows) for c in range(columns)]
    weights = checked_maps("maps", maps, lambda _: (T, T), f"{T} tokens")
    return assemble(
        "image",
        title,
        {"tokens": [*extra, *patches]},
        [WeightSet("self-attention", "tokens", "tokens", weights)],
        explanations=_explanations(explanations or {}, P, f"{rows} x {columns} patches"),
        image={"src": png(pixels), "rows": rows, "columns": columns, "extra": T - P},
    )


def _directed(
    argument: str, maps: Mapping[str, Any], words: dict[str, list[str]], keys: str, queries: str
) -> list[WeightSet]:
    """Return the maps of one translator, cross-attention first."""
    sides = {"cross": (queries, keys), "encoder": (keys, keys), "decoder": (queries, queries)}

    def kind(name: str) -> str:
        if name.startswith("encoder/"):
            return "encoder"
        return "decoder" if name.endswith("/self") else "cross"

    def shape(name: str) -> tuple[int, int]:
        q, k = sides[kind(name)]
        return len(words[q]), len(words[k])

    counts = ", ".join(f"{len(w)} {side} words" for side, w in words.items())
    weights = checked_maps(argument, maps, shape, counts)
    arrow = f"{keys} → {queries}"
    labels = {
        "cross": f"{arrow}, cross-attention",
        "encoder": f"{arrow}, encoder",
        "decoder": f"{arrow}, decoder",
    }
    sets = [
        WeightSet(labels[k], *sides[k], {n: w for n, w in weights.items() if kind(n) == k}, arrow)
        for k in sides
    ]
    if not sets[0].maps:
        raise ValueError(f"{argument} has no cross-attention, only {', '.join(weights)}")
    return [each for each in sets if each.maps]


def _words(argument: str, words: Sequence[str]) -> list[str]:
    if isinstance(words, str):
        raise ValueError(f"{argument}={words[:40]!r} is one string, wanted a list of strings")
    found = list(words)
    for n, word in enumerate(found):
        if not isinstance(word, str):
            raise ValueError(f"{argument}[{n}] is {word!r}, wanted a string")
    if not found:
        raise ValueError(f"{argument} is empty, wanted at least one")
    return found


def _token_count(maps: Mapping[str, Any], P: int, grid: tuple[int, int]) -> int:
    """Return T, from the first map; ``checked_maps`` compares the others with it."""
    if not maps:
        raise ValueError("maps is empty, wanted at least one")
    name, first = next(iter(maps.items()))
    T = np.shape(first)[-1] if np.ndim(first) else 0
    if not P <= T <= P + MOST_EXTRA:
        raise ValueError(
            f"grid={grid} has {P} patches, but {name} has {T} tokens; wanted the patches and at "
            f"most {MOST_EXTRA} tokens before them"
        )
    return T


def _pixels(image: Any) -> np.ndarray:
    """Convert an image to uint8 ``H W C``."""
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        raise ValueError(f"image has shape {pixels.shape}, wanted H W C of 1 or 3 channels")
    if pixels.dtype == np.uint8:
        return pixels
    # "V" is the kind of jax's bfloat16.
    if pixels.dtype.kind not in "fV":
        raise ValueError(f"image is {pixels.dtype}, wanted uint8, or numbers of 0 to 1")
    pixels = pixels.astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"image has values of {low:.3g} to {high:.3g}, wanted 0 to 1: as it was before "
            "it was normalised for the model"
        )
    return np.round(pixels * 255).astype(np.uint8)


def _explanations(given: Explanations, P: int, wanted: str) -> list[dict[str, Any]]:
    found = []
    for name, (scores, caption) in given.items():
        values = np.asarray(scores, np.float64)
        if values.shape != (P,):
            raise ValueError(f"{name}: scores of shape {values.shape}, wanted {wanted}: ({P},)")
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{name}: score {at} is {values[at]}, wanted finite scores")
        rounded = [float(f"{value:.6g}") for value in values]
        found.append({"name": name, "scores": rounded, "caption": caption})
    return found

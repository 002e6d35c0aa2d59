"""Images whose class is decided by one known patch: explanations can be right or wrong about them.

A patch is empty, a decoy or the planted one. Decoys show the mark of a class drawn at random; the
planted patch, one an image, shows the mark of the image's class with light and dark exchanged. So
every class's mark is anywhere, and all marks have the same brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from attnzoo.data.draws import integers, permutation, uniform

# The marks: products of a pattern along the rows and one along the columns, orthogonal and half
# light, half dark.
_WAVES = ((1, 1, 1, 1), (1, 1, -1, -1), (1, -1, -1, 1), (1, -1, 1, -1))
_PAIRS = ((0, 1), (1, 0), (1, 1), (2, 2), (0, 2), (2, 0), (3, 3), (1, 3))
MOST_CLASSES = len(_PAIRS)
STREAMS = {"train": 11, "validation": 12, "test": 13}
_GREY, _CONTRAST, _NOISE = 128.0, 60.0, 50.0


def mark(number: int, patch: int) -> Int64[np.ndarray, "patch patch"]:
    """The mark of a class, of -1 and 1, as decoys show it."""
    rows, columns = _PAIRS[number]
    small = np.outer(_WAVES[rows], _WAVES[columns])
    return np.kron(small, np.ones((patch // 4, patch // 4), int))


def planted_patches(config: Any, part: str) -> Int64[np.ndarray, " images"]:
    """The planted patch of each image of a part, counted left to right, then down."""
    return _places(config, part)[:, 0]


def planted_images(config: Any) -> dict[str, list[tuple[str, UInt8[np.ndarray, "h w 1"], str]]]:
    """The parts of a `Planted` config: (what it is, image, class), a pure function of its seed."""
    return {part: list(_part(config, part)) for part in STREAMS if getattr(config, part)}


def _part(config: Any, part: str) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 1"], str]]:
    count, side, patch = getattr(config, part), config.side, config.patch
    seed, stream = config.seed, STREAMS[part]
    classes = integers(config.classes, (count, 1 + config.decoys), seed, stream=stream)
    places = _places(config, part)
    marks = np.stack([mark(c, patch) for c in range(config.classes)])
    for i in range(count):
        patches = np.zeros((side * side, patch, patch))
        patches[places[i]] = marks[classes[i]]
        patches[places[i, 0]] *= -1
        image = patches.reshape(side, side, patch, patch).transpose(0, 2, 1, 3)
        size = side * patch
        noise = 2 * uniform((size, size), seed, i, stream=stream + 20) - 1
        pixels = _GREY + _CONTRAST * image.reshape(size, size) + _NOISE * noise
        yield f"planted {part} {i}", pixels.astype(np.uint8)[:, :, None], str(classes[i, 0])


def _places(config: Any, part: str) -> Int64[np.ndarray, "images marks"]:
    """The planted patch and the decoys' patches, all different."""
    count, patches = getattr(config, part), config.side**2
    found = np.zeros((count, 1 + config.decoys), np.int64)
    for i in range(count):
        order = permutation(patches, config.seed, i, stream=STREAMS[part] + 10)
        found[i] = order[: 1 + config.decoys]
    return found

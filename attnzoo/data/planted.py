"""Images whose class is decided by one known patch: explanations can be right or wrong about them.

A patch is empty, a decoy or the planted one. Decoys show the mark of a class drawn at random; the
planted patch, one an image, shows the mark of the image's class with light and dark exchanged. So
every class's mark is anywhere, and all marks have the same brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from attnzoo.data.draws import integers, permutation, uniform

# The marks: products of a pattern along the rows and one along the columns, orthogonal and half
# light, half dark.
_WAVES = ((1, 1, 1, 1), (1, 1, -1, -1), (1, -1, -1, 1), (1, -1, 1, -1))
_PAIRS = ((0, 1), (1, 0), (1, 1), (2, 2), (0, 2), (2, 0), (3, 3), (1, 3))
MOST_CLASSES = len(_PAIRS)
PARTS = ("train", "validation", "test")
STREAMS = {"train": 11, "validation": 12, "test": 13, "pairs": 14}
_GREY, _CONTRAST, _NOISE = 128.0, 60.0, 50.0


def mark(number: int, patch: int) -> Int64[np.ndarray, "patch patch"]:
    """The mark of a class, of -1 and 1, as decoys show it."""
    rows, columns = _PAIRS[number]
    small = np.outer(_WAVES[rows], _WAVES[columns])
    return np.kron(small, np.ones((patch // 4, patch // 4), int))


def planted_patches(config: Any, part: str) -> Int64[np.ndarray, " images"]:
    """The planted patch of each image of a part, counted left to right, then down."""
    count, stream = getattr(config, part), STREAMS[part]
    return _places(config.side**2, 1, count, config.seed, stream)[:, 0]


def planted_images(config: Any) -> dict[str, list[tuple[str, UInt8[np.ndarray, "h w 1"], str]]]:
    """The parts of a `Planted` config: (what it is, image, class), a pure function of its seed."""
    return {part: list(_part(config, part)) for part in PARTS if getattr(config, part)}


class Pairs(NamedTuple):
    """Images with two planted patches, of different classes."""

    images: UInt8[np.ndarray, "images h w 1"]
    classes: Int64[np.ndarray, "images 2"]
    patches: Int64[np.ndarray, "images 2"]
    """Where each class's mark is, counted as by ``planted_patches``."""


def planted_pairs(config: Any, count: int) -> Pairs:
    """Images to explain for two classes, each with a patch of its own; nothing trains on them."""
    seed, stream = config.seed, STREAMS["pairs"]
    if 2 + config.decoys > config.side**2:
        raise ValueError(
            f"decoys={config.decoys} and two planted patches do not fit into {config.side**2}"
        )
    if config.classes < 2:
        raise ValueError(f"classes={config.classes}; a pair wants two")
    places = _places(config.side**2, 2 + config.decoys, count, seed, stream)
    classes = integers(config.classes, (count, 2 + config.decoys), seed, stream=stream)
    apart = 1 + integers(config.classes - 1, (count,), seed, stream=stream + 30)
    classes[:, 1] = (classes[:, 0] + apart) % config.classes
    images = [_image(config, classes[i], places[i], 2, i, stream) for i in range(count)]
    return Pairs(np.stack(images), classes[:, :2], places[:, :2])


def _part(config: Any, part: str) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 1"], str]]:
    count, stream = getattr(config, part), STREAMS[part]
    classes = integers(config.classes, (count, 1 + config.decoys), config.seed, stream=stream)
    places = _places(config.side**2, 1 + config.decoys, count, config.seed, stream)
    for i in range(count):
        image = _image(config, classes[i], places[i], 1, i, stream)
        yield f"planted {part} {i}", image, str(classes[i, 0])


def _image(
    config: Any,
    classes: Int64[np.ndarray, " marks"],
    places: Int64[np.ndarray, " marks"],
    planted: int,
    number: int,
    stream: int,
) -> UInt8[np.ndarray, "h w 1"]:
    """The first ``planted`` marks decide, the others are decoys."""
    side, patch = config.side, config.patch
    patches = np.zeros((side * side, patch, patch))
    patches[places] = np.stack([mark(c, patch) for c in range(config.classes)])[classes]
    patches[places[:planted]] *= -1
    image = patches.reshape(side, side, patch, patch).transpose(0, 2, 1, 3)
    size = side * patch
    noise = 2 * uniform((size, size), config.seed, number, stream=stream + 20) - 1
    pixels = _GREY + _CONTRAST * image.reshape(size, size) + _NOISE * noise
    return pixels.astype(np.uint8)[:, :, None]


def _places(
    patches: int, marks: int, count: int, seed: int, stream: int
) -> Int64[np.ndarray, "images marks"]:
    """Each image's patches with a mark, those planted first, all different."""
    orders = [permutation(patches, seed, i, stream=stream + 10) for i in range(count)]
    return np.asarray(orders, np.int64).reshape(count, patches)[:, :marks]

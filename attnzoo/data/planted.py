"""Images with one known patch that decides the class, for testing explanations.

A patch is empty, a decoy or the planted one. Decoys show the mark of a random class. The planted
patch, one per image, shows the mark of the image's class with light and dark exchanged. So marks of
every class may be anywhere, and all marks have the same brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from attnzoo.data.random_numbers import integers, permutation, uniform

# Marks are products of a pattern along the rows and one along the columns, orthogonal, half
# light and half dark.
_WAVES = ((1, 1, 1, 1), (1, 1, -1, -1), (1, -1, -1, 1), (1, -1, 1, -1))
_PAIRS = ((0, 1), (1, 0), (1, 1), (2, 2), (0, 2), (2, 0), (3, 3), (1, 3))
MOST_CLASSES = len(_PAIRS)
PARTS = ("train", "validation", "test")
STREAMS = {"train": 11, "validation": 12, "test": 13, "pairs": 14}
_GREY, _CONTRAST, _NOISE = 128.0, 60.0, 50.0


def mark(number: int, patch: int) -> Int64[np.ndarray, "patch patch"]:
    """Return the mark of a class as decoys show it, with values -1 and 1."""
    rows, columns = _PAIRS[number]
    small = np.outer(_WAVES[rows], _WAVES[columns])
    return np.kron(small, np.ones((patch // 4, patch // 4), int))


def planted_patches(config: Any, part: str) -> Int64[np.ndarray, " images"]:
    """Return the index of each image's planted patch, left to right, then down."""
    count, stream = getattr(config, part), STREAMS[part]
    return _places(config.side**2, 1, count, config.seed, stream)[:, 0]


def planted_images(config: Any) -> dict[str, list[tuple[str, UInt8[np.ndarray, "h w 1"], str]]]:
    """Return lists of (name, image, class) by part, a pure function of the config's seed."""
    return {part: list(_part(config, part)) for part in PARTS if getattr(config, part)}


class Pairs(NamedTuple):
    """Images with two planted patches, of different classes."""

    images: UInt8[np.ndarray, "images h w 1"]
    classes: Int64[np.ndarray, "images 2"]
    patches: Int64[np.ndarray, "images 2"]
    """Index of the patch with each class's mark, as in ``planted_patches``."""


def planted_pairs(config: Any, count: int) -> Pairs:
    """Return images with planted patches of two classes, for explanations, not for training."""
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
    """Draw an image; the first ``planted`` marks decide the class, the others are decoys."""
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
    """Return the patches of each image that have a mark, planted ones first, all different."""
    orders = [permutation(patches, seed, i, stream=stream + 10) for i in range(count)]
    return np.asarray(orders, np.int64).reshape(count, patches)[:, :marks]

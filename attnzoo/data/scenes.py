"""Made scenes with known captions, and the right place of every word of them.

A scene is a grid of cells with noise. Two objects differ in colour or shape; a small one fills one
cell, a large one two by two. The caption names first the object that is further up or further left:
"a small red circle above a large blue square". Decoys are grey and not named.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from attnzoo.config.captioning import COLOURS, SHAPES
from attnzoo.data.captions import PARTS, CaptionedPictures
from attnzoo.data.corpus import Report, Splits
from attnzoo.data.random_numbers import integers, uniform

RGB = np.asarray(
    [[220, 40, 40], [40, 190, 60], [50, 80, 230], [235, 215, 50], [170, 60, 200], [245, 245, 245]],
    np.float64,
)
"""Colours by number, in the order of COLOURS."""
DECOY, BACKGROUND = 150.0, 90.0
STREAMS = {"train": 61, "validation": 62, "test": 63}
TRIES = 64
"""Random placements of the objects of one scene, of which the first that fits is taken."""


class Object(NamedTuple):
    """Object of a scene: attributes by number, first row and column, and side in cells."""

    colour: int
    shape: int
    row: int
    column: int
    extent: int

    @property
    def words(self) -> list[str]:
        """Words that name the object."""
        size = "small" if self.extent == 1 else "large"
        return [size, COLOURS[self.colour], SHAPES[self.shape]]

    def cells(self, side: int) -> list[int]:
        """Return the cells that the object fills, counted row by row."""
        reach = range(self.extent)
        return [(self.row + i) * side + self.column + j for i in reach for j in reach]


def load_scenes(config: Any) -> Splits[CaptionedPictures]:
    """Make the parts of a ``ScenesConfig``: a pure function of its seed."""
    parts = {part: _part(config, part) for part in PARTS}
    reports = [Report(f"scenes {name}", len(part), "pictures") for name, part in parts.items()]
    return Splits(**parts, reports=reports)


def _part(config: Any, part: str) -> CaptionedPictures:
    count, side = getattr(config, part), config.side
    scenes = [_objects(config, number, STREAMS[part]) for number in range(count)]
    images = np.zeros((count, config.size, config.size, 3), np.uint8)
    for number, (objects, decoys) in enumerate(scenes):
        images[number] = _draw(config, objects, decoys, number, STREAMS[part])
    captions, cells = [], []
    for (first, second), _ in scenes:
        words = ["a", *first.words, *_relation(first, second), "a", *second.words]
        captions.append((" ".join(words),))
        places = np.zeros((len(words), side * side), np.bool_)
        for object_, start in ((first, 1), (second, len(words) - 3)):
            places[start : start + 3, object_.cells(side)] = True
        cells.append((places,))
    names = tuple(f"{part} {number}" for number in range(count))
    return CaptionedPictures(images, tuple(captions), names, part, tuple(cells))


def _relation(first: Object, second: Object) -> list[str]:
    down, right = _offset(first, second)
    return ["above"] if down > right else ["left", "of"]


def _offset(first: Object, second: Object) -> tuple[float, float]:
    """Return how far the centre of the second object is below and right of the first, in cells."""
    half = (second.extent - first.extent) / 2
    return second.row - first.row + half, second.column - first.column + half


def _objects(config: Any, number: int, stream: int) -> tuple[list[Object], list[Object]]:
    """Return the two named objects of a scene, in the order of the caption, and the decoys."""
    side, key = config.side, (config.seed, number)
    colours = integers(config.colours, (2,), *key, stream=stream)
    shapes = integers(len(SHAPES), (2 + config.decoys,), *key, stream=stream + 10)
    if colours[0] == colours[1] and shapes[0] == shapes[1]:
        shapes[1] = (shapes[1] + 1) % len(SHAPES)
    extents = np.ones(2 + config.decoys, np.int64)
    extents[:2] += integers(2, (2,), *key, stream=stream + 20)
    drawn = uniform((TRIES, 2 + config.decoys, 2), *key, stream=stream + 30)
    places = (drawn * (side + 1 - extents)[:, None]).astype(np.int64)
    for rows_and_columns in places:
        objects = [
            Object(int(colours[i]) if i < 2 else -1, int(shapes[i]), *place, int(extents[i]))
            for i, place in enumerate(rows_and_columns.tolist())
        ]
        if _fits(objects, side):
            break
    else:  # the corners of the grid always fit
        objects = [
            objects[0]._replace(row=0, column=0),
            objects[1]._replace(row=side - 2, column=1),
        ]
    first, second = objects[:2]
    down, right = _offset(first, second)
    if (down if abs(down) > abs(right) else right) < 0:
        first, second = second, first
    return [first, second], objects[2:]


def _fits(objects: list[Object], side: int) -> bool:
    """Return whether no cell is filled twice, and the relation of the first two is plain."""
    cells = [cell for object_ in objects for cell in object_.cells(side)]
    down, right = map(abs, _offset(*objects[:2]))
    return len(set(cells)) == len(cells) and abs(down - right) >= 1


def _draw(
    config: Any, objects: list[Object], decoys: list[Object], number: int, stream: int
) -> UInt8[np.ndarray, "h w 3"]:
    size, cell = config.size, config.cell
    pixels = np.full((size, size, 3), BACKGROUND)
    for object_ in (*objects, *decoys):
        pattern = _pattern(object_.shape, object_.extent * cell)
        top, left = object_.row * cell, object_.column * cell
        window = pixels[top : top + len(pattern), left : left + len(pattern)]
        window[pattern] = RGB[object_.colour] if object_.colour >= 0 else DECOY
    noise = uniform((size, size, 3), config.seed, number, stream=stream + 40) - 0.5
    return np.clip(pixels + 255 * config.noise * noise, 0, 255).astype(np.uint8)


@functools.cache
def _pattern(shape: int, side: int) -> Bool[np.ndarray, "side side"]:
    """Return the pixels of a shape in a square of some pixels, with a margin."""
    y, x = np.meshgrid(*2 * [(np.arange(side) + 0.5) / side * 2 - 1], indexing="ij")
    y, x = y / 0.9, x / 0.9
    inside = np.maximum(np.abs(x), np.abs(y)) <= 1
    return (
        inside
        & [
            x**2 + y**2 <= 1,
            inside,
            np.abs(x) <= (y + 1) / 2,
            np.minimum(np.abs(x), np.abs(y)) <= 0.3,
        ][shape]
    )

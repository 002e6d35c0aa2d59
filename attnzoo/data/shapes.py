"""Made pictures of circles, squares and triangles on a noisy ground, with exact boxes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from attnzoo.data.random_numbers import uniform

SHAPES = ("circle", "square", "triangle")
STREAM = 50
_TRIES = 20
_APART = 2


def draw_shapes(
    size: tuple[int, int], most: int, channels: int, *key: int
) -> tuple[UInt8[np.ndarray, "H W C"], Float64[np.ndarray, "n 4"], Int64[np.ndarray, " n"]]:
    """Draw 1 to ``most`` shapes that do not touch; return pixels, corners and classes.

    A pure function of its arguments. Where there is no room for a shape, it is left out.
    """
    height, width = size
    shorter = min(size)
    noise = uniform((height, width, channels), *key, stream=STREAM)
    numbers = uniform((1 + most * (1 + channels) + most * _TRIES * 3,), *key, stream=STREAM + 1)
    count = 1 + int(numbers[0] * most)
    kinds, numbers = numbers[1 : 1 + most], numbers[1 + most :]
    colours, places = numbers[: most * channels], numbers[most * channels :]
    ground = 40 + 60 * places[-1]
    pixels = ground + 40 * noise
    y, x = np.mgrid[:height, :width] + 0.5
    boxes: list[tuple[int, ...]] = []
    labels: list[int] = []
    for i in range(count):
        for u, v, s in places[: most * _TRIES * 3].reshape(most, _TRIES, 3)[i]:
            side = int(shorter * (0.15 + 0.25 * s))
            left, top = int(u * (width - side + 1)), int(v * (height - side + 1))
            box = left, top, left + side, top + side
            if all(_apart(box, other) for other in boxes):
                break
        else:
            continue
        kind = int(kinds[i] * len(SHAPES))
        across, down = (x - left) / side, (y - top) / side
        inside = (across > 0) & (across < 1) & (down > 0) & (down < 1)
        if SHAPES[kind] == "circle":
            inside = (across - 0.5) ** 2 + (down - 0.5) ** 2 < 0.25
        elif SHAPES[kind] == "triangle":
            inside &= np.abs(across - 0.5) < down / 2
        colour = 140 + 100 * colours[i * channels : (i + 1) * channels]
        pixels[inside] = colour
        # The pixels, rather than the formula, say where a shape ends.
        rows, columns = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
        ends = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        boxes.append(tuple(map(int, ends)))
        labels.append(kind)
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    return pixels.astype(np.uint8), corners, np.asarray(labels, np.int64)


def _apart(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return (
        one[0] >= other[2] + _APART
        or other[0] >= one[2] + _APART
        or one[1] >= other[3] + _APART
        or other[1] >= one[3] + _APART
    )

"""Geometry of boxes: their two notations, areas, intersections and generalised overlap."""

import jax.numpy as jnp
from jaxtyping import Array, Float

Boxes = Float[Array, "*batch 4"]


def to_corners(boxes: Boxes) -> Boxes:
    """Return (left, top, right, bottom) of boxes given as (centre x, centre y, width, height)."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def to_centres(corners: Boxes) -> Boxes:
    """Return (centre x, centre y, width, height) of boxes given by their corners."""
    first, last = corners[..., :2], corners[..., 2:]
    return jnp.concatenate([(first + last) / 2, last - first], axis=-1)


def iou(one: Float[Array, "*#batch 4"], other: Float[Array, "*#batch 4"]) -> Float[Array, "..."]:
    """Return the intersection over union of boxes given by their corners; 0 if both are empty."""
    common, union, _ = _areas(one, other)
    return _share(common, union)


def generalised_iou(
    one: Float[Array, "*#batch 4"], other: Float[Array, "*#batch 4"]
) -> Float[Array, "..."]:
    """Return the generalised intersection over union of boxes given by their corners.

    GIoU = I / U - (C - U) / C with the intersection I, the union U and the area C of the smallest
    box around both (Rezatofighi et al. 2019, arXiv 1902.09630, algorithm 1). It is in (-1, 1], and
    0 for two boxes without area. The leading axes broadcast.
    """
    common, union, around = _areas(one, other)
    return _share(common, union) - _share(around - union, around)


def _areas(
    one: Float[Array, "*#batch 4"], other: Float[Array, "*#batch 4"]
) -> tuple[Array, Array, Array]:
    """Return the areas of the intersection, the union and the smallest box around both."""
    one, other = jnp.broadcast_arrays(one, other)
    first, last = (one[..., :2], other[..., :2]), (one[..., 2:], other[..., 2:])
    common = _area(jnp.maximum(*first), jnp.minimum(*last))
    around = _area(jnp.minimum(*first), jnp.maximum(*last))
    return common, _area(first[0], last[0]) + _area(first[1], last[1]) - common, around


def _area(first: Float[Array, "*batch 2"], last: Float[Array, "*batch 2"]) -> Float[Array, "*b"]:
    size = jnp.maximum(last - first, 0)
    return size[..., 0] * size[..., 1]


def _share(part: Float[Array, "*b"], whole: Float[Array, "*b"]) -> Float[Array, "*b"]:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)

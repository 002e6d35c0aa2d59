"""Augmentation of pictures together with their boxes, on the device.

Images are float32 ``B H W C`` in 0 .. 1; boxes are ``B M 4``, corners in shares of the image. The
picture stands in the middle of its image and takes the shares ``extent``, ``B 2``, of its height
and width; each draw is of one picture.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from attnzoo.data.augment import Image, Images, brightness, colour, contrast

VISIBLE = 0.25
"""Least share of a box's area that a crop must leave for the box to stay."""
RATIO = (3 / 4, 4 / 3)
"""Least and largest ratio of width to height of a crop, relative to that of the picture."""


class Boxed(NamedTuple):
    """Pictures and their boxes; ``kept`` is False for padding and for boxes that are gone."""

    images: Images
    boxes: Float[Array, "B M 4"]
    kept: Bool[Array, "B M"]


def augment_boxes(
    config: Any, key: Key[Array, ""], given: Boxed, extent: Float[Array, "B 2"]
) -> Boxed:
    """Apply a ``BoxAugmentationConfig``: crop, mirror left to right, top to bottom, colours."""
    crop_key, across_key, down_key, colour_key = jax.random.split(key, 4)
    if config.crop_scale < 1:
        given = crop(crop_key, given, extent, config.crop_scale)
    for wanted, axis, axis_key in (
        (config.flip, 0, across_key),
        (config.flip_vertical, 1, down_key),
    ):
        if wanted:
            given = mirror(axis_key, given, axis)
    if config.jitter:
        changed = jitter(colour_key, given.images, config.jitter)
        _, H, W, _ = given.images.shape
        inside = _inside((H, W), extent)
        given = given._replace(images=jnp.where(inside, changed, given.images))
    return given


def mirror(key: Key[Array, ""], given: Boxed, axis: int) -> Boxed:
    """Mirror each picture with probability 1/2, left to right (axis 0) or top to bottom (1)."""
    images, boxes, kept = given
    turned = jax.random.bernoulli(key, shape=(len(images), 1, 1))
    other = images[:, :, ::-1] if axis == 0 else images[:, ::-1]
    first, last = boxes[..., axis], boxes[..., axis + 2]
    mirrored = boxes.at[..., axis].set(1 - last).at[..., axis + 2].set(1 - first)
    return Boxed(
        jnp.where(turned[..., None], other, images), jnp.where(turned, mirrored, boxes), kept
    )


def crop(key: Key[Array, ""], given: Boxed, extent: Float[Array, "B 2"], min_area: float) -> Boxed:
    """Cut a random window out of each picture and scale it to the size of the picture.

    The window's share of the area is uniform in ``min_area`` .. 1 and its ratio log-uniform in
    ``RATIO``, cut at the edges (Szegedy et al. 2015, as ``augment.resized_crop``). Boxes are cut at
    the window; one of which less than a quarter is left is gone.
    """
    images, boxes, kept = given
    B, H, W, _ = images.shape
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (B,), minval=min_area, maxval=1.0)
    low, high = jnp.log(jnp.asarray(RATIO))
    stretch = jnp.exp(jax.random.uniform(ratio_key, (B,), minval=low, maxval=high))
    sides = jnp.sqrt(area)[:, None] * jnp.stack([stretch**-0.5, stretch**0.5], axis=1)
    window = extent * jnp.minimum(sides, 1.0)  # height and width, shares of the image
    place = jax.random.uniform(place_key, (B, 2))
    first = (1 - extent) / 2 + place * (extent - window)
    scale = extent / window
    shift = (1 - extent) / 2 - first * scale
    pixels = jnp.asarray([H, W], jnp.float32)[None]

    def cut(image: Image, scale: Float[Array, " 2"], shift: Float[Array, " 2"]) -> Image:
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, shift, "linear", antialias=False
        )

    moved = jax.vmap(cut)(images, scale, shift * pixels)
    moved = jnp.where(_inside((H, W), extent), moved, 0.0)
    corner = [scale[:, None, ::-1], shift[:, None, ::-1], extent[:, None, ::-1]]
    scales, shifts, extents = (jnp.concatenate([x, x], axis=2) for x in corner)
    whole = boxes * scales + shifts
    left = jnp.clip(whole, (1 - extents) / 2, (1 + extents) / 2)
    share = _area(left) / jnp.maximum(_area(whole), 1e-12)
    return Boxed(moved, left, kept & (share >= VISIBLE))


def jitter(key: Key[Array, ""], images: Images, strength: float) -> Images:
    """Change brightness, contrast and colour of each picture, by up to 0.9 ``strength`` of each."""

    def change(key: Key[Array, ""], image: Image) -> Image:
        levels = jax.random.uniform(key, (3,), minval=-strength, maxval=strength)
        for operation, level in zip((brightness, contrast, colour), levels, strict=True):
            image = operation(image, level)
        return image

    return jax.vmap(change)(jax.random.split(key, len(images)), images)


def _inside(size: tuple[int, int], extent: Float[Array, "B 2"]) -> Bool[Array, "B H W 1"]:
    """Return True at the pixels of the picture, False in its margins."""
    H, W = size
    ticks = (jnp.arange(n, dtype=jnp.float32) for n in (H, W))
    rows, columns = (2 * abs((tick + 0.5) / tick.size - 0.5) for tick in ticks)
    inside = (rows[None] < extent[:, :1])[:, :, None] & (columns[None] < extent[:, 1:])[:, None]
    return inside[..., None]


def _area(boxes: Float[Array, "B M 4"]) -> Float[Array, "B M"]:
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]

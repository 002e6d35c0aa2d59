"""Image augmentation on the device; every operation is a pure function of its key.

Images are float32 `B H W C` in 0 .. 1 until `normalise`; each image has its own random draw.
Everything here is jittable; sizes are static.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Key, UInt8

Image = Float[Array, "H W C"]
Images = Float[Array, "B H W C"]

# RandAugment's strengths run from 0 to 10; at 10 each operation is at its strongest.
MAX_MAGNITUDE = 10.0
# ITU-R BT.601, as Pillow converts colour to grey.
LUMA = (0.299, 0.587, 0.114)


def to_float(images: UInt8[Array, "B H W C"]) -> Images:
    """Scale 0 .. 255 to 0 .. 1."""
    return images.astype(jnp.float32) / 255.0


def normalise(images: Images, mean: Float[Array, " C"], deviation: Float[Array, " C"]) -> Images:
    """Standardise each channel by its mean and standard deviation; a constant channel becomes 0."""
    scale = jnp.where(deviation > 0, deviation, 1.0)
    return (images - mean[None, None, None]) / scale[None, None, None]


def flip(key: Key[Array, ""], images: Images) -> Images:
    """Mirror each image with probability 1/2."""
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def pad_and_crop(key: Key[Array, ""], images: Images, pad: int) -> Images:
    """Pad each image with `pad` pixels of zero on every side and cut a random window."""
    B, H, W, C = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    starts = jax.random.randint(key, (B, 2), 0, 2 * pad + 1)

    def cut(padded: Float[Array, "P Q C"], start: Int[Array, " 2"]) -> Image:
        first = (start[0], start[1], jnp.zeros_like(start[0]))
        return jax.lax.dynamic_slice(padded, first, (H, W, C))

    return jax.vmap(cut)(padded, starts)


def resized_crop(
    key: Key[Array, ""],
    images: Images,
    min_area: float,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Images:
    """Cut a random window of each image and scale it to the image's size (Szegedy et al. 2015).

    The window's share of the area is uniform in `min_area` .. 1 and its ratio of width to height
    log-uniform in `ratio`; it is clipped to the image.
    """
    B, H, W, _ = images.shape
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (B,), minval=min_area, maxval=1.0)
    stretch = jnp.exp(
        jax.random.uniform(ratio_key, (B,), minval=math.log(ratio[0]), maxval=math.log(ratio[1]))
    )
    height = jnp.minimum(jnp.sqrt(area * H * W / stretch), H)
    width = jnp.minimum(jnp.sqrt(area * H * W * stretch), W)
    place = jax.random.uniform(place_key, (B, 2))
    top, left = place[:, 0] * (H - height), place[:, 1] * (W - width)

    def cut(image: Image, window: Float[Array, " 4"]) -> Image:
        top, left, height, width = window
        # Pixels have their values at their centres.
        scale = jnp.stack([H / height, W / width])
        return jax.image.scale_and_translate(
            image,
            image.shape,
            (0, 1),
            scale,
            -jnp.stack([top, left]) * scale,
            "linear",
            antialias=True,
        )

    return jax.vmap(cut)(images, jnp.stack([top, left, height, width], axis=1))


def erase(
    key: Key[Array, ""],
    images: Images,
    share: float,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Images:
    """Fill a rectangle with normal noise in `share` of the images (Zhong et al. 2020).

    Apply it after `normalise`, so that noise and pixels have the same scale.
    """
    B, H, W, _ = images.shape
    keys = jax.random.split(key, 5)
    size = jax.random.uniform(keys[0], (B,), minval=area[0], maxval=area[1]) * H * W
    stretch = jnp.exp(
        jax.random.uniform(keys[1], (B,), minval=math.log(ratio[0]), maxval=math.log(ratio[1]))
    )
    height = jnp.minimum(jnp.sqrt(size / stretch), H)
    width = jnp.minimum(jnp.sqrt(size * stretch), W)
    hole = _rectangles(keys[2], height, width, H, W)
    hole &= jax.random.bernoulli(keys[3], share, (B, 1, 1))
    return jnp.where(hole[..., None], jax.random.normal(keys[4], images.shape), images)


def mixup(
    key: Key[Array, ""], images: Images, targets: Float[Array, "B V"], alpha: float
) -> tuple[Images, Float[Array, "B V"]]:
    """Mix each image and its target with those of another image (Zhang et al. 2018, eq. 1).

    `targets` are distributions over the classes; each image has its own share, drawn from
    Beta(alpha, alpha).
    """
    share_key, other_key = jax.random.split(key)
    B = len(images)
    share = jax.random.beta(share_key, alpha, alpha, (B,))
    other = jax.random.permutation(other_key, B)
    s = share[:, None, None, None]
    mixed = s * images + (1 - s) * images[other]
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[other]


def cutmix(
    key: Key[Array, ""], images: Images, targets: Float[Array, "B V"], alpha: float
) -> tuple[Images, Float[Array, "B V"]]:
    """Replace a rectangle of each image by that of another image (Yun et al. 2019, eq. 1 and 2).

    Its area is 1 - Beta(alpha, alpha) of the image, minus the part outside of the image. Targets
    are mixed in proportion to the pixels.
    """
    share_key, other_key, place_key = jax.random.split(key, 3)
    B, H, W, _ = images.shape
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, (B,)))
    other = jax.random.permutation(other_key, B)
    hole = _rectangles(place_key, side * H, side * W, H, W, inside=False)
    mixed = jnp.where(hole[..., None], images[other], images)
    share = 1 - hole.mean(axis=(1, 2), dtype=jnp.float32)[:, None]
    return mixed, share * targets + (1 - share) * targets[other]


def rand_augment(key: Key[Array, ""], images: Images, operations: int, magnitude: float) -> Images:
    """Apply `operations` random operations to each image (RandAugment, Cubuk et al. 2020).

    Operations are drawn from `OPERATIONS`. `magnitude` from 0 to 10 is the strength of all;
    directions are random. Pixels moved in from outside are mid-grey.
    """
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(f"magnitude={magnitude}, wanted 0 to {MAX_MAGNITUDE:.0f}")
    vary = partial(_vary, magnitude / MAX_MAGNITUDE)
    for step_key in jax.random.split(key, operations):
        keys = jax.random.split(step_key, len(images))
        # Under vmap the switch computes all operations for every image: twenty times the work,
        # which pays off only where images run in parallel.
        images = jax.lax.platform_dependent(
            keys,
            images,
            cpu=lambda keys, images: jax.lax.map(lambda pair: vary(*pair), (keys, images)),
            default=jax.vmap(vary),
        )
    return images


def _vary(strength: float, key: Key[Array, ""], image: Image) -> Image:
    """Apply a random operation in a random direction to one image."""
    kind_key, sign_key = jax.random.split(key)
    level = jnp.where(jax.random.bernoulli(sign_key), strength, -strength)
    kind = jax.random.randint(kind_key, (), 0, len(OPERATIONS))
    return jax.lax.switch(kind, list(OPERATIONS.values()), image, level)


def _affine(image: Image, matrix: Float[Array, "2 3"]) -> Image:
    """Resample bilinearly: (y, x), from the centre, takes the value at `matrix @ (y, x, 1)`."""
    H, W, _ = image.shape
    centre = jnp.asarray([(H - 1) / 2, (W - 1) / 2], jnp.float32)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(H), jnp.arange(W), indexing="ij"), -1)
    offset = grid.astype(jnp.float32) - centre[None, None]
    source = jnp.einsum("ij,hwj->ihw", matrix[:, :2], offset)
    source = source + (matrix[:, 2] + centre)[:, None, None]

    def channel(plane: Float[Array, "H W"]) -> Float[Array, "H W"]:
        return map_coordinates(plane, [source[0], source[1]], order=1, cval=0.5)

    return jnp.moveaxis(jax.vmap(channel)(jnp.moveaxis(image, -1, 0)), 0, -1)


def rotate(image: Image, level: Float[Array, ""]) -> Image:
    """Rotate by up to 30 degrees, counter-clockwise for a positive level."""
    angle = level * (math.pi / 6)
    c, s, o = jnp.cos(angle), jnp.sin(angle), jnp.zeros(())
    return _affine(image, jnp.stack([jnp.stack([c, s, o]), jnp.stack([-s, c, o])]))


def shear_x(image: Image, level: Float[Array, ""]) -> Image:
    """Shift rows sideways by up to 0.3 of their distance from the middle."""
    return _affine(image, _matrix(x_by_y=0.3 * level))


def shear_y(image: Image, level: Float[Array, ""]) -> Image:
    """Shift columns up or down by up to 0.3 of their distance from the middle."""
    return _affine(image, _matrix(y_by_x=0.3 * level))


def translate_x(image: Image, level: Float[Array, ""]) -> Image:
    """Shift an image to the left by up to 0.45 of the width."""
    return _affine(image, _matrix(x=0.45 * level * image.shape[1]))


def translate_y(image: Image, level: Float[Array, ""]) -> Image:
    """Shift an image up by up to 0.45 of the height."""
    return _affine(image, _matrix(y=0.45 * level * image.shape[0]))


def brightness(image: Image, level: Float[Array, ""]) -> Image:
    """Multiply all values by 0.1 to 1.9."""
    return _blend(jnp.zeros_like(image), image, level)


def contrast(image: Image, level: Float[Array, ""]) -> Image:
    """Multiply the distance from the mean grey by 0.1 to 1.9."""
    return _blend(jnp.full_like(image, grey(image).mean()), image, level)


def colour(image: Image, level: Float[Array, ""]) -> Image:
    """Multiply the distance from the grey image by 0.1 to 1.9; a grey image stays unchanged."""
    return _blend(jnp.broadcast_to(grey(image)[..., None], image.shape), image, level)


def sharpness(image: Image, level: Float[Array, ""]) -> Image:
    """Multiply the distance from a smoothed image by 0.1 to 1.9 (Pillow's SMOOTH, no border)."""
    H, W, _ = image.shape
    if min(H, W) < 3:
        return image
    total = 4.0 * image[1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            total = total + image[y : y + H - 2, x : x + W - 2]
    return _blend(image.at[1:-1, 1:-1].set(total / 13.0), image, level)


def posterise(image: Image, level: Float[Array, ""]) -> Image:
    """Reduce values from 8 bits to as few as 4, whatever the level's sign."""
    steps = 2.0 ** (8 - jnp.round(4 * jnp.abs(level)))
    return jnp.floor(jnp.round(image * 255) * (steps / 256)) * (256 / steps) / 255


def solarise(image: Image, level: Float[Array, ""]) -> Image:
    """Invert values of at least 1 - |level|."""
    # Level 0 keeps white unchanged.
    return jnp.where((image >= 1 - jnp.abs(level)) & (level != 0), 1 - image, image)


def auto_contrast(image: Image, level: Float[Array, ""]) -> Image:
    """Stretch each channel to 0 .. 1, whatever the level; a constant one stays unchanged."""
    low, high = image.min(axis=(0, 1), keepdims=True), image.max(axis=(0, 1), keepdims=True)
    return jnp.where(high > low, (image - low) / jnp.where(high > low, high - low, 1.0), image)


def equalise(image: Image, level: Float[Array, ""]) -> Image:
    """Equalise each channel's histogram of 256 values like Pillow, whatever the level."""

    def channel(plane: Float[Array, "H W"]) -> Float[Array, "H W"]:
        values = jnp.round(plane * 255).astype(jnp.int32)
        counts = jnp.bincount(values.ravel(), length=256)
        last = counts[values.max()]
        step = (plane.size - last) // 255
        # Number of smaller values plus half a step, in units of steps.
        table = (jnp.cumsum(counts) - counts + step // 2) // jnp.maximum(step, 1)
        equal = jnp.clip(table, 0, 255)[values].astype(jnp.float32) / 255
        return jnp.where(step > 0, equal, plane)

    return jnp.moveaxis(jax.vmap(channel)(jnp.moveaxis(image, -1, 0)), 0, -1)


OPERATIONS: dict[str, Callable[[Image, Float[Array, ""]], Image]] = {
    "identity": lambda image, level: image,
    "auto_contrast": auto_contrast,
    "equalise": equalise,
    "rotate": rotate,
    "solarise": solarise,
    "colour": colour,
    "posterise": posterise,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}
"""The fourteen of Cubuk et al. 2020, figure 2; each takes an image and a level of -1 .. 1."""


def grey(image: Image) -> Float[Array, "H W"]:
    """Return the brightness of a colour image, or the mean over channels of any other image."""
    if image.shape[-1] != 3:
        return image.mean(axis=-1)
    return jnp.einsum("hwc,c->hw", image, jnp.asarray(LUMA, image.dtype))


def augment(
    config: Any,
    key: Key[Array, ""],
    images: UInt8[Array, "B H W C"],
    targets: Float[Array, "B V"],
    mean: Float[Array, " C"],
    deviation: Float[Array, " C"],
) -> tuple[Images, Float[Array, "B V"]]:
    """Apply an `Augmentation` config to a training batch.

    `targets` are distributions over the classes. The target of a padding row must be all zeros, so
    that images mixed with it count for less.
    """
    keys = iter(jax.random.split(key, 8))
    crop_key, pad_key, flip_key, operations_key = (next(keys) for _ in range(4))
    x = to_float(images)
    if config.crop_scale < 1:
        x = resized_crop(crop_key, x, config.crop_scale)
    if config.pad:
        x = pad_and_crop(pad_key, x, config.pad)
    if config.flip:
        x = flip(flip_key, x)
    if config.operations:
        x = rand_augment(operations_key, x, config.operations, config.magnitude)
    x = normalise(x, mean, deviation)
    if config.erase:
        x = erase(next(keys), x, config.erase)
    mix_key, cut_key, coin_key = (next(keys) for _ in range(3))
    if config.mixup and config.cutmix:
        return jax.lax.cond(
            jax.random.bernoulli(coin_key),
            lambda: mixup(mix_key, x, targets, config.mixup),
            lambda: cutmix(cut_key, x, targets, config.cutmix),
        )
    if config.mixup:
        return mixup(mix_key, x, targets, config.mixup)
    if config.cutmix:
        return cutmix(cut_key, x, targets, config.cutmix)
    return x, targets


def _blend(other: Image, image: Image, level: Float[Array, ""]) -> Image:
    """Scale the difference of `image` from `other` by 1 + 0.9 level, and clip to 0 .. 1."""
    return jnp.clip(other + (1 + 0.9 * level) * (image - other), 0, 1)


def _matrix(**entries: Float[Array, ""]) -> Float[Array, "2 3"]:
    """Return the identity, except for the entries y_by_x, x_by_y, y and x."""
    places = {"y_by_x": (0, 1), "x_by_y": (1, 0), "y": (0, 2), "x": (1, 2)}
    matrix = jnp.eye(2, 3)
    for name, value in entries.items():
        matrix = matrix.at[places[name]].set(value)
    return matrix


def _rectangles(
    key: Key[Array, ""],
    height: Float[Array, " B"],
    width: Float[Array, " B"],
    H: int,
    W: int,
    inside: bool = True,
) -> Array:
    """Return one random rectangle per image, bool `B H W`.

    With `inside` the whole rectangle is in the image; otherwise its centre is anywhere in the
    image, and the part outside is cut off.
    """
    place = jax.random.uniform(key, (len(height), 2))
    if inside:
        top, left = place[:, 0] * (H - height), place[:, 1] * (W - width)
    else:
        top, left = place[:, 0] * H - height / 2, place[:, 1] * W - width / 2
    y = jnp.arange(H, dtype=jnp.float32)[None] + 0.5
    x = jnp.arange(W, dtype=jnp.float32)[None] + 0.5
    rows = (y >= top[:, None]) & (y < (top + height)[:, None])
    columns = (x >= left[:, None]) & (x < (left + width)[:, None])
    return rows[:, :, None] & columns[:, None, :]

"""Augmentations: by hand, against Pillow, and in their statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from attnzoo.config.images import AugmentationConfig
from attnzoo.data import augment as A

KEY = jax.random.key(7)
MEAN, DEVIATION = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.25])


def photograph(H: int = 31, W: int = 23) -> np.ndarray:
    """Smooth colours with an edge, uint8."""
    y, x = np.mgrid[:H, :W]
    planes = [90 + 3 * y, 40 + 5 * x, 30 + y * x / 6 + 60 * (x > W // 2)]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def images(batch: int = 5, H: int = 7, W: int = 11) -> jax.Array:
    return jax.random.uniform(jax.random.key(1), (batch, H, W, 3))


def levels(operation: str, level: float, image: np.ndarray) -> np.ndarray:
    out = A.OPERATIONS[operation](jnp.asarray(image, jnp.float32) / 255.0, jnp.float32(level))
    return np.asarray(out) * 255


# Pillow computes in whole grey levels, so one level of difference is its rounding.
@pytest.mark.parametrize(
    ("operation", "level", "pillow"),
    [
        ("auto_contrast", 0.3, ImageOps.autocontrast),
        ("equalise", 0.3, ImageOps.equalize),
        ("solarise", 0.5, lambda image: ImageOps.solarize(image, 128)),
        ("posterise", -0.75, lambda image: ImageOps.posterize(image, 5)),
        ("colour", 0.6, lambda image: ImageEnhance.Color(image).enhance(1.54)),
        ("contrast", -0.6, lambda image: ImageEnhance.Contrast(image).enhance(0.46)),
        ("brightness", 0.6, lambda image: ImageEnhance.Brightness(image).enhance(1.54)),
        ("sharpness", 0.8, lambda image: ImageEnhance.Sharpness(image).enhance(1.72)),
        ("sharpness", -1.0, lambda image: ImageEnhance.Sharpness(image).enhance(0.1)),
        ("identity", 1.0, lambda image: image),
    ],
)
def test_values_as_pillow_has_them(operation: str, level: float, pillow) -> None:
    image = photograph()
    expected = np.asarray(pillow(Image.fromarray(image))).astype(np.float32)
    if operation != "identity":
        assert np.abs(expected - image).max() > 5
    # Enhancements double the rounding of what they blend with.
    assert np.abs(levels(operation, level, image) - expected).max() < 2


GREY = (127, 127, 127)


@pytest.mark.parametrize(
    ("operation", "level", "matrix"),
    [
        # Pillow's matrix takes the pixel (x, y) of the result from (a x + b y + c, d x + e y + f).
        ("shear_x", 0.5, lambda W, H: (1, 0.15, -0.15 * (H - 1) / 2, 0, 1, 0)),
        ("shear_y", -1.0, lambda W, H: (1, 0, 0, -0.3, 1, 0.3 * (W - 1) / 2)),
        ("translate_x", 0.5, lambda W, H: (1, 0, 0.225 * W, 0, 1, 0)),
        ("translate_y", -0.5, lambda W, H: (1, 0, 0, 0, 1, -0.225 * H)),
    ],
)
def test_places_as_pillow_has_them(operation: str, level: float, matrix) -> None:
    image = photograph()
    H, W, _ = image.shape
    a, b, c, d, e, f = matrix(W, H)
    # Pillow has (x, y) at the corner of a pixel.
    data = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
    moved = Image.fromarray(image).transform(
        (W, H), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=GREY
    )
    expected = np.asarray(moved).astype(np.float32)
    ours = levels(operation, level, image)
    # Where the neighbours lie outside, Pillow repeats the border and we fade to grey.
    inside = (expected != 127).all(axis=-1) & (np.abs(ours - 127.5).min(axis=-1) > 0.6)
    inside[[0, -1]] = inside[:, [0, -1]] = False
    for axis in (0, 1):
        inside &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    assert inside.mean() > 0.4
    assert np.abs(ours - expected)[inside].max() < 1.5


def test_a_rotation_is_counter_clockwise() -> None:
    image = photograph(33, 33)
    expected = Image.fromarray(image).rotate(15, Image.Resampling.BILINEAR, fillcolor=GREY)
    ours = levels("rotate", 0.5, image)
    middle = slice(8, -8)
    difference = np.abs(ours - np.asarray(expected))[middle, middle]
    assert difference.max() < 1.5
    assert np.abs(levels("rotate", -0.5, image) - ours)[middle, middle].max() > 20


@pytest.mark.parametrize("operation", sorted(set(A.OPERATIONS) - {"auto_contrast", "equalise"}))
def test_a_level_of_zero_changes_nothing(operation: str) -> None:
    image = photograph()
    assert np.abs(levels(operation, 0.0, image) - image).max() < 1e-2


def test_a_constant_image_survives() -> None:
    constant = np.full((5, 3, 1), 77, np.uint8)
    for operation in ("auto_contrast", "equalise", "contrast", "colour", "sharpness"):
        assert np.abs(levels(operation, 0.9, constant) - 77).max() < 1e-4, operation


def test_flip_mirrors_every_second_image() -> None:
    x = images(400)
    out = np.asarray(A.flip(KEY, x))
    mirrored = (out == np.asarray(x)[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (out == np.asarray(x)).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.025


def test_pad_and_crop_moves_by_at_most_the_padding() -> None:
    H, W = 7, 11
    place = jnp.arange(1.0, 1 + H * W).reshape(1, H, W, 1)
    out = np.asarray(A.pad_and_crop(KEY, jnp.tile(place, (300, 1, 1, 1)), 2))[..., 0]
    shifts = set()
    for image in out:
        y, x = np.argwhere(image > 0)[0]
        first = int(image[y, x]) - 1
        dy, dx = first // W - y, first % W - x
        shifts.add((int(dy), int(dx)))
        expected = np.zeros((H + 4, W + 4))
        expected[2:-2, 2:-2] = np.asarray(place)[0, :, :, 0]
        assert np.array_equal(image, expected[2 + dy : 2 + dy + H, 2 + dx : 2 + dx + W])
    assert shifts == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


def test_a_resized_crop_is_a_window_of_a_ramp() -> None:
    # On a ramp a scaled window is a ramp again: its slope and start give the window away.
    H, W = 16, 16
    y, x = np.mgrid[:H, :W].astype(np.float32)
    ramp = jnp.tile(jnp.asarray(np.stack([y, x], -1))[None], (200, 1, 1, 1))
    crop = jax.jit(A.resized_crop, static_argnums=(2, 3))
    out = np.asarray(crop(KEY, ramp, 0.25))
    middle = slice(5, 11)
    height = np.diff(out[:, middle, 8, 0], axis=1).mean(axis=1) * H
    width = np.diff(out[:, 8, middle, 1], axis=1).mean(axis=1) * W
    share = height * width / (H * W)
    assert share.min() > 0.2
    assert share.max() < 1.01
    assert share.min() < 0.35
    assert share.max() > 0.8
    ratio = width / height
    assert ratio.min() > 3 / 4 - 0.02
    assert ratio.max() < 4 / 3 + 0.02
    assert out.min() >= -1e-3
    assert out.max() <= 15 + 1e-3
    whole = crop(KEY, ramp[:3], 1.0, (1.0, 1.0))
    assert np.abs(np.asarray(whole) - np.asarray(ramp[:3])).max() < 1e-4


def test_erasing_takes_rectangles_of_some_images() -> None:
    x = jnp.full((300, 16, 16, 1), 9.0)
    out = np.asarray(jax.jit(A.erase, static_argnums=2)(KEY, x, 0.25))[..., 0]
    holes = out != 9.0
    erased = holes.any(axis=(1, 2))
    assert abs(erased.mean() - 0.25) < 4 * 0.025
    shares = holes.mean(axis=(1, 2))[erased]
    assert shares.max() < 0.36
    assert shares.mean() > 0.1
    for hole in holes[erased]:
        rows, columns = hole.any(axis=1), hole.any(axis=0)
        assert np.array_equal(hole, rows[:, None] & columns[None])
    assert abs(out[holes].std() - 1) < 0.05
    assert np.array_equal(np.asarray(A.erase(KEY, x, 0.0)), np.asarray(x))


def test_mixed_images_and_targets_keep_the_same_shares() -> None:
    B = 200
    # Image i is i everywhere and its target is one-hot i: both tell of what they are mixed.
    x = jnp.arange(float(B))[:, None, None, None] * jnp.ones((1, 8, 8, 1))
    targets = jnp.eye(B)
    for mix, alpha in ((A.mixup, 0.4), (A.cutmix, 1.0)):
        out, shares = map(np.asarray, jax.jit(mix, static_argnums=3)(KEY, x, targets, alpha))
        assert np.allclose(shares.sum(axis=1), 1, atol=1e-6)
        expected = shares @ np.arange(B)
        assert np.allclose(out.mean(axis=(1, 2, 3)), expected, rtol=1e-4, atol=1e-3)
        own = np.diag(shares)
        assert len(set(own.tolist())) > 20  # one share an image
        if mix is A.mixup:
            # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)); a few are mixed with self.
            assert abs(own.mean() - 0.5) < 4 * (1 / 7.2 / B) ** 0.5
            assert abs(own.var() - 1 / 7.2) < 0.03
        else:
            assert set(np.unique(own * 64 % 1)) == {0.0}  # whole pixels


def test_normalise_by_the_channels() -> None:
    x = images()
    out = A.normalise(x, jnp.asarray(MEAN), jnp.asarray([0.2, 0.0, 0.25]))
    expected = (np.asarray(x) - MEAN) / np.array([0.2, 1.0, 0.25])
    assert np.allclose(np.asarray(out), expected, atol=1e-6)


def test_rand_augment_does_both_ways_the_same() -> None:
    x = images(6)
    ours = jax.jit(lambda key: A.rand_augment(key, x, 2, 7.0))(KEY)
    operations = list(A.OPERATIONS.values())
    side_by_side = jax.jit(jax.vmap(lambda key, image: A._vary(0.7, key, image)))
    expected = []
    step_keys = jax.random.split(KEY, 2)
    for i, image in enumerate(x):
        for step_key in step_keys:
            kind_key, sign_key = jax.random.split(jax.random.split(step_key, 6)[i])
            sign = 1.0 if jax.random.bernoulli(sign_key) else -1.0
            kind = int(jax.random.randint(kind_key, (), 0, 14))
            image = operations[kind](image, jnp.float32(sign * 0.7))
        expected.append(image)
    assert np.allclose(np.asarray(ours), np.asarray(jnp.stack(expected)), atol=1e-5)
    # Side by side, as on other devices than the CPU; and that it compiles for one.
    theirs = x
    for step_key in step_keys:
        theirs = side_by_side(jax.random.split(step_key, 6), theirs)
    assert np.allclose(np.asarray(theirs), np.asarray(ours), atol=1e-5)
    traced = jax.jit(lambda key: A.rand_augment(key, x, 2, 7.0)).trace(KEY)
    assert "gather" in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert not np.array_equal(np.asarray(ours), np.asarray(x))
    with pytest.raises(ValueError, match=r"magnitude=11\.0, wanted 0 to 10"):
        A.rand_augment(KEY, x, 1, 11.0)


def test_a_config_asks_for_what_is_done() -> None:
    raw = jnp.asarray(np.random.default_rng(3).integers(0, 256, (4, 8, 8, 3)), jnp.uint8)
    targets = jnp.eye(4)
    mean, deviation = jnp.asarray(MEAN), jnp.asarray(DEVIATION)

    def made(config: AugmentationConfig):
        run = jax.jit(lambda key: A.augment(config, key, raw, targets, mean, deviation))
        return lambda key: tuple(map(np.asarray, run(key)))

    plain, same = made(AugmentationConfig())(KEY)
    assert np.allclose(plain, (np.asarray(raw) / 255 - MEAN) / DEVIATION, atol=1e-5)
    assert np.array_equal(same, targets)
    everything = made(
        AugmentationConfig(
            flip=True, pad=2, crop_scale=0.5, operations=1, erase=0.5, mixup=0.2, cutmix=1.0
        )
    )
    one, shares = everything(KEY)
    again, _ = everything(KEY)
    other, _ = everything(jax.random.key(8))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.isfinite(one).all()
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-6)

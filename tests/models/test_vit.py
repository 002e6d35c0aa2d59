"""The Vision Transformer: known sizes, a float64 oracle, positions, variants, any attention."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.attention import PositionalConfig
from attnzoo.config.loader import load
from attnzoo.config.vit import ViTConfig
from attnzoo.errors import UserError
from attnzoo.layers.patches import PatchEmbedding, resize_grid, sinusoidal_grid
from attnzoo.models.vit import ViT

SMALL = [
    "image_size=6",
    "patch=2",
    "channels=3",
    "dim=20",
    "hidden=11",
    "layers=2",
    "attention.num_heads=5",
]
IMAGES = np.random.default_rng(0).normal(size=(2, 6, 6, 3))
VARIANTS = {
    "class": ["head_hidden=true"],
    "mean": ["pooling=mean", "positions=sinusoidal", "gated=true", "activation=silu"],
    "attention": ["pooling=attention", "positions=none"],
    "deit": ["distillation=head"],
    "dinov2": ["pooling=class_mean", "registers=2", "layer_scale=0.5", "mask_token=true"],
}


def small(*overrides: str) -> ViTConfig:
    return load(ViTConfig, None, [*SMALL, *overrides])


def abstract(config: ViTConfig, num_classes: int | None = 7) -> ViT:
    return nnx.eval_shape(lambda: ViT(config, num_classes, rngs=nnx.Rngs(0)))


def count(config: ViTConfig, num_classes: int | None = 1000) -> int:
    """Parameters; those of one block are counted once."""

    def with_layers(layers: int) -> int:
        model = abstract(replace(config, layers=layers), num_classes)
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    one, two = with_layers(1), with_layers(2)
    return one + (config.layers - 1) * (two - one)


def drawn(config: ViTConfig, num_classes: int | None = 7, dtype: str = "float32") -> ViT:
    """The model with every parameter drawn, so that signals stay near 1."""
    graph, state = nnx.split(abstract(config, num_classes))
    random = np.random.default_rng(1)

    def draw(leaf):
        return jnp.asarray(random.normal(size=leaf.shape) / leaf.shape[0] ** 0.5, dtype)

    return nnx.merge(graph, jax.tree.map(draw, state))


@partial(jax.jit, static_argnums=(0, 3))
def _apply(graph, state, images, capture):
    return nnx.merge(graph, state)(images, capture=capture)


def apply(model: ViT, images, capture: bool = False):
    return _apply(*nnx.split(model), jnp.asarray(images, model.norm.scale.dtype), capture)


def test_known_numbers_of_parameters() -> None:
    # What torchvision, timm and the papers' repositories count.
    assert count(ViTConfig.tiny()) == 5_717_416
    assert count(ViTConfig.small()) == 22_050_664
    assert count(ViTConfig.base()) == 86_567_656
    assert count(ViTConfig.large()) == 304_326_632
    assert count(ViTConfig.huge()) == 632_045_800
    assert count(ViTConfig.deit_base()) == 87_338_192
    assert count(ViTConfig.dinov2_small(registers=0), None) == 22_056_576
    assert count(ViTConfig.dinov2_giant(), None) == 1_136_486_912


def test_float64_oracle(x64: None) -> None:
    """Loops over patches and heads, from the equations of the paper."""
    model = drawn(small("layers=1", "norm_eps=1e-5"), dtype="float64")
    logits, maps = apply(model, IMAGES, capture=True)

    def norm(layer, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])

    def linear(layer, x):
        return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    block = model.encoder.blocks[0]
    attention, feed = block.attention.mechanism, block.feed_forward
    for image, found, weights in zip(IMAGES, logits, maps["encoder/0/self"], strict=True):
        corners = [(i, j) for i in range(0, 6, 2) for j in range(0, 6, 2)]
        patches = np.stack([image[i : i + 2, j : j + 2].ravel() for i, j in corners])
        x = linear(model.patches.projection, patches)
        x = np.concatenate([np.asarray(model.class_token[...]), x]) + np.asarray(
            model.positions[...]
        )
        y = norm(block.attention_norm, x)
        q, k, v = (linear(layer, y) for layer in (attention.query, attention.key, attention.value))
        read = np.empty_like(v)
        for head in range(5):
            part = slice(4 * head, 4 * head + 4)
            scores = np.exp(q[:, part] @ k[:, part].T / 2)
            scores /= scores.sum(1, keepdims=True)
            np.testing.assert_allclose(weights[head], scores, rtol=1e-5)  # maps are float32
            read[:, part] = scores @ v[:, part]
        x = x + linear(attention.out, read)
        hidden = linear(feed.up, norm(block.feed_forward_norm, x))
        erf = np.vectorize(jax.scipy.special.erf)
        x = x + linear(feed.down, hidden * (1 + erf(hidden / np.sqrt(2))) / 2)
        np.testing.assert_allclose(found, linear(model.head, norm(model.norm, x)[0]), rtol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_receives_a_gradient(variant: str) -> None:
    model = drawn(small(*VARIANTS[variant]))
    graph, state = nnx.split(model, nnx.Param)

    @jax.jit
    def gradient(state):
        def loss(state):
            model = nnx.merge(graph, state)
            masked = jnp.arange(18).reshape(2, 9) % 4 == 1 if model.config.mask_token else None
            x = model.embed(jnp.asarray(IMAGES, jnp.float32), masked=masked)
            logits = model.classify(model.encode(x)[0])
            return jnp.sum(logits * jnp.arange(14, dtype=jnp.float32).reshape(2, 7))

        return jax.grad(loss)(state)

    flat = nnx.to_flat_state(gradient(state))
    still = {path for path, leaf in flat if not np.any(np.abs(leaf[...]) > 1e-6)}
    # Softmax is blind to what all keys share.
    assert {path for path in still if path[-2:] != ("key", "bias")} == set()


@pytest.mark.parametrize("variant", ["class", "deit"])
def test_a_head_of_zeros_says_nothing_and_learns_first(variant: str) -> None:
    model = ViT(small(*VARIANTS[variant]), 7, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model, nnx.Param)

    @jax.jit
    def gradient(state):
        def loss(state):
            logits = nnx.merge(graph, state)(jnp.asarray(IMAGES, jnp.float32))
            return jnp.sum(jax.nn.log_softmax(logits)[:, 0]), logits

        return jax.grad(loss, has_aux=True)(state)

    found, logits = gradient(state)
    assert np.all(logits == 0)
    moved = {path[0] for path, leaf in nnx.to_flat_state(found) if np.any(leaf[...] != 0)}
    heads = {"head", "distilled_head"} if variant == "deit" else {"head"}
    assert moved == heads, "the rest waits for the second step"


@pytest.mark.parametrize("setting", ["scan=true", "remat=full", "remat=dots"])
def test_scan_and_rematerialisation_change_nothing(setting: str) -> None:
    line = ["layer_scale=0.5", "branch_rate=0.3", "dropout=0.1", "activation_dropout=0.2"]
    plain, other = drawn(small(*line)), abstract(small(*line, setting))
    graph, state = nnx.split(plain, nnx.Param)
    state = nnx.to_pure_dict(state)
    blocks = state["encoder"]["blocks"]

    def pack(tree):
        """Per-block parameters as the other model holds them."""
        if setting != "scan=true":
            return tree
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(blocks[i] for i in range(2)))
        return tree | {"encoder": {"blocks": stacked}}

    images = jnp.asarray(IMAGES, jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def both(graph, state, key):
        def loss(state):
            model = nnx.merge(graph, state)
            logits, maps = model(images, rngs=nnx.Rngs(dropout=key), capture=True)
            return jnp.sum(jnp.sin(logits)), (logits, maps)

        return jax.grad(loss, has_aux=True)(state)

    key = jax.random.key(3)
    wanted, (logits, maps) = both(graph, state, key)
    found, (others, other_maps) = both(nnx.split(other, nnx.Param)[0], pack(state), key)
    np.testing.assert_allclose(others, logits, rtol=1e-5, atol=1e-6)
    assert set(other_maps) == set(maps) == {f"encoder/{i}/self" for i in range(2)}
    for name in maps:
        np.testing.assert_allclose(other_maps[name], maps[name], rtol=1e-5, atol=1e-6)
    blocks = wanted["encoder"]["blocks"]
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found, pack(wanted))


def test_dropout_and_stochastic_depth_need_a_key() -> None:
    model = drawn(small("branch_rate=0.9", "dropout=0.5", "attention_dropout=0.5"))
    images = jnp.asarray(IMAGES, jnp.float32)
    call = nnx.jit(lambda model, key: model(images, rngs=nnx.Rngs(dropout=key)))
    first, again, other = (call(model, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.all(np.abs(first - other) > 1e-4)
    np.testing.assert_array_equal(apply(model, IMAGES), apply(model, IMAGES))


def test_positions_interpolate() -> None:
    table = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)), jnp.float32)
    for antialias in (False, True):
        same = resize_grid(table, (3, 5), antialias=antialias)
        np.testing.assert_allclose(same, table, rtol=1e-6)
        flat = resize_grid(jnp.ones((3, 5, 2)), (7, 4), antialias=antialias)
        np.testing.assert_allclose(flat, np.ones((7, 4, 2)), rtol=1e-6)
    # Two cells to four: centres at -1/4, 1/4, 3/4, 5/4 of the old. With a = -3/4 the kernel is
    # 225/256 at 1/4, 67/256 at 3/4, -27/256 at 5/4 and -9/256 at 7/4, and what lies beyond the
    # border counts as the border.
    line = jnp.asarray([[[0.0]], [[256.0]]])
    wanted = [-27, 67 - 9, 225 - 27, 256 + 27]
    np.testing.assert_allclose(resize_grid(line, (4, 1))[:, 0, 0], wanted, rtol=1e-6)
    # Four cells to two: centres at 1/2 and 5/2, where the kernel is 19/32 at 1/2, -3/32 at 3/2.
    line = jnp.asarray([0.0, 32.0, 64.0, 96.0]).reshape(1, 4, 1)
    wanted = [19 - 3 * 2, 19 * (2 + 3) - 3 * (1 + 3)]
    np.testing.assert_allclose(resize_grid(line, (1, 2))[0, :, 0], wanted, rtol=1e-6)


def test_other_images_than_it_was_made_for() -> None:
    """Class and distillation token keep their positions, patches read a resampled grid."""
    model = drawn(small("distillation=head", "registers=2"))
    wide = np.random.default_rng(5).normal(size=(1, 4, 10, 3))
    x = np.asarray(model.embed(jnp.asarray(wide, jnp.float32)))[0]
    table = np.asarray(model.positions[...])
    tokens = np.concatenate([model.class_token[...], model.distillation_token[...]])
    assert x.shape == (2 + 2 + 2 * 5, 20)
    np.testing.assert_allclose(x[:2], tokens + table[:2], rtol=1e-6)
    np.testing.assert_allclose(x[2:4], model.registers[...], rtol=1e-6)
    square = jnp.asarray(table[2:].reshape(3, 3, 20))
    patch = wide[0, 2:4, 4:6].reshape(-1).astype(np.float32)  # second row, third column
    wanted = model.patches.projection(jnp.asarray(patch)) + resize_grid(square, (2, 5))[1, 2]
    np.testing.assert_allclose(x[4 + 5 + 2], wanted, rtol=1e-5, atol=1e-6)


def test_a_masked_patch_is_not_read() -> None:
    model = drawn(small("mask_token=true"))
    images = jnp.asarray(IMAGES, jnp.float32)
    masked = jnp.zeros((2, 9), bool).at[0, 4].set(True)
    x, seen = np.array(model.embed(images, masked=masked)), model.embed(images)
    wanted = model.mask_token[...][0] + model.positions[...][5]
    np.testing.assert_allclose(x[0, 5], wanted, rtol=1e-6)
    x[0, 5] = seen[0, 5]
    np.testing.assert_array_equal(x, seen)
    with pytest.raises(ValueError, match="no mask token; wanted mask_token=true"):
        drawn(small()).embed(images, masked=masked)


def test_sinusoidal_grid_by_hand() -> None:
    found = sinusoidal_grid((2, 3), 8)
    assert found.shape == (6, 8)
    y, x = 1.0, 2.0
    wanted = [f(p * r) for p in (y, x) for f in (np.sin, np.cos) for r in (1.0, 0.01)]
    np.testing.assert_allclose(found[5], wanted, rtol=1e-5)


@pytest.mark.parametrize("positions", ["none", "learned"])
def test_only_positions_know_the_order(positions: str) -> None:
    model = drawn(small(f"positions={positions}"))
    order = np.random.default_rng(7).permutation(9)
    cut = IMAGES.reshape(2, 3, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 9, 2, 2, 3)
    mixed = cut[:, order].reshape(2, 3, 3, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    mixed = mixed.reshape(IMAGES.shape)
    features = nnx.jit(lambda model, images: model.features(images))
    before = features(model, jnp.asarray(IMAGES, jnp.float32))
    after = features(model, jnp.asarray(mixed, jnp.float32))
    apart = np.abs(np.asarray(after[:, 1:] - before[:, 1:][:, order])).max()
    of_class = np.abs(np.asarray(after[:, 0] - before[:, 0])).max()
    if positions == "none":
        assert apart < 1e-5
        assert of_class < 1e-5
    else:
        assert apart > 1e-2
        assert of_class > 1e-3


def test_two_heads_are_averaged() -> None:
    model = drawn(small("distillation=head"))
    states = model.features(jnp.asarray(IMAGES, jnp.float32))
    first, second = states[:, 0] @ model.head.kernel[...], states[:, 1]
    second = second @ model.distilled_head.kernel[...] + model.distilled_head.bias[...][None]
    wanted = (first + model.head.bias[...][None] + second) / 2
    np.testing.assert_allclose(apply(model, IMAGES), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="distillation='none' and a head: no distilled logits"):
        drawn(small()).distilled_logits(states)


def test_without_classes_it_gives_what_a_head_would_read() -> None:
    model = drawn(small("pooling=class_mean", "registers=1"), None)
    states = model.features(jnp.asarray(IMAGES, jnp.float32))
    wanted = np.concatenate([states[:, 0], np.mean(states[:, 2:], axis=1)], axis=1)
    np.testing.assert_allclose(apply(model, IMAGES), wanted, rtol=1e-5, atol=1e-6)


def test_errors_name_the_argument() -> None:
    with pytest.raises(UserError, match="image_size=7 is not divisible by patch=2"):
        small("image_size=7")
    with pytest.raises(UserError, match="distillation='token' wants pooling='class', not 'mean'"):
        small("distillation=token", "pooling=mean")
    with pytest.raises(UserError, match="dim=22 is not divisible by 4"):
        small("dim=22", "positions=sinusoidal")
    model = PatchEmbedding(2, 3, 5, rngs=nnx.Rngs(0))
    for shape in ((1, 6, 7, 3), (1, 5, 6, 3), (1, 0, 6, 3)):
        with pytest.raises(ValueError, match=f"{shape[1]} x {shape[2]} pixels do not divide"):
            model(jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"images has shape \(1, 6, 6, 1\).*channels=3"):
        model(jnp.zeros((1, 6, 6, 1)))
    short = replace(small(), attention=PositionalConfig(max_length=9))
    with pytest.raises(ValueError, match=r"attention\.max_length=9 is below max_length=10"):
        abstract(short)

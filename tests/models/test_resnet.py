"""The residual network: loops in float64, known sizes, any gate by one config line, learning."""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from attnzoo.attention import GATES
from attnzoo.config.gates import BAMConfig, CBAMConfig, Gate, MHCAConfig, SEConfig
from attnzoo.config.help import help_text
from attnzoo.config.loader import load
from attnzoo.config.model import ResNetConfig
from attnzoo.errors import UserError
from attnzoo.models import CLASSIFIERS, ResidualNetwork

pytestmark = pytest.mark.usefixtures("optimised")

SMALL = ["depth=8", "width=4", "channels=2"]
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 9, 7, 2))


def small(*overrides: str) -> ResNetConfig:
    return load(ResNetConfig, None, [*SMALL, *overrides])


def abstract(config: ResNetConfig, num_classes: int = 3) -> ResidualNetwork:
    return nnx.eval_shape(lambda: ResidualNetwork(config, num_classes, rngs=nnx.Rngs(0)))


def count(config: ResNetConfig) -> int:
    """Weights of the network with ten classes."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract(config, 10), nnx.Param)))


def drawn(config: ResNetConfig, dtype: str = "float32") -> ResidualNetwork:
    """The network with every parameter and statistic drawn, scaled so that signals stay near 1."""
    graph, state = nnx.split(abstract(config))
    random = np.random.default_rng(1)

    def draw(path, leaf):
        values = random.normal(size=leaf.shape) / max(1, np.prod(leaf.shape[:-1])) ** 0.5
        positive = any(getattr(part, "key", None) == "var" for part in path)
        return jnp.asarray(1 + values**2 if positive else values, dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))


@partial(jax.jit, static_argnums=0)
def apply(graph, state, images):
    return nnx.merge(graph, state)(images, return_weights=True)


def wide(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def convolve(layer, x: np.ndarray, stride: int = 1) -> np.ndarray:
    kernel = wide(layer.kernel)
    rows, columns = (x.shape[1] + stride - 1) // stride, (x.shape[2] + stride - 1) // stride
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            y[:, i, j] = np.tensordot(patch, kernel, axes=3)
    return y


def normalise(layer, x: np.ndarray) -> np.ndarray:
    scaled = (x - wide(layer.mean)) / np.sqrt(wide(layer.var) + 1e-5)
    return scaled * wide(layer.scale) + wide(layer.bias)


def test_float64_oracle(x64: None) -> None:
    model = drawn(small("attention=se", "attention.reduction=2"), "float64")
    logits, maps = apply(*nnx.split(model), jnp.asarray(IMAGES))
    x = np.maximum(normalise(model.stem_norm, convolve(model.stem, IMAGES)), 0)
    for block, (channels, stride), name in zip(
        model.blocks, ((4, 1), (8, 2), (16, 2)), maps, strict=True
    ):
        y = np.maximum(normalise(block.norm1, convolve(block.convolution1, x, stride)), 0)
        y = normalise(block.norm2, convolve(block.convolution2, y))
        squeeze, excite = block.gate.mlp.squeeze, block.gate.mlp.excite
        z = np.maximum(y.mean((1, 2)) @ wide(squeeze.kernel) + wide(squeeze.bias), 0)
        gate = 1 / (1 + np.exp(-(z @ wide(excite.kernel) + wide(excite.bias))))[:, None, None]
        np.testing.assert_allclose(maps[name], gate, rtol=1e-10)
        shortcut = np.zeros_like(y)
        start = (channels - x.shape[3]) // 2
        shortcut[..., start : start + x.shape[3]] = x[:, ::stride, ::stride]
        x = np.maximum(shortcut + y * gate, 0)
    wanted = x.mean((1, 2)) @ wide(model.output.kernel) + wide(model.output.bias)
    np.testing.assert_allclose(logits, wanted, rtol=1e-10, atol=1e-12)


def test_known_numbers_of_parameters() -> None:
    assert count(ResNetConfig.cifar()) == 269_722  # 0.27 million in table 6 of the paper
    # Each gate has c (c / r) + c / r + (c / r) c + c, in three blocks of each stage.
    added = sum(3 * (2 * c * (c // 16) + c // 16 + c) for c in (16, 32, 64))
    assert count(ResNetConfig.cifar(SEConfig())) == 269_722 + added
    assert count(ResNetConfig.cifar(BAMConfig())) < count(ResNetConfig.cifar(CBAMConfig()))


@pytest.mark.parametrize("kind", [*GATES, "none"])
def test_any_gate_by_one_config_line(kind: str) -> None:
    reduction = ["attention.reduction=2"] if kind in ("se", "cbam", "bam", "mhca") else []
    sizes = ["attention.kernel_sizes=[1, 2]"] if kind == "mhca" else []
    model = abstract(small(f"attention={kind}", "depth=14", *reduction, *sizes))
    images = jnp.asarray(IMAGES, jnp.float32)
    logits, maps = nnx.eval_shape(lambda model: model(images, return_weights=True), model)
    assert logits.shape == (5, 3)
    blocks = [f"stage{stage}/block{block}" for stage in (1, 2, 3) for block in (1, 2)]
    assert list(maps) == {
        "none": [],
        "bam": ["stage1", "stage2"],
        "non_local": ["stage1", "stage2"],
    }.get(kind, blocks)
    # 9 x 7 becomes 5 x 4 and 3 x 2; the gates speak of the map after the stride.
    whole = {"stage1": (9, 7, 4), "stage2": (5, 4, 8), "stage3": (3, 2, 16)}
    for name, weights in maps.items():
        rows, columns, channels = whole[name.partition("/")[0]]
        wanted = {"se": (1, 1, channels), "eca": (1, 1, channels), "spatial": (rows, columns, 1)}
        wanted["non_local"] = (1, rows * columns, rows * columns)
        assert weights.shape == (5, *wanted.get(kind, (rows, columns, channels)))


def test_every_gate_has_its_config_and_every_classifier() -> None:
    union = get_args(get_args(Gate)[0])
    assert {cls().kind for cls in union} == {*GATES, "none"}
    assert CLASSIFIERS[ResNetConfig().kind] is ResidualNetwork
    assert "attention=mhca" in help_text(ResNetConfig)


def test_it_learns_and_running_statistics_follow() -> None:
    """Three classes told apart by where a bright spot is, with the gates of CBAM."""
    model = drawn(small("attention=cbam", "attention.reduction=2"))
    labels = jnp.arange(12) % 3
    images = 0.1 * np.random.default_rng(2).normal(size=(12, 9, 7, 2))
    images[np.arange(12), 4, 2 * np.asarray(labels) + 1] += 3.0
    images = jnp.asarray(images, jnp.float32)
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    optimizer = optax.sgd(0.05, momentum=0.9)

    @jax.jit
    def step(params, statistics, moments):
        def loss(params):
            model = nnx.merge(graph, params, statistics, copy=True)
            logits = model(images, use_running_average=False)
            errors = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(errors), nnx.state(model, nnx.BatchStat)

        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments)
        reached = [jnp.any(gradient != 0) for gradient in jax.tree.leaves(gradients)]
        return optax.apply_updates(params, updates), statistics, moments, value, reached

    moments, values = jax.jit(optimizer.init)(params), []
    for index in range(60):
        params, statistics, moments, value, reached = step(params, statistics, moments)
        values.append(float(value))
        assert index > 0 or all(reached), "every parameter receives a gradient"
    assert values[0] > 0.7
    assert values[-1] < 0.02
    # With the statistics it has gathered the network knows them one at a time.
    logits, _ = apply(graph, nnx.merge_state(params, statistics), images)
    np.testing.assert_array_equal(np.argmax(logits, axis=1), labels)


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"depth=9 is not 6 n \+ 2"):
        ResNetConfig(depth=9)
    with pytest.raises(UserError, match="depth=10 is not 6 n"):
        small("depth=10")
    with pytest.raises(ValueError, match="channels=16 is not divisible by reduction=5"):
        abstract(ResNetConfig.cifar(SEConfig(reduction=5)))
    model = abstract(small("attention=mhca", "attention.reduction=2"))
    with pytest.raises(ValueError, match="kernel_sizes"):
        nnx.eval_shape(lambda model: model(jnp.zeros((1, 8, 8, 2))), model)
    with pytest.raises(ValueError, match=r"images has shape .* channels=2"):
        nnx.eval_shape(lambda model: model(jnp.zeros((1, 8, 8, 3))), model)
    assert MHCAConfig().kernel_sizes == (1, 3, 5)

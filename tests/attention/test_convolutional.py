# Over 400 lines: an oracle for each gate.
"""Gates of convolutional networks: loops in float64, what they must not see, their gradients."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import (
    BAM,
    CBAM,
    GATES,
    MHCA,
    CoordinateAttention,
    EfficientChannelAttention,
    Gate,
    NonLocalBlock,
    SpatialGate,
    SqueezeExcitation,
)
from attnzoo.attention.channel import eca_kernel_size

pytestmark = pytest.mark.usefixtures("optimised")

B, ROWS, COLUMNS, C = 3, 7, 5, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, ROWS, COLUMNS, C))

BUILD: dict[str, Callable[[nnx.Rngs], Gate]] = {
    "se": lambda rngs: SqueezeExcitation(C, 2, rngs=rngs),
    "eca": lambda rngs: EfficientChannelAttention(C, 3, rngs=rngs),
    "spatial": lambda rngs: SpatialGate(3, rngs=rngs),
    "cbam": lambda rngs: CBAM(C, 2, 3, rngs=rngs),
    "bam": lambda rngs: BAM(C, 2, 2, rngs=rngs),
    "bam_product": lambda rngs: BAM(C, 2, 2, "product", rngs=rngs),
    "coordinate": lambda rngs: CoordinateAttention(C, rngs=rngs),
    "mhca": lambda rngs: MHCA(C, 2, rngs=rngs),
    "non_local": lambda rngs: NonLocalBlock(C, 2, rngs=rngs),
    "non_local_dot": lambda rngs: NonLocalBlock(C, 2, "dot_product", rngs=rngs),
}
KINDS = pytest.mark.parametrize("kind", list(BUILD))
HAS_NORM = ["spatial", "cbam", "bam", "bam_product", "coordinate", "non_local", "non_local_dot"]


def build(kind: str, dtype: str = "float32") -> Gate:
    """A gate all of whose parameters and running statistics are drawn: nothing starts at 0.

    Variances and biases are positive: the latter so that no ReLU is dead.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: BUILD[kind](nnx.Rngs(0))))
    random = np.random.default_rng(1)

    def draw(path, leaf):
        drawn = random.normal(size=leaf.shape)
        positive = any(getattr(part, "key", None) in ("var", "bias") for part in path)
        return jnp.asarray(0.3 + drawn**2 if positive else 0.4 * drawn, dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))


@partial(jax.jit, static_argnums=(0, 3))
def compiled(graph, state, x, running):
    gate = nnx.merge(graph, state)
    gated, weights = gate(x, use_running_average=running, return_weights=True)
    return gated, weights, nnx.state(gate, nnx.BatchStat)


def call(gate: Gate, x: np.ndarray, running: bool = True, dtype: str = "float32"):
    """The gated map, the weights and the running statistics afterwards."""
    return compiled(*nnx.split(gate), jnp.asarray(x, dtype), running)


def weights_of(gate: Gate, x: np.ndarray) -> np.ndarray:
    return np.asarray(call(gate, x)[1])


def wide(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


# The oracles: loops over kernel positions, in float64.


def convolve(layer, x: np.ndarray, dilation: int = 1, same: bool = True) -> np.ndarray:
    kernel = wide(layer.kernel)
    reach = dilation * (kernel.shape[0] - 1)
    pad = reach // 2 if same else 0
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = x.shape[1] - reach, x.shape[2] - reach
    y = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            a, b = i * dilation, j * dilation
            y += x[:, a : a + height, b : b + width] @ kernel[i, j]
    return y + (0 if layer.bias is None else wide(layer.bias))


def spread(layer, x: np.ndarray) -> np.ndarray:
    """Transposed convolution: every place adds a patch to the output."""
    kernel = wide(layer.kernel)[::-1, ::-1]
    size = kernel.shape[0]
    y = np.zeros((x.shape[0], x.shape[1] + size - 1, x.shape[2] + size - 1, kernel.shape[3]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            y[:, i : i + size, j : j + size] += np.einsum("bc,ijcd->bijd", x[:, i, j], kernel)
    return y + wide(layer.bias)


def normalise(layer, x: np.ndarray, running: bool) -> np.ndarray:
    flat = x.reshape(-1, x.shape[-1])
    mean, var = (wide(layer.mean), wide(layer.var)) if running else (flat.mean(0), flat.var(0))
    return (x - mean) / np.sqrt(var + 1e-5) * wide(layer.scale) + wide(layer.bias)


def linear(layer, x: np.ndarray) -> np.ndarray:
    return x @ wide(layer.kernel) + wide(layer.bias)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def oracle_mlp(mlp, z: np.ndarray) -> np.ndarray:
    return linear(mlp.excite, relu(linear(mlp.squeeze, z)))


def oracle_se(gate, x, running):
    return sigmoid(oracle_mlp(gate.mlp, x.mean((1, 2))))[:, None, None]


def oracle_eca(gate, x, running):
    kernel, z = wide(gate.convolution.kernel).ravel(), x.mean((1, 2))
    half = len(kernel) // 2
    logits = np.zeros_like(z)
    for c in range(z.shape[1]):
        for tap, factor in enumerate(kernel):
            other = c + tap - half
            if 0 <= other < z.shape[1]:
                logits[:, c] += factor * z[:, other]
    return sigmoid(logits)[:, None, None]


def oracle_spatial(gate, x, running):
    pooled = np.stack([x.max(-1), x.mean(-1)], axis=-1)
    return sigmoid(normalise(gate.norm, convolve(gate.convolution, pooled), running))


def oracle_cbam(gate, x, running):
    mlp = gate.channel.mlp
    channel = sigmoid(oracle_mlp(mlp, x.mean((1, 2))) + oracle_mlp(mlp, x.max((1, 2))))
    channel = channel[:, None, None]
    return channel * oracle_spatial(gate.spatial, x * channel, running)


def oracle_bam(gate, x, running):
    z = normalise(gate.squeeze_norm, linear(gate.squeeze, x.mean((1, 2))), running)
    channel = linear(gate.excite, relu(z))[:, None, None]
    for layer, norm, dilation in zip(gate.convolutions, gate.norms, (1, 2, 2), strict=True):
        x = relu(normalise(norm, convolve(layer, x, dilation), running))
    spatial = convolve(gate.place, x)
    return 1 + sigmoid(channel + spatial if gate.combine == "sum" else channel * spatial)


def oracle_coordinate(gate, x, running):
    both = np.concatenate([x.mean(2), x.mean(1)], axis=1)
    both = normalise(gate.norm, linear(gate.reduce, both), running)
    both = both * np.clip(both + 3, 0, 6) / 6
    row = sigmoid(linear(gate.row, both[:, : x.shape[1]]))
    column = sigmoid(linear(gate.column, both[:, x.shape[1] :]))
    return np.einsum("bhc,bwc->bhwc", row, column)


def oracle_mhca(gate, x, running):
    logits = np.zeros_like(x)
    for narrow, widen in zip(gate.narrow, gate.widen, strict=True):
        logits += spread(widen, relu(convolve(narrow, x, same=False)))
    return sigmoid(logits)


def oracle_non_local(gate, x, running):
    flat = x.reshape(len(x), -1, x.shape[-1])
    scores = linear(gate.query, flat) @ np.swapaxes(linear(gate.key, flat), 1, 2)
    if gate.score == "dot_product":
        return scores[:, None] / flat.shape[1]
    exp = np.exp(scores)
    return (exp / exp.sum(-1, keepdims=True))[:, None]


def oracle_result(gate, x, weights, running):
    """What a gate makes of a map and its weights: place by place where a block reads."""
    if not isinstance(gate, NonLocalBlock):
        return x * weights
    read = np.zeros((*x.shape[:3], gate.value.out_features))
    for b, i, j in np.ndindex(x.shape[:3]):
        for other, weight in enumerate(weights[b, 0, i * x.shape[2] + j]):
            read[b, i, j] += weight * linear(
                gate.value, x[b, other // x.shape[2], other % x.shape[2]]
            )
    return x + normalise(gate.norm, linear(gate.out, read), running)


ORACLES = {
    "se": oracle_se,
    "eca": oracle_eca,
    "spatial": oracle_spatial,
    "cbam": oracle_cbam,
    "bam": oracle_bam,
    "bam_product": oracle_bam,
    "coordinate": oracle_coordinate,
    "mhca": oracle_mhca,
    "non_local": oracle_non_local,
    "non_local_dot": oracle_non_local,
}
SHAPES = {"se": (B, 1, 1, C), "eca": (B, 1, 1, C), "spatial": (B, ROWS, COLUMNS, 1)}
PAIRS = (B, 1, ROWS * COLUMNS, ROWS * COLUMNS)
SHAPES |= {"non_local": PAIRS, "non_local_dot": PAIRS}


def test_every_gate_of_the_registry_is_tested_here() -> None:
    assert {type(build(kind)) for kind in BUILD} == set(GATES.values())


@KINDS
def test_float64_oracle_and_gradients(kind: str, x64: None) -> None:
    gate = build(kind, "float64")
    graph, params, rest = nnx.split(gate, nnx.Param, ...)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(moving):
        params, x = moving
        gated, weights = nnx.merge(graph, params, rest)(x, return_weights=True)
        return jnp.sum(jnp.sin(gated)), (gated, weights)

    start = (params, jnp.asarray(X))
    (_, (gated, weights)), gradients = loss(start)
    wanted = ORACLES[kind](gate, X, True)
    assert weights.shape == SHAPES.get(kind, X.shape)
    np.testing.assert_allclose(weights, wanted, rtol=1e-10, atol=1e-12)
    gated_wanted = oracle_result(gate, X, wanted, True)
    np.testing.assert_allclose(gated, gated_wanted, rtol=1e-10, atol=1e-12)

    random = np.random.default_rng(2)
    direction = jax.tree.map(lambda a: random.normal(size=a.shape), start)

    def moved(step: float) -> float:
        there = jax.tree.map(lambda a, d: jnp.asarray(np.asarray(a) + step * d), start, direction)
        return float(loss(there)[0][0])

    numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
    analytic = sum(np.vdot(np.asarray(g), d) for g, d in pairs)
    assert analytic == pytest.approx(numeric, rel=1e-6)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients[0]):
        assert np.any(np.asarray(leaf) != 0), jax.tree_util.keystr(path)


@KINDS
def test_float32_oracle_and_running_statistics(kind: str) -> None:
    gate = build(kind)
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(gate, nnx.BatchStat))]
    assert bool(before) == (kind in HAS_NORM)
    for running in (True, False):
        wanted = ORACLES[kind](gate, X, running)
        gated, weights, after = call(gate, X, running)
        assert gated.dtype == weights.dtype == jnp.float32
        # The norm of a batch of 3 divides by deviations that may be small and multiplies rounding.
        tolerance = 1e-6 if running else 2e-4
        np.testing.assert_allclose(weights, wanted, rtol=1e-5, atol=tolerance)
        gated_wanted = oracle_result(gate, X, wanted, running)
        np.testing.assert_allclose(gated, gated_wanted, rtol=1e-5, atol=5 * tolerance)
        # They move only when asked.
        for old, new in zip(before, jax.tree.leaves(after), strict=True):
            assert np.all(old == new) if running else np.all(old != new)


def test_half_precision_comes_back_as_such_with_float32_weights() -> None:
    gate, x = build("se"), np.asarray(jnp.asarray(X, jnp.bfloat16))
    gated, weights, _ = call(gate, x, dtype="bfloat16")
    assert (gated.dtype, weights.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(weights, weights_of(gate, x), rtol=1e-6)
    without = gate(jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(without, call(gate, X)[0], rtol=1e-6)


def shuffled(x: np.ndarray) -> np.ndarray:
    """The places of every map in another order, the same for all channels."""
    flat = x.reshape(B, ROWS * COLUMNS, C)
    return flat[:, np.random.default_rng(3).permutation(ROWS * COLUMNS)].reshape(x.shape)


@KINDS
def test_only_channel_gates_do_not_see_where_things_are(kind: str) -> None:
    gate = build(kind)
    same = np.allclose(weights_of(gate, X), weights_of(gate, shuffled(X)), atol=1e-6)
    assert same == (kind in ("se", "eca"))


def test_the_spatial_gate_does_not_see_the_order_of_channels() -> None:
    gate = build("spatial")
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(weights_of(gate, X[..., order]), weights_of(gate, X), atol=1e-6)
    # A mirrored map is another one: the kernel is not symmetric.
    assert not np.allclose(weights_of(gate, X[:, ::-1]), weights_of(gate, X)[:, ::-1], atol=1e-3)


def test_the_order_of_channels_means_something_to_eca_but_is_a_name_to_se() -> None:
    order = np.array([2, 0, 3, 1])
    eca = build("eca")
    want = weights_of(eca, X)[..., order]
    assert not np.allclose(weights_of(eca, X[..., order]), want, atol=1e-3)
    se = build("se")
    want = weights_of(se, X)[..., order]
    assert not np.allclose(weights_of(se, X[..., order]), want, atol=1e-3)
    squeeze, excite = se.mlp.squeeze, se.mlp.excite
    squeeze.kernel[...] = squeeze.kernel[...][order]
    excite.kernel[...] = excite.kernel[...][:, order]
    excite.bias[...] = excite.bias[...][order]
    np.testing.assert_allclose(weights_of(se, X[..., order]), want, atol=1e-6)


def test_the_coordinate_gate_separates_into_rows_and_columns() -> None:
    log = np.log(weights_of(build("coordinate"), X))
    mixed = log[:, 1:, 1:] - log[:, :1, 1:] - log[:, 1:, :1] + log[:, :1, :1]
    np.testing.assert_allclose(mixed, 0, atol=1e-5)
    log = np.log(weights_of(build("mhca"), X))
    mixed = log[:, 1:, 1:] - log[:, :1, 1:] - log[:, 1:, :1] + log[:, :1, :1]
    assert np.max(np.abs(mixed)) > 0.01


@pytest.mark.parametrize(
    ("kind", "start"), [("se", 0.5), ("cbam", 0.25), ("bam", 1.5), ("coordinate", 0.25)]
)
def test_where_gates_start_when_their_last_layer_is_zero(kind: str, start: float) -> None:
    """sigmoid(0) = 1/2, once for each gate; BAM adds 1 and so does not shrink."""
    gate = build(kind)
    last = {
        "se": lambda: [gate.mlp.excite],
        "cbam": lambda: [gate.channel.mlp.excite, gate.spatial.norm],
        "bam": lambda: [gate.excite, gate.place],
        "coordinate": lambda: [gate.row, gate.column],
    }[kind]()
    for layer in last:
        weight = layer.scale if isinstance(layer, nnx.BatchNorm) else layer.kernel
        weight[...] = jnp.zeros_like(weight[...])
        layer.bias[...] = jnp.zeros_like(layer.bias[...])
    np.testing.assert_array_equal(weights_of(gate, X), start)


def test_a_non_local_block_starts_as_the_identity_and_commutes_with_permutations() -> None:
    gated, _, _ = call(NonLocalBlock(C, 2, rngs=nnx.Rngs(0)), X)
    np.testing.assert_array_equal(gated, np.float32(X))
    gate = build("non_local")
    np.testing.assert_allclose(call(gate, shuffled(X))[0], shuffled(call(gate, X)[0]), atol=1e-5)


def test_a_non_local_block_by_hand() -> None:
    """Two places with values 0 and 1: scores 0 and x_i ln 2, so the second has weight 1/3, 2/3."""
    gate = NonLocalBlock(1, 1, rngs=nnx.Rngs(0))
    gate.norm.scale[...] = jnp.sqrt(jnp.asarray([1 + 1e-5]))  # undoes the norm of variance 1
    for layer, factor in ((gate.query, np.log(2.0)), (gate.key, 1.0), (gate.value, 1.0)):
        layer.kernel[...] = jnp.full((1, 1), factor)
    gate.out.kernel[...] = jnp.full((1, 1), 6.0)
    gated, weights, _ = call(gate, np.asarray([0.0, 1.0]).reshape(1, 1, 2, 1))
    np.testing.assert_allclose(weights[0, 0], [[1 / 2, 1 / 2], [1 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(gated.ravel(), [0 + 6 / 2, 1 + 6 * 2 / 3], rtol=1e-6)


def test_kernel_sizes_of_eca() -> None:
    sizes = {8: 3, 16: 3, 32: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7, 1: 1}
    assert {channels: eca_kernel_size(channels) for channels in sizes} == sizes
    gate = nnx.eval_shape(lambda: EfficientChannelAttention(128, rngs=nnx.Rngs(0)))
    assert [leaf.size for leaf in jax.tree.leaves(nnx.state(gate, nnx.Param))] == [5]


def test_the_width_of_coordinate_attention_is_never_below_eight() -> None:
    def width(channels: int) -> int:
        gate = nnx.eval_shape(lambda: CoordinateAttention(channels, 4, rngs=nnx.Rngs(0)))
        return gate.norm.num_features

    assert [width(channels) for channels in (4, 32, 40)] == [8, 8, 10]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rngs: SqueezeExcitation(10, 4, rngs=rngs), "channels=10 .* reduction=4"),
        (lambda rngs: CBAM(4, 16, rngs=rngs), "channels=4 .* reduction=16"),
        (lambda rngs: MHCA(4, 3, rngs=rngs), "channels=4 .* reduction=3"),
        (lambda rngs: MHCA(4, 2, (), rngs=rngs), r"kernel_sizes=\(\)"),
        (lambda rngs: BAM(4, 0, rngs=rngs), "channels=4 .* reduction=0"),
        (lambda rngs: BAM(4, 2, 0, rngs=rngs), "dilation=0"),
        (lambda rngs: EfficientChannelAttention(4, 4, rngs=rngs), "kernel_size=4; wanted an odd"),
        (lambda rngs: SpatialGate(2, rngs=rngs), "kernel_size=2; wanted an odd"),
        (lambda rngs: NonLocalBlock(4, 3, rngs=rngs), "channels=4 .* reduction=3"),
        (lambda rngs: CoordinateAttention(4, 0, rngs=rngs), "reduction=0"),
        (lambda rngs: build("se")(jnp.zeros((2, 3, 3, 5))), "x has 5 channels.*channels=4"),
        (lambda rngs: build("mhca")(jnp.zeros((2, 4, 6, C))), "4 rows and 6 columns.*kernel_sizes"),
    ],
)
def test_errors_name_the_argument(make: Callable[[nnx.Rngs], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(nnx.Rngs(0))


def test_the_spatial_gate_shows_the_way_to_a_bright_spot() -> None:
    """A kernel of ones over the maximum: the gate is highest at and around the spot."""
    gate = SpatialGate(3, rngs=nnx.Rngs(0))  # as it starts: the norm does nothing yet
    gate.convolution.kernel[...] = jnp.zeros((3, 3, 2, 1)).at[:, :, 0].set(1.0)
    x = np.zeros((B, ROWS, COLUMNS, C))
    x[:, 2, 3, 1] = 5.0
    weights = weights_of(gate, x)[0, :, :, 0]
    bright = np.zeros((ROWS, COLUMNS), bool)
    bright[1:4, 2:5] = True
    np.testing.assert_array_equal(weights > 0.99, bright)
    np.testing.assert_array_equal(weights[~bright], 0.5)

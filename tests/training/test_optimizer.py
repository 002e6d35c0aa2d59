"""Schedules and update rules by their numbers."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.config.training import (
    AdadeltaConfig,
    AdafactorConfig,
    AdamConfig,
    AdamWConfig,
    ConstantConfig,
    CosineConfig,
    HalvingConfig,
    InverseSqrtConfig,
    LionConfig,
    MuonConfig,
    Optimizer,
    Schedule,
    SgdConfig,
    TrainingConfig,
    WarmupStableDecayConfig,
)
from attnzoo.training.optimizer import build_optimizer, build_schedule


def rates(schedule: Schedule, peak: float, counts: list[int], **sizes: int) -> np.ndarray:
    sizes = {"total_steps": 100, "steps_per_epoch": 10} | sizes
    rate = build_schedule(schedule, peak, **sizes)
    outside = [float(rate(count)) for count in counts]
    # Inside a compiled step the count is an int32 array.
    inside = [float(jax.jit(rate)(jnp.int32(count))) for count in counts]
    np.testing.assert_allclose(inside, outside, rtol=1e-6)
    return np.array(outside)


def test_constant() -> None:
    np.testing.assert_allclose(rates(ConstantConfig(), 0.5, [0, 1, 99]), 0.5)


def test_halving_after_five_epochs_as_in_the_paper() -> None:
    """Epochs of 10 steps: five at 1, the sixth at 1/2, the seventh at 1/4."""
    got = rates(HalvingConfig(start_epoch=5), 1.0, [0, 49, 50, 59, 60, 95])
    np.testing.assert_allclose(got, [1, 1, 0.5, 0.5, 0.25, 1 / 32])
    got = rates(HalvingConfig(start_epoch=2, every=3), 1.0, [19, 20, 49, 50, 80])
    np.testing.assert_allclose(got, [1, 0.5, 0.5, 0.25, 0.125])
    np.testing.assert_allclose(rates(HalvingConfig(start_epoch=0), 1.0, [0, 10]), [0.5, 0.25])


@pytest.mark.parametrize(("width", "peak"), [(512, 6.987712e-4), (1024, 4.941059e-4)])
def test_inverse_sqrt_is_the_transformers(width: int, peak: float) -> None:
    """lr(step) = E^-0.5 min(step^-0.5, step warmup^-1.5), steps from 1, peak at step 4000."""
    counts = [0, 99, 3998, 3999, 4000, 15_999, 99_999]
    got = rates(InverseSqrtConfig(warmup=4000), peak, counts)
    steps = np.array(counts) + 1.0
    want = width**-0.5 * np.minimum(steps**-0.5, steps * 4000**-1.5)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert got.argmax() == 3


def test_cosine() -> None:
    got = rates(CosineConfig(), 2.0, [0, 25, 50, 75, 100])
    want = [2.0, 1 + np.cos(np.pi / 4), 1.0, 1 - np.cos(np.pi / 4), 0.0]
    np.testing.assert_allclose(got, want, atol=1e-6)
    warm = rates(CosineConfig(warmup=20, final=0.1), 2.0, [0, 10, 20, 60, 100, 150])
    np.testing.assert_allclose(warm, [0.0, 1.0, 2.0, 1.1, 0.2, 0.2], atol=1e-6)


def updates(optimizer: Optimizer, gradients: list[list[float]], **settings) -> list[np.ndarray]:
    training = TrainingConfig(steps=10, optimizer=optimizer, **settings)
    transform, _ = build_optimizer(training, total_steps=10, steps_per_epoch=5)
    params = {"w": jnp.zeros(len(gradients[0]))}
    state, found = transform.init(params), []
    for gradient in gradients:
        update, state = transform.update({"w": jnp.float32(gradient)}, state, params)
        found.append(np.asarray(update["w"]))
    return found


def test_the_gradient_is_clipped_to_its_global_norm() -> None:
    sgd = {"learning_rate": 0.1}
    (clipped,) = updates(SgdConfig(), [[3.0, 4.0]], clip_norm=1.0, **sgd)
    np.testing.assert_allclose(clipped, [-0.06, -0.08], rtol=1e-6)
    (short,) = updates(SgdConfig(), [[0.3, 0.4]], clip_norm=1.0, **sgd)
    np.testing.assert_allclose(short, [-0.03, -0.04], rtol=1e-6)
    (free,) = updates(SgdConfig(), [[3.0, 4.0]], clip_norm=None, **sgd)
    np.testing.assert_allclose(free, [-0.3, -0.4], rtol=1e-6)


def test_adadelta_by_hand() -> None:
    """Zeiler 2012, algorithm 1, with learning rate 1."""
    gradients = [2.0, -1.0, 0.5]
    mean_square, mean_update, want = 0.0, 0.0, []
    for g in gradients:
        mean_square = 0.95 * mean_square + 0.05 * g * g
        update = -np.sqrt(mean_update + 1e-6) / np.sqrt(mean_square + 1e-6) * g
        mean_update = 0.95 * mean_update + 0.05 * update * update
        want.append([update])
    got = updates(AdadeltaConfig(), [[g] for g in gradients], learning_rate=1.0, clip_norm=None)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("cls", get_args(get_args(Optimizer)[0]))
def test_decay_of_vectors_has_an_effect_or_is_refused(cls: type) -> None:
    params = {"up": {"kernel": jnp.ones((2, 3)), "bias": jnp.float32([4.0])}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = cls(weight_decay=0.5) if hasattr(cls, "weight_decay") else cls()

    def change_of_bias(decay_all: bool) -> float:
        training = TrainingConfig(
            steps=1, optimizer=optimizer, decay_all=decay_all, learning_rate=0.1
        )
        rule, _ = build_optimizer(training, total_steps=1, steps_per_epoch=1)
        return float(rule.update(zeros, rule.init(params), params)[0]["up"]["bias"][0])

    assert change_of_bias(False) == 0
    if hasattr(cls, "weight_decay"):
        assert change_of_bias(True) < 0
    else:
        with pytest.raises(ValueError, match="decay_all=true has no effect"):
            change_of_bias(True)


@pytest.mark.parametrize("decay_all", [False, True])
def test_momentum_adam_and_weight_decay_by_hand(decay_all: bool) -> None:
    plain = {"learning_rate": 0.1, "clip_norm": None}
    got = updates(SgdConfig(momentum=0.5), [[1.0], [1.0]], **plain)
    np.testing.assert_allclose(got, [[-0.1], [-0.15]], rtol=1e-6)
    # Adam's first update is the learning rate times the sign.
    np.testing.assert_allclose(
        updates(AdamConfig(), [[7.0, -0.2]], **plain), [[-0.1, 0.1]], rtol=1e-4
    )
    transform, _ = build_optimizer(
        TrainingConfig(
            steps=1, optimizer=AdamWConfig(weight_decay=0.5), decay_all=decay_all, **plain
        ),
        total_steps=1,
        steps_per_epoch=1,
    )
    params = {"w": jnp.float32([[4.0]]), "b": jnp.float32([4.0]), "scale": jnp.float32([[4.0]])}
    zeros = jax.tree.map(jnp.zeros_like, params)
    update, _ = transform.update(zeros, transform.init(params), params)
    shrunk = -0.1 * 0.5 * 4.0
    np.testing.assert_allclose(update["w"], [[shrunk]], rtol=1e-6)
    # Neither biases nor norms, the stacked ones of layers that are scanned included.
    np.testing.assert_allclose(update["b"], [shrunk * decay_all], rtol=1e-6)
    np.testing.assert_allclose(update["scale"], [[shrunk * decay_all]], rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        AdadeltaConfig(),
        SgdConfig(),
        SgdConfig(momentum=0.9),
        AdamConfig(),
        AdamWConfig(),
        AdafactorConfig(),
        LionConfig(),
        MuonConfig(),
    ],
)
@pytest.mark.parametrize(
    "schedule",
    [
        HalvingConfig(),
        InverseSqrtConfig(warmup=3),
        CosineConfig(warmup=2),
        WarmupStableDecayConfig(warmup=2),
    ],
)
def test_every_rule_takes_every_schedule_under_jit(
    optimizer: Optimizer, schedule: Schedule
) -> None:
    training = TrainingConfig(steps=10, optimizer=optimizer, schedule=schedule, learning_rate=0.01)
    transform, _ = build_optimizer(training, total_steps=10, steps_per_epoch=2)
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(5)}
    state = transform.init(params)
    update, state = jax.jit(transform.update)(jax.tree.map(jnp.ones_like, params), state, params)
    update, _ = jax.jit(transform.update)(jax.tree.map(jnp.ones_like, params), state, params)
    assert all(np.all(np.asarray(u) < 0) for u in jax.tree.leaves(update))
    assert jax.tree.map(jnp.shape, update) == jax.tree.map(jnp.shape, params)


def test_warm_up_plateau_and_decay() -> None:
    schedule = build_schedule(
        WarmupStableDecayConfig(warmup=2, decay_share=0.4, final=0.5),
        8.0,
        total_steps=10,
        steps_per_epoch=5,
    )
    wanted = [4, 8, 8, 8, 8, 8, 8, 7, 6, 5, 4]
    np.testing.assert_allclose([schedule(step) for step in range(11)], wanted, rtol=1e-6)


def test_muon_makes_the_updates_of_matrices_orthogonal() -> None:
    training = TrainingConfig(steps=1, optimizer=MuonConfig(), learning_rate=0.02, clip_norm=None)
    transform, _ = build_optimizer(training, total_steps=1, steps_per_epoch=1)
    gradient = jnp.float32(np.random.default_rng(0).normal(size=(2, 5, 5)))
    params = {"kernel": jnp.zeros((2, 5, 5)), "table": jnp.zeros((5, 5)), "bias": jnp.zeros(5)}
    gradients = {"kernel": gradient, "table": gradient[0], "bias": gradient[0, 0]}
    update, _ = transform.update(gradients, transform.init(params), params)
    # Newton-Schulz brings singular values near 1, not to it (Jordan et al. 2024).
    for layer in np.asarray(update["kernel"]) / 0.02:
        assert np.all(np.abs(np.linalg.svd(layer)[1] - 1) < 0.4)
    # Adam's first step is its learning rate, 0.015 of the matrices', and Nesterov's look ahead.
    first = 0.015 * 0.02 * (0.9 * 0.1 / 0.19 + 1)
    np.testing.assert_allclose(np.abs(update["table"]), first, rtol=1e-3)
    np.testing.assert_allclose(np.abs(update["bias"]), first, rtol=1e-3)

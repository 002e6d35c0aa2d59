"""Measures of faithfulness, on a model whose true importances are known by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.explain import bootstrap, kendall, parameter_randomisation, spearman
from attnzoo.explain.erasure import erase, erase_one, flip_share, jensen_shannon, permuted_change
from attnzoo.explain.faithfulness import (
    comprehensiveness,
    deletion,
    images_score,
    insertion,
    leave_one_out,
    random_importance,
    ranks,
    sufficiency,
)

# Two examples of seven units, whose shares of the answer are these.
TRUE = jnp.asarray([[0.4, 0.05, 0.1, 0.3, 0.05, 0.1, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])


def score(keep: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(keep, TRUE, 0), axis=1)


def test_the_oracle_is_best_its_inverse_worst_and_random_between() -> None:
    chance = [random_importance(key, TRUE.shape) for key in jax.random.split(jax.random.key(0), 40)]
    for measure, better in (
        (lambda x: deletion(score, x).area, -1),
        (lambda x: insertion(score, x).area, 1),
        (lambda x: comprehensiveness(score, x), 1),
        (lambda x: sufficiency(score, x), -1),
    ):
        measured = jax.jit(measure)
        oracle, inverse = (better * np.asarray(measured(sign * TRUE)) for sign in (1, -1))
        random = better * np.stack([measured(x) for x in chance])
        assert (oracle >= random - 1e-6).all()
        assert (inverse <= random + 1e-6).all()
        assert (oracle > random.mean(axis=0)).all()
        assert (random.mean(axis=0) > inverse).all()


def test_curves_by_hand() -> None:
    curve = deletion(score, TRUE)
    np.testing.assert_allclose(curve.shares[0], np.arange(8) / 7, rtol=1e-6)
    want = [1, 0.6, 0.3, 0.2, 0.1, 0.05, 0, 0]
    np.testing.assert_allclose(curve.scores[0], want, atol=1e-6)
    np.testing.assert_allclose(curve.area[0], (0.5 + 0.6 + 0.3 + 0.2 + 0.1 + 0.05) / 7, rtol=1e-5)
    # One unit is all: gone with the first seventh, and there from the first on.
    np.testing.assert_allclose(curve.area[1], 0.5 / 7, rtol=1e-5)
    np.testing.assert_allclose(insertion(score, TRUE).area[1], 1 - 0.5 / 7, rtol=1e-5)
    coarse = deletion(score, TRUE, steps=2)  # 0, 4 and 7 units
    np.testing.assert_allclose(coarse.scores[0], [1, 0.1, 0], atol=1e-6)
    with pytest.raises(ValueError, match="steps=8; wanted 1 to 7"):
        deletion(score, TRUE, steps=8)


def test_comprehensiveness_and_sufficiency_by_hand() -> None:
    # A half of seven units are four (3.5 is rounded to even), a hundredth is at least one.
    np.testing.assert_allclose(
        comprehensiveness(score, TRUE, (0.01, 0.5))[0], (0.4 + 0.9) / 2, rtol=1e-5
    )
    np.testing.assert_allclose(sufficiency(score, TRUE, (0.01, 0.5))[0], (0.6 + 0.1) / 2, rtol=1e-5)
    with pytest.raises(ValueError, match="0 < share <= 1"):
        sufficiency(score, TRUE, (0.0,))


def test_ties_and_nan() -> None:
    values = jnp.asarray([[1.0, jnp.nan, 2.0, 1.0]])
    assert ranks(values).tolist() == [[1, 3, 0, 2]]
    orders = {tuple(ranks(values, jax.random.key(i))[0].tolist()) for i in range(20)}
    assert orders == {(1, 3, 0, 2), (2, 3, 0, 1)}


def test_leave_one_out_finds_the_true_importances() -> None:
    found = leave_one_out(score, TRUE.shape)
    np.testing.assert_allclose(found, TRUE, atol=1e-6)
    np.testing.assert_allclose(spearman(TRUE, -TRUE), [-1, -1], atol=1e-5)


def test_rank_correlation_by_hand() -> None:
    a, b = jnp.asarray([[1.0, 2.0, 3.0, 4.0]]), jnp.asarray([[1.0, 3.0, 2.0, 4.0]])
    np.testing.assert_allclose(spearman(a, b), [1 - 6 * 2 / (4 * 15)], rtol=1e-5)
    np.testing.assert_allclose(kendall(a, b), [4 / 6], rtol=1e-5)
    tied = jnp.asarray([[1.0, 1.0, 2.0, 3.0]])
    # Ranks 0.5, 0.5, 2, 3 against 0, 1, 2, 3; five pairs of tau-b's sqrt(5 x 6).
    np.testing.assert_allclose(spearman(a, tied), [4.5 / np.sqrt(5 * 4.5)], rtol=1e-5)
    np.testing.assert_allclose(kendall(a, tied), [5 / np.sqrt(30)], rtol=1e-5)
    assert np.isnan(spearman(a, jnp.ones((1, 4)))).all()
    # Padding, on both sides and of any value, changes nothing.
    padded = [jnp.concatenate([x[:, :1] + 9, x, x[:, :2] - 9], axis=1) for x in (a, tied)]
    valid = jnp.asarray([[False, True, True, True, True, False, False]])
    for measure in (spearman, kendall):
        np.testing.assert_allclose(measure(*padded, valid), measure(a, tied), rtol=1e-5)


def test_bootstrap_covers_the_mean() -> None:
    values = np.asarray([0.0, 1.0] * 50 + [np.nan])
    interval = bootstrap(values)
    assert interval.mean == 0.5
    # The normal interval: 1.96 x 0.5 / sqrt(100).
    np.testing.assert_allclose([interval.low, interval.high], [0.402, 0.598], atol=0.012)
    assert bootstrap([2.0, 2.0]) == (2, 2, 2)
    assert bootstrap(values) == interval
    assert str(interval).startswith("0.500 [0.4")


class Spot(nnx.Module):
    """Class 1 if the upper right patch of 2 x 2 pixels is bright."""

    def __init__(self):
        self.gain = nnx.Param(jnp.asarray([0.0, 4.0]))
        self.idle = nnx.Param(jnp.asarray([1.0, 2.0]))

    def __call__(self, images: jax.Array) -> jax.Array:
        return images[:, :2, 2:].mean(axis=(1, 2)) * self.gain[...][None]


def test_patches_of_images() -> None:
    images = jnp.zeros((1, 4, 4, 1)).at[0, :2, 2:].set(1.0)
    assert images.mean() == 0.25
    score = images_score(Spot(), images, jnp.asarray([1]), 2)
    keep = jnp.asarray([[True, False, True, True]])
    bright = 1 / (1 + np.exp(-4.0))
    np.testing.assert_allclose(score(jnp.ones((1, 4), bool)), [bright], rtol=1e-5)
    np.testing.assert_allclose(score(keep), [1 / (1 + np.exp(-1.0))], rtol=1e-5)
    np.testing.assert_allclose(score(~keep), [bright], rtol=1e-5)
    black = images_score(Spot(), images, jnp.asarray([1]), 2, fill=0.0)
    np.testing.assert_allclose(black(keep), [0.5])
    blurred = images_score(Spot(), images, jnp.asarray([1]), 2, fill="blur")
    assert 0.5 < blurred(keep)[0] < bright
    with pytest.raises(ValueError, match="target=2; there are 2 classes"):
        images_score(Spot(), images, np.asarray([2]), 2)(keep)


def test_shuffled_parameters_change_what_depends_on_them() -> None:
    def explain(model: nnx.Module) -> jax.Array:
        return model.gain[...][None] * jnp.asarray([[1.0, 1.0]])

    model = Spot()
    # One of a few keys exchanges the two gains.
    found = [parameter_randomisation(model, explain, ["idle", "gain"], jax.random.key(i))
             for i in range(8)]  # fmt: skip
    assert all(one["idle"] == 1 for one in found)
    assert {float(one["gain"][0]) for one in found} == {-1.0, 1.0}
    assert model.gain[1] == 4
    with pytest.raises(ValueError, match="'head'"):
        parameter_randomisation(model, explain, ["head"], jax.random.key(0))


# An answer that is read off the weights: class 0 by unit 0, class 1 by unit 1, and unit 2 idle.
def answer(weights: jax.Array) -> jax.Array:
    return weights[:, :2] + weights[:, 2:] / 2


def test_erasing_by_hand() -> None:
    weights = jnp.asarray([[0.5, 0.3, 0.2]])
    gone = jnp.asarray([[True, False, False]])
    np.testing.assert_allclose(erase(weights, gone), [[0, 0.6, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(erase(weights, jnp.ones((1, 3), bool)), [[0, 0, 0]])
    found = erase_one(answer, weights, jax.random.key(0))
    assert found.flips.tolist() == [True]
    assert found.random_flips.tolist() == [False]
    p, q = np.asarray([0.6, 0.4]), np.asarray([0.2, 0.8])
    m = (p + q) / 2
    want = (np.sum(p * np.log(p / m)) + np.sum(q * np.log(q / m))) / 2
    np.testing.assert_allclose(found.divergence, [want], rtol=1e-4)
    np.testing.assert_allclose(jensen_shannon(jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 1.0]])),
                               [np.log(2)], rtol=1e-6)  # fmt: skip


def test_orders_of_removal() -> None:
    weights = jnp.asarray([[0.5, 0.3, 0.2]])
    by_attention = jnp.argsort(-weights, axis=1)
    np.testing.assert_allclose(flip_share(answer, weights, by_attention), [1 / 3], rtol=1e-6)
    np.testing.assert_allclose(
        flip_share(answer, weights, jnp.asarray([[2, 0, 1]])), [2 / 3], rtol=1e-6
    )
    np.testing.assert_allclose(flip_share(answer, weights, jnp.asarray([[2, 1, 0]])), [1])


def test_shuffled_weights_change_the_answer() -> None:
    weights = jnp.asarray([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    # A single real unit, and two of the same weight: shuffling changes nothing, padding stays.
    np.testing.assert_allclose(permuted_change(answer, weights, jax.random.key(0), 9), [0, 0])
    moved = permuted_change(answer, jnp.asarray([[0.9, 0.05, 0.05]]), jax.random.key(0), 99)
    # In two of three draws the 0.9 goes away, to class 1 (0.85) or half to each (0.425).
    np.testing.assert_allclose(moved, [0.425], rtol=1e-5)

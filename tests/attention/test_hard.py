"""Hard attention: what is read, and what its two gradient estimators average to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention.additive import AdditiveAttention
from attnzoo.attention.hard import HardAttention, moving_baseline, reinforce_loss
from attnzoo.attention.multiplicative import MultiplicativeAttention
from attnzoo.ops.normalisers import sparsemax


def hard(estimator="straight_through") -> HardAttention:
    content = MultiplicativeAttention(3, 3, "dot", rngs=nnx.Rngs(0))
    return HardAttention(content, estimator)


QUERY = jnp.asarray([[[0.5, -0.3, 0.8]]])
KEYS = jnp.asarray([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])  # logits = the query
VALUES = jnp.asarray([[[1.0, 2.0], [-1.0, 0.5], [0.3, -2.0]]])
TARGET = jnp.asarray([0.2, -0.4])


def log_likelihood(context):
    return -jnp.sum((context[:, 0] - TARGET[None].astype(context.dtype)) ** 2, axis=-1)


def test_without_a_key_the_arg_max_is_read():
    context, weights = hard()(QUERY, KEYS, VALUES, return_weights=True)
    np.testing.assert_allclose(context[0, 0], [0.3, -2.0], atol=1e-6)
    np.testing.assert_allclose(weights[0, 0, 0], [0, 0, 1], atol=1e-6)


def test_samples_have_the_soft_probabilities():
    attention = hard("reinforce")
    memory = attention.prepare(jnp.repeat(KEYS, 4000, 0), jnp.repeat(VALUES, 4000, 0))
    query = jnp.repeat(QUERY, 4000, 0)
    key = jax.random.key(0)
    context, weights = attention.attend(query, memory, return_weights=True, sample_key=key)
    assert set(np.unique(weights)) == {0.0, 1.0}
    np.testing.assert_array_equal(context[:, 0], VALUES[0][np.argmax(weights[:, 0, 0], axis=-1)])
    # Four standard errors of a share of 4000 draws: 4 sqrt(0.25 / 4000) = 0.032
    np.testing.assert_allclose(
        weights.mean(axis=(0, 1, 2)), jax.nn.softmax(QUERY)[0, 0], atol=0.032
    )


@pytest.mark.usefixtures("x64")
def test_reinforce_averages_to_the_exact_gradient():
    """All three samples, each weighted by its probability: the expectation without noise."""
    query, keys, values = (x.astype(jnp.float64) for x in (QUERY, KEYS, VALUES))
    attention = hard("reinforce")
    memory = attention.prepare(keys, values)
    rewards = jnp.asarray([log_likelihood(values[:, s : s + 1])[0] for s in range(3)])

    def surrogate(query, location, baseline):
        chosen = jax.nn.one_hot(jnp.asarray([[[location]]]), 3, dtype=jnp.float64)
        log_probability, entropy = attention.log_probability(query, memory, chosen)
        return -reinforce_loss(
            rewards[location][None],
            log_probability[:, 0],
            entropy[:, 0],
            baseline,
            entropy_weight=0.0,
        )

    exact = jax.grad(lambda query: jnp.sum(jax.nn.softmax(query[0, 0]) * rewards))(query)
    probabilities = jax.nn.softmax(query[0, 0])
    for baseline in (0.0, -1.7):
        estimates = [
            probabilities[s] * jax.grad(surrogate)(query, s, jnp.asarray(baseline))
            for s in range(3)
        ]
        np.testing.assert_allclose(sum(estimates), exact, atol=1e-12)
    assert np.abs(exact).max() > 0.1


def test_the_reinforce_sample_itself_has_no_gradient():
    def loss(query, estimator):
        key = jax.random.key(1)
        return jnp.sum(hard(estimator)(query, KEYS, VALUES, sample_key=key)[0, 0] * TARGET)

    assert np.all(jax.grad(loss)(QUERY, "reinforce") == 0)
    soft = jax.grad(lambda query: jnp.sum(jax.nn.softmax(query[0, 0]) @ VALUES[0] * TARGET))(QUERY)
    np.testing.assert_allclose(jax.grad(loss)(QUERY, "straight_through"), soft, atol=1e-6)


def test_entropy_and_baseline_by_hand():
    attention = hard()
    chosen = jnp.asarray([[[[0.0, 1.0, 0.0]]]])
    memory = attention.prepare(KEYS, VALUES)
    log_probability, entropy = attention.log_probability(QUERY, memory, chosen)
    p = np.exp([0.5, -0.3, 0.8]) / np.exp([0.5, -0.3, 0.8]).sum()
    np.testing.assert_allclose(log_probability, [[np.log(p[1])]], rtol=1e-5)
    np.testing.assert_allclose(entropy, [[-(p * np.log(p)).sum()]], rtol=1e-5)
    assert moving_baseline(jnp.asarray(-2.0), jnp.asarray([-1.0, -5.0])) == pytest.approx(-2.1)


def test_masked_locations_are_never_drawn_and_empty_rows_are_zero():
    attention = HardAttention(AdditiveAttention(3, 3, rngs=nnx.Rngs(0)))
    query, keys = jnp.ones((2, 50, 3)), jnp.ones((2, 4, 3))
    mask = jnp.asarray([[True, False, True, False], [False] * 4])[:, None, None, :]
    key = jax.random.key(3)
    context, weights = attention(query, keys, mask=mask, return_weights=True, sample_key=key)
    assert weights[0, 0, :, [1, 3]].max() == 0
    assert weights[0, 0].min(axis=0)[0] < 0.5 < weights[0, 0].max(axis=0)[0]
    np.testing.assert_array_equal(context[1], 0)
    np.testing.assert_array_equal(weights[1], 0)


def test_soft_is_hard_when_the_weights_are_one_hot():
    attention = hard()
    sharp = QUERY * 1e4
    np.testing.assert_allclose(
        attention(sharp, KEYS, VALUES), attention.content(sharp, KEYS, VALUES), atol=1e-6
    )


def test_an_unknown_estimator_is_named():
    content = AdditiveAttention(3, 3, rngs=nnx.Rngs(0))
    # The type checker of the tests speaks first; its message names the argument as ours does.
    with pytest.raises((ValueError, TypeError), match="estimator"):
        HardAttention(content, "gumbel")


@pytest.mark.parametrize("make", [AdditiveAttention, MultiplicativeAttention])
def test_soft_attention_takes_another_normaliser(make):
    """The same logits, normalised by sparsemax: some keys get exactly nothing."""
    attention = make(3, 3, normalise=sparsemax, rngs=nnx.Rngs(0))
    for name in ("score_kernel", "key_kernel", "kernel"):
        if hasattr(attention, name):
            parameter = getattr(attention, name)
            parameter[...] = 9 * jax.random.normal(jax.random.key(1), parameter.shape)
    memory = attention.prepare(KEYS, VALUES)
    context, weights = attention.attend(QUERY, memory, return_weights=True)
    np.testing.assert_allclose(weights, sparsemax(attention.scores(QUERY, memory)), atol=1e-6)
    np.testing.assert_allclose(context, weights[:, 0] @ VALUES, atol=1e-6)
    assert np.min(weights) == 0
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1, atol=1e-6)

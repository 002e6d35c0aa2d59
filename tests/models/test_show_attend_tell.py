"""Show, Attend and Tell: penalty and REINFORCE by exact numbers, the decoder without attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.attention import AdditiveConfig, HardConfig, NoAttentionConfig
from attnzoo.config.captioning import ShowAttendTellConfig
from attnzoo.config.sources import ImagePatchesConfig
from attnzoo.models import ShowAttendTell

V = 7
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 6, 3)), jnp.float32)
TARGET = jnp.asarray([[1, 4, 5, 2], [1, 6, 2, 0]], jnp.int32)


def build(attention: Any, **settings: Any) -> ShowAttendTell:
    """A decoder over three places, 2 x 2 pixels each."""
    given = {"hidden": 5, "embedding": 3, "dropout": 0.0, "penalty": 0.0} | settings
    config = ShowAttendTellConfig(
        attention=attention, source=ImagePatchesConfig(patch=2, dim=4), **given
    )
    return ShowAttendTell(config, 0, V, rngs=nnx.Rngs(0))


def extra(model: ShowAttendTell, seed: int = 0) -> np.ndarray:
    return np.asarray(model.in_training(IMAGES, TARGET, rngs=nnx.Rngs(dropout=seed))[1])


def test_the_penalty_of_known_weights() -> None:
    model = build(AdditiveConfig(), penalty=1.0)
    assert model.attention is not None
    model.attention.score_kernel[...] = jnp.zeros_like(model.attention.score_kernel[...])
    # Uniform weights over 3 places: 3 words give each a total of 1, 2 words give 2/3.
    np.testing.assert_allclose(extra(model), [0.0, 3 * (1 / 3) ** 2], atol=1e-6)
    model = build(AdditiveConfig(), penalty=0.5)
    _, weights = model(IMAGES, TARGET[:, :-1], return_weights=True)
    read = [weights[0, 0].sum(0), weights[1, 0, :2].sum(0)]
    np.testing.assert_allclose(extra(model), [0.5 * np.sum((1 - r) ** 2) for r in read], rtol=1e-5)


def test_without_attention_every_place_is_read_alike() -> None:
    model = build(NoAttentionConfig(), penalty=1.0)
    logits, weights = model(IMAGES, TARGET[:, :-1], return_weights=True)
    np.testing.assert_allclose(weights, jnp.full((2, 1, 3, 3), 1 / 3), rtol=1e-6)
    # Which place shows what does not matter, apart from the positions of the encoder.
    encoder = model.source_encoder
    features, valid = encoder(IMAGES)
    object.__setattr__(model, "source_encoder", lambda source, rngs=None: (source, valid))
    np.testing.assert_allclose(model(features, TARGET[:, :-1]), logits, rtol=1e-5, atol=1e-6)
    turned = model(features[:, ::-1], TARGET[:, :-1])
    np.testing.assert_allclose(turned, logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(extra(build(NoAttentionConfig(), penalty=1.0)), [0, 0])


def test_the_baseline_is_a_moving_average() -> None:
    model = build(HardConfig(score="additive"), expected=1.0)
    model.reward[...] = jnp.float32(-2.0)
    logits, _ = model.in_training(IMAGES, TARGET, rngs=nnx.Rngs(dropout=0))
    gold = jnp.take_along_axis(jax.nn.log_softmax(logits), TARGET[:, 1:, None], -1)[..., 0]
    likelihood = jnp.sum(jnp.where(TARGET[:, 1:] > 0, gold, 0), axis=1)
    expected = 0.9 * -2.0 + 0.1 * float(jnp.mean(likelihood))
    assert float(model.reward[...]) == pytest.approx(expected, rel=1e-5)
    assert build(AdditiveConfig()).reward is None


def test_reinforce_is_right_in_the_mean() -> None:
    """Over all samples, each with its probability, the gradient is that of the expectation.

    E[log p(y | s)] over the 3 x 3 ways to look twice; lambda_r is 1, no entropy, a baseline.
    """
    model = build(HardConfig(score="additive"), expected=0.0, reward_weight=1.0, entropy_weight=0.0)
    graph, *states = nnx.split(model, nnx.Param, ...)
    params, rest = map(nnx.to_pure_dict, states)
    images, target = IMAGES[:1], jnp.asarray([[1, 4, 5]], jnp.int32)

    def looking(params: Any, places: Any) -> tuple[Any, Any]:
        """Return log p(y | s) and log p(s) of the places."""
        model = nnx.merge(graph, params, rest)
        memory, state = model.start(images)
        likelihood = places_log = jnp.float32(0)
        for t in range(2):
            place = places[t]
            query = state.layer[1][:, None]
            soft = jax.nn.softmax(model.attention.content.scores(query, memory))[0, 0, 0]
            places_log += jnp.log(soft[place])
            context = memory.values[:, place] * jax.nn.sigmoid(model.selector(query[:, 0]))
            embedded = model.target_embedding(target[:, t])
            state = model._advance(model.decoder.project(embedded), context, state, None)
            logits = model._readout(embedded, state.layer[1], context, None)
            likelihood += jax.nn.log_softmax(logits)[0, target[0, t + 1]]
        return likelihood, places_log

    ways = jnp.stack(jnp.divmod(jnp.arange(9), 3), axis=1)

    def expectation(params: Any) -> Any:
        likelihood, log = jax.vmap(looking, (None, 0))(params, ways)
        return jnp.sum(jnp.exp(log) * likelihood)

    exact = jax.jit(jax.grad(expectation))(params)

    def sampled(params: Any, key: Any) -> Any:
        model = nnx.merge(graph, params, rest)
        model.reward[...] = jnp.float32(-1.5)
        logits, more = model.in_training(images, target, rngs=nnx.Rngs(dropout=key))
        gold = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, 1:, None], -1)
        return jnp.sum(gold) - jnp.sum(more)

    count = 4000
    keys = jax.random.split(jax.random.key(3), count)
    gradients = jax.jit(jax.vmap(jax.grad(sampled), (None, 0)))(params, keys)
    for true, drawn in zip(jax.tree.leaves(exact), jax.tree.leaves(gradients), strict=True):
        error = np.asarray(drawn.std(0)) / count**0.5
        assert np.all(np.abs(drawn.mean(0) - true) <= 5 * error + 1e-5)
    # The sampling itself matters: without its terms the attention would learn nothing.
    assert float(jnp.abs(exact["attention"]["content"]["score_kernel"]).max()) > 1e-5


def test_a_trained_hard_decoder_reads_one_place() -> None:
    model = build(HardConfig(score="additive"))
    _, weights = model(IMAGES, TARGET[:, :-1], return_weights=True)
    np.testing.assert_array_equal(np.sort(weights, axis=-1)[..., :2], 0)
    _, soft = model(IMAGES, TARGET[:, :-1], return_weights=True, rngs=nnx.Rngs(dropout=0))
    assert (soft[..., :] < 1).all()

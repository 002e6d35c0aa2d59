"""The train step: a batch in parts is the batch, and the running average of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from attnzoo.tasks.losses import mean_loss
from attnzoo.training.step import make_train_step

RNG = np.random.default_rng(0)
# Rows of which very different numbers of labels count.
BATCH = {
    "x": jnp.float32(RNG.normal(size=(6, 5, 3))),
    "labels": jnp.int32(RNG.integers(0, 4, (6, 5))),
    "counted": jnp.bool_(np.arange(5) < [[5], [1], [0], [2], [4], [1]]),
}


class Linear(nnx.Module):
    """One matrix, and a counter of the calls beside it."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.float32(RNG.normal(size=(3, 4))))
        self.calls = nnx.Variable(jnp.int32(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls[...] += 1
        return jnp.einsum("btd,dv->btv", x, self.kernel[...])


def loss(model, batch, *, rngs):
    return mean_loss(model(batch["x"]), batch["labels"], batch["counted"])


def run(steps: int, **settings):
    model = Linear()
    model.kernel[...] = jnp.float32(np.random.default_rng(1).normal(size=(3, 4)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params, transform = nnx.to_pure_dict(params), optax.sgd(0.5)
    state = {
        "params": params,
        "rest": nnx.to_pure_dict(rest),
        "optimizer": transform.init(params),
        "step": jnp.int32(0),
    }
    if settings.get("ema"):
        state["ema"] = jax.tree.map(jnp.copy, params)
    step = make_train_step(graph, transform, loss, seed=0, **settings)
    seen, kernels = [], [np.array(params["kernel"])]
    for _ in range(steps):
        state, sums = step(state, BATCH)
        seen.append(jax.device_get(sums))
        kernels.append(np.array(state["params"]["kernel"]))
    return jax.device_get(state), seen, kernels


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_a_batch_in_parts_is_the_batch(parts: int) -> None:
    whole, sums, _ = run(3)
    cut, parts_sums, _ = run(3, accumulate=parts)
    np.testing.assert_allclose(cut["params"]["kernel"], whole["params"]["kernel"], rtol=2e-6)
    for one, other in zip(sums, parts_sums, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=2e-6, err_msg=name)
    # What is no parameter is carried on, part by part.
    assert (int(whole["rest"]["calls"]), int(cut["rest"]["calls"])) == (3, 3 * parts)


def test_the_loss_is_that_of_numpy() -> None:
    _, sums, kernels = run(1)
    logits = np.asarray(BATCH["x"], np.float64) @ kernels[0]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, columns = np.nonzero(np.asarray(BATCH["counted"]))
    picked = log_probs[rows, columns, np.asarray(BATCH["labels"])[rows, columns]]
    np.testing.assert_allclose(sums[0]["loss"], -picked.mean(), rtol=1e-5)
    assert int(sums[0]["count"]) == len(picked) == 13


def test_the_average_of_the_weights_by_hand() -> None:
    state, _, kernels = run(3, ema=0.15)
    average = kernels[0]
    for t, kernel in enumerate(kernels[1:]):
        decay = min(0.15, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * kernel
    np.testing.assert_allclose(state["ema"]["kernel"], average, rtol=1e-5)

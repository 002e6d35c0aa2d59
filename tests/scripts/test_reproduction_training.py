"""Trainings of claims: norms keep their statistics, and a loop is the same as single steps."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from reproductions.training import fit


class Normed(nnx.Module):
    def __init__(self) -> None:
        self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(3, 1, rngs=nnx.Rngs(1))

    def __call__(self, x: Array) -> Array:
        return self.out(self.norm(x, use_running_average=False))


def test_a_program_for_each_step_trains_like_a_loop_and_norms_keep_their_means() -> None:
    def batch(key: Array, table: Array) -> Array:
        return table[jax.random.randint(key, (5,), 0, len(table))]

    def loss(model: Normed, x: Array) -> Array:
        return jnp.mean((model(x) - 1) ** 2)

    table = 7 + 0.1 * jax.random.normal(jax.random.key(2), (11, 3))
    models, losses = (Normed(), Normed()), []
    for model, one_program in zip(models, (True, False)):
        losses.append(
            fit(model, loss, batch, steps=7, seed=0, data=(table,), one_program=one_program)
        )
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)  # orders of sums differ
    for model in models:
        # Seven halvings of the distance from 0 to about 7.
        assert np.all(np.abs(np.asarray(model.norm.mean) - 7) < 0.3)

"""What each step of sampling leaves, by hand; transformers' processors are in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.decoding import sampling
from attnzoo.decoding.sampling import Sampling

# Probabilities 0.5, 0.125, 0.25, 0.0625, 0.0625, and the same in another order.
ROWS = jnp.log(jnp.float32([[8, 2, 4, 1, 1], [1, 8, 1, 4, 2]]) / 16)


def left(logits: jax.Array) -> list[list[int]]:
    return [np.flatnonzero(np.isfinite(row)).tolist() for row in np.asarray(logits)]


def test_the_k_largest_are_left() -> None:
    assert left(sampling.top_k(ROWS, 2)) == [[0, 2], [1, 3]]
    assert left(sampling.top_k(ROWS, 4)) == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]  # two tie
    assert left(sampling.top_k(ROWS, 99)) == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize(
    ("p", "first", "second"),
    [(0.3, [0], [1]), (0.6, [0, 2], [1, 3]), (0.8, [0, 1, 2], [1, 3, 4]), (1.0, [*range(5)], None)],
)
def test_the_fewest_that_reach_p_are_left(p: float, first: list[int], second: list[int]) -> None:
    assert left(sampling.top_p(ROWS, p)) == [first, second or first]


def test_what_has_a_share_of_the_largest_probability_is_left() -> None:
    assert left(sampling.min_p(ROWS, 0.2)) == [[0, 1, 2], [1, 3, 4]]
    assert left(sampling.min_p(ROWS, 0.3)) == [[0, 2], [1, 3]]
    assert left(sampling.min_p(ROWS, 1.0)) == [[0], [1]]


def test_what_was_seen_becomes_less_probable_whatever_its_sign() -> None:
    seen = jnp.bool_([[True, True, False]])
    found = sampling.repetition_penalty(jnp.float32([[3, -3, 3]]), seen, 1.5)
    np.testing.assert_allclose(found, [[2, -4.5, 3]])


def test_steps_are_taken_in_order() -> None:
    # At temperature 2 the probabilities go with 2.83, 1.41, 2, 1, 1 of 8.24: two are 0.586.
    flat = Sampling(temperature=2.0, top_p=0.58).process(ROWS)
    assert left(flat) == [[0, 2], [1, 3]]
    np.testing.assert_allclose(flat[0, 0], ROWS[0, 0] / 2)
    assert left(Sampling(temperature=1.0, top_p=0.58).process(ROWS)) == [[0, 2], [1, 3]]
    assert left(Sampling(temperature=0.1, top_p=0.58).process(ROWS)) == [[0], [1]]
    seen = jnp.zeros((2, 5), bool).at[:, 0].set(True)
    assert Sampling(repetition_penalty=5.0).choose(ROWS, jax.random.key(0), seen).tolist() == [2, 1]


def test_draws_follow_the_probabilities() -> None:
    rows = jnp.broadcast_to(ROWS[:1], (4000, 5))
    drawn = Sampling(temperature=1.0, top_k=3).choose(rows, jax.random.key(0))
    share = np.bincount(drawn, minlength=5) / 4000
    # 4, 1 and 2 of 7; the standard deviation is below 0.008.
    np.testing.assert_allclose(share, [4 / 7, 1 / 7, 2 / 7, 0, 0], atol=0.03)


def test_numbers_may_be_traced_and_no_temperature_is_greedy() -> None:
    traced = []

    @jax.jit
    def choose(settings: Sampling) -> jax.Array:
        traced.append(settings)
        return settings.process(ROWS)

    one, other = choose(Sampling(top_p=0.3)), choose(Sampling(top_p=0.8))
    assert len(traced) == 1
    assert (left(one)[0], left(other)[0]) == ([0], [0, 1, 2])
    assert Sampling(top_p=0.8).choose(ROWS, jax.random.key(0)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0; wanted > 0; None is greedy"),
        ({"top_k": 0}, "top_k=0; wanted at least 1"),
        ({"top_p": 1.5}, "top_p=1.5; wanted 0 < top_p <= 1"),
        ({"min_p": -0.1}, "min_p=-0.1; wanted 0 <= min_p <= 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0; wanted > 0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings).check()
    with pytest.raises(ValueError, match="seen is None"):
        Sampling(repetition_penalty=2.0).process(ROWS)

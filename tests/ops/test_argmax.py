"""Arg max in two stages against numpy's."""

import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.ops.argmax import argmax


@pytest.mark.parametrize("size", [1, 7, 131, 254, 2048])
def test_the_first_of_the_largest(size: int) -> None:
    x = np.random.default_rng(size).integers(-9, 9, (2, 3, size)).astype(np.float32)
    x[0, 1], x[0, 2], x[1, 0] = 0, -np.inf, np.nan
    found = argmax(jnp.asarray(x))
    np.testing.assert_array_equal(found, np.argmax(x, axis=-1))
    assert found.dtype == np.int32

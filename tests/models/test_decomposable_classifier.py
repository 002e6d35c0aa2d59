"""The classifier of pairs: a padded row with both texts gives what the texts give by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.decomposable import DecomposableConfig
from attnzoo.models import DecomposableClassifier
from tests.random_parameters import drawn

V, T = 13, 11
FIRST, SECOND = [1, 7, 5, 2], [9, 5, 4, 3, 2]


@pytest.mark.parametrize("max_distance", [None, 2])
def test_a_row_of_two_texts_is_read_as_the_texts(max_distance: int | None) -> None:
    config = DecomposableConfig(embedding=5, hidden=3, num_classes=2, max_distance=max_distance)
    model = drawn(lambda: DecomposableClassifier(config, V, rngs=nnx.Rngs(0)), 0, 0.5)
    row = jnp.asarray([FIRST + SECOND + [8] * (T - 9)])
    place = jnp.arange(T)[None]
    segments = (place >= len(FIRST)).astype(jnp.int32)
    run = jax.jit(lambda row: model(row, segments=segments, valid=place < 9, capture=True))
    logits, maps = run(row)
    texts = [model.project(model.tokens(jnp.asarray([text]))) for text in (FIRST, SECOND)]
    wanted, weights = model.attention(*texts, return_weights=True)
    np.testing.assert_allclose(logits, wanted, rtol=2e-5, atol=1e-6)
    one, two = slice(0, 4), slice(4, 9)
    places = {
        "premise": (one, two),
        "hypothesis": (two, one),
        "premise/intra": (one, one),
        "hypothesis/intra": (two, two),
    }
    assert set(maps) == set(weights)
    for name, found in weights.items():
        np.testing.assert_allclose(maps[name][0, 0][places[name]], found[0, 0], atol=1e-6)
    # Without intra-sentence attention the order of the words has no effect; with it, it has one.
    swapped, _ = run(row.at[:, :2].set(row[:, 1::-1]))
    assert np.allclose(swapped, logits, atol=1e-6) == (max_distance is None)

"""Whether a step of attention has read its input is as the model says, for every translator."""

import jax.numpy as jnp
import numpy as np
import pytest
from products import MODELS, V, build, small

from attnzoo.models import TRANSLATORS


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_weights_of_a_step_change_with_its_input_token_or_not(kind: str) -> None:
    model = build(small(MODELS[kind]))
    generator = np.random.default_rng(3)
    source, target = (jnp.asarray(generator.integers(4, V, (1, n)), jnp.int32) for n in (7, 5))
    step = 3
    other = target.at[0, step].set(4 + (target[0, step] - 3) % (V - 4))
    weights = [np.asarray(model(source, t, return_weights=True)[1]) for t in (target, other)]
    changed = np.abs(weights[0] - weights[1]).max(axis=(0, 1, 3)) > 1e-7
    assert changed[step] == model.reads_before_attending
    assert not changed[:step].any()
    assert changed[step + 1]  # the next step has read it in any case

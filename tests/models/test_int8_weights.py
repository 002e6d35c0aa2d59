"""Models with int8 weights: near the float ones, a quarter of the size, refused in one line."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from products import (
    V,
    close,
    computed,
    config_of,
    drawn_model,
    pairs,
    traced,
    unless_refused,
)

from attnzoo.attention import CBAM, AdditiveAttention
from attnzoo.errors import UserError
from attnzoo.models import CLASSIFIERS, DECODERS, ENCODERS, TRANSLATORS
from attnzoo.ops.int8 import Int8Matrix
from attnzoo.training.inference_weights import with_weights

RNG = np.random.default_rng(0)
TEXT = RNG.integers(4, V, (2, 7), dtype=np.int32)
IMAGES = RNG.normal(size=(2, 8, 8, 1)).astype(np.float32)


def answers(model: Any, *inputs: Any) -> dict[str, Any]:
    found = {"whole": model(*inputs)}
    if hasattr(type(model), "decode"):
        state = model.start(2, 7)
        _, state = model.decode(inputs[0][:, :-1], state)
        found["step"], _ = model.decode(inputs[0][:, -1:], state)
    return found


def inputs_of(kind: str) -> tuple[np.ndarray, ...]:
    if kind in CLASSIFIERS:
        return (IMAGES,)
    return (TEXT, TEXT[:, :3]) if kind in TRANSLATORS else (TEXT,)


def sizes(model: Any) -> tuple[int, int]:
    """Numbers that are held as floats, scales aside, and as int8."""
    leaves = jax.tree.leaves(nnx.state(model), is_leaf=lambda x: isinstance(x, Int8Matrix))
    whole = [leaf for leaf in leaves if isinstance(leaf, Int8Matrix)]
    rest = [leaf for leaf in leaves if not isinstance(leaf, Int8Matrix)]
    return sum(leaf.size for leaf in rest), sum(leaf.values.size for leaf in whole)


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODERS, *TRANSLATORS, *CLASSIFIERS])
def test_a_model_in_int8_answers_nearly_alike(kind: str) -> None:
    config = config_of(kind)
    model, inputs = drawn_model(config, 0.2), inputs_of(kind)
    whole = with_weights(model, "int8")
    found = [computed(answers, one, *map(jnp.asarray, inputs)) for one in (model, whole)]
    for name, wanted in found[0].items():
        close(found[1][name], wanted, 0.05)
        assert np.abs(found[1][name] - wanted).max() > 0, "nothing was rounded"
    floats, integers = sizes(whole)
    if kind != "resnet":  # convolutions stay floats
        assert floats < 0.3 * (floats + integers)


@pytest.mark.parametrize(("kind", "attention"), pairs("gpt2"))
def test_every_attention_takes_int8(kind: str, attention: str) -> None:
    model = unless_refused(config_of(kind, attention))
    if model is not None:
        found = traced(answers, with_weights(model, "int8"), *inputs_of(kind))
        assert all(leaf.dtype == jnp.float32 for leaf in found.values())


def test_a_product_by_hand() -> None:
    kernel = jnp.asarray([[127.0, 2.0], [-63.6, -254.0]])
    matrix = Int8Matrix.of(kernel, axis=0)
    np.testing.assert_array_equal(matrix.values.T, [[127, 1], [-64, -127]])
    np.testing.assert_allclose(matrix[...], [[127, 2], [-64, -254]])
    np.testing.assert_allclose(matrix.scale, [[1.0, 2.0]])
    x = jnp.asarray([[127.0, 0.0], [1.0, -127.0]])  # int8 holds them as they are
    np.testing.assert_allclose(
        matrix.multiply(x), [[127 * 127, 254.0], [127 + 64 * 127, 2 + 254 * 127]], rtol=1e-6
    )
    wide = Int8Matrix.of(kernel[:, :1], axis=0)
    assert (wide.shape, wide.values.shape) == ((2, 1), (1, 2))
    # One row, zero, NaN, and rows that know nothing of each other.
    np.testing.assert_allclose(matrix.multiply(x[1:]), matrix.multiply(x)[1:], rtol=1e-6)
    odd = matrix.multiply(jnp.asarray([[0.0, 0.0], [jnp.nan, 1.0], [127.0, 0.0]]))
    np.testing.assert_array_equal(np.isnan(odd).any(axis=1), [False, True, False])
    gradient = jax.grad(lambda x: matrix.multiply(x).sum())(x)
    np.testing.assert_allclose(gradient, jnp.tile(matrix[...].sum(axis=1), (2, 1)), rtol=1e-6)
    table = Int8Matrix.of(kernel, axis=1)
    np.testing.assert_allclose(table.rows(jnp.asarray([1, 9])), table[...][jnp.asarray([1, 1])])


def test_what_cannot_be_int8_is_refused_in_one_line() -> None:
    module = AdditiveAttention(query_dim=3, key_dim=3, width=5, rngs=nnx.Rngs(0))
    module.key_kernel[...] = module.key_kernel[...].at[0, 0].set(jnp.nan)
    for one, weights, said in (
        (module, "int8", "key_kernel has NaN or inf"),
        (CBAM(channels=4, reduction=2, rngs=nnx.Rngs(0)).spatial, "int8", "no matrices"),
        (module, "int4", "wanted one of float32, bfloat16, int8"),
    ):
        with pytest.raises(UserError, match=said) as error:
            with_weights(one, weights)
        assert "\n" not in str(error.value)

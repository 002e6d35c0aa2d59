"""Weights on request agree with the whole matrix, and cost memory only for what is asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

from attnzoo import ops
from attnzoo.ops import WeightRequest, masks, score_mods


@pytest.fixture(scope="module")
def case():
    """131 rows: two blocks and a rest; sinks, grouped heads, a modifier that knows its head."""
    shapes = ((2, 131, 6, 5), (2, 137, 3, 5), (2, 137, 3, 7))
    q, k, v = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes))
    settings = {
        "mask": masks.causal().offset(6) & masks.padding(jnp.array([137, 90])),
        "score_mod": score_mods.alibi(6),
        "sinks": jnp.linspace(-1.0, 1.0, 6),
    }
    whole = jax.jit(
        functools.partial(
            ops.dot_product_attention, return_weights=True, return_lse=True, **settings
        )
    )
    return q, k, v, settings, whole(q, k, v)


@pytest.mark.parametrize("from_lse", [False, True])
def test_everything_agrees_with_the_whole_matrix(case, from_lse):
    q, k, _, settings, (_, weights, lse) = case
    weights = np.asarray(weights, np.float64)[:, [1, 4]]
    request = WeightRequest(heads=(1, 4), statistics=("entropy", "column_mass"))
    rows = WeightRequest(heads=(1, 4), rows=(3, -1))
    top = WeightRequest(heads=(1, 4), top_k=3)
    look = jax.jit(
        lambda request, lse: ops.attention_weights(q, k, request, lse=lse, **settings),
        static_argnums=0,
    )
    lse = lse if from_lse else None

    found = look(request, lse)
    np.testing.assert_allclose(found.column_mass, weights.sum(axis=2), rtol=1e-4, atol=1e-5)
    logs = np.log(np.where(weights > 0, weights, 1))
    assert_close(found.entropy, -(weights * logs).sum(axis=-1), 2e-5)
    assert found.weights is None

    np.testing.assert_allclose(look(rows, lse).weights, weights[:, :, [3, 130]], atol=1e-6)

    found = look(top, lse)
    np.testing.assert_allclose(found.top_weights, -np.sort(-weights, axis=-1)[..., :3], atol=1e-6)
    np.testing.assert_allclose(
        np.take_along_axis(weights, np.asarray(found.top_keys), axis=-1),
        found.top_weights,
        atol=1e-6,
    )


def test_a_request_does_not_change_output_lse_or_gradients(case):
    q, k, v, settings, (out, _, lse) = case
    request = WeightRequest(statistics=("entropy",))

    def attention(q, seen):
        return ops.dot_product_attention(q, k, v, return_weights=seen, return_lse=True, **settings)

    got, report, got_lse = jax.jit(lambda q: attention(q, request))(q)
    np.testing.assert_allclose(got, out, atol=2e-6)
    np.testing.assert_allclose(got_lse, lse, atol=2e-6)
    assert report.entropy.shape == (2, 6, 131)
    gradients = [
        jax.jit(jax.grad(lambda q, seen=seen: jnp.sum(attention(q, seen)[0] ** 2)))(q)
        for seen in (True, request)
    ]
    assert_close(*gradients, tolerance=1e-5)


def test_memory_is_only_what_is_asked():
    """T = S = 8192: the weights would take 256 MiB; statistics take less than 24."""
    x = jax.ShapeDtypeStruct((1, 8192, 1, 64), jnp.float32)
    request = WeightRequest(rows=(7,), statistics=("entropy", "column_mass"))

    def look(x):
        out, report = ops.dot_product_attention(x, x, x, is_causal=True, return_weights=request)
        return jnp.sum(out), report

    for function in (look, jax.grad(look, has_aux=True)):
        memory = jax.jit(function).lower(x).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 24 * 2**20


def test_nan_is_shown_where_it_is_seen(case):
    q, k, _, _, _ = case
    k = k.at[0, 100].set(jnp.nan)
    request = WeightRequest(rows=(93, 94), statistics=("column_mass",))
    found = ops.attention_weights(q, k, request, is_causal=True)  # row t sees keys <= t + 6
    assert np.all(np.isfinite(found.weights[0, :, 0]))
    assert np.all(np.isnan(found.weights[0, :, 1]))
    assert np.all(np.isfinite(found.weights[1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"statistics": ("variance",)},
            "statistics names 'variance'; there are entropy, column_mass",
        ),
        ({"top_k": 0}, "top_k=0; wanted at least 1"),
    ],
)
def test_wrong_requests(settings, message):
    with pytest.raises(ValueError) as error:
        WeightRequest(**settings)
    assert message in str(error.value)

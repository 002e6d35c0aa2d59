"""Few queries and many keys, in chunks or at once: against float64 and the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

from attnzoo import ops
from attnzoo.ops import masks
from attnzoo.ops.kernels import few_queries
from tests.ops.test_blockwise import N, arrays, draw, oracle, run

B = 2


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Of 16 keys, so that few positions are many chunks."""
    monkeypatch.setattr(few_queries, "CHUNK", 1)


def test_chunks_divide_the_keys_where_something_near_does():
    assert few_queries.chunk_size(64, 4) == 16
    assert few_queries.chunk_size(83, 4) == 14  # a prime: six chunks, one key past the end
    assert few_queries.chunk_size(7, 4) == 7
    assert few_queries.chunk_size(100, 4) == 10  # ten chunks and not seven of 15


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("T", "S"), [(1, 83), (3, 64), (8, 96)])
def test_float64_oracle(T, S):
    """All settings at once, under a mask that leaves chunks empty; also of documents (traced)."""
    inputs = arrays(B, T, S, 11, 13)
    names = {"bias": draw((1, N, 1, S), 31), "sinks": draw((N,), 32), "scale": np.asarray(0.31)}
    mask = (np.arange(S) > S - 30)[None, None, None, :] & np.ones((B, 1, T, 1), bool)
    mask[0, :, T - 1] = False  # a row that may attend nowhere
    mask[1] &= np.arange(S) < S - 5

    def settings(variables):
        return {"mask": jnp.asarray(mask), "softcap": 1.5, **variables}

    variables = {name: jnp.asarray(x) for name, x in names.items()}
    got = run("blockwise", settings, *map(jnp.asarray, inputs), variables)
    wanted = oracle(*inputs, mask=mask, softcap=1.5, **names)
    wanted["bias"] = wanted["scores"].sum((0, 2), keepdims=True)
    for name, x in got.items():
        np.testing.assert_allclose(x, wanted[name], atol=1e-11, rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_more_than_twice_the_error_of_the_reference(dtype):
    inputs = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in arrays(B, 3, 83, 11, 13)]
    exact = oracle(*inputs, mask=np.tri(3, 83, 80, dtype=bool))
    given = [jnp.asarray(x, dtype) for x in inputs]
    results = [
        run(name, lambda _: {"is_causal": True}, *given) for name in ("reference", "blockwise")
    ]
    for name, wanted in exact.items():
        if name in results[0]:
            got = (np.asarray(x[name], np.float64) for x in results)
            reference, ours = (np.sqrt(np.mean((x - wanted) ** 2)) for x in got)
            assert ours <= 2 * reference + 5e-7 * np.sqrt(np.mean(wanted**2)), name


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_only_who_may_see_it(bad):
    """In a chunk that is seen in part, in one that nobody sees, in a query, and beside zeros."""
    T, S = 3, 64
    q, k, v, d_out, d_lse = (np.array(x, np.float32) for x in arrays(B, T, S, 11, 13))
    q[0, 0] = 0  # 0 x inf is NaN, too
    k[:, 60:], v[:, 55:] = bad, bad
    k[0, 38, 1, 3] = v[1, 37, 0, 2] = q[1, 2, 4, 1] = bad

    def settings(_):
        return {"mask": masks.sliding_window(10).offset(37)}

    given = [jnp.asarray(x) for x in (q, k, v, d_out, 0 * d_lse)]
    wanted, got = (run(name, settings, *given) for name in ("reference", "blockwise"))
    nan = np.isnan(wanted["out"])
    assert nan[0, 1:, 2:4].all()
    assert not nan[0, 0].any()
    for name, x in got.items():
        np.testing.assert_array_equal(np.isnan(x), np.isnan(wanted[name]), err_msg=name)
        assert_close(x, wanted[name], 2e-6, err_msg=name)
    assert not any(np.isnan(got[name]).any() for name in "qkv")


@pytest.mark.parametrize("size", [1, 1 << 21])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_alone_it_gives_what_it_gives_with_a_gradient(monkeypatch, bad, size):
    """A few keys are read at once where no gradient is taken; then NaN and inf stay in place."""
    monkeypatch.setattr(few_queries, "CHUNK", size)
    clean = [np.asarray(x, np.float32) for x in arrays(B, 3, 64, 11, 13)[:3]]
    # A query, a key and a value that some see, and a key and a value that nobody sees.
    places = ((0, (1, 2, 4, 1)), (1, (0, 38, 1, 3)), (2, (1, 37, 0, 2)), (1, (0, 60)), (2, (1, 55)))
    settings = {
        "mask": masks.sliding_window(10).offset(37),
        "sinks": jnp.asarray(draw((N,), 32), jnp.float32),
        "softcap": 1.5,
        "return_lse": True,
    }

    @jax.jit
    def both(q, k, v):
        return [
            ops.dot_product_attention(q, k, v, implementation=name, **settings)
            for name in ("blockwise", "reference")
        ]

    found = []
    for which, place in (*places, (0, ())):
        given = [x.copy() for x in clean]
        given[which][place] = bad if place else clean[which]
        results = both(*given)
        for x, wanted in zip(*results):
            assert_close(x, wanted, 2e-6)
        found.append(bool(np.isnan(results[0][0]).any()))
    assert found == [True, True, True, False, False, False]


def test_dropout_drops_what_the_reference_drops():
    inputs = [jnp.asarray(x, "float32") for x in arrays(B, 3, 64, 11, 13)]

    def settings(_):
        return {"dropout_rate": 0.3, "dropout_key": jax.random.key(1)}

    wanted, got = (run(name, settings, *inputs) for name in ("reference", "blockwise"))
    for name, x in got.items():
        assert_close(x, wanted[name], 1e-5, err_msg=name)


def test_second_derivatives_and_vmap():
    q, k, v = (jnp.asarray(x, "float32") for x in arrays(B, 1, 37, 4, 4)[:3])

    def loss(implementation, q, k, v):
        given = (q[None], k[None], v[None])
        out = ops.dot_product_attention(*given, is_causal=True, implementation=implementation)
        return jnp.sum(out**3)

    def curvature(implementation):
        def slope(q, k, v):
            gradients = jax.grad(loss, argnums=(1, 2, 3))(implementation, q, k, v)
            return sum(jnp.sum(x**2) for x in gradients)

        return jax.jit(jax.vmap(jax.grad(slope, argnums=(0, 1, 2))))(q, k, v)

    for x, wanted in zip(curvature("blockwise"), curvature("reference")):
        np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-4)


def test_no_copy_of_the_keys(monkeypatch):
    """Temporaries of one token and a cache of 64 MiB: a chunk and its weights."""
    monkeypatch.undo()
    q, k = (jax.ShapeDtypeStruct((1, L, 8, 64), jnp.float32) for L in (1, 16_384))

    def temporaries(implementation):
        def attention(q, k, v):
            return ops.dot_product_attention(q, k, v, implementation=implementation)

        planned = jax.jit(attention).lower(q, k, k).compile().memory_analysis()
        return planned.temp_size_in_bytes

    assert temporaries("blockwise") < 4 * 2**20 < 32 * 2**20 < temporaries("reference")

"""The reference attention against loops in float64, its contract, and its errors."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads

from attnzoo import ops
from attnzoo.ops import WeightRequest, masks

B, T, S, N, K, H, HV = 2, 5, 7, 6, 3, 11, 13

# Compiled once per shape: faster than dispatching every operation on its own.
attention = jax.jit(
    ops.dot_product_attention,
    static_argnames=("is_causal", "return_weights", "return_lse", "dropout_rate"),
)


def inputs(dtype=np.float64, T=T, S=S, seed=0):
    draw = np.random.default_rng(seed)
    shapes = ((B, T, N, H), (B, S, K, H), (B, S, K, HV))
    return [jnp.asarray(draw.normal(size=shape), dtype) for shape in shapes]


def oracle(q, k, v, mask=None, bias=None, sinks=None):
    """One row at a time, in numpy; returns output, weights, lse."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    B, T, N, H = q.shape
    S, K, Hv = v.shape[1:]
    out, weights, lse = np.zeros((B, T, N, Hv)), np.zeros((B, N, T, S)), np.zeros((B, N, T))
    for b, n, t in np.ndindex(B, N, T):
        terms = {}
        for s in range(S):
            if mask is None or np.broadcast_to(mask, (B, N, T, S))[b, n, t, s]:
                extra = 0 if bias is None else np.broadcast_to(bias, (B, N, T, S))[b, n, t, s]
                terms[s] = np.exp(q[b, t, n] @ k[b, s, n * K // N] / H**0.5 + extra)
        total = sum(terms.values()) + (0 if sinks is None else np.exp(sinks[n]))
        lse[b, n, t] = np.log(total) if total else -np.inf
        for s, term in terms.items():
            weights[b, n, t, s] = term / total
            out[b, t, n] += weights[b, n, t, s] * v[b, s, n * K // N]
    return out, weights, lse


def random_mask(rows=True):
    mask = np.random.default_rng(1).random((B, 1, T, S)) < 0.6
    if rows:
        mask[0, 0, 2] = False  # a row that may attend nowhere
    return jnp.asarray(mask)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_oracle(dtype, with_sinks):
    draw = np.random.default_rng(2)
    q, k, v = inputs(dtype)
    bias, sinks = draw.normal(size=(1, N, T, 1 if with_sinks else S)), draw.normal(size=N)
    sinks = sinks if with_sinks else None
    got = attention(
        q,
        k,
        v,
        random_mask(),
        jnp.asarray(bias),
        sinks=None if sinks is None else jnp.asarray(sinks),
        return_weights=True,
        return_lse=True,
    )
    wanted = oracle(q, k, v, random_mask(), bias, sinks)
    tolerance = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2}[dtype]
    assert got[0].dtype == dtype
    assert got[1].dtype == got[2].dtype == ("float64" if dtype == "float64" else "float32")
    for x, y in zip(got, wanted):
        np.testing.assert_allclose(np.asarray(x, np.float64), y, atol=tolerance, rtol=tolerance)
    assert np.all(np.asarray(got[1])[~np.broadcast_to(random_mask(), (B, N, T, S))] == 0)


def test_fully_masked_row():
    q, k, v = inputs(np.float32)
    out, weights, lse = attention(q, k, v, random_mask(), return_weights=True, return_lse=True)
    assert np.all(out[0, 2] == 0)
    assert np.all(weights[0, :, 2] == 0)
    assert np.all(np.isneginf(lse[0, :, 2]))
    # With a sink the row does have something to attend to: the sink, whose value is zero.
    sinks = jnp.arange(N, dtype=jnp.float32)
    out, lse = attention(q, k, v, random_mask(), sinks=sinks, return_lse=True)
    assert np.all(out[0, 2] == 0)
    np.testing.assert_allclose(lse[0, :, 2], sinks, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_gradients_against_finite_differences():
    q, k, v = inputs()
    bias = jnp.asarray(np.random.default_rng(3).normal(size=(1, N, T, S)))
    sinks = jnp.asarray(np.random.default_rng(4).normal(size=N))

    @jax.jit
    def everything(q, k, v, bias, sinks):
        return ops.dot_product_attention(
            q, k, v, random_mask(), bias, sinks=sinks, softcap=2.0, return_weights=True
        )

    check_grads(everything, (q, k, v, bias, sinks), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def of_empty_row(q, k, v):
        out, lse = attention(q, k, v, random_mask(), return_lse=True)
        return jnp.sum(out[0, 2]) + jnp.sum(jnp.where(jnp.isneginf(lse), 0.0, lse)[0, :, 2])

    assert all(np.all(gradient == 0) for gradient in of_empty_row(q, k, v))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_non_finite_padding_and_future_do_not_leak(poison):
    q, k, v = inputs(np.float32, T=7)
    valid = (jnp.arange(S) < 5)[None, None, None, :]
    bad = [x.at[:, 5:].set(poison) for x in (k, v)]

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def padded(q, k, v):
        return jnp.sum(attention(q, k, v, valid) ** 2)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def past(q, k, v):
        return jnp.sum(attention(q, k, v, is_causal=True)[:, :5] ** 2)

    for function in (padded, past):
        clean, dirty = function(q, k, v), function(q, *bad)
        for x, y in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty)):
            np.testing.assert_array_equal(x, y)
    # Whoever does see it must not be told a number.
    out = attention(q, *bad, is_causal=True)
    assert np.all(np.isnan(out[:, 5:]))
    # Self-attention: a padded row's own query is as bad as its key.
    dirty = past(q.at[:, 5:].set(poison), *bad)
    for x, y in zip(jax.tree.leaves(past(q, k, v)), jax.tree.leaves(dirty)):
        np.testing.assert_array_equal(x, y)


def test_causal_alignment_and_decoding():
    """With T < S the last query is aligned with the last key, so decoding is T = 1."""
    q, k, v = inputs(np.float32, T=7)
    whole = attention(q, k, v, is_causal=True)
    last = attention(q[:, -1:], k, v, is_causal=True)
    np.testing.assert_allclose(last, whole[:, -1:], atol=1e-6)
    _, weights = attention(q[:, :3], k, v, is_causal=True, return_weights=True)
    assert np.array_equal(np.asarray(weights)[0, 0] > 0, np.tri(3, 7, 4, dtype=bool))
    # T > S: the first queries see nothing.
    out = attention(q, k[:, :4], v[:, :4], is_causal=True)
    assert np.all(out[:, :3] == 0)
    assert np.all(out[:, 3] != 0)


def test_causality_by_gradient():
    q, k, v = inputs(np.float32, T=7)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def row(k, v):
        return jnp.sum(attention(q, k, v, is_causal=True)[:, 3] ** 2)

    for gradient in row(k, v):
        assert np.all(gradient[:, 4:] == 0)
        assert np.all(np.abs(gradient[:, :4]).max(axis=(2, 3)) > 0)


def test_huge_logits_are_exact():
    q, k, v = inputs(np.float32)
    _, weights = attention(1e4 * q, k, v, return_weights=True)
    np.testing.assert_allclose(weights.sum(axis=-1), np.ones((B, N, T)), rtol=1e-6)


def test_parity_with_jax():
    q, k, v = inputs(np.float32)
    v = v[..., :H]  # jax wants equal widths
    mask, bias = random_mask(rows=False), jnp.ones((1, N, T, S)) * 0.3
    got = attention(q, k, v, mask, bias, 0.7)
    wanted = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=0.7)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_dropout():
    q, k, v = inputs(np.float32)
    ones = jnp.ones_like(v)
    drop = functools.partial(attention, q, k, dropout_rate=0.5)
    keys = jax.random.split(jax.random.key(0), 30)
    outs = np.asarray(jax.vmap(lambda key: drop(ones, dropout_key=key))(keys))
    assert abs(float(outs.mean()) - 1) < 0.05  # weights are rescaled: the mean stays 1
    assert float(outs.std()) > 0.1
    one, weights = drop(v, dropout_key=jax.random.key(0), return_weights=True)
    np.testing.assert_allclose(weights.sum(axis=-1), np.ones((B, N, T)), rtol=1e-6)
    request = WeightRequest(rows=(0,))
    same, _ = drop(v, dropout_key=jax.random.key(0), return_weights=request)
    np.testing.assert_allclose(one, same, atol=1e-6)


def test_empty_lengths():
    q, k, v = inputs(np.float32)
    assert np.all(attention(q, k[:, :0], v[:, :0]) == 0)
    assert attention(q[:, :0], k, v).shape == (B, 0, N, HV)


@pytest.fixture
def unchecked():
    """Errors as users see them: without the type checker that runs in the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


ERRORS = {
    "k has shape (2, 7, 3, 10); wanted B S K H with B=2 and H=11": lambda q, k, v: (
        q,
        k[..., :10],
        v,
    ),
    "v has shape (2, 6, 3, 13); wanted B S K Hv": lambda q, k, v: (q, k, v[:, :6]),
    "num_heads=5 of q is not a multiple of num_kv_heads=3": lambda q, k, v: (q[:, :, :5], k, v),
    "q has shape (2, 5, 6); wanted four axes": lambda q, k, v: (q[..., 0], k, v),
    "q has dtype int32; wanted floating": lambda q, k, v: (q.astype(np.int32), k, v),
    "mask has dtype float32; wanted bool": lambda q, k, v: (q, k, v, jnp.ones((1, 1, 5, 7))),
    "mask has shape (2, 7); wanted B N T S": lambda q, k, v: (q, k, v, jnp.ones((2, 7), bool)),
    "bias has dtype bool": lambda q, k, v: (q, k, v, None, jnp.ones((1, 1, 5, 7), bool)),
    "bias has shape (1, 2, 5, 7)": lambda q, k, v: (q, k, v, None, jnp.ones((1, 2, 5, 7))),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_the_argument(message):
    with pytest.raises(ValueError) as error:
        ops.dot_product_attention(*ERRORS[message](*inputs(np.float32)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"implementation": "tritn"},
            "implementation='tritn' does not exist; wanted None or one of reference, blockwise",
        ),
        ({"softcap": -1.0}, "softcap=-1.0: wanted a positive number"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0; wanted 0 <= dropout_rate < 1"),
        ({"dropout_rate": 0.1}, "needs dropout_key"),
        ({"mask": lambda b, n, q, k: q - k}, "a mask function returned int32; wanted bool"),
        ({"mask": masks.document(jnp.array([0, 1]))}, "document: query ids covers 2 positions"),
        ({"return_weights": WeightRequest(rows=(9,))}, "rows asks for 9, but there are 5"),
        ({"return_weights": WeightRequest(top_k=9)}, "top_k=9 is more than the 7 keys"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError) as error:
        ops.dot_product_attention(*inputs(np.float32), **settings)
    assert message in str(error.value)

"""flex_attention with sinks and dropout, in whole rows and in tiles: every rule, every gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import ops
from attnzoo.ops import BlockMask, masks, score_mods
from attnzoo.ops.dropout import dropout_keep_mask, seed_of
from attnzoo.ops.index_functions import index_grid
from tests.ops.test_blockwise import K, N, arrays, draw, oracle

B, T, S = 2, 61, 83
IMPLEMENTATIONS = ("reference", "blockwise")
RATE, KEY = 0.3, jax.random.key(7)
SLOPES, SINKS = draw((N,), 21) ** 2, draw((N,), 22)
QUERIES, KEYS = np.arange(T)[:, None], np.arange(S)[None, :]
SEEN = ((KEYS <= QUERIES + 30) & (KEYS >= QUERIES - 5))[None, None] & np.ones((B, N, 1, 1), bool)
SEEN[0, :, :, 50:] = SEEN[1, :, 17] = False  # padding, and a row that may attend nowhere


def seen(b, n, q, k):
    return (k <= q + 30) & (k >= q - 5) & ((b > 0) | (k < 50)) & ((b < 1) | (q != 17))


def attend(implementation, q, k, v, sinks, slopes, **settings):
    mask = BlockMask.from_mask(seen, B, N, T, S, block_size=(32, 16))
    return ops.flex_attention(
        q,
        k,
        v,
        score_mods.alibi(slopes),
        block_mask=mask,
        sinks=sinks,
        dropout_rate=RATE,
        dropout_key=KEY,
        return_lse=True,
        implementation=implementation,
        **settings,
    )


@functools.partial(jax.jit, static_argnums=0)
def _results(implementation, cotangents, *given):
    out, pull = jax.vjp(lambda *given: attend(implementation, *given), *given)
    return out, pull(cotangents)


def results(implementation, q, k, v, d_out, d_lse, sinks=SINKS, slopes=SLOPES):
    """Output, lse and all gradients in q's dtype; compiled once for all numbers of some shapes."""
    d_out, d_lse, *given = (np.asarray(x, q.dtype) for x in (d_out, d_lse, q, k, v, sinks, slopes))
    (out, lse), gradients = _results(implementation, (d_out, d_lse), *given)
    named = zip(("q", "k", "v", "sinks", "slopes"), gradients)
    return {"out": out, "lse": lse, **dict(named)}


def exact(q, k, v, d_out, d_lse, sinks=SINKS, slopes=SLOPES):
    keep = np.asarray(dropout_keep_mask(seed_of(KEY), RATE, *index_grid(B, N, T, S))) / (1 - RATE)
    bias = -slopes[:, None, None] * abs(QUERIES - KEYS)
    found = oracle(q, k, v, d_out, d_lse, mask=SEEN, bias=bias, sinks=sinks, keep=keep)
    found["slopes"] = -(found["scores"] * abs(QUERIES - KEYS)).sum((0, 2, 3))
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float64_oracle(implementation):
    """A wrong or another mask in the backward pass, or an lse without its sink, would show."""
    inputs = arrays(B, T, S, 11, 13)
    wanted = exact(*inputs)
    for name, x in results(implementation, *inputs).items():
        np.testing.assert_allclose(x, wanted[name], atol=1e-11, rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_backward_pass_drops_what_the_forward_pass_dropped(implementation):
    """Equal logits, one-hot values and cotangents: output and dv are the mask itself."""
    length = 150  # more than one tile
    x = jnp.zeros((1, length, 1, 8))
    one_hot = jnp.eye(length)[None, :, None, :]

    def attention(v):
        return ops.flex_attention(
            x, x, v, dropout_rate=RATE, dropout_key=KEY, implementation=implementation
        )

    out, pull = jax.vjp(jax.jit(attention), one_hot)
    (dv,) = pull(one_hot)
    forward, backward = np.asarray(out[0, :, 0]), np.asarray(dv[0, :, 0])
    np.testing.assert_array_equal(forward > 0, backward.T > 0)
    np.testing.assert_allclose(forward, backward.T, rtol=1e-5)
    assert abs((forward > 0).mean() - (1 - RATE)) < 0.02


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_row_that_may_attend_nowhere_has_its_sink(implementation):
    inputs = [np.asarray(x, np.float32) for x in arrays(B, T, S, 11, 13)]
    got = results(implementation, *inputs)
    assert np.all(got["out"][1, 17] == 0)
    assert np.all(got["q"][1, 17] == 0)
    np.testing.assert_allclose(got["lse"][1, :, 17], SINKS, rtol=1e-6)
    attend = functools.partial(
        ops.flex_attention,
        mask_mod=masks.from_array(jnp.zeros((1, 1, T, S), bool)),
        dropout_rate=RATE,
        dropout_key=KEY,
        return_lse=True,
        implementation=implementation,
    )
    nowhere = jax.jit(attend)(*inputs[:3])
    assert np.all(nowhere[0] == 0)
    assert np.all(np.isneginf(nowhere[1]))


def test_logits_of_ten_thousand():
    """Sinks of that size, too: they decide a row as often as a key does."""
    inputs = arrays(B, T, S, 64, 13)
    inputs[0] *= 1e4 / 8
    inputs = [np.asarray(x, np.float32) for x in inputs]
    sinks = np.asarray(1e4 * np.abs(SINKS), np.float32)
    wanted = exact(*(x.astype(np.float64) for x in inputs), sinks=sinks.astype(np.float64))
    errors = {}
    for implementation in IMPLEMENTATIONS:
        got = results(implementation, *inputs, sinks=sinks)
        assert all(np.all(np.isfinite(x)) for x in got.values()), implementation
        errors[implementation] = {n: np.abs(x - wanted[n]).max() for n, x in got.items()}
    for name, error in errors["blockwise"].items():
        rounding = 1e-6 * np.abs(wanted[name]).max()
        assert error <= 2 * errors["reference"][name] + rounding, (name, errors)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_not_finite_in_padding_changes_no_bit(implementation, bad):
    """Neither of the output nor of a gradient; a key that is seen makes its rows NaN."""
    q, k, v, d_out, d_lse = (np.asarray(x, np.float32) for x in arrays(B, T, S, 11, 13))
    clean = results(implementation, q, k, v, d_out, d_lse)
    k[0, 50:], v[0, 55:] = bad, bad  # which nobody may see
    dirty = results(implementation, q, k, v, d_out, d_lse)
    for name, x in dirty.items():
        np.testing.assert_array_equal(x, clean[name], err_msg=name)
    k[0, 40, 1] = bad
    got = results(implementation, q, k, v, d_out, d_lse)
    rows = SEEN[0, 0, :, 40]
    heads = np.arange(N) // (N // K) == 1
    np.testing.assert_array_equal(np.isnan(got["lse"])[0], heads[:, None] & rows[None, :])
    assert not any(np.isnan(got[name]).any() for name in "qkv")


def test_repeats_are_bit_equal():
    inputs = [jnp.asarray(x, jnp.float32) for x in arrays(B, T, S, 11, 13)]

    @jax.jit
    def gradients(q, k, v, sinks, slopes):
        out, pull = jax.vjp(lambda *given: attend("blockwise", *given), q, k, v, sinks, slopes)
        return out, pull(tuple(inputs[3:]))

    given = (*inputs[:3], jnp.asarray(SINKS, jnp.float32), jnp.asarray(SLOPES, jnp.float32))
    first = jax.tree.leaves(gradients(*given))
    for _ in range(50):
        again = jax.tree.leaves(gradients(*given))
        assert all(np.array_equal(x, y) for x, y in zip(first, again))


def test_a_rate_without_a_key_is_refused():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in arrays(1, 5, 5, 4, 4)[:3])
    with pytest.raises(ValueError, match=r"dropout_rate=0\.5 needs dropout_key"):
        ops.flex_attention(q, k, v, dropout_rate=0.5)

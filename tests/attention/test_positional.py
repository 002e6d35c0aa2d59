"""Positional attention and the Synthesizer against float64 loops and golden values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention.positional import FactorisedPositionalAttention, PositionalAttention
from attnzoo.attention.synthesizer import Synthesizer
from attnzoo.ops import masks

B, T, L, D, N = 2, 5, 6, 4, 2


def random(*shape: int, seed: int = 0, dtype=jnp.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def of(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def loops(logits, may, values) -> tuple[np.ndarray, np.ndarray]:
    """Weights and concatenated heads; logits and ``may`` are B N T S."""
    B, N, T, S = may.shape
    width = values.shape[2] // N
    weights, out = np.zeros(may.shape), np.zeros((B, T, N * width))
    for b, n, t in np.ndindex(B, N, T):
        row = np.where(may[b, n, t], np.exp(logits[b, n, t]), 0.0)
        weights[b, n, t] = row / row.sum() if row.sum() else row
        heads = values[b, :, n * width : (n + 1) * width]
        out[b, t, n * width : (n + 1) * width] = sum(
            weights[b, n, t, s] * heads[s] for s in range(S)
        )
    return out, weights


def permitted() -> tuple[jax.Array, np.ndarray]:
    """A left-padded batch: the mask of the call, and with causality B N T S."""
    valid = np.arange(T)[None] >= np.array([[0], [2]])
    may = valid[:, None, None, :] & (np.arange(T)[:, None] >= np.arange(T)[None])
    return jnp.asarray(valid)[:, None, None, :], np.broadcast_to(may, (B, N, T, T))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("factorised", [False, True])
def test_positional_agrees_with_loops(factorised):
    rngs = nnx.Rngs(0)
    if factorised:
        attention = FactorisedPositionalAttention(D, L, N, rank=3, temperature=0.5, rngs=rngs)
        attention.query_factor[...] = random(N, L, 3, seed=1, dtype=jnp.float32)
        attention.key_factor[...] = random(N, L, 3, seed=2, dtype=jnp.float32)
        table = np.array(
            [a @ b.T for a, b in zip(of(attention.query_factor), of(attention.key_factor))]
        )
    else:
        attention = PositionalAttention(D, L, N, temperature=0.5, rngs=rngs)
        attention.table[...] = random(N, L, L, seed=1, dtype=jnp.float32)
        table = of(attention.table)
    x = random(B, T, D)
    mask, may = permitted()
    out, weights = nnx.jit(lambda m, x: m(x, x, mask=mask, return_weights=True))(attention, x)
    logits = np.broadcast_to(table[None, :, :T, :T] / np.sqrt(D // N) / 0.5, may.shape)
    wanted, wanted_weights = loops(logits, may, np.asarray(x) @ of(attention.value.kernel))
    np.testing.assert_allclose(out, wanted, atol=1e-10)
    np.testing.assert_allclose(weights, wanted_weights, atol=1e-10)


def fill(shape: tuple[int, ...], a: float, b: float) -> np.ndarray:
    return np.sin(a * np.arange(np.prod(shape)) + b).reshape(shape)


@pytest.mark.parametrize("factorised", [False, True])
def test_golden_values(factorised):
    """METHODS §15 to six digits; parameters are float32."""
    if factorised:
        attention = FactorisedPositionalAttention(4, 6, rank=2, rngs=nnx.Rngs(0))
        attention.query_factor[...] = jnp.asarray(fill((1, 6, 2), 0.7, 0.3), jnp.float32)
        attention.key_factor[...] = jnp.asarray(fill((1, 6, 2), 0.5, 0.8), jnp.float32)
    else:
        attention = PositionalAttention(4, 6, rngs=nnx.Rngs(0))
        attention.table[...] = jnp.asarray(fill((1, 6, 6), 0.9, 0.1), jnp.float32)
    attention.value.kernel[...] = jnp.eye(4)
    v = jnp.asarray(fill((2, 6, 4), 0.29, 1.3)[:1], jnp.float32)
    out = np.asarray(attention(v, v), np.float64).ravel()
    np.testing.assert_allclose(out[:4], np.asarray(v).ravel()[:4], atol=2e-6)
    total, weighted = (5.276642, 4.857310) if factorised else (6.386736, 4.464289)
    assert out.sum() == pytest.approx(total, abs=5e-6)
    assert out @ np.cos(0.11 * np.arange(24)) == pytest.approx(weighted, abs=5e-6)


def test_full_rank_factors_are_the_table():
    table = random(N, L, L, seed=3, dtype=jnp.float32)
    full = PositionalAttention(D, L, N, rngs=nnx.Rngs(0))
    factorised = FactorisedPositionalAttention(D, L, N, rank=L, rngs=nnx.Rngs(0))
    full.table[...], factorised.query_factor[...] = table, table
    factorised.key_factor[...] = jnp.broadcast_to(jnp.eye(L), (N, L, L))
    factorised.value.kernel[...] = full.value.kernel[...]
    x = random(B, T, D, dtype=jnp.float32)
    np.testing.assert_allclose(factorised(x, x), full(x, x), atol=1e-6)


def test_content_of_queries_and_keys_does_not_matter():
    attention = PositionalAttention(D, L, N, rngs=nnx.Rngs(0))
    attention.table[...] = random(N, L, L, seed=3, dtype=jnp.float32)
    x, other = random(B, T, D, dtype=jnp.float32), random(B, T, D, seed=9, dtype=jnp.float32)
    np.testing.assert_array_equal(attention(x, x, x), attention(other, other, x))
    # ... but the slot does: permuted values are not permuted results.
    order = jnp.asarray([4, 2, 0, 1, 3])
    assert np.abs(attention(x, x)[:, order] - attention(x[:, order], x[:, order])).max() > 0.1


def test_positions_choose_rows():
    attention = PositionalAttention(D, L, N, rngs=nnx.Rngs(0))
    attention.table[...] = random(N, L, L, seed=3, dtype=jnp.float32)
    x = random(B, T, D, dtype=jnp.float32)
    whole, memory = attention(x, x), attention.prepare(x)
    out = attention.attend(x[:, :1], memory, positions=jnp.asarray([[3], [1]], jnp.int32))
    np.testing.assert_allclose(out[:, 0], jnp.stack([whole[0, 3], whole[1, 1]]), atol=1e-6)


def test_initial_deviation_of_the_product_is_that_of_the_table():
    factorised = FactorisedPositionalAttention(2, 200, rank=40, rngs=nnx.Rngs(0))
    table = of(factorised.query_factor)[0] @ of(factorised.key_factor)[0].T
    # A normal cut at two deviations has 0.774 of the variance, and the product the product.
    assert table.std() == pytest.approx(0.01 * 0.774, rel=0.05)


def synthesizer(variant: str, **settings) -> Synthesizer:
    made = Synthesizer(D, L, N, variant, rank=3, rngs=nnx.Rngs(0), **settings)
    if variant == "dense":
        made.bias[...] = random(N, L, seed=4, dtype=jnp.float32)
    return made


def synthesised(attention: Synthesizer, x: np.ndarray) -> np.ndarray:
    """Logits B N T L, a token, a head and a slot at a time."""
    logits = np.zeros((B, N, T, L))
    for b, n, t, s in np.ndindex(logits.shape):
        if attention.variant == "dense":
            hidden = np.maximum(x[b, t] @ of(attention.hidden.kernel), 0)[n * 2 : n * 2 + 2]
            logits[b, n, t, s] = hidden @ of(attention.kernel)[n, :, s] + of(attention.bias)[n, s]
        elif attention.variant == "factorised_dense":
            # L = 6 = 2 * 3
            coarse = (x[b, t] @ of(attention.coarse.kernel))[n * 2 : n * 2 + 2]
            fine = (x[b, t] @ of(attention.fine.kernel))[n * 3 : n * 3 + 3]
            logits[b, n, t, s] = coarse[s // 3] * fine[s % 3]
        elif attention.variant == "factorised_random":
            logits[b, n, t, s] = of(attention.query_factor)[n, t] @ of(attention.key_factor)[n, s]
        else:
            logits[b, n, t, s] = of(attention.table)[n, t, s]
    return logits


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "variant", ["dense", "factorised_dense", "random", "fixed_random", "factorised_random"]
)
def test_synthesizer_agrees_with_loops(variant):
    attention = synthesizer(variant, mask_mod=masks.causal())
    x = random(B, T, D)
    mask, may = permitted()
    out, weights = nnx.jit(lambda m, x: m(x, x, mask=mask, return_weights=True))(attention, x)
    values = np.asarray(x) @ of(attention.value.kernel)
    wanted, wanted_weights = loops(synthesised(attention, np.asarray(x))[..., :T], may, values)
    np.testing.assert_allclose(out, wanted @ of(attention.out.kernel), atol=1e-10)
    np.testing.assert_allclose(weights, wanted_weights, atol=1e-10)


def test_only_the_fixed_table_is_not_trained():
    trained = jax.tree.leaves(nnx.state(synthesizer("random"), nnx.Param))
    fixed = jax.tree.leaves(nnx.state(synthesizer("fixed_random"), nnx.Param))
    assert (N, L, L) in [x.shape for x in trained]
    assert (N, L, L) not in [x.shape for x in fixed]


@pytest.mark.parametrize("make", [PositionalAttention, Synthesizer])
def test_nan_in_padding_stays_there(make):
    attention = make(D, L, N, mask_mod=masks.causal(), rngs=nnx.Rngs(0))
    x = random(B, T, D, dtype=jnp.float32)
    mask, _ = permitted()
    spoiled = jnp.where(mask[:, 0, 0, :, None], x, jnp.nan)

    def loss(x):
        out = attention(jnp.nan_to_num(x), x, mask=mask)
        return jnp.sum(out**2), out

    gradient, out = jax.grad(loss, has_aux=True)(spoiled)
    assert np.isfinite(out).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(out[1, :2], 0)
    # NaN in the last item reaches the last row alone.
    out = attention(x, x.at[:, -1].set(jnp.nan))
    assert np.isfinite(out[:, :-1]).all()
    assert np.isnan(out[:, -1]).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: PositionalAttention(5, 6, 2, rngs=r), "dim=5 is not divisible by num_heads=2"),
        (lambda r: PositionalAttention(4, 6, temperature=0.0, rngs=r), "temperature=0.0"),
        (lambda r: FactorisedPositionalAttention(4, 6, rank=0, rngs=r), "rank=0"),
        (
            lambda r: PositionalAttention(4, 3, rngs=r)(jnp.ones((1, 3, 4)), jnp.ones((1, 5, 4))),
            "keys has length 5, but the attention was built for max_length=3",
        ),
        (
            lambda r: Synthesizer(4, 3, rngs=r)(jnp.ones((1, 5, 4)), jnp.ones((1, 3, 4))),
            "query has length 5, but the attention was built for max_length=3",
        ),
    ],
)
def test_wrong_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(nnx.Rngs(0))

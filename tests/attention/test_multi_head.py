# Over 400 lines: one oracle, to which every variant is held.
"""Multi-head attention against float64 loops, golden values, flax, jax.nn, and its own cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tolerances import assert_close

from attnzoo.attention.multi_head import MultiHeadAttention, Rotary
from attnzoo.attention.projection import RMSNorm
from attnzoo.attention.relative_bias import ALiBi, T5RelativeBias
from attnzoo.ops import WeightRequest, masks, score_mods
from attnzoo.ops.rotary import DynamicNTKScaling


def module(dim: int, num_heads: int, seed: int = 0, **settings) -> MultiHeadAttention:
    """A module whose biases, sinks and norms are not at their neutral starting values."""
    made = MultiHeadAttention(dim, num_heads, rngs=nnx.Rngs(seed), **settings)
    state = nnx.state(made, nnx.Param)
    keys = iter(jax.random.split(jax.random.key(seed + 1), len(jax.tree.leaves(state))))
    nnx.update(
        made,
        jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape, x.dtype), state),
    )
    return made


def inputs(*shapes: tuple[int, ...], dtype=np.float64) -> list[jax.Array]:
    rng = np.random.default_rng(7)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def of(parameter) -> np.ndarray | float:
    return 0.0 if parameter is None else np.asarray(parameter[...], np.float64)


def oracle(attention, query, keys, values, may, *, angle=0.0, bias=0.0, sink=False, scale=None):
    """One query, one head at a time; ``may`` and ``bias`` are B N T S, angles turn half-split."""
    N, K, H = attention.num_heads, attention.num_kv_heads, attention.head_dim

    def project(part, x, heads):
        return (x @ of(part.kernel) + of(part.bias)).reshape(*x.shape[:2], heads, -1)

    def norm(part, x):
        if part is None:
            return x
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * of(part.scale)

    def turn(x, position):
        half = H // 2
        complex_pairs = x[:half] + 1j * x[half:]
        frequency = angle ** (-2 * np.arange(half) / H)
        turned = complex_pairs * np.exp(1j * position * frequency)
        return np.concatenate([turned.real, turned.imag])

    q = norm(attention.query_norm, project(attention.query, query, N))
    k = norm(attention.key_norm, project(attention.key, keys, K))
    v = project(attention.value, values, K)
    B, T, S = query.shape[0], query.shape[1], keys.shape[1]
    out, weights = np.zeros((B, T, N, H)), np.zeros((B, N, T, S))
    for b, t, n in np.ndindex(B, T, N):
        m = n // (N // K)
        left = turn(q[b, t, n], t) if angle else q[b, t, n]
        total = np.exp(of(attention.sinks)[n]) if sink else 0.0
        for s in range(S):
            right = turn(k[b, s, m], s) if angle else k[b, s, m]
            if may[b, n, t, s]:
                score = left @ right * (H**-0.5 if scale is None else scale)
                weights[b, n, t, s] = np.exp(score + (bias[b, n, t, s] if np.ndim(bias) else 0.0))
        total += weights[b, n, t].sum()
        weights[b, n, t] /= total if total else 1.0
        out[b, t, n] = weights[b, n, t] @ v[b, :, m]
    return out.reshape(B, T, -1) @ of(attention.out.kernel) + of(attention.out.bias), weights


B, T, N, D = 2, 5, 4, 12
DISTANCE = np.abs(np.arange(T)[:, None] - np.arange(T)[None, :])
CAUSAL = np.arange(T)[:, None] >= np.arange(T)[None, :]


def t5_module() -> MultiHeadAttention:
    bias = T5RelativeBias(N, bidirectional=False, std=1.0, rngs=nnx.Rngs(5))
    return module(D, N, score_mod=bias, scale=1.0, mask_mod=masks.causal())


def t5_arguments(attention: MultiHeadAttention) -> dict:
    # Below 16 positions a causal bucket is the distance itself.
    bias = of(attention.score_mod.table)[:, np.where(CAUSAL, DISTANCE, 0)]
    return {"bias": np.broadcast_to(bias, (B, N, T, T)), "scale": 1.0}


SLOPES = np.array([2.0 ** (-2 * (n + 1)) for n in range(N)])
VARIANTS = {
    "plain": (lambda: module(D, N, use_bias=True), lambda a: {}, np.ones_like(CAUSAL)),
    "multi_query": (lambda: module(D, N, num_kv_heads=1), lambda a: {}, np.ones_like(CAUSAL)),
    "grouped_norm_rotary_sinks": (
        lambda: module(
            D,
            N,
            num_kv_heads=2,
            head_dim=6,
            qk_norm=RMSNorm,
            rotary=Rotary(base=100.0),
            sinks=True,
            mask_mod=masks.causal(),
        ),
        lambda a: {"angle": 100.0, "sink": True},
        CAUSAL,
    ),
    "alibi_window": (
        lambda: module(D, N, score_mod=ALiBi(N), mask_mod=masks.sliding_window(3)),
        lambda a: {
            "bias": np.broadcast_to(-SLOPES[:, None, None] * DISTANCE, (B, N, T, T)),
        },
        CAUSAL & (DISTANCE < 3),
    ),
    "t5": (t5_module, t5_arguments, CAUSAL),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_agree_with_loops(variant):
    make, arguments, may = VARIANTS[variant]
    attention = make()
    (x,) = inputs((B, T, D))
    valid = np.arange(T)[None] < np.array([T, 3])[:, None]
    mask = jnp.asarray(valid)[:, None, None, :]
    may = np.broadcast_to(may & valid[:, None, None, :], (B, N, T, T))
    out, weights = nnx.jit(lambda m, x: m(x, x, mask=mask, return_weights=True))(attention, x)
    x = np.asarray(x)
    wanted, wanted_weights = oracle(attention, x, x, x, may, **arguments(attention))
    np.testing.assert_allclose(out, wanted, rtol=1e-10, atol=1e-10)
    # Weights are float32 by contract unless the inputs are wider.
    np.testing.assert_allclose(weights, wanted_weights, rtol=1e-10, atol=1e-10)
    assert np.all(np.asarray(weights)[~may] == 0)


@pytest.mark.parametrize("variant", ["plain", "grouped_norm_rotary_sinks"])
def test_float32_is_within_1e_5(variant):
    make, arguments, may = VARIANTS[variant]
    attention = make()
    (x,) = inputs((B, T, D), dtype=np.float32)
    out, weights = nnx.jit(lambda m, x: m(x, x, return_weights=True))(attention, x)
    wide = np.asarray(x, np.float64)
    may = np.broadcast_to(may, (B, N, T, T))
    wanted, wanted_weights = oracle(attention, wide, wide, wide, may, **arguments(attention))
    np.testing.assert_allclose(out, wanted, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(weights, wanted_weights, atol=1e-5)
    assert weights.dtype == jnp.float32


@pytest.mark.usefixtures("x64")
def test_cross_attention_of_unequal_widths_agrees_with_loops():
    attention = module(7, 2, head_dim=3, key_dim=5, value_dim=11, out_dim=13)
    query, keys, values = inputs((2, 3, 7), (2, 4, 5), (2, 4, 11))
    out, weights = attention(query, keys, values, return_weights=True)
    may = np.ones((2, 2, 3, 4), bool)
    wanted, wanted_weights = oracle(
        attention, np.asarray(query), np.asarray(keys), np.asarray(values), may
    )
    np.testing.assert_allclose(out, wanted, atol=1e-10)
    np.testing.assert_allclose(weights, wanted_weights, atol=1e-10)
    memory = attention.prepare(keys, values)
    np.testing.assert_array_equal(attention.attend(query, memory), out)


def fill(shape: tuple[int, ...], a: float, b: float) -> np.ndarray:
    return np.sin(a * np.arange(np.prod(shape)) + b).reshape(shape)


GOLDEN = {  # METHODS §15: settings, first entries, sum, sum of x_n cos(0.11 n)
    "full": ({}, (0.049366, 0.076901, 0.098014, 0.110942), 4.046655, -0.586274),
    "window 3": (
        {"mask_mod": masks.sliding_window(3)},
        (0.963558, 0.999816, 0.952576, 0.825785),
        0.882775,
        11.244173,
    ),
    "ALiBi": (
        {"mask_mod": masks.causal(), "score_mod": ALiBi(2)},
        (0.963558, 0.999816, 0.952576, 0.825785),
        5.549147,
        6.763284,
    ),
    "sinks": (
        {"mask_mod": masks.causal(), "sinks": True},
        (0.635928, 0.659857, 0.628680, 0.545001),
        3.750162,
        5.225026,
    ),
    "rotary half": (
        {"mask_mod": masks.causal(), "rotary": Rotary()},
        (0.963558, 0.999816, 0.952576, 0.825785),
        6.738121,
        8.063858,
    ),
    "rotary interleaved": (
        {"mask_mod": masks.causal(), "rotary": Rotary(layout="interleaved")},
        (0.963558, 0.999816, 0.952576, 0.825785),
        6.648906,
        7.659350,
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", GOLDEN)
def test_golden_values_through_identity_projections(case):
    settings, first, total, weighted = GOLDEN[case]
    attention = MultiHeadAttention(8, 2, rngs=nnx.Rngs(0), **settings)
    for part in (attention.query, attention.key, attention.value, attention.out):
        part.kernel[...] = jnp.eye(8, dtype=jnp.float32)
    if attention.sinks is not None:
        attention.sinks[...] = jnp.asarray([0.3, -0.2], jnp.float32)
    q, k, v = (
        jnp.asarray(fill((2, 6, 4), a, b).swapaxes(0, 1).reshape(1, 6, 8))
        for a, b in ((0.37, 0.1), (0.53, 0.7), (0.29, 1.3))
    )
    out = np.asarray(attention(q, k, v)).reshape(6, 2, 4).swapaxes(0, 1).ravel()
    np.testing.assert_allclose(out[:4], first, atol=1e-6)
    # The sinks are float32 parameters (0.3 is not exact), the table has six digits.
    assert_close(out.sum(), total, 2e-6)
    assert_close(out @ np.cos(0.11 * np.arange(out.size)), weighted, 2e-6)


def test_parity_with_flax_with_copied_weights():
    theirs = nnx.MultiHeadAttention(
        num_heads=N, in_features=D, decode=False, use_bias=True, rngs=nnx.Rngs(3)
    )
    ours = MultiHeadAttention(D, N, use_bias=True, rngs=nnx.Rngs(4))
    for name in ("query", "key", "value", "out"):
        getattr(ours, name).kernel[...] = getattr(theirs, name).kernel[...].reshape(D, D)
        getattr(ours, name).bias[...] = 0.1 + getattr(theirs, name).bias[...].reshape(D)
        getattr(theirs, name).bias[...] = 0.1 + getattr(theirs, name).bias[...]
    x, y = inputs((2, 3, D), (2, 5, D), dtype=np.float32)
    mask = jnp.asarray(np.random.default_rng(0).random((2, N, 3, 5)) < 0.7).at[..., 0].set(True)
    np.testing.assert_allclose(ours(x, y, mask=mask), theirs(x, y, mask=mask), atol=2e-6)


def test_parity_with_jax_nn():
    attention = module(D, N, num_kv_heads=2, mask_mod=masks.causal())
    (x,) = inputs((2, 5, D), dtype=np.float32)
    q = (x @ attention.query.kernel[...]).reshape(2, 5, N, 3)
    k = (x @ attention.key.kernel[...]).reshape(2, 5, 2, 3)
    v = (x @ attention.value.kernel[...]).reshape(2, 5, 2, 3)
    theirs = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(2, 5, D)
    np.testing.assert_allclose(attention(x, x), theirs @ attention.out.kernel[...], atol=2e-6)


def test_a_shared_key_head_is_repeated_heads_and_sums_their_gradients():
    shared = module(D, N, num_kv_heads=2)
    full = module(D, N)
    full.query.kernel[...], full.out.kernel[...] = shared.query.kernel[...], shared.out.kernel[...]

    def repeat(kernel):
        return jnp.repeat(kernel.reshape(D, 2, 3), 2, axis=1).reshape(D, D)

    full.key.kernel[...] = repeat(shared.key.kernel[...])
    full.value.kernel[...] = repeat(shared.value.kernel[...])
    (x,) = inputs((2, 5, D), dtype=np.float32)

    def loss(m, x):
        return jnp.sum(jnp.sin(m(x, x))), m(x, x)

    run = nnx.jit(nnx.grad(loss, has_aux=True))
    (few, out), (many, wanted) = run(shared, x), run(full, x)
    np.testing.assert_allclose(out, wanted, atol=1e-5)
    summed = many.key.kernel[...].reshape(D, 2, 2, 3).sum(axis=2).reshape(D, 6)
    assert_close(few.key.kernel[...], summed, 1e-4)


@pytest.mark.parametrize("variant", ["grouped_norm_rotary_sinks", "alibi_window", "t5"])
def test_decoding_step_by_step_is_teacher_forcing(variant):
    attention = VARIANTS[variant][0]()
    (x,) = inputs((B, T, D), dtype=np.float32)
    wanted, wanted_weights = nnx.jit(lambda m, x: m(x, x, return_weights=True))(attention, x)
    step = nnx.jit(lambda m, x, cache: m.decode(x, cache, return_weights=True))
    cache = attention.empty_cache(B, T + 2)
    for t in range(T):
        (out, weights), cache = step(attention, x[:, t : t + 1], cache)
        np.testing.assert_allclose(out[:, 0], wanted[:, t], atol=1e-5)
        np.testing.assert_allclose(weights[:, :, 0, :T], wanted_weights[:, :, t], atol=1e-5)
    assert cache.length.tolist() == [T, T]


def test_rows_of_a_cache_continue_from_their_own_lengths():
    """A prompt of 3 and one of 2 (padded), then two steps: as each alone."""
    attention = module(D, N, head_dim=4, rotary=Rotary(), mask_mod=masks.causal())
    (x,) = inputs((B, 5, D), dtype=np.float32)
    rows = jnp.stack([x[0, :5], jnp.concatenate([x[1, :2], x[1, 3:5], x[1, 2:3]])])
    wanted = attention(rows, rows)
    cache = attention.empty_cache(B, 6)
    prompt = jnp.stack([x[0, :3], x[1, :3]])
    out, cache = attention.decode(prompt, cache)
    np.testing.assert_allclose(out[0], wanted[0, :3], atol=1e-5)
    cache = cache._replace(length=jnp.asarray([3, 2], jnp.int32))
    for t in range(2):
        out, cache = attention.decode(x[:, 3 + t : 4 + t], cache)
        np.testing.assert_allclose(out[0, 0], wanted[0, 3 + t], atol=1e-5)
        np.testing.assert_allclose(out[1, 0], wanted[1, 2 + t], atol=1e-5)


def test_a_full_cache_gives_nan_and_not_a_wrong_answer():
    attention = module(D, N)
    (x,) = inputs((B, 1, D), dtype=np.float32)
    cache = attention.empty_cache(B, 2)
    cache = cache._replace(length=jnp.asarray([1, 2], jnp.int32))
    out, _ = attention.decode(x, cache)
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()
    with pytest.raises(ValueError, match="query has 3 positions, but the cache has room for 2"):
        attention.decode(jnp.ones((B, 3, D)), cache)


def test_queries_stand_where_positions_say():
    attention = VARIANTS["alibi_window"][0]()
    (x,) = inputs((B, T, D), dtype=np.float32)
    memory = attention.prepare(x)
    wanted = attention.attend(x, memory)
    positions = jnp.asarray([[3], [1]], jnp.int32)
    rows = jnp.stack([x[0, 3:4], x[1, 1:2]])
    out = attention.attend(rows, memory, positions=positions)
    np.testing.assert_allclose(out[:, 0], jnp.stack([wanted[0, 3], wanted[1, 1]]), atol=1e-6)


def test_padding_and_rows_without_keys_are_inert():
    attention = module(D, N)
    query, keys = inputs((2, 3, D), (2, 4, D), dtype=np.float32)
    valid = jnp.asarray([[True, True, False, False], [False] * 4])
    mask = valid[:, None, None, :]

    def loss(keys):
        out, weights = attention(query, keys, mask=mask, return_weights=True)
        return jnp.sum(out**2), (out, weights)

    spoiled = jnp.where(valid[:, :, None], keys, jnp.nan)
    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (out, weights)), gradient = run(spoiled)
    np.testing.assert_array_equal(out, run(keys)[0][1][0])
    np.testing.assert_array_equal(out[1], 0)
    np.testing.assert_array_equal(weights[1], 0)
    np.testing.assert_array_equal(gradient[~valid], 0)
    assert np.isfinite(gradient).all()
    assert np.any(gradient[0, :2] != 0)


@pytest.mark.usefixtures("x64")
def test_gradients_against_finite_differences():
    attention = VARIANTS["grouped_norm_rotary_sinks"][0]()
    graph, state = nnx.split(attention)
    state = jax.tree.map(lambda x: x.astype(jnp.float64), state)
    (x,) = inputs((1, 3, D))
    run = jax.jit(lambda state: jnp.sum(jnp.sin(nnx.merge(graph, state)(x, x))))
    gradient = jax.grad(run)(state)
    for index, leaf in enumerate(jax.tree.leaves(state)):
        direction = np.random.default_rng(index).normal(size=leaf.shape)
        leaves, tree = jax.tree.flatten(state)

        def moved(h, leaves=leaves, tree=tree, index=index, direction=direction):
            new = [x + h * direction if i == index else x for i, x in enumerate(leaves)]
            return float(run(jax.tree.unflatten(tree, new)))

        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        exact = float(np.sum(jax.tree.leaves(gradient)[index] * direction))
        assert slope == pytest.approx(exact, rel=1e-7, abs=1e-9)


def test_weights_on_request():
    attention = module(D, N, mask_mod=masks.causal())
    (x,) = inputs((B, T, D), dtype=np.float32)
    out, weights = attention(x, x, return_weights=True)
    request = WeightRequest(rows=(4,), heads=(2,), statistics=("entropy",))
    same, report = attention(x, x, return_weights=request)
    np.testing.assert_allclose(same, out, atol=1e-6)
    np.testing.assert_allclose(report.weights[:, 0, 0], weights[:, 2, 4], atol=1e-6)
    assert report.entropy.shape == (B, 1, T)


def test_dropout_acts_where_a_key_is_given():
    attention = module(D, N, dropout=0.5)
    (x,) = inputs((B, T, D), dtype=np.float32)
    plain = attention(x, x)
    np.testing.assert_array_equal(plain, attention(x, x))
    dropped = attention(x, x, dropout_key=jax.random.key(0))
    assert np.abs(dropped - plain).max() > 0.01
    np.testing.assert_array_equal(dropped, attention(x, x, dropout_key=jax.random.key(0)))


def test_bfloat16_in_and_out_with_float32_weights():
    attention = module(D, N, use_bias=True, qk_norm=RMSNorm, rotary=Rotary(width=2))
    (x,) = inputs((B, T, D), dtype=np.float32)
    out, weights = attention(x.astype(jnp.bfloat16), x.astype(jnp.bfloat16), return_weights=True)
    assert (out.dtype, weights.dtype) == (jnp.bfloat16, jnp.float32)
    wide = attention(x, x)
    assert np.abs(out.astype(jnp.float32) - wide).max() < 0.05 * np.abs(wide).max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 10, "num_heads": 4}, "dim=10 is not divisible by num_heads=4"),
        ({"num_kv_heads": 3}, "num_heads=4 is not divisible by num_kv_heads=3"),
        ({"num_kv_heads": 0}, "num_heads=4 is not divisible by num_kv_heads=0"),
        ({"dropout": 1.0}, "dropout=1.0; wanted 0 <= dropout < 1"),
        ({"score_mod": score_mods.alibi(4)}, "score_mod=ALiBi.* holds arrays; wanted .*ALiBi"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**{"dim": 12, "num_heads": 4} | settings, rngs=nnx.Rngs(0))


def test_wrong_masks_and_uses_are_named():
    attention = module(D, N, rotary=Rotary(scaling=DynamicNTKScaling(2.0, 4), width=2))
    x = jnp.ones((B, T, D))
    # The type checker of the tests speaks first; its message names the argument as ours does.
    with pytest.raises((ValueError, TypeError), match="mask"):
        attention(x, x, mask=jnp.ones((B, 1, 1, T)))
    with pytest.raises(ValueError, match="sliding_window: size=-1"):
        masks.sliding_window(-1)
    with pytest.raises(NotImplementedError, match="DynamicNTKScaling"):
        attention.decode(x, attention.empty_cache(B, T))
    crossed = module(D, N, key_dim=5)
    with pytest.raises(ValueError, match="key_dim=5, but self-attention needs dim=12"):
        crossed.decode(x, crossed.empty_cache(B, T))

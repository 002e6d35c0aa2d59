"""Which implementation is chosen, and two of them behind one attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

from attnzoo import ops
from attnzoo.ops import WeightRequest, choice, masks, score_mods
from attnzoo.ops.kernels.derivatives import by_need
from attnzoo.ops.kernels.tiles import cores, device_kind


def shapes(T, S=None, dtype=jnp.float32, B=1, N=8):
    S = S or T
    return [
        jax.ShapeDtypeStruct((B, length, heads, 64), dtype)
        for length, heads in ((T, N), (S, 2), (S, 2))
    ]


@pytest.mark.parametrize(
    ("arguments", "settings", "one", "several"),
    [
        (shapes(48), {}, "reference", "reference"),
        (shapes(96), {}, "reference", "reference"),
        (shapes(256), {}, "reference, blockwise", "reference"),
        (shapes(256, B=8), {}, "blockwise", "blockwise"),
        (shapes(512), {}, "blockwise", "blockwise"),
        (shapes(512), {"mask_mod": masks.causal()}, "blockwise", "blockwise"),
        (shapes(1024), {}, "blockwise", "blockwise"),
        (shapes(1, 31), {}, "reference", "reference"),
        (shapes(1, 32), {}, "blockwise, reference", "blockwise, reference"),
        (shapes(8, 100_000), {}, "blockwise, reference", "blockwise, reference"),
        (shapes(8, 1_000_000), {}, "blockwise", "blockwise"),
        (shapes(16, 4096), {}, "reference", "reference"),
        (shapes(1, 4096), {"return_weights": True}, "reference", "reference"),
        (shapes(512), {"return_weights": True}, "reference", "reference"),
        (shapes(4096), {"return_weights": True}, "blockwise", "blockwise"),
        (shapes(512), {"return_weights": WeightRequest(top_k=1)}, "blockwise", "blockwise"),
        (shapes(64), {"implementation": "blockwise"}, "blockwise", "blockwise"),
        (shapes(64), {"implementation": "xla", "is_causal": True}, "xla", "xla"),
    ],
)
def test_choice(arguments, settings, one, several, monkeypatch):
    for count, wanted in (("1", one), ("2", several)):
        monkeypatch.setenv("NPROC", count)
        found = ops.explain_choice(*arguments, **settings)
        name, differentiated = (wanted.split(", ") * 2)[:2]
        assert (found.name, found.differentiated) == (name, differentiated)


def test_choice_explains_itself(monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    found = ops.explain_choice(*shapes(200), score_mod=score_mods.softcap(5.0))
    tiles = "blockwise   chosen where it is differentiated: 200 x 200 weights are never in memory"
    assert str(found).splitlines() == [
        "reference   chosen: 200 x 200 weights fit into the cache, of all heads together",
        tiles,
        "xla         refused score_mod: jax.nn has none",
        "cudnn       refused implementation: cuDNN wants a CUDA GPU, the default is cpu",
        "mosaic_gpu  refused implementation: it wants a Hopper GPU, the default is cpu",
        "mosaic_tpu  refused implementation: it wants a TPU, the default is cpu",
    ]


def test_cores_are_those_that_xla_counts(monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    assert (cores(), device_kind()) == (1, "cpu")
    monkeypatch.setenv("NPROC", "3")
    assert (cores(), device_kind()) == (3, "cpu, several cores")
    monkeypatch.delenv("NPROC")
    assert cores() >= 1


# Two programs that differ, to see which one ran.


def halves(factor, shift):
    """Forward alone gives factor x + shift; where it is differentiated, the gradient of x^2."""

    def alone(x):
        return factor * x + shift, x

    def differentiated(x):
        return factor * x**2, 2 * x + shift

    return lambda x: by_need(alone, differentiated, x)[0]


def test_the_second_one_runs_where_it_is_differentiated():
    x, factor, shift = jnp.asarray([3.0, 5.0]), jnp.asarray(7.0), jnp.asarray(1.0)
    np.testing.assert_array_equal(halves(factor, shift)(x), [22.0, 36.0])

    def loss(x, factor, shift):
        return jnp.sum(halves(factor, shift)(x))

    value, (dx, d_factor, d_shift) = jax.value_and_grad(loss, (0, 1, 2))(x, factor, shift)
    assert value == 7 * (9 + 25)
    np.testing.assert_array_equal(dx, [42.0, 70.0])
    assert (d_factor, d_shift) == (9 + 25, 0)
    # Twice, forward over reverse, and in a batch whose array is captured.
    second = jax.grad(lambda x: jax.grad(loss)(x, factor, shift)[0])(x)
    np.testing.assert_array_equal(second, [14.0, 0.0])
    np.testing.assert_array_equal(jax.hessian(loss)(x, factor, shift), [[14.0, 0.0], [0.0, 14.0]])
    batch = jax.vmap(lambda x, factor: jax.grad(loss)(x, factor, shift))
    np.testing.assert_array_equal(
        batch(jnp.stack([x, x]), jnp.asarray([1.0, 2.0])), [[6, 10], [12, 20]]
    )
    with pytest.raises(NotImplementedError, match="reference"):
        jax.jvp(lambda x: loss(x, factor, shift), (x,), (x,))


@pytest.fixture
def two_programs(monkeypatch):
    """One core, and tiles wherever it is differentiated with more than 8 queries."""
    monkeypatch.setenv("NPROC", "1")
    monkeypatch.setitem(choice.GRADIENT_LIMIT, False, choice.WholeRowsLimit(0, 0))
    monkeypatch.setattr(choice, "MIN_TILE_QUERIES", 8)


def test_tiles_that_a_known_mask_leaves(two_programs):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 150, 2, 4))
    found = ops.explain_choice(q, k, v, is_causal=True)
    assert (found.name, found.differentiated) == ("reference", "blockwise")

    def loss(q, k, v, implementation):
        out = ops.dot_product_attention(q, k, v, is_causal=True, implementation=implementation)
        return jnp.sum(jnp.sin(out))

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    for x, y in zip(gradients(q, k, v, None), gradients(q, k, v, "reference")):
        assert_close(x, y, 1e-5)


@pytest.mark.parametrize(("T", "S"), [(17, 19), (3, 41)])
def test_gradients_reach_everything_that_is_given(T, S, two_programs):
    """Arrays in modifiers, bias, sinks, scale, document ids, a dropout key; jit and vmap."""
    draw = np.random.default_rng(3).normal
    q, k, v = (jnp.asarray(draw(size=(2, 1, L, 2, 4)), jnp.float32) for L in (T, S, S))
    slopes, sinks = (jnp.asarray(draw(size=2), jnp.float32) for _ in range(2))
    bias = jnp.asarray(draw(size=(1, 2, T, S)), jnp.float32)
    ids = jnp.asarray(np.sort(np.arange(S) % 3), jnp.int32)

    def loss(arrays, ids, key, implementation):
        q, k, v, slopes, sinks, bias, scale = arrays
        out, lse = ops.dot_product_attention(
            q,
            k,
            v,
            lambda b, n, i, j: ids[i + S - T] == ids[j],
            bias,
            scale,
            score_mod=lambda score, b, n, i, j: score + slopes[n] * (i - j).astype(score.dtype),
            sinks=sinks,
            dropout_rate=0.25,
            dropout_key=key,
            return_lse=True,
            implementation=implementation,
        )
        return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(lse))

    found = ops.explain_choice(q[0], k[0], v[0])
    assert found.differentiated != found.name
    arrays = (q, k, v, slopes, sinks, bias, jnp.asarray(0.3))
    axes = (0, 0, 0, None, None, None, None)
    results = [
        jax.jit(
            jax.vmap(
                jax.value_and_grad(lambda *x, name=name: loss(*x, name)), in_axes=(axes, None, None)
            )
        )(arrays, ids, jax.random.key(5))
        for name in (None, "reference")
    ]
    for x, y in zip(*map(jax.tree.leaves, results)):
        assert_close(x, y, 3e-5)
        assert np.any(x != 0)

"""One path: every implementation gives the same, is chosen for a reason, and refuses by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

from attnzoo import ops
from attnzoo.ops import BlockMask, WeightRequest, masks, score_mods

B, T, N, K, H = 1, 48, 4, 2, 8


@pytest.fixture(scope="module")
def qkv():
    draw = np.random.default_rng(0)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H))
    return [jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes]


IMPLEMENTATIONS = ("reference", "blockwise", "xla")
SETTINGS = {
    "plain": {},
    "causal": {"is_causal": True},
    "mask function": {"mask": masks.sliding_window(7)},
    "block mask": {"mask": BlockMask.from_mask(masks.sliding_window(7), B, N, T, T, block_size=16)},
    "padding and bias": {
        "mask": (jnp.arange(T) < 30)[None, None, None, :],
        "bias": jnp.linspace(-1, 1, N * T).reshape(1, N, 1, T),
        "scale": 0.4,
    },
    "empty rows": {"mask": (jnp.arange(T) % 3 > 0)[None, None, :, None]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_implementation_gives_the_same(name, qkv):
    def gradients(implementation):
        def loss(q, k, v):
            out = ops.dot_product_attention(
                q, k, v, **SETTINGS[name], implementation=implementation
            )
            return jnp.sum(out**2), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*qkv)

    wanted = jax.tree.leaves(gradients("reference"))
    for implementation in IMPLEMENTATIONS[1:]:
        for x, y in zip(jax.tree.leaves(gradients(implementation)), wanted):
            assert_close(x, y, 2e-5, err_msg=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_padding_that_is_not_finite_does_not_leak(implementation, qkv):
    q, k, v = qkv
    attention = jax.jit(
        functools.partial(ops.dot_product_attention, implementation=implementation),
        static_argnames="is_causal",
    )
    valid = (jnp.arange(T) < 40)[None, None, None, :]
    clean = attention(q, k, v, valid)
    dirty = attention(q, k.at[:, 41].set(jnp.nan), v.at[:, 40:].set(jnp.inf), valid)
    np.testing.assert_array_equal(clean, dirty)
    seen = attention(q, k.at[:, 30].set(jnp.nan), v, is_causal=True)
    assert np.isnan(seen[:, 30:]).all()
    assert np.isfinite(seen[:, :30]).all()


def test_only_partial_tiles_look_at_the_mask(qkv):
    """Lists that do not say what the mask says show who is asked about what."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 32, 1, 4)), jnp.float32)
    lists = ([[[0, 1]]], [[[[0], [0]]]], [[[1, 1]]], [[[[0], [1]]]])
    lists = [np.asarray(listed, np.int32) for listed in lists]

    def never(b, n, q, k):
        return (q < 0) & (k < 0)

    def always(b, n, q, k):
        return (q >= 0) & (k >= 0)

    def attention(mask_mod):
        mask = BlockMask(mask_mod, (1, 1, 32, 32), (16, 16), *lists)
        attend = functools.partial(ops.flex_attention, implementation="blockwise")
        return jax.jit(lambda x: attend(x, x, x, block_mask=mask))(x)

    reference = functools.partial(ops.dot_product_attention, implementation="reference")
    seen, unseen = attention(always), attention(never)
    # Row 0 of tiles: one partial tile, the first; row 1: a full one, then a partial one.
    np.testing.assert_allclose(seen[:, :16], reference(x[:, :16], x[:, :16], x[:, :16]), atol=1e-5)
    np.testing.assert_allclose(seen[:, 16:], reference(x[:, 16:], x, x), atol=1e-5)
    assert np.all(unseen[:, :16] == 0)
    np.testing.assert_allclose(
        unseen[:, 16:], reference(x[:, 16:], x[:, :16], x[:, :16]), atol=1e-5
    )


def test_mask_function_and_block_mask_are_one_thing(qkv):
    mask = masks.document(jnp.arange(T) // 17) & masks.causal()
    block_mask = BlockMask.from_mask(mask, B, N, T, T, block_size=8)
    slopes = score_mods.alibi(N)

    def flex(**settings):
        return jax.jit(lambda q, k, v: ops.flex_attention(q, k, v, slopes, **settings))(*qkv)

    wanted = flex(mask_mod=mask, implementation="reference")
    for settings in ({"mask_mod": mask}, {"block_mask": block_mask}):
        assert_close(flex(**settings, implementation="blockwise"), wanted, 1e-5)
    assert np.array_equal(flex(block_mask=block_mask, implementation="reference"), wanted)
    # A block mask with something more than itself is sorted again, in tiles of the same size.
    both = jax.jit(
        functools.partial(ops.dot_product_attention, mask=block_mask, is_causal=True),
        static_argnames="implementation",
    )
    assert_close(
        both(*qkv, implementation="blockwise"), both(*qkv, implementation="reference"), 1e-5
    )


@pytest.mark.parametrize(
    "request_",
    [True, WeightRequest(rows=(3, 5), heads=(1,)), WeightRequest(top_k=2, statistics=("entropy",))],
)
def test_weights_are_the_same_through_the_lse(request_, qkv):
    def loss(q, implementation):
        out, seen, lse = ops.dot_product_attention(
            q,
            *qkv[1:],
            is_causal=True,
            sinks=jnp.linspace(-1.0, 1.0, N),
            return_weights=request_,
            return_lse=True,
            implementation=implementation,
        )
        looked = [x for x in jax.tree.leaves(seen) if x.dtype == jnp.float32]
        return sum(jnp.sum(x**2) for x in looked) + jnp.sum(out), (out, seen, lse)

    results = [
        jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(qkv[0], implementation)
        for implementation in ("reference", "blockwise")
    ]
    for x, y in zip(*map(jax.tree.leaves, results)):
        assert_close(x, y, 3e-5)


def test_top_k_of_32k_tokens_costs_under_5_percent_more_memory():
    """Arguments, output and temporaries, beside attention alone; what was asked for not counted."""
    x = jax.ShapeDtypeStruct((1, 32_768, 8, 64), jnp.float32)

    def memory(request):
        def attention(q, k, v):
            return ops.dot_product_attention(q, k, v, is_causal=True, return_weights=request)

        planned = jax.jit(attention).lower(x, x, x).compile().memory_analysis()
        return planned.temp_size_in_bytes + 4 * 32_768 * 8 * 64 * 4

    assert memory(WeightRequest(top_k=4)) < 1.05 * memory(False)


@pytest.mark.parametrize("T", [50, 131])
def test_heads_one_by_one_are_heads_together(T, monkeypatch):
    draw = np.random.default_rng(2).normal
    q, k = (jnp.asarray(draw(size=(2, T, n, 8)), jnp.float32) for n in (N, K))
    request = WeightRequest(heads=(3, 0), top_k=2, statistics=("entropy", "column_mass"))
    together = jax.jit(lambda q, k: ops.attention_weights(q, k, request, is_causal=True))(q, k)
    monkeypatch.setattr("attnzoo.ops.weights.TOGETHER", 0)
    alone = jax.jit(lambda q, k: ops.attention_weights(q, k, request, is_causal=True))(q, k)
    for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
        assert x.shape == y.shape
        assert_close(x, y, 1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"implementation": "mosaic_tpu"},
            NotImplementedError,
            "implementation='mosaic_tpu' cannot take implementation: it wants a TPU, the default "
            "is cpu; 'reference' would take this call",
        ),
        (
            {"implementation": "triton"},
            ValueError,
            "implementation='triton' does not exist; wanted None or one of reference, blockwise, "
            "xla, cudnn, mosaic_gpu, mosaic_tpu",
        ),
        (
            {"implementation": "xla", "softcap": 3.0},
            NotImplementedError,
            "implementation='xla' cannot take softcap: jax.nn has none; 'reference' would take",
        ),
        (
            {"implementation": "xla", "return_lse": True},
            NotImplementedError,
            "cannot take return_lse",
        ),
        (
            {"implementation": "xla", "sinks": jnp.zeros(N)},
            NotImplementedError,
            "cannot take sinks",
        ),
        (
            {"implementation": "xla", "scale": jnp.asarray(1.0)},
            NotImplementedError,
            "cannot take scale: an array; wanted a number",
        ),
        (
            {"implementation": "xla", "dropout_rate": 0.1, "dropout_key": jax.random.key(0)},
            NotImplementedError,
            "cannot take dropout_rate",
        ),
        (
            {"implementation": "cudnn"},
            NotImplementedError,
            "cuDNN wants a CUDA GPU, the default is cpu",
        ),
        (
            {"mask": BlockMask.from_mask(masks.causal(), 1, 1, T, T + 1)},
            ValueError,
            "block_mask was made for B N T S = (1, 1, 48, 49), but attention has (1, 4, 48, 48)",
        ),
    ],
)
def test_refusals(settings, error, message, qkv):
    with pytest.raises(error) as raised:
        ops.dot_product_attention(*qkv, **settings)
    assert message in str(raised.value)


def test_refusals_of_flex(qkv):
    block_mask = BlockMask.from_mask(masks.causal(), B, N, T, T)
    with pytest.raises(ValueError, match="mask_mod and block_mask are both given"):
        ops.flex_attention(*qkv, None, masks.causal(), block_mask)
    wide = [x[..., :4] if i == 2 else x for i, x in enumerate(qkv)]
    with pytest.raises(NotImplementedError, match=r"cannot take v: width 4; wanted 8 as in q"):
        ops.flex_attention(*wide, implementation="xla")
    with pytest.raises(ValueError, match=r"an index function returned shape \(3,\)"):
        ops.flex_attention(*qkv, lambda *_: jnp.zeros(3), implementation="blockwise")

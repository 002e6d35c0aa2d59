"""The golden values of the dot-product, position and linear families, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import ops
from attnzoo.ops import linear, masks, score_mods
from attnzoo.ops.rotary import Llama3Scaling, NTKScaling, YaRNScaling

FIRST_V = ".963558 .999816 .952576 .825785"
FORMS = ("recurrent", "parallel", "chunked")


def fill(shape, a, b):
    return np.sin(a * np.arange(np.prod(shape)) + b).reshape(shape)


def heads_last(x):
    """The table's layout N T H as 1 T N H."""
    return jnp.asarray(np.moveaxis(x, 0, 1)[None])


def table_layout(x):
    x = np.asarray(x)
    return np.moveaxis(x[0], 0, 1) if x.ndim == 4 else x[0]


def agrees(got, first, total, weighted):
    flat = table_layout(got).ravel()
    seen = [*flat[:4], flat.sum(), (flat * np.cos(0.11 * np.arange(flat.size))).sum()]
    np.testing.assert_allclose(seen, [*map(float, first.split()), total, weighted], atol=2e-6)


def qkv():
    return (
        heads_last(fill((2, 6, 4), 0.37, 0.1)),
        heads_last(fill((2, 6, 4), 0.53, 0.7)),
        heads_last(fill((2, 6, 4), 0.29, 1.3)),
    )


def documents():
    return masks.document(jnp.array([0, 0, 1, 1, 1, 2])) & masks.causal()


def alibi():
    return score_mods.alibi(jnp.array([2.0**-4, 2.0**-8]))


def t5():
    return score_mods.t5_bias(jnp.asarray(fill((2, 32), 0.21, 0.4)), bidirectional=False)


SOFTMAX = {
    "full": (dict, ".049366 .076901 .098014 .110942", 4.046655, -0.586274),
    "causal": (lambda: {"is_causal": True}, FIRST_V, 6.196543, 6.587369),
    "window": (lambda: {"mask": masks.sliding_window(3)}, FIRST_V, 0.882775, 11.244173),
    "prefix": (
        lambda: {"mask": masks.prefix_lm(3)},
        ".625868 .570641 .467759 .325813",
        -0.624590,
        8.701786,
    ),
    "document": (lambda: {"mask": documents()}, FIRST_V, 0.821035, 7.382685),
    "alibi": (
        lambda: {"score_mod": alibi(), "is_causal": True},
        FIRST_V,
        5.549147,
        6.763284,
    ),
    "softcap": (lambda: {"softcap": 0.5, "is_causal": True}, FIRST_V, 6.561901, 5.707806),
    "softcap as score_mod": (
        lambda: {"score_mod": score_mods.softcap(0.5), "is_causal": True},
        FIRST_V,
        6.561901,
        5.707806,
    ),
    "sinks": (
        lambda: {"sinks": jnp.array([0.3, -0.2]), "is_causal": True},
        ".635928 .659857 .628680 .545001",
        3.750162,
        5.225026,
    ),
    "t5": (
        lambda: {"score_mod": t5(), "scale": 1.0, "is_causal": True},
        FIRST_V,
        7.381643,
        6.806659,
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", SOFTMAX)
def test_softmax_attention(case):
    settings, first, total, weighted = SOFTMAX[case]
    attention = jax.jit(functools.partial(ops.dot_product_attention, **settings()))
    agrees(attention(*qkv()), first, total, weighted)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("layout", "total", "weighted"),
    [("half", 6.738121, 8.063858), ("interleaved", 6.648906, 7.659350)],
)
def test_rotary(layout, total, weighted):
    q, k, v = qkv()
    turn = functools.partial(
        ops.rotary_embedding, positions=jnp.arange(6, dtype=jnp.int32)[None], layout=layout
    )
    out = ops.dot_product_attention(turn(q), turn(k), v, is_causal=True)
    agrees(out, FIRST_V, total, weighted)


@pytest.mark.usefixtures("x64")
def test_grouped_query_and_lse():
    q, k, v = qkv()
    many = heads_last(fill((4, 6, 4), 0.37, 0.1))
    out = ops.dot_product_attention(many, k, v, is_causal=True)
    agrees(out, FIRST_V, 13.566339, 6.678270)
    _, lse = ops.dot_product_attention(q, k, v, is_causal=True, return_lse=True)
    agrees(lse, ".963201 1.455069 1.240183 1.518344", 17.507965, 12.790943)


@pytest.mark.usefixtures("x64")
def test_gradients():
    cotangent = heads_last(fill((2, 6, 4), 0.41, 0.2))

    def inner(q, k, v):
        return jnp.sum(ops.dot_product_attention(q, k, v, is_causal=True) * cotangent)

    dq, dk, dv = jax.jit(jax.grad(inner, argnums=(0, 1, 2)))(*qkv())
    agrees(dq, "0 0 0 0", 1.637023, -2.261597)
    agrees(dk, ".266599 .526062 .714324 .805906", 0.0, 1.413332)
    agrees(dv, "1.402288 1.563515 1.465577 1.124707", 0.790296, 6.691434)


def one_head():
    q, k, v = (x[:, :, :1] for x in qkv())
    beta = 1 / (1 + np.exp(-fill((6,), 0.7, -0.4)))
    gate = -np.abs(fill((6,), 0.9, 0.3))
    gates = np.log(1 / (1 + np.exp(-fill((6, 4), 0.33, 0.8)))) / 16
    column = (jnp.asarray(x)[None, :, None] for x in (beta, gate, gates))
    return q, k, v, *column


LINEAR = {
    "linear attention": (
        lambda q, k, v, b, g, gs, **kw: linear.linear_attention(q, k, v, **kw),
        FIRST_V,
        8.405770,
        6.789775,
    ),
    "delta rule": (
        lambda q, k, v, b, g, gs, **kw: linear.delta_rule(
            q, k, v, b, feature_map=functools.partial(linear.dpfp, nu=2), **kw
        ),
        ".082064 .085152 .081129 .070330",
        -0.037481,
        0.844585,
    ),
    "DeltaNet": (
        lambda q, k, v, b, g, gs, **kw: linear.delta_net(q, k, v, b, **kw),
        ".347202 .360267 .343245 .297558",
        0.609586,
        4.274359,
    ),
    "gated DeltaNet": (
        lambda q, k, v, b, g, gs, **kw: linear.gated_delta_net(q, k, v, b, g, **kw),
        ".347202 .360267 .343245 .297558",
        1.344935,
        3.137824,
    ),
    "GLA": (
        lambda q, k, v, b, g, gs, **kw: linear.gated_linear_attention(q, k, v, gs, **kw),
        ".928100 .963023 .917522 .795397",
        1.696399,
        7.512676,
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", LINEAR)
def test_linear_family(case, form):
    function, first, total, weighted = LINEAR[case]
    function = jax.jit(functools.partial(function, form=form, chunk_size=4))
    agrees(function(*one_head()), first, total, weighted)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FORMS)
def test_retention(form):
    out = jax.jit(functools.partial(linear.retention, form=form, chunk_size=4))(*qkv())
    agrees(out, ".928100 .963023 .917522 .795397", 1.208394, 10.851863)


@pytest.mark.usefixtures("x64")
def test_linear_attention_over_all_keys():
    q, k, v, *_ = one_head()
    out = linear.linear_attention(q, k, v, causal=False)
    agrees(out, ".060373 .082481 .097701 .104762", 2.075523, 0.423650)


def test_t5_buckets():
    relative = [0, 1, -1, 7, -7, 8, -8, 12, -12, 16, -16, 32, -32, 64, -64, 128, -128, 500]
    both = [0, 17, 1, 23, 7, 24, 8, 25, 9, 26, 10, 28, 12, 30, 14, 31, 15, 31]
    causal = [0, 0, 1, 0, 7, 0, 8, 0, 12, 0, 16, 0, 21, 0, 26, 0, 31, 0]
    positions = jnp.array(relative, jnp.int32)
    assert score_mods.t5_bucket(positions, True).tolist() == both
    assert score_mods.t5_bucket(positions, False).tolist() == causal


def test_alibi_slopes():
    eight = [2.0**-i for i in range(1, 9)]
    np.testing.assert_allclose(score_mods.alibi_slopes(8), eight, rtol=1e-6)
    twelve = [*eight, 0.7071, 0.3536, 0.1768, 0.0884]
    np.testing.assert_allclose(score_mods.alibi_slopes(12), twelve, atol=5e-5)


@pytest.mark.usefixtures("x64")
def test_rotary_scalings():
    scaling = YaRNScaling(16.0, 4096)
    found = ops.rotary_frequencies(128, scaling=scaling)[np.array([0, 20, 21, 33, 45, 63])]
    wanted = [1, 0.056234, 0.046941, 0.004600, 0.000152, 0.000007]
    np.testing.assert_allclose(found, wanted, atol=6e-7)
    assert abs(scaling.attention_factor - 1.277259) < 5e-7

    plain = ops.rotary_frequencies(128, base=5e5)
    ratio = ops.rotary_frequencies(128, base=5e5, scaling=Llama3Scaling()) / plain
    wanted = [1, 0.828168, 0.643743, 0.371122, 0.190211, 0.125]
    np.testing.assert_allclose(ratio[np.array([28, 29, 30, 32, 34, 35])], wanted, atol=6e-7)

    stretched = ops.rotary_frequencies(128, scaling=NTKScaling(4.0))
    np.testing.assert_allclose(stretched[1], 40889.9424 ** (-2 / 128), rtol=1e-9)


def test_dpfp_example():
    out = linear.dpfp(jnp.array([1.0, -2.0, 3.0, 0.5]))
    assert out.tolist() == [0, 0, 0, 1.5, 0, 0, 0, 0]

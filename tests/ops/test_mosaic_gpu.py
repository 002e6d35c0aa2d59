"""The Hopper kernels without the device: interpreted against float64, lowered, and compiled for it.

The interpreter runs blocks, warpgroups, copies and barriers, and finds races; it cannot run the
variant with weights in registers (``staged=False``), which is what the device gets: that one is
lowered and compiled here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import ops
from attnzoo.ops import masks, score_mods
from attnzoo.ops.choice import Call
from attnzoo.ops.kernels import mosaic_gpu, reference
from attnzoo.ops.logits import scoring

if jax.__version_info__ < (0, 11):
    pytest.skip(f"jax {jax.__version__} has no Mosaic GPU interpreter", allow_module_level=True)

# Compiled in a hurry, warpgroups that wait for one another were seen to wait forever.
pytestmark = pytest.mark.usefixtures("optimised")

SETTINGS = {
    "mask": None, "bias": None, "scale": None, "softcap": None, "score_mod": None, "sinks": None,
    "is_causal": False,
}  # fmt: skip
IDS = np.sort(np.random.default_rng(5).integers(0, 4, (1, 130)), axis=1).astype(np.int32)


DENSE = np.random.default_rng(6).random((1, 1, 130, 150)) < 0.3


def documents():
    ids = jnp.asarray(IDS)
    return masks.document(ids, ids) & masks.causal()


def draw(shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def temperatures(x):
    return lambda s, b, n, q, k: s * x[q].astype(s.dtype)


# name: (B, T, S, N, K, H, Hv), settings from a variable, the variable
CASES = {
    "causal, grouped, odd lengths and widths": (
        (1, 130, 200, 2, 1, 59, 111), lambda x: {"is_causal": True}, None,
    ),
    "wide heads and a vector of the keys": (
        (1, 64, 130, 1, 1, 200, 256),
        lambda x: {"score_mod": lambda s, b, n, q, k: jax.nn.relu(s + x[k].astype(s.dtype))},
        draw((130,), 9).astype(np.float32),
    ),
    "documents and alibi": (
        (1, 130, 130, 1, 1, 64, 64),
        lambda x: {"mask": documents(), "score_mod": score_mods.alibi(x)},
        np.array([0.1], np.float32),
    ),
    "a vector of the queries, a soft cap and sinks": (
        (1, 128, 128, 1, 1, 64, 64),
        lambda x: {
            "score_mod": temperatures(x), "softcap": 3.0, "sinks": jnp.array([0.2], jnp.float32),
        },
        np.linspace(0.5, 1.5, 128, dtype=np.float32),
    ),
    "rows that may attend nowhere, in half precision": (
        (2, 128, 128, 1, 1, 64, 64),
        lambda x: {
            "mask": jnp.arange(128)[None, None, None] < jnp.array([100, 0])[:, None, None, None],
        },
        None,
    ),
    "a scale that is an array": (
        (1, 128, 128, 1, 1, 64, 64), lambda x: {"scale": x}, np.float32(1e2),
    ),
    "a dense bias, turned, under a dense mask": (
        (1, 130, 150, 1, 1, 64, 64),
        lambda x: {
            "mask": jnp.asarray(DENSE),
            "score_mod": lambda s, b, n, q, k: s * x[k, q].astype(s.dtype),
        },
        draw((150, 130), 11).astype(np.float32),
    ),
    "a dense bias of several heads": (
        (2, 128, 256, 2, 1, 64, 64),
        lambda x: {"bias": x, "mask": masks.causal()},
        draw((1, 2, 128, 256), 12).astype(np.float32),
    ),
    "dropout": (
        (1, 128, 130, 2, 1, 64, 64),
        lambda x: {"softcap": 3.0, "dropout": (0.3, jax.random.key(4))},
        None,
    ),
    "a relative table of each head": (
        (1, 140, 270, 2, 1, 64, 64),
        lambda x: {"score_mod": score_mods.t5_bias(x, bidirectional=True), "is_causal": True},
        draw((2, 8), 13).astype(np.float32),
    ),
    "a vector of the keys for each head": (
        (1, 128, 150, 2, 1, 64, 64),
        lambda x: {"bias": x, "softcap": 2.0},
        draw((1, 2, 1, 150), 10).astype(np.float32),
    ),
}  # fmt: skip


def inputs_of(shape, dtype):
    """q, k, v and the cotangents of output and lse, exact in ``dtype``."""
    B, T, S, N, K, H, Hv = shape
    shapes = ((B, T, N, H), (B, S, K, H), (B, S, K, Hv), (B, T, N, Hv), (B, N, T))
    return [np.asarray(jnp.asarray(draw(x, i), dtype)) for i, x in enumerate(shapes)]


def gradients(attend, shape, settings):
    """A function that gives output, lse and gradients of an implementation."""
    B, T, S, N = shape[:4]

    def loss(arrays, variable, d_out, d_lse):
        q, k, v = arrays
        chosen = SETTINGS | settings(variable)
        dropout = chosen.pop("dropout", ())
        out, lse = attend(q, k, v, scoring((B, N, T, S), **chosen), *dropout)
        wide = lse.dtype
        finite = jnp.where(jnp.isneginf(lse), jnp.zeros_like(lse), lse)
        total = jnp.sum(out.astype(wide) * d_out.astype(wide))
        return total + jnp.sum(finite * d_lse.astype(wide)), (out, lse)

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))


def interpreted(run, *args):
    """Run kernels in the interpreter, and fail on a race."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
    from jax.experimental.pallas import mosaic_gpu as plgpu

    with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True)):
        results = jax.block_until_ready(run(*args))
    assert not gpu_callbacks.get_races().races_found
    return results


def named(results):
    (arrays, variable), (out, lse) = results
    found = {"out": out, "lse": lse, **dict(zip("qkv", arrays))}
    return found if variable is None else found | {"variable": variable}


def both(case, dtype):
    """What the kernels and the reference in the same precision give, and the float64 reference."""
    shape, settings, variable = CASES[case]
    *arrays, d_out, d_lse = inputs_of(shape, dtype)
    attend = functools.partial(mosaic_gpu.attend, staged=True)
    low = [jnp.asarray(x) for x in (*arrays, d_out, d_lse)]
    variable = None if variable is None else jnp.asarray(variable)
    got = interpreted(gradients(attend, shape, settings), low[:3], variable, *low[3:])
    plain = gradients(reference.attend, shape, settings)(low[:3], variable, *low[3:])
    with jax.enable_x64(True):
        high = [jnp.asarray(np.asarray(x, np.float64)) for x in (*arrays, d_out, d_lse)]
        wanted = gradients(reference.attend, shape, settings)(high[:3], variable, *high[3:])
    return named(got), named(plain), named(wanted)


@pytest.mark.parametrize("case", CASES)
def test_no_more_than_twice_the_error_of_the_reference(case):
    dtype = jnp.float16 if "half" in case else jnp.bfloat16
    got, plain, wanted = both(case, dtype)
    for name, x in got.items():
        exact, x, other = (np.asarray(y, np.float64) for y in (wanted[name], x, plain[name]))
        np.testing.assert_array_equal(np.isneginf(x), np.isneginf(exact), err_msg=name)
        there = np.isfinite(exact)
        exact, x, other = exact[there], x[there], other[there]
        size, error, theirs = (
            np.sqrt(np.mean(np.square(y))) for y in (exact, x - exact, other - exact)
        )
        # Weights and their gradients are rounded to 8 (11) bits before a product, the reference's
        # only at the end: a sum of few terms, as one number's or a near-zero one, shows that.
        rounding = 2.0 ** (-9 if dtype == jnp.bfloat16 else -12)
        assert error <= 2 * theirs + rounding * size * (2 if "variable" in name else 0.5), (
            case, name, error / size, theirs / size,
        )  # fmt: skip


def exported(staged, shape, settings, *dropout, variable=None):
    """Lower output and gradients for CUDA, and give the program's text."""
    B, T, S, N, K, H, Hv = shape
    low = jnp.bfloat16
    q, k, v, d_out = (
        jax.ShapeDtypeStruct(x, low)
        for x in ((B, T, N, H), (B, S, K, H), (B, S, K, Hv), (B, T, N, Hv))
    )

    def attend(q, k, v, variable):
        chosen = settings if variable is None else settings(variable)
        scored = scoring((B, N, T, S), **SETTINGS | chosen)
        return mosaic_gpu.attend(q, k, v, scored, *dropout, staged=staged)[0]

    def run(q, k, v, d_out):
        out, pull = jax.vjp(attend, q, k, v, variable)
        return out, pull(d_out)

    check = jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")
    lowered = jax.export.export(jax.jit(run), platforms=["cuda"], disabled_checks=[check])
    return lowered(q, k, v, d_out).mlir_module()


def everything(s, b, n, q, k):
    """Each operation that a tile can have, and what comes of it in a derivative."""
    far = abs(q - k).astype(s.dtype)
    s = jnp.exp(-jnp.square(s)) + jnp.log(1 + s * s) + jnp.sqrt(1 + abs(s)) + jnp.sin(s) / 3
    s = s + jnp.cos(s) + jax.lax.rsqrt(1 + s**2) + jax.nn.sigmoid(s) ** 3
    s = jnp.where((q > k) & ~((q // 2 + k) % 3 == 1) | (b > n), s, jnp.tanh(-s))
    s = jnp.maximum(s, -far) + jnp.minimum(jnp.clip(s, -2.0, far), 0.5) + jnp.exp2(s / 8)
    return s + jnp.round(far / 8) + jnp.sign(s) + jnp.log2(1 + far)


@pytest.mark.parametrize(
    ("staged", "H", "settings"),
    [
        (True, 64, {"is_causal": True}),
        (False, 128, {}),
        (False, 256, {"is_causal": True}),
        (False, 64, {"scale": jnp.float32(0.3)}),
        (False, 64, {"mask": lambda b, n, q, k: (q // 16 + k + n) % 3 != 0}),
        (False, 64, {"softcap": 20.0}),
        (False, 64, {"score_mod": score_mods.alibi(2), "is_causal": True}),
        (False, 64, {"bias": jnp.ones((1, 2, 1, 200), jnp.float32)}),
        (False, 64, {"score_mod": everything}),
        (False, 64, {"bias": jnp.ones((1, 1, 256, 200), jnp.bfloat16)}),
    ],
)  # fmt: skip
def test_every_variant_lowers(staged, H, settings):
    text = exported(staged, (1, 256, 200, 2, 1, H, H), settings)
    assert text.count("mosaic_gpu") >= 3  # forward, dq, and dk with dv


def test_gradients_of_arrays_lower():
    def settings(x):
        by_table, dense, by_key = x
        added = score_mods.clipped_bias(by_table).then(score_mods.dense_bias(dense))
        return {"score_mod": added.then(lambda s, b, n, q, k: s * by_key[n, k]), "softcap": 9.0}

    variable = (jnp.ones((2, 9)), jnp.ones((1, 1, 256, 200), jnp.bfloat16), jnp.ones((2, 200)))
    text = exported(False, (1, 256, 200, 2, 1, 64, 64), settings, variable=variable)
    assert text.count("mosaic_gpu") >= 4  # the fourth is the table's


def test_documents_with_dropout_lower():
    dropout = (0.1, jax.random.key(0))
    text = exported(False, (1, 130, 130, 2, 1, 64, 64), {"mask": documents()}, *dropout)
    assert text.count("mosaic_gpu") >= 3


def test_what_is_not_finite_reaches_only_who_may_see_it():
    shape = (1, 128, 128, 1, 1, 64, 64)
    q, k, v, *_ = (jnp.asarray(x) for x in inputs_of(shape, jnp.bfloat16))
    k, v = k.at[0, 50, 0, 3].set(jnp.nan), v.at[0, 20, 0, 1].set(jnp.inf)
    scored = scoring((1, 1, 128, 128), **SETTINGS | {"mask": masks.sliding_window(10)})
    out, lse = interpreted(
        jax.jit(lambda q, k, v: mosaic_gpu.attend(q, k, v, scored, staged=True)), q, k, v
    )
    nan = np.isnan(np.asarray(out, np.float32)).any(axis=(0, 2, 3))
    assert np.flatnonzero(nan).tolist() == [*range(20, 30), *range(50, 60)]
    assert np.flatnonzero(np.isnan(lse[0, 0])).tolist() == [*range(50, 60)]


@pytest.mark.parametrize(
    ("dtype", "settings", "message"),
    [
        ("float32", {}, "q: float32; wanted bfloat16 or float16"),
        (
            "bfloat16",
            {"score_mod": lambda s, b, n, q, k: s + jnp.zeros(9)[(k + q) % 9]},
            "score_mod: it gathers from an array",
        ),
        ("bfloat16", {"mask": jnp.ones((1, 1, 1, 32), bool)}, None),
        ("bfloat16", {"mask": jnp.ones((1, 1, 32, 32), bool)}, None),
        (
            "bfloat16",
            {"score_mod": lambda s, b, n, q, k: s + jnp.eye(32)[q, q]},
            "score_mod: it reads two axes of an array by the same position",
        ),
        (
            "bfloat16",
            {"score_mod": lambda s, b, n, q, k: jnp.cumsum(s, axis=-1)},
            "score_mod: it uses cumsum",
        ),
    ],
)
def test_refuses_by_argument(dtype, settings, message):
    x = jnp.zeros((1, 32, 1, 64), dtype)
    call = Call(x, x, x, scoring((1, 1, 32, 32), **SETTINGS | settings))
    said = mosaic_gpu.refuses_anywhere(call)
    assert said is message if message is None else said.startswith(message), said


def test_other_devices_are_refused():
    x = jax.ShapeDtypeStruct((1, 32, 1, 64), "bfloat16")
    said = ops.explain_choice(x, x, x).others["mosaic_gpu"]
    assert said == "refused implementation: it wants a Hopper GPU, the default is cpu"

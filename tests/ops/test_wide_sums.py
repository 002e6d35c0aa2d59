"""Gradients of bfloat16 arrays are as near to those in float32 as one rounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import ops
from attnzoo.attention.relative_bias import T5RelativeBias
from attnzoo.layers.embedding import Embedding
from attnzoo.ops import WeightRequest, score_mods
from attnzoo.ops.kernels import interpret
from attnzoo.ops.wide_sums import broadcast_parameter, wide

N, H, T = 2, 8, 130


def t5(x):
    module = T5RelativeBias(N, bidirectional=False, num_buckets=8, rngs=nnx.Rngs(0))
    module.table = nnx.Param(x)
    return {"score_mod": module}


# name: (shape, what a call takes for an array of it)
READERS = {
    "a table in a plain function": (
        (N, 8),
        lambda x: {
            "score_mod": lambda s, b, n, q, k: s + x[n, jnp.clip(q - k, 0, 7)].astype(s.dtype)
        },
    ),
    "a scalar in a plain function": (
        (),
        lambda x: {"score_mod": lambda s, *_: s * x.astype(s.dtype)},
    ),
    "arithmetic in bfloat16": (
        (N, 8),
        lambda x: {"score_mod": lambda s, b, n, q, k: s + (2 * x)[n, k % 8].astype(s.dtype)},
    ),
    "slopes": ((N,), lambda x: {"score_mod": score_mods.alibi(x)}),
    "temperatures": ((N,), lambda x: {"score_mod": score_mods.temperature(2 + 0.1 * x)}),
    "a relative table": ((1, 9), lambda x: {"score_mod": score_mods.clipped_bias(x)}),
    "T5's table": ((N, 8), t5),
    "a composition": (
        (N, 8),
        lambda x: {
            "score_mod": score_mods.t5_bias(x, bidirectional=True).then(score_mods.softcap(5.0))
        },
    ),
    "a dense array": ((1, 1, T, T), lambda x: {"score_mod": score_mods.dense_bias(x)}),
    "a bias per head": ((1, N, 1, T), lambda x: {"bias": x}),
    "a bias per key": ((1, 1, 1, T), lambda x: {"bias": x}),
    "sinks": ((N,), lambda x: {"sinks": x}),
    "a scale": ((), lambda x: {"scale": x}),
}  # fmt: skip


# name: (settings, which readers, or all of them)
TABLES = ("a table in a plain function", "a bias per key", "sinks", "T5's table")
WAYS = {
    "reference": ({"implementation": "reference"}, READERS),
    "blockwise": ({"implementation": "blockwise"}, READERS),
    "few queries": ({"implementation": "blockwise", "rows": 3}, TABLES),
    "mosaic_tpu": ({"implementation": "mosaic_tpu"}, ("slopes",)),
    "rows in blocks": ({"return_weights": WeightRequest(rows=(129,))}, TABLES[:1]),
    "statistics": ({"return_weights": WeightRequest(statistics=("entropy",))}, TABLES[:1]),
    "largest weights": ({"return_weights": WeightRequest(top_k=2)}, TABLES[:1]),
}


def gradient(name, x, rows=T, implementation="reference", return_weights=False):
    draw = np.random.default_rng(1).normal
    q, k, v = (jnp.asarray(draw(size=(1, T, N, H)), jnp.float32) for _ in range(3))

    def loss(x):
        found = ops.dot_product_attention(
            q[:, :rows],
            k,
            v,
            is_causal=True,
            implementation=implementation,
            return_weights=return_weights,
            **READERS[name][1](x),
        )
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(found) if x.dtype == jnp.float32)

    with interpret():
        return jax.jit(jax.grad(loss))(x)


wanted_gradient = functools.cache(
    lambda name, rows, looked: gradient(
        name, drawn(READERS[name][0]).astype(jnp.float32), rows, return_weights=looked
    )
)


def drawn(shape):
    return jnp.asarray(np.random.default_rng(4).normal(size=shape), jnp.bfloat16)


def close(got, wanted):
    """At most 2^-7 of the largest: a value is rounded by 2^-9, and one that is read in a few places
    is the sum of as many that are rounded.
    """
    assert got.dtype == jnp.bfloat16
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2**-7 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way, (_, names) in WAYS.items() for name in names]
)
def test_what_attention_reads(way, name):
    settings = WAYS[way][0]
    wanted = wanted_gradient(name, settings.get("rows", T), settings.get("return_weights", False))
    close(gradient(name, drawn(READERS[name][0]), **settings), wanted)


USES = {
    "jit": jax.jit,
    "vmap": lambda read: jax.vmap(read, (None, 0)),
    "vmap of tables": lambda read: lambda x, ids: jax.vmap(read, (0, None))(x[None], ids)[0],
    "scan": lambda read: lambda x, ids: jax.lax.map(wide(lambda one: read(x, one), ids[0]), ids),
    "checkpoint": jax.checkpoint,
}
IDS = jnp.asarray(np.random.default_rng(2).zipf(1.5, (40, 130)) % 11, jnp.int32)


def embedded(x, ids):
    module = Embedding(11, 3, rngs=nnx.Rngs(0))
    module.table = nnx.Param(x)
    return module(ids)


def added(x, ids):
    return broadcast_parameter(x[0], (*ids.shape, 3))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("read", [embedded, added])
def test_what_layers_read(read, use):
    x = drawn((11, 3))
    weights = jnp.asarray(np.random.default_rng(3).random((*IDS.shape, 3)), jnp.float32)

    @jax.jit
    def gradient(x):
        return jax.grad(lambda x: jnp.sum(USES[use](read)(x, IDS).astype("float32") * weights))(x)

    close(gradient(x), gradient(x.astype(jnp.float32)))


@pytest.mark.parametrize("read", [embedded, added])
def test_values_and_tangents_are_those_of_the_rows(read):
    x, d = drawn((11, 3)), drawn((11, 3))[::-1]
    ids = IDS[0].at[0].set(-1).at[1].set(11)  # outside: the nearest row
    rows = np.clip(ids, 0, 10) if read is embedded else np.zeros_like(ids)
    got, tangent = jax.jvp(lambda x: read(x, ids), (x,), (d,))
    assert got.dtype == tangent.dtype == jnp.bfloat16
    assert np.array_equal(got, x[rows])
    assert np.array_equal(tangent, d[rows])


def test_float32_programs_are_left_alone():
    x = jnp.ones((2, 3))

    def read(i):
        return x[i % 2]

    assert wide(read, jnp.int32(0)) is read
    assert wide(lambda i: x.astype(jnp.bfloat16)[i], jnp.int32(0)) is not read

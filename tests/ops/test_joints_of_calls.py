"""Every implementation x every setting, where jax counts in 64 bits and where nothing is given.

Which loops and indices meet is known once a call is traced, so most calls here are traced only:
nothing is compiled. What is computed is compared where the settings come together.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import ops
from attnzoo.ops import BlockMask, WeightRequest, linear, masks, normalisers, score_mods, softmax
from attnzoo.ops.choice import IMPLEMENTATIONS
from attnzoo.ops.kernels import interpret

B, N, K, H, Hv = 2, 4, 2, 8, 3


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# name: settings for B, T, S and a dtype
SETTINGS = {
    "nothing": lambda B, T, S, d: {},
    "causal": lambda B, T, S, d: {"is_causal": True},
    "a mask function": lambda B, T, S, d: {"mask": masks.sliding_window(7)},
    "a shifted mask": lambda B, T, S, d: {"mask": masks.causal().offset(jnp.asarray(S - T))},
    "an array": lambda B, T, S, d: {"mask": jnp.asarray(draw(1, 1, T, S) > 0)},
    "documents": lambda B, T, S, d: {
        "mask": masks.document(jnp.arange(T) // 17, jnp.arange(S, dtype=jnp.int32) // 17)
    },
    "lengths": lambda B, T, S, d: {"mask": masks.padding(jnp.full(B, max(S - 1, 0)))},
    "a block mask": lambda B, T, S, d: {
        "mask": BlockMask.from_mask(masks.sliding_window(7), B, N, T, S, block_size=16)
    },
    "slopes": lambda B, T, S, d: {"score_mod": score_mods.alibi(N), "is_causal": True},
    "a table": lambda B, T, S, d: {
        "score_mod": score_mods.t5_bias(jnp.asarray(draw(N, 8), d), bidirectional=True)
    },
    "a dense array": lambda B, T, S, d: {
        "score_mod": score_mods.dense_bias(jnp.asarray(draw(1, 1, T, S), d))
    },
    "bias, cap and sinks": lambda B, T, S, d: {
        "bias": jnp.asarray(draw(1, N, 1, S), d),
        "softcap": 2.0,
        "sinks": jnp.asarray(draw(N), d),
        "scale": 0.3,
    },
    "dropout": lambda B, T, S, d: {"dropout_rate": 0.3, "dropout_key": jax.random.key(0)},
    "weights": lambda B, T, S, d: {"return_weights": True},
    "some weights": lambda B, T, S, d: {
        "return_weights": WeightRequest(top_k=min(2, S) or None, statistics=("entropy",))
    },
}


# Implementations that run on a CPU, interpreted if need be: lengths (whole tiles, and few queries,
# where these are something else), dtypes, and settings. Float64 oracles test the others.
FEW = ("a mask function", "a table", "bias, cap and sinks", "dropout")
CALLS = {
    None: ([(3, 48)], ["float32"], FEW),
    "reference": ([(33, 40)], ["float32"], SETTINGS),
    "blockwise": ([(32, 32), (3, 48)], ["float32", "float64"], SETTINGS),
    "xla": ([(33, 40)], ["float32"], FEW),
    "mosaic_tpu": ([(33, 40)], ["float32"], FEW),
}
assert CALLS.keys() == {None, *IMPLEMENTATIONS} - {"cudnn", "mosaic_gpu"}


def loss(q, k, v, settings, implementation):
    """The sum of squares of all floating results, and the results."""
    found = ops.dot_product_attention(
        q, k, v, return_lse=True, implementation=implementation, **settings
    )
    floating = (x for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.floating))
    seen = (jnp.where(jnp.isneginf(x), jnp.zeros_like(x), x) for x in floating)
    return functools.reduce(jnp.add, (jnp.sum(x**2).astype("float32") for x in seen)), found


def arrays(T, S, dtype, batch=B):
    shapes = ((batch, T, N, H), (batch, S, K, H), (batch, S, K, Hv))
    return [jnp.asarray(draw(*shape, seed=i), dtype) for i, shape in enumerate(shapes)]


def traced(name, implementation, T, S, dtype, batch=B):
    """Shapes and dtypes of gradients and results; None where the call is refused by name."""
    settings = SETTINGS[name](batch, T, S, dtype)
    function = functools.partial(loss, settings=settings, implementation=implementation)
    with interpret():
        try:
            gradients = jax.grad(function, (0, 1, 2), has_aux=True)
            return jax.eval_shape(gradients, *arrays(T, S, dtype, batch))
        except NotImplementedError:
            return None


def calls(implementations):
    """Parameters: each implementation with each of its settings."""
    pairs = [(one, name) for one in implementations for name in CALLS[one][2]]
    return pytest.mark.parametrize(("implementation", "name"), pairs)


@calls(CALLS)
def test_calls_that_are_traced_with_64_bits(implementation, name):
    """Whatever is floating has the dtype of the queries, keys and values."""
    lengths, dtypes, _ = CALLS[implementation]
    for (T, S), dtype in itertools.product(lengths, dtypes):
        with jax.enable_x64(True):
            got = traced(name, implementation, T, S, dtype)
        if got is None:
            assert implementation in ("xla", "mosaic_tpu"), f"{implementation} refuses {name}"
            continue
        floating = [x for x in jax.tree.leaves(got) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert {x.dtype.name for x in floating} == {dtype}, (T, S)


@pytest.mark.parametrize(("T", "S"), [(32, 32), (3, 48)])
@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_64_bits_change_no_result(implementation, T, S):
    def results(dtype):
        settings = SETTINGS["bias, cap and sinks"](B, T, S, dtype)
        settings |= SETTINGS["dropout"](B, T, S, dtype)
        settings |= {"mask": masks.sliding_window(20), "score_mod": score_mods.alibi(N)}
        function = jax.grad(
            functools.partial(loss, settings=settings, implementation=implementation),
            argnums=(0, 1, 2),
            has_aux=True,
        )
        return jax.tree.leaves(jax.jit(function)(*arrays(T, S, dtype)))

    plain = results("float32")
    for dtype in ("float32", "float64"):
        with jax.enable_x64(True):
            got = results(dtype)
        for x, like in zip(got, plain, strict=True):
            # A few roundings of float32 at the largest value, of products of H and sums of S terms.
            np.testing.assert_allclose(x, like, rtol=0, atol=1e-5 * np.abs(like).max())


EMPTY = [(0, 5, 7), (B, 0, 7), (B, 5, 0)]


@calls([None, "reference", "blockwise", "mosaic_tpu"])
def test_calls_of_nothing(implementation, name):
    if name == "a block mask":
        with pytest.raises(ValueError, match="B=0: a block mask wants at least one tile"):
            traced(name, implementation, 5, 7, "float32", 0)
        return
    for batch, T, S in EMPTY:
        got = traced(name, implementation, T, S, "float32", batch)
        assert got is not None, f"{implementation} refuses {batch, T, S}"
        (dq, dk, dv), (out, *looked, lse) = got
        assert dq.shape == (batch, T, N, H)
        assert (dk.shape, dv.shape) == ((batch, S, K, H), (batch, S, K, Hv))
        assert (out.shape, lse.shape) == ((batch, T, N, Hv), (batch, N, T))
        if name == "weights":
            assert looked[0].shape == (batch, N, T, S)


@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
@pytest.mark.parametrize("name", ["causal", "bias, cap and sinks"])
def test_queries_without_a_key_are_rows_that_may_attend_nowhere(name, implementation):
    settings = SETTINGS[name](B, 5, 0, "float32")
    (dq, _, _), (out, lse) = jax.grad(loss, (0, 1, 2), has_aux=True)(
        *arrays(5, 0, "float32"), settings, implementation
    )
    assert not np.any(out)
    assert not np.any(dq)
    sinks = settings.get("sinks", jnp.full(N, -jnp.inf))
    assert np.array_equal(lse, np.broadcast_to(sinks[:, None], (B, N, 5)))


@pytest.mark.parametrize("implementation", CALLS)
def test_a_bias_of_minus_infinity_hides_keys_and_whole_rows(implementation):
    T, S = CALLS[implementation][0][-1]
    q, k, _ = arrays(T, S, "float32")
    v = k[..., ::-1]  # xla wants values as wide as keys
    hidden = draw(1, N, T, S, seed=7) > 0.5
    hidden[:, :, 1] = True
    bias = jnp.asarray(np.where(hidden, -np.inf, 0), "float32")

    def both(q, k, v, bias):
        def out(q, **settings):
            found = ops.dot_product_attention(q, k, v, implementation=implementation, **settings)
            return jnp.sum(jnp.sin(found)), found

        by_bias = jax.grad(out, has_aux=True)(q, bias=bias)
        return by_bias, jax.grad(out, has_aux=True)(q, mask=jnp.isfinite(bias))

    with interpret():
        (slope, found), (other_slope, wanted) = jax.jit(both)(q, k, v, bias)
    assert (wanted[:, 1] == 0).all()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, other_slope, rtol=1e-5, atol=1e-6)


def gates(B, T):
    return {
        "beta": jax.ShapeDtypeStruct((B, T, N), "float32"),
        "log_decay": jax.ShapeDtypeStruct((B, T, N), "float32"),
        "by_channel": jax.ShapeDtypeStruct((B, T, N, H), "float32"),
    }


# name: (function of q, k, v and what else it takes, names of that)
RECURRENCES = {
    "fast_weights": (linear.fast_weights, ()),
    "linear_attention": (linear.linear_attention, ()),
    "retention": (linear.retention, ()),
    "gated_linear_attention": (linear.gated_linear_attention, ("by_channel",)),
    "delta_rule": (linear.delta_rule, ("beta",)),
    "delta_net": (linear.delta_net, ("beta",)),
    "gated_delta_net": (linear.gated_delta_net, ("beta", "log_decay")),
    "kimi_delta": (linear.kimi_delta, ("beta", "by_channel")),
}


@pytest.mark.parametrize("form", ["recurrent", "parallel", "chunked"])
@pytest.mark.parametrize("name", RECURRENCES)
def test_recurrences_of_nothing_and_with_64_bits(name, form):
    function, takes = RECURRENCES[name]
    for batch, T, bits in ((0, 5, False), (B, 0, False), (B, 7, True)):
        q, k = (jax.ShapeDtypeStruct((batch, T, N, H), "float32") for _ in range(2))
        v = jax.ShapeDtypeStruct((batch, T, N, Hv), "float32")
        more = [gates(batch, T)[gate] for gate in takes]
        mask = jnp.ones((1, 1, 1, T), bool)
        call = functools.partial(
            function, form=form, mask=mask, return_weights=True, return_state=True
        )
        with jax.enable_x64(bits):
            out, weights, state = jax.eval_shape(call, q, k, v, *more)
        assert out.shape == v.shape
        assert weights.shape == (batch, N, T, T)
        assert state.shape[:2] == (batch, N)
        assert {x.dtype.name for x in (out, weights, state)} == {"float32"}


# name: (function of a batch and lengths, the shape of its result)
OTHERS = {
    "all keys": (
        lambda B, T, S: linear.linear_attention(
            jnp.ones((B, T, N, H)), jnp.ones((B, S, N, H)), jnp.ones((B, S, N, Hv)), causal=False
        ),
        lambda B, T, S: (B, T, N, Hv),
    ),
    "masked_softmax": (
        lambda B, T, S: softmax.masked_softmax(jnp.ones((B, T, S))),
        lambda B, T, S: (B, T, S),
    ),
    "masked_logsumexp": (
        lambda B, T, S: softmax.masked_logsumexp(jnp.ones((B, T, S))),
        lambda B, T, S: (B, T),
    ),
    "sparsemax": (
        lambda B, T, S: normalisers.sparsemax(jnp.ones((B, T, S)), jnp.ones((1, T, S), bool)),
        lambda B, T, S: (B, T, S),
    ),
    "entmax15": (
        lambda B, T, S: normalisers.entmax15(jnp.ones((B, T, S))),
        lambda B, T, S: (B, T, S),
    ),
    "weighted_values": (
        lambda B, T, S: softmax.weighted_values(jnp.ones((B, 1, T, S)), jnp.ones((B, S, Hv))),
        lambda B, T, S: (B, T, Hv),
    ),
    "rotary_embedding": (
        lambda B, T, S: ops.rotary_embedding(jnp.ones((B, T, N, H)), jnp.zeros((1, T), int)),
        lambda B, T, S: (B, T, N, H),
    ),
    "attention_weights": (
        lambda B, T, S: (
            ops.attention_weights(
                jnp.ones((B, T, N, H)), jnp.ones((B, S, K, H)), WeightRequest(heads=(1, 3))
            ).weights
        ),
        lambda B, T, S: (B, 2, T, S),
    ),
    "a mask as an array": (
        lambda B, T, S: masks.padding(jnp.full(B, S)).to_dense(B, N, T, S),
        lambda B, T, S: (B, N, T, S),
    ),
    "a modifier as an array": (
        lambda B, T, S: score_mods.alibi(N).to_dense(B, N, T, S),
        lambda B, T, S: (B, N, T, S),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_of_nothing_and_with_64_bits(name):
    function, shape = OTHERS[name]
    for *sizes, bits in (*((*sizes, False) for sizes in EMPTY), (B, 5, 7, True)):
        with jax.enable_x64(bits):
            got = jax.eval_shape(lambda sizes=sizes: function(*sizes))
        assert got.shape == shape(*sizes), sizes

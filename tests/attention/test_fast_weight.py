"""The fast-weight family: loops over positions, forms, decoding, padding, implied weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention.delta_net import DeltaNet
from attnzoo.attention.fast_weight import FastWeightProgrammer
from attnzoo.attention.gated_linear import GatedLinearAttention, RetNetAttention
from attnzoo.attention.kimi_delta import KimiDeltaAttention
from attnzoo.attention.linear import CausalLinearAttention, LinearAttention

B, T, D, N = 2, 5, 12, 2

MODULES = {
    "linear": lambda: CausalLinearAttention(D, N, rngs=nnx.Rngs(0)),
    "programmer": lambda: FastWeightProgrammer(D, N, nu=2, rngs=nnx.Rngs(0)),
    "delta_net": lambda: DeltaNet(D, N, value_head_dim=5, conv_width=3, rngs=nnx.Rngs(0)),
    "gated_delta_net": lambda: DeltaNet(D, N, gated=True, max_beta=2.0, rngs=nnx.Rngs(0)),
    "kimi_delta": lambda: KimiDeltaAttention(D, N, value_head_dim=5, rank=3, rngs=nnx.Rngs(0)),
    "gla": lambda: GatedLinearAttention(D, N, rank=3, rngs=nnx.Rngs(0)),
    "retnet": lambda: RetNetAttention(D, N, value_width=10, rngs=nnx.Rngs(0)),
}


@functools.cache
def module(name: str):
    """Built once, for no test changes it: each initialiser is compiled, too."""
    return MODULES[name]()


def random(*shape: int, seed: int = 0, dtype=jnp.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def of(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def rms(x, scale):
    return x / np.sqrt((x * x).mean() + 1e-6) * scale


def convolved(conv, x):
    """Each output is the sum of its last inputs; silence comes before the sequence."""
    taps = of(conv.kernel)
    y = np.zeros_like(x)
    for t in range(len(x)):
        for lag in range(len(taps)):
            if t >= lag:
                y[t] += taps[-1 - lag] * x[t - lag]
    return silu(y)


def elu_plus_one(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def dpfp(x, nu):
    r = np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)])
    features = np.array([r[i] * r[i - j] for j in range(1, nu + 1) for i in range(len(r))])
    return features / features.sum()


def oracle(name: str, m, x: np.ndarray) -> np.ndarray:
    """One sentence ``T D``, one head, one position at a time."""
    q, k, v = x @ of(m.query.kernel), x @ of(m.key.kernel), x @ of(m.value.kernel)
    if "delta" in name:
        q, k, v = (
            convolved(c, y) for c, y in ((m.query_conv, q), (m.key_conv, k), (m.value_conv, v))
        )
    out = []
    for n in range(N):
        H, Hv = q.shape[1] // N, v.shape[1] // N
        qn, kn, vn = q[:, n * H : n * H + H], k[:, n * H : n * H + H], v[:, n * Hv : n * Hv + Hv]
        memory, rows = 0.0, []
        for t in range(len(x)):
            a, b = qn[t], kn[t]
            strength, decay, scale, total = None, 1.0, 1 / np.sqrt(H), 1.0
            if name == "linear":
                a, b, scale = elu_plus_one(a), elu_plus_one(b), 1.0
                total = sum(a @ elu_plus_one(kn[s]) for s in range(t + 1))
            elif name == "programmer":
                a, b = dpfp(a, 2), dpfp(b, 2)
                strength = sigmoid(x[t] @ of(m.strength.kernel)[:, n])
            elif "delta" in name:
                a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
                strength = m.max_beta * sigmoid(x[t] @ of(m.strength.kernel)[:, n])
                if name == "kimi_delta":
                    low_rank = m.decay.projection
                    step = x[t] @ of(low_rank.down.kernel) @ of(low_rank.up.kernel)
                    step = (step + of(m.decay.bias))[n * H : n * H + H]
                    rate = np.exp(of(m.decay.rate)[n])
                    decay = np.exp(-rate * np.log1p(np.exp(step)))[:, None]
                elif m.decay is not None:
                    step = x[t] @ of(m.decay.projection.kernel)[:, n] + of(m.decay.bias)[n]
                    decay = np.exp(-np.exp(of(m.decay.rate)[n]) * np.log1p(np.exp(step)))
            elif name == "gla":
                gate = x[t] @ of(m.forget_down.kernel) @ of(m.forget_up.kernel) + of(
                    m.forget_up.bias
                )
                decay = sigmoid(gate[n * H : n * H + H])[:, None] ** (1 / 16)
            else:
                turn = np.exp(1j * t * 10000.0 ** (-2 * np.arange(H // 2) / H))
                a, b = ((y[: H // 2] + 1j * y[H // 2 :]) * turn for y in (a, b))
                a, b = (np.concatenate([y.real, y.imag]) for y in (a, b))
                decay = 1 - 2.0 ** (-5 - n)
            memory = decay * memory if t else np.zeros((len(b), Hv))
            new = vn[t] if strength is None else strength * (vn[t] - b @ memory)
            memory = memory + np.outer(b, new)
            row = scale * a @ memory / total
            if name in ("delta_net", "gated_delta_net", "kimi_delta", "gla"):
                row = rms(row, of(m.norm.scale))
            if name == "retnet":
                row = (row - row.mean()) / np.sqrt(row.var() + 1e-6)
            rows.append(row)
        out.append(np.array(rows))
    joined = np.concatenate(out, axis=1)
    if name == "kimi_delta":
        gate = x @ of(m.gate.down.kernel) @ of(m.gate.up.kernel) + of(m.gate.up.bias)
        joined = joined * sigmoid(gate)
    elif getattr(m, "gate", None) is not None:
        joined = joined * silu(x @ of(m.gate.kernel))
    return joined @ of(m.out.kernel)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MODULES)
def test_every_form_agrees_with_loops(name):
    attention = module(name)
    x = random(B, T, D)

    @nnx.jit
    def run(attention, x):
        return [attention(x, x, form=form) for form in ("recurrent", "parallel", "chunked")]

    wanted = np.stack([oracle(name, attention, row) for row in np.asarray(x)])
    for out in run(attention, x):
        np.testing.assert_allclose(out, wanted, atol=1e-10)


@pytest.mark.parametrize("name", MODULES)
def test_decoding_carries_the_state_on(name):
    """Three positions at once, then one and one, in float32; the state does not grow."""
    attention = module(name)
    x = random(B, T, D, dtype=jnp.float32)
    state = attention.empty_state(B)

    def read(m, x, state, form):
        return m(x, x, form=form, state=state, return_state=True)

    read = nnx.jit(read, static_argnames="form")
    outs, sizes = [], {sum(leaf.size for leaf in jax.tree.leaves(state))}
    for start, end, form in ((0, 3, "chunked"), (3, 4, "recurrent"), (4, 5, "recurrent")):
        out, state = read(attention, x[:, start:end], state, form=form)
        outs.append(out)
        sizes.add(sum(leaf.size for leaf in jax.tree.leaves(state)))
    wanted = np.stack([oracle(name, attention, row) for row in np.asarray(x, np.float64)])
    np.testing.assert_allclose(np.concatenate(outs, axis=1), wanted, atol=2e-5)
    assert state.length.tolist() == [T, T]
    assert len(sizes) == 1


@pytest.mark.parametrize("name", MODULES)
def test_padding_on_either_side_is_inert_and_every_parameter_learns(name):
    attention = module(name)
    x = random(2, T, D, dtype=jnp.float32)
    valid = np.asarray([[True, True, True, False, False], [False, False, True, True, True]])
    garbage = np.where(valid[:, :, None], x, 1e3)  # a query is not hidden by a mask of keys
    spoiled = np.where(valid[:, :, None], x, np.nan)

    @nnx.jit
    def run(attention, query, x, valid):
        def loss(attention, x):
            out = attention(query, x, mask=valid[:, None, None, :])
            return jnp.sum(jnp.where(valid[:, :, None], out, 0.0) ** 2), out

        (_, out), gradients = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(attention, x)
        return out, *gradients

    arrays = (jnp.asarray(y) for y in (garbage, spoiled, valid))
    out, of_parameters, of_keys = map(jax.device_get, run(attention, *arrays))
    x = np.asarray(x, np.float64)
    for row, real in ((x[0, :3], out[0, :3]), (x[1, 2:], out[1, 2:])):
        np.testing.assert_allclose(real, oracle(name, attention, row), atol=2e-5)
    assert np.isfinite(of_keys).all()
    np.testing.assert_array_equal(of_keys[~valid], 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_parameters):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("name", ["linear", "programmer"])
def test_implied_weights_times_values_are_the_output(name):
    attention = module(name)
    x = random(B, T, D, dtype=jnp.float32)
    out, weights = nnx.jit(lambda m, x: m(x, x, return_weights=True))(attention, x)
    values = (np.asarray(x) @ of(attention.value.kernel)).reshape(B, T, N, -1)
    joined = np.einsum("bnts,bsnh->btnh", weights, values).reshape(B, T, -1)
    np.testing.assert_allclose(out, joined @ of(attention.out.kernel), atol=1e-5)
    assert np.all(np.triu(np.asarray(weights), 1) == 0)
    if name == "linear":
        np.testing.assert_allclose(np.sum(weights, axis=-1), 1, atol=1e-5)
        assert np.min(weights) >= 0
    else:
        assert "rows sum to one" in attention.contract_exceptions
        assert np.abs(np.sum(weights, axis=-1) - 1).max() > 0.1


@pytest.mark.usefixtures("x64")
def test_linear_attention_between_two_sequences():
    attention = LinearAttention(D, N, key_dim=7, value_dim=5, out_dim=3, rngs=nnx.Rngs(0))
    query, keys, values = random(B, 3, D), random(B, T, 7, seed=1), random(B, T, 5, seed=2)
    valid = np.arange(T)[None] < np.array([T, 2])[:, None]
    mask = jnp.asarray(valid)[:, None, None, :]
    out, weights = nnx.jit(lambda m, q: m(q, keys, values, mask=mask, return_weights=True))(
        attention, query
    )
    q, k, v = (
        (np.asarray(x) @ of(part.kernel)).reshape(*x.shape[:2], N, -1)
        for part, x in ((attention.query, query), (attention.key, keys), (attention.value, values))
    )
    wanted = np.zeros((B, 3, N, D // N))
    for b, t, n in np.ndindex(B, 3, N):
        row = np.array([elu_plus_one(q[b, t, n]) @ elu_plus_one(k[b, s, n]) for s in range(T)])
        row = row * valid[b] / (row * valid[b]).sum()
        np.testing.assert_allclose(weights[b, n, t], row, atol=1e-10)
        wanted[b, t, n] = row @ v[b, :, n]
    np.testing.assert_allclose(out, wanted.reshape(B, 3, -1) @ of(attention.out.kernel), atol=1e-10)


def test_a_delta_memory_overwrites_and_a_sum_does_not():
    """Schlag et al.'s point: the same key twice, the later value wants to be read."""
    programmer = FastWeightProgrammer(8, 1, nu=1, rngs=nnx.Rngs(0))
    identity = jnp.eye(8)
    for part in (programmer.query, programmer.key, programmer.value, programmer.out):
        part.kernel[...] = identity
    programmer.strength.kernel[...] = jnp.full((8, 1), 50.0)  # beta = 1
    key = jnp.asarray([1.0, 1, 0, 0, 0, 0, 0, 0])  # one surviving product: a feature of length 1
    keys = jnp.stack([key, key])[None]
    values = jnp.asarray([[[1.0, 0, 0, 0, 0, 0, 0, 0], [0.0, 5, 0, 0, 0, 0, 0, 0]]])
    out = nnx.jit(lambda m, *arrays: m(*arrays))(programmer, keys, keys, values)
    np.testing.assert_allclose(out * np.sqrt(8.0), values, atol=1e-5)


def test_bfloat16_in_and_out():
    x = random(B, T, D, dtype=jnp.bfloat16)
    run = nnx.jit(lambda m, x: m(x, x, form="recurrent", return_state=True))
    for name in MODULES:
        out, state = run(module(name), x)
        assert (out.dtype, state.memory.dtype) == (jnp.bfloat16, jnp.float32), name


def test_wrong_arguments_are_named():
    x = jnp.ones((B, T, D))
    attention = module("programmer")
    with pytest.raises(ValueError, match="query has length T=3 and keys have S=5"):
        attention(x[:, :3], x)
    with pytest.raises(ValueError, match="return_weights with a state"):
        attention(x, x, state=attention.empty_state(B), return_weights=True)
    causal = jnp.tril(jnp.ones((T, T), bool))[None, None]
    with pytest.raises((ValueError, TypeError), match="mask"):
        attention(x, x, mask=causal)
    with pytest.raises(ValueError, match="nu=12; wanted 1 <= nu < 12"):
        FastWeightProgrammer(D, N, nu=12, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"max_beta=3\.0"):
        DeltaNet(D, N, max_beta=3.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="key_width=6 is not divisible by num_heads=4"):
        GatedLinearAttention(D, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="conv_width=0"):
        DeltaNet(D, N, conv_width=0, rngs=nnx.Rngs(0))

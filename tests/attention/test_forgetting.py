"""Forgetting attention: packed documents, other score modifiers, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import ForgettingAttention
from attnzoo.layers.self_attention import SelfAttention
from attnzoo.ops import masks, score_mods

B, T, D, N = 2, 7, 6, 2
X = jnp.asarray(np.random.default_rng(0).standard_normal((B, T, D)), jnp.float32)


def attention() -> ForgettingAttention:
    return ForgettingAttention(D, N, rngs=nnx.Rngs(0))


def test_the_modifier_sums_the_gates_between_query_and_key() -> None:
    gates = -np.random.default_rng(1).exponential(size=(B, T, N))
    bias = score_mods.forget(jnp.asarray(gates, jnp.float32)).to_dense(B, N, T, T)
    for b, n, q in np.ndindex(B, N, T):
        for k in range(q + 1):
            wanted = sum(gates[b, between, n] for between in range(k + 1, q + 1))
            np.testing.assert_allclose(bias[b, n, q, k], wanted, atol=1e-5)
    with pytest.raises(ValueError, match="forget: log_gates"):
        score_mods.forget(jnp.zeros((B, T, N - 1))).to_dense(B, N, T, T)


def test_packed_documents_read_as_each_alone_and_padding_delays_nothing() -> None:
    """Padding in the middle, which no cache has: three tokens, a hole, three tokens."""
    module = SelfAttention(attention(), is_causal=True)
    call = nnx.jit(lambda m, x, ids, valid: m(x, valid=valid, mask=masks.document(ids)))
    alone = nnx.jit(lambda m, x: m(x))
    first, last = alone(module, X[:, :3]), alone(module, X[:, 4:])
    whole = alone(module, jnp.concatenate([X[:, :3], X[:, 4:]], axis=1))
    valid = jnp.ones((B, T), bool).at[:, 3].set(False)
    ids = jnp.asarray([[0] * 3 + [1] * 4, [0] * 7])
    packed = call(module, X, ids, valid)
    np.testing.assert_allclose(packed[0, :3], first[0], atol=1e-6)
    np.testing.assert_allclose(packed[0, 4:], last[0], atol=1e-6)
    np.testing.assert_allclose(packed[1, 4:], whole[1, 3:], atol=1e-6)


def test_another_modifier_comes_before_the_gates() -> None:
    module = attention()
    read = nnx.jit(lambda m, mod: m(X, X, score_mod=mod, return_weights=True)[1])
    plain, other = read(module, None), read(module, score_mods.alibi(N))
    slopes = np.asarray(score_mods.alibi_slopes(N))[None, :, None, None]
    distance = np.arange(T)[:, None] - np.arange(T)
    wanted = np.asarray(plain) * np.exp(-slopes * np.maximum(distance, 0))
    np.testing.assert_allclose(other, wanted / wanted.sum(-1, keepdims=True), atol=1e-6)


def test_bfloat16_keeps_the_sum_of_gates_in_float32() -> None:
    """The last of 512 keys, all alike: the weights of near keys fall by their gates."""
    module = attention()
    module.query.kernel[...] = jnp.zeros((D, D))
    x = jnp.ones((1, 512, D), jnp.bfloat16)
    _, weights = nnx.jit(lambda m, x: m(x, x, return_weights=True))(module, x)
    gate = jax.nn.sigmoid(jnp.sum(module.forget.kernel[...], axis=0))
    for back in range(3):
        found = weights[0, :, 511, 511 - back]
        np.testing.assert_allclose(found, (1 - gate) * gate**back, rtol=2e-2)


def test_what_it_refuses_says_so() -> None:
    module = attention()
    with pytest.raises((ValueError, TypeError), match="mask"):
        module(X, X, mask=jnp.ones((1, 1, T, T), bool))
    with pytest.raises(ValueError, match="query has length T=7 and keys have S=3"):
        module(X, X[:, :3])
    with pytest.raises(ValueError, match="ForgettingAttention is causal"):
        SelfAttention(module, is_causal=False)
    with pytest.raises(ValueError, match="cache='int8'"):
        module.empty_cache(B, T, cache="int8")

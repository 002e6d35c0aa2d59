"""Native sparse attention: what it does not compute, long rows, what it refuses."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import NativeSparseAttention, Rotary
from attnzoo.layers.self_attention import SelfAttention
from attnzoo.ops import masks
from attnzoo.ops.sparse import select_blocks

D = 6


def attention(**settings: Any) -> NativeSparseAttention:
    sizes = {"block": 4, "selected": 3, "window": 5} | settings
    return NativeSparseAttention(D, 2, **sizes, rngs=nnx.Rngs(0))


def sizes(jaxpr: Any) -> Iterator[int]:
    """Numbers of elements of all intermediate arrays, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield from (int(np.prod(out.aval.shape)) for out in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(inner):
                yield from sizes(getattr(inner, "jaxpr", inner))


def is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def test_no_array_of_all_pairs_of_positions() -> None:
    T = 4096
    x = jax.ShapeDtypeStruct((1, T, D), jnp.float32)
    module = attention(block=64)
    traced = jax.make_jaxpr(lambda x: module(x, x))(x)
    assert max(sizes(traced.jaxpr)) < T * T / 4


def test_rows_of_a_long_text_are_those_of_the_same_text_cut_off() -> None:
    """131 positions are read in blocks of rows, 50 at once."""
    module = attention()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 131, D)), jnp.float32)
    read = nnx.jit(lambda m, x: m(x, x, return_weights=True))
    long, weights = read(module, x)
    short, others = read(module, x[:, :50])
    np.testing.assert_allclose(long[:, :50], short, atol=1e-5)
    np.testing.assert_allclose(weights[:, :, :50, :50], others, atol=1e-5)
    # The first block, the last two, and the window are read token by token, the others in blocks.
    row = np.asarray(weights[0, :, -1, :128]).reshape(2, 32, 4)
    alike = np.ptp(row, axis=2) < 1e-6
    assert alike[:, 1:-2].all()
    assert not alike[:, [0, -1]].any()


def test_rotary_embedding_turns_tokens_alone_and_decodes() -> None:
    """Padding in front shifts no angle; the weights of blocks do not depend on positions."""
    module, plain = attention(head_dim=4, rotary=Rotary()), attention(head_dim=4)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 9, D)), jnp.float32)
    read = nnx.jit(lambda m, x: m(x, x, return_weights=True))
    wanted, weights = read(module, x)
    assert np.abs(weights - read(plain, x)[1]).max() > 1e-3
    visible = jnp.arange(10)[None, None, None] > 0
    step = nnx.jit(lambda m, x, cache: m.decode(x, cache, mask=visible))
    first, cache = step(
        module, jnp.pad(x[:, :3], ((0, 0), (1, 0), (0, 0))), module.empty_cache(1, 10)
    )
    rows = [first[:, 1:]]
    for t in range(3, 9):
        row, cache = step(module, x[:, t : t + 1], cache)
        rows.append(row)
    np.testing.assert_allclose(jnp.concatenate(rows, axis=1), wanted, atol=1e-5)
    only_blocks = nnx.clone(module), nnx.clone(plain)
    for one in only_blocks:
        one.gates.bias[...] = jnp.asarray([30.0, 30, -30, -30, -30, -30])
        one.gates.kernel[...] = jnp.zeros((D, 6))
    turned, still = (read(one, x)[1] for one in only_blocks)
    np.testing.assert_allclose(turned, still, atol=1e-6)


def test_heads_that_share_keys_select_the_same_blocks() -> None:
    """Weights 0.6, 0.3 and 0.1, 0.7 of two heads of one group: the second block has more."""
    importance = jnp.asarray([[0.0, 0.6, 0.3, 0.1, 0.0, 0.0], [0.0, 0.1, 0.7, 0.2, 0.0, 0.0]])
    importance = jnp.stack([importance, importance[:, ::-1]]).reshape(1, 4, 1, 6)
    at = jnp.asarray([[11]])  # in block 5 of blocks of two
    chosen = select_blocks(importance, at, 2, 2, 4)
    np.testing.assert_array_equal(np.sort(chosen[0, 0]), [[0, 2, 4, 5], [0, 3, 4, 5]])
    early = select_blocks(importance, jnp.asarray([[1]]), 2, 2, 4)
    np.testing.assert_array_equal(early[0, 0], [[0, 6, 6, 6]] * 2)


def test_what_it_refuses_says_so() -> None:
    module = attention()
    x = jnp.zeros((1, 4, D))
    with pytest.raises((ValueError, TypeError), match="mask"):
        module(x, x, mask=jnp.ones((1, 1, 4, 4), bool))
    with pytest.raises(NotImplementedError, match="packed documents want"):
        SelfAttention(module, is_causal=True)(x, mask=masks.document(jnp.zeros((1, 4), jnp.int32)))
    with pytest.raises(ValueError, match="NativeSparseAttention is causal"):
        SelfAttention(module, is_causal=False)
    with pytest.raises(ValueError, match="block=0; wanted at least 1"):
        attention(block=0)

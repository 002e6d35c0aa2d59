"""Caches of the last keys and of keys in int8, beside the plain one."""

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import ATTENTIONS, Site, build_attention
from attnzoo.attention.cache import WindowCache, quantise
from attnzoo.attention.contract import Attention
from attnzoo.attention.multi_head import MultiHeadAttention, Rotary
from attnzoo.attention.relative_bias import ALiBi
from attnzoo.config import attention as config
from attnzoo.ops import masks

B, T, D, W = 2, 13, 12, 5
X = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, D)), jnp.float32)
# A prompt shorter than the window, longer than it, or none; then steps of one and of several.
CUTS = [(0, 3, 4, 5, 6, 7, 9, 13), (0, 7, 8, 9, 10, 11, 12, 13), (0, 1, 2, 3, 4, 5, 11, 12, 13)]


def attention(**settings: Any) -> MultiHeadAttention:
    return MultiHeadAttention(D, 3, num_kv_heads=1, rotary=Rotary(), rngs=nnx.Rngs(0), **settings)


def decoded(module: Any, kind: Any, cuts: tuple[int, ...], mask: Any = None) -> tuple[Any, Any]:
    graph, state = nnx.split(module)

    @jax.jit
    def run(state: Any) -> Any:
        module, found = nnx.merge(graph, state), []
        cache = module.empty_cache(B, T, cache=kind)
        for first, last in itertools.pairwise(cuts):
            out, cache = module.decode(X[:, first:last], cache, mask=mask)
            found.append(out)
        return jnp.concatenate(found, axis=1), cache

    return run(state)


@pytest.mark.parametrize("cuts", CUTS)
def test_a_ring_of_the_window_gives_what_the_whole_cache_gives(cuts: tuple[int, ...]) -> None:
    module = attention(mask_mod=masks.sliding_window(W), score_mod=ALiBi(3))
    valid = (jnp.arange(T)[None] >= jnp.int32([[0], [2]]))[:, None, None, :]
    wanted = module(X, X, mask=valid & masks.causal().to_dense(1, 1, T, T))
    ring, cache = decoded(module, "window", cuts, valid)
    assert isinstance(cache, WindowCache)
    assert cache.keys.shape == (B, W, 1, 4)
    assert cache.positions()[0].tolist() == [10, 11, 12, 8, 9]
    np.testing.assert_allclose(ring, wanted, rtol=1e-5, atol=1e-6)


def test_int8_is_off_by_half_a_step_at_most() -> None:
    whole, step = quantise(X[:, :, None, :])
    assert whole.dtype == jnp.int8
    np.testing.assert_array_equal(jnp.max(jnp.abs(whole), axis=-1), 127)
    off = jnp.abs(whole.astype(jnp.float32) * step - X[:, :, None, :])
    assert float(jnp.max(off / jnp.max(jnp.abs(X[:, :, None, :]), -1, keepdims=True))) <= 1 / 253
    zeros = quantise(jnp.zeros((1, 1, 1, 3)))
    assert not np.any(zeros[0])
    assert not np.any(zeros[1])


def test_attention_over_int8_is_near_that_over_float32() -> None:
    module = attention()
    wanted, _ = decoded(module, "plain", CUTS[0])
    found, cache = decoded(module, "int8", CUTS[0])
    assert cache.keys.dtype == jnp.int8
    # Each number is within 0.4 % of the largest of its head: the result, a mean of them, too, and
    # what the logits' errors do to the weights stays below as much again.
    worst = float(jnp.max(jnp.abs(found - wanted)) / jnp.max(jnp.abs(wanted)))
    assert 0 < worst < 0.01


def test_a_ring_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match='cache="window": this attention looks back at all'):
        attention().empty_cache(B, T, cache="window")


ROOM = 1 << 15
"""Positions of a cache that is read in several chunks."""
COPIED = ("differential",)
"""Each of its softmaxes reads every second key, so that keys are taken apart in every step."""
CONFIGS: dict[str, Any] = {
    kind.kind: kind
    for kind in vars(config).values()
    if isinstance(kind, type) and issubclass(kind, config.AttentionConfig) and "kind" in vars(kind)
}
CACHED = {
    name: CONFIGS[name]
    for name, kind in ATTENTIONS.items()
    if not kind.is_recurrent and kind.decode is not Attention.decode
}


def copies(name: str) -> tuple[int, int]:
    """Return how often decoding copies an array of a cache's shape, and how many it has."""
    site = Site.of_itself(64, is_causal=True, max_length=ROOM)
    graph, state = nnx.split(build_attention(CACHED[name](num_heads=2), site, rngs=nnx.Rngs(0)))
    cache = nnx.merge(graph, state).empty_cache(1, ROOM)
    held = [leaf for leaf in jax.tree.leaves(cache) if leaf.size >= ROOM]

    def some(state: Any, x: Any, cache: Any) -> Any:
        module = nnx.merge(graph, state)
        return jax.lax.scan(lambda now, _: (module.decode(*now), None), (x, cache), None, 3)[0]

    text = jax.jit(some).lower(state, jnp.ones((1, 1, 64)), cache).compile().as_text()
    shapes = {re.escape(",".join(map(str, leaf.shape))) for leaf in held}
    return sum(len(re.findall(rf"= \w+\[{x}\]\S* copy\(", text)) for x in shapes), len(held)


@pytest.mark.parametrize("name", sorted(CACHED))
def test_a_step_of_decoding_does_not_copy_its_cache(name: str) -> None:
    found, arrays = copies(name)
    assert arrays
    # Each is copied once before the first step, since the caller keeps his own.
    assert found <= arrays or name in COPIED

"""Differential attention: lambda by the layer, and its caches."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import DifferentialAttention
from attnzoo.config import attention as kinds
from attnzoo.config.gpt2 import GPT2Config
from attnzoo.models.gpt2 import GPT2
from attnzoo.ops import masks


def gpt2(scan: bool, **settings: Any) -> GPT2:
    attention = kinds.DifferentialConfig(num_heads=1, **settings)
    config = GPT2Config(dim=4, layers=3, max_length=5, attention=attention, scan=scan)
    return GPT2(config, 7, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("scan", [False, True])
def test_lambda_grows_with_the_layer_also_in_a_scan(scan: bool) -> None:
    wanted = [0.8 - 0.6 * math.exp(-0.3 * layer) for layer in range(3)]
    stack = gpt2(scan).decoder
    found = [
        float(block.attention.mechanism.lambda_init[...])
        for stack in (stack.unrolled(), stack.unrolled().unrolled())
        for block in stack.blocks
    ]
    np.testing.assert_allclose(found, wanted * 2, rtol=1e-6)
    learned = jax.tree_util.tree_leaves_with_path(nnx.state(stack, nnx.Param))
    assert not [path for path, _ in learned if "lambda_init" in str(path)]
    if scan:
        fixed = gpt2(scan, lambda_init=0.5).decoder.blocks.attention.mechanism
        np.testing.assert_array_equal(fixed.lambda_init[...], [0.5] * 3)


def test_a_window_cache_and_an_int8_cache_read_what_the_call_reads() -> None:
    module = DifferentialAttention(8, 2, mask_mod=masks.sliding_window(3), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 8)), jnp.float32)
    wanted = nnx.jit(lambda m, x: m(x, x))(module, x)
    step = nnx.jit(lambda m, x, cache: m.decode(x, cache))
    for kind, tolerance in (("window", 1e-5), ("int8", 0.1)):
        cache, rows = module.empty_cache(2, 6, cache=kind), []
        for t in range(6):
            row, cache = step(module, x[:, t : t + 1], cache)
            rows.append(row)
        np.testing.assert_allclose(jnp.concatenate(rows, axis=1), wanted, atol=tolerance)

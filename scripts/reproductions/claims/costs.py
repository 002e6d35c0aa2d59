"""Costs of attention: memory of exact attention, state and time of a decoding step."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from attnzoo.attention import Site, build_attention
from attnzoo.attention.cache import Cache
from attnzoo.config.attention import AttentionConfig, DeltaNetConfig, LinearConfig, MultiHeadConfig
from attnzoo.ops.dot_product import dot_product_attention
from reproductions.claim import (
    Claim,
    Measured,
    Results,
    Setting,
    above,
    ahead,
    below,
    certain,
    headline,
)

LENGTHS = (1024, 2048, 4096, 8192)
FORMS = {"whole rows": "reference", "tiles": "blockwise"}
HEAD = 64

ROOMS = (1024, 4096, 16_384)
WIDTH, TOKENS, REPEATS = 256, 32, 7
LAYERS: dict[str, AttentionConfig] = {
    "softmax": MultiHeadConfig(num_heads=4),
    "linear": LinearConfig(num_heads=4),
    "gated delta rule": DeltaNetConfig(num_heads=4, gated=True),
}


def memory(setting: Setting) -> Mapping[str, Measured]:
    """Compile attention for each length and read how much temporary memory it needs."""
    found: dict[str, Measured] = {}
    for form, implementation in FORMS.items():
        attend = functools.partial(dot_product_attention, implementation=implementation)
        for part, function in (
            ("result", attend),
            ("gradient", jax.grad(_total(attend), (0, 1, 2))),
        ):
            sizes = [_temporary(function, length) for length in LENGTHS]
            for length, size in zip(LENGTHS, sizes):
                found[f"{part}, {form}/{length}"] = size
            slope = np.polyfit(np.log(LENGTHS), np.log(sizes), 1)[0]
            found[f"exponent, {part}, {form}"] = float(slope)
    keys = jax.random.split(jax.random.key(setting.seed), 3)
    shape = 1, setting.pick(2048, 512), 1, HEAD
    q, k, v = (jax.random.normal(key, shape) for key in keys)
    whole, tiled = (
        np.asarray(dot_product_attention(q, k, v, implementation=name)) for name in FORMS.values()
    )
    found["largest difference over largest value"] = float(
        np.abs(whole - tiled).max() / np.abs(whole).max()
    )
    return found


def _total(attend: Callable[..., Array]) -> Callable[..., Array]:
    return lambda q, k, v: jnp.sum(attend(q, k, v) ** 2)


def _temporary(function: Callable[..., Any], length: int) -> float:
    """Return the MiB that a compiled function needs beside its arguments and results."""
    array = jax.ShapeDtypeStruct((1, length, 1, HEAD), jnp.float32)
    analysis: Any = jax.jit(function).lower(array, array, array).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 2**20


def step(setting: Setting) -> Mapping[str, Measured]:
    """Decode with a layer of each kind; read the size of its state and the time of a token."""
    found: dict[str, Measured] = {}
    for name, config in LAYERS.items():
        site = Site.of_itself(WIDTH, is_causal=True)
        layer = build_attention(config, site, rngs=nnx.Rngs(setting.seed))
        sizes, times = [], []
        for room in ROOMS:
            state = layer.empty_cache(1, room)
            if isinstance(state, Cache):  # full, but for the tokens that are timed
                state = state._replace(length=jnp.full_like(state.length, room - TOKENS))
            sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1024)
            times.append(_microseconds(layer, state, setting.pick(REPEATS, 1)))
            found[f"{name}/{room}"] = times[-1]
        found[f"KiB of state, {name}, {ROOMS[0]:,} tokens"] = sizes[0]
        found[f"KiB of state, {name}, {ROOMS[-1]:,} tokens"] = sizes[-1]
        found[f"growth of the state, {name}"] = sizes[-1] / sizes[0]
        found[f"growth of the time, {name}"] = times[-1] / times[0]
    return found


def _microseconds(layer: Any, state: Any, repeats: int) -> float:
    """Return the CPU time of a token, the shortest of some runs of 32 tokens."""
    graph, parameters = nnx.split(layer)

    @jax.jit
    def run(parameters: Any, x: Array, state: Any) -> Array:
        module = nnx.merge(graph, parameters)

        def token(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
            return module.decode(*carry), None

        (x, _), _ = jax.lax.scan(token, (x, state), None, length=TOKENS)
        return x

    x = jnp.ones((1, 1, WIDTH))
    run(parameters, x, state).block_until_ready()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        run(parameters, x, state).block_until_ready()
        seconds.append(time.process_time() - started)
    return min(seconds) / TOKENS * 1e6


def _memory_came(results: Results) -> str:
    whole, tiled = (
        results.mean(f"gradient, {form}/{LENGTHS[-1]}") for form in ("whole rows", "tiles")
    )
    return (
        f"For {LENGTHS[-1]:,} tokens the gradient needs {whole:,.0f} MiB with whole rows and "
        f"{tiled:,.1f} MiB in tiles, which grow with the length to the power of "
        f"{results.mean('exponent, gradient, whole rows'):.2f} and "
        f"{results.mean('exponent, gradient, tiles'):.2f}; the results differ by "
        f"{results.mean('largest difference over largest value'):.0e}."
    )


def _step_came(results: Results) -> str:
    grown = {name: results.mean(f"growth of the time, {name}") for name in LAYERS}
    size = {name: results.mean(f"growth of the state, {name}") for name in LAYERS}
    return (
        f"From {ROOMS[0]:,} to {ROOMS[-1]:,} tokens the state of softmax attention grows "
        f"{size['softmax']:.1f} times and the time of a token {grown['softmax']:.1f} times; those "
        f"of linear attention {size['linear']:.1f} and {grown['linear']:.1f} times."
    )


CLAIMS = (
    Claim(
        name="attention-in-linear-memory",
        title="Exact attention needs memory in proportion to the length",
        source="Rabe and Staats 2021, arXiv 2112.05682; Dao et al. 2022, arXiv 2205.14135, "
        "theorem 1",
        claimed="Softmax attention and its gradient can be computed exactly, tile by tile, without "
        "the memory for all pairs of positions.",
        setup="one head of width 64 in float32; temporary memory as the compiler plans it for a "
        "CPU, beside arguments and results. The papers measure accelerators.",
        criterion=(
            certain(
                above("exponent, gradient, whole rows", 1.8),
                "whole rows have a number for each pair of positions",
            ),
            headline(below("exponent, result, tiles", 1.2)),
            headline(below("exponent, gradient, tiles", 1.2)),
            certain(
                below("largest difference over largest value", 1e-5),
                "the same sums in another order",
            ),
        ),
        measure=memory,
        came=_memory_came,
        meaning="The square in attention is one of time, not of memory: long texts do not call "
        "for an approximation in order to fit.",
        minutes=0.5,
        axes=("tokens", "temporary memory in MiB"),
        scales=("log", "log"),
    ),
    Claim(
        name="constant-step",
        title="Linear attention decodes in constant time and memory",
        source="Katharopoulos et al. 2020, arXiv 2006.16236, sections 3.4 and 4.2",
        claimed="With linear attention the state and the time of a generated token do not depend "
        "on how many came before; with softmax attention both grow with their number.",
        setup="one layer of width 256 with 4 heads, one sequence, float32 on one core; the cache "
        "of softmax attention is full but for the tokens that are timed; CPU time, the "
        "shortest of 7 runs of 32 tokens. Earlier numbers, of a program that copied the cache at "
        "every token, were replaced. The paper times whole models on pictures and speech.",
        criterion=(
            certain(above("growth of the state, softmax", 15), "a cache has room for each token"),
            certain(below("growth of the state, linear", 1), "its size is in no relation to them"),
            above("growth of the time, softmax", 4),
            headline(below("growth of the time, linear", 1.5)),
            ahead(f"softmax/{ROOMS[-1]}", f"linear/{ROOMS[-1]}"),
        ),
        measure=step,
        came=_step_came,
        meaning="What a softmax must keep of every token, a linear layer adds up in one matrix: "
        "long generation is cheap, at the price of what that matrix can hold.",
        minutes=0.3,
        axes=("tokens before", "microseconds of CPU for a token"),
        scales=("log", "log"),
    ),
)

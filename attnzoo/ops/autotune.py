"""Measurement of the fastest tile sizes on the current device."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnzoo.ops.dot_product import explain_choice
from attnzoo.ops.flex import flex_attention
from attnzoo.ops.kernels.tiles import (
    CANDIDATES,
    Tiles,
    device_kind,
    entry_for,
    override_tiles,
    remember,
)


def autotune(
    q: Float[Array, "B T N H"] | Float[jax.ShapeDtypeStruct, "B T N H"],
    k: Float[Array, "B S K H"] | Float[jax.ShapeDtypeStruct, "B S K H"],
    v: Float[Array, "B S K Hv"] | Float[jax.ShapeDtypeStruct, "B S K Hv"],
    *,
    implementation: str | None = None,
    candidates: Sequence[Tiles] | None = None,
    backward: bool = True,
    rounds: int = 7,
    **arguments: Any,
) -> dict[Tiles, float]:
    """Time attention with each candidate tile size and store the fastest in the user's cache.

    Attention traced later on this kind of device uses the stored tiles, for the same
    implementation, dtype, and class of head size and length. Compiled programs keep their tiles.
    Candidates are timed in turns. Times are medians: CPU time if XLA uses one CPU core, else wall
    time. A candidate that does not compile is left out (a GPU's shared memory is small).

    Args:
      q, k, v: arrays, or ``jax.ShapeDtypeStruct``, for which normal random numbers are drawn.
      implementation: the implementation to tune; None: the one that attention would choose.
      candidates: tiles to try; None: those of ``attnzoo.ops.kernels.tiles.CANDIDATES``.
      backward: time forward and backward together.
      rounds: timings per candidate, after one warm-up run.
      arguments: further arguments of ``flex_attention``, without ``block_mask``.

    Returns:
      Seconds by tiles, the fastest first.

    Raises:
      ValueError: the implementation has no tiles, no candidate compiles, or a ``block_mask`` came.
    """
    if arguments.get("block_mask") is not None:
        raise ValueError("block_mask has tiles of its own; wanted its mask_mod")
    choice = explain_choice(q, k, v, implementation=implementation, **arguments)
    name = choice.differentiated if backward else choice.name
    if name not in CANDIDATES:
        raise ValueError(
            f"implementation={name!r} has no tiles; those that have: {', '.join(CANDIDATES)}"
        )
    candidates = CANDIDATES[name] if candidates is None else candidates
    keys = jax.random.split(jax.random.key(0), 3)
    given = [
        jax.random.normal(key, x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x
        for key, x in zip(keys, (q, k, v))
    ]
    made: dict[Tiles, Callable[..., Any]] = {}
    refused = ""
    for tiles in candidates:
        with override_tiles(name, tiles):
            try:
                made[tiles] = _compiled(name, backward, arguments, given)
            except Exception as error:  # compilers raise many types for a tile that does not fit
                refused = f"{tiles}: {str(error).splitlines()[0]}"
    if not made:
        raise ValueError(f"none of {len(candidates)} candidates compiles; the last: {refused}")
    clock = time.process_time if device_kind() == "cpu" else time.perf_counter
    seconds: dict[Tiles, list[float]] = {tiles: [] for tiles in made}
    for count in range(rounds + 1):
        for tiles, attention in made.items():
            start = clock()
            jax.block_until_ready(attention(*given))
            if count > 0:  # the first one warms up
                seconds[tiles].append(clock() - start)
    medians = {tiles: statistics.median(times) for tiles, times in seconds.items()}
    medians = dict(sorted(medians.items(), key=lambda item: item[1]))
    (_, T, _, H), S = q.shape, k.shape[1]
    remember(entry_for(name, device_kind(), q.dtype, H, T, S), next(iter(medians)))
    return medians


def _compiled(
    name: str, backward: bool, arguments: dict[str, Any], given: list[Array]
) -> Callable[..., Any]:
    def attention(q: Array, k: Array, v: Array) -> Any:
        return flex_attention(q, k, v, **arguments, implementation=name)

    def both(q: Array, k: Array, v: Array) -> Any:
        out, pull = jax.vjp(attention, q, k, v)
        return out, pull(jnp.ones_like(out))

    return jax.jit(both if backward else attention).lower(*given).compile()

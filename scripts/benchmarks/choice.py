"""`benchmark attention --check-choice`: is what ``implementation=None`` picks ever 10 % too slow?

Every shape of a grid is timed with what is chosen and with each implementation that would do, in
turns; medians of CPU time on one pinned core of a CPU, of wall time on several (`--threads`) and
elsewhere. A shape that seems too slow is timed again with three times the rounds before it counts.
`--tune` times the candidates of tile sizes instead and keeps the fastest in the user's cache;
`--check-kernels` looks whether the Pallas kernels are right on this device.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any, NamedTuple

TOLERANCE = 1.10
CHOSEN = "chosen"
"""What ``implementation=None`` gets; the one that it is, by name, is timed again beside it."""
LEAST = 2e-3
"""Seconds that are timed together, of calls that are shorter."""
MOST = 1 << 28
"""Bytes of weights up to which an implementation that keeps them all is timed."""


class Shape(NamedTuple):
    """One attention of the grid."""

    T: int
    S: int
    B: int = 1
    N: int = 8
    K: int = 8
    H: int = 64
    mask: str = "full"
    dtype: str = "float32"
    weights: bool = False
    """All weights are asked for."""

    def __str__(self) -> str:
        text = f"{self.T} x {self.S}, B {self.B}, N {self.N}/{self.K}, H {self.H}, {self.mask}"
        return text + f", {self.dtype}" * (self.dtype != "float32") + ", weights" * self.weights


def grid(quick: bool) -> Iterator[Shape]:
    """Around the boundaries of the choice: short and long, few queries, masks, weights."""
    for length in (64, 256) if quick else (16, 32, 64, 80, 96, 128, 256, 1024):
        yield Shape(length, length)
    for T, S in ((1, 1024),) if quick else ((1, 64), (1, 2048), (8, 128), (8, 2048), (16, 512)):
        yield Shape(T, S, mask="causal")
    if quick:
        return
    for length in (64, 96, 256, 1024):
        yield Shape(length, length, mask="causal")
    yield Shape(65, 65, B=8, N=3, K=3)
    yield Shape(128, 128, B=8, K=2, mask="causal")
    yield Shape(128, 128, N=4, K=4, H=128)
    yield Shape(256, 256, dtype="bfloat16")
    yield Shape(512, 512, mask="softcap")
    yield Shape(1024, 1024, mask="window")
    for length in (256, 1024):
        yield Shape(length, length, mask="causal", weights=True)


def check(arguments: argparse.Namespace, cores: list[int]) -> int:
    """Print the table; exit code 1 if a choice is more than 10 % slower than another."""
    _pin(cores)
    clock = _clock(arguments.threads)
    kind = "CPU ms" if clock is time.process_time else "ms"
    print(f"{'':<46}{'':>9}  {kind} of the chosen one and of each other that would do")
    wrong = []
    for shape in grid(arguments.quick):
        attentions, given = _attentions(shape)
        for what in ("forward",) if shape.weights else ("forward", "both"):
            calls = {name: _call(attend, what, given) for name, attend in attentions.items()}
            times = _medians(calls, arguments.rounds, clock)
            if _ratio(times) > TOLERANCE:
                times = _medians(calls, 3 * arguments.rounds, clock)
            ratio = _ratio(times)
            cells = "  ".join(f"{name} {1e3 * seconds:.3f}" for name, seconds in times.items())
            late = f"  {ratio:.2f} x" if ratio > TOLERANCE else ""
            print(f"{shape!s:<46}{what:>9}  {cells}{late}", flush=True)
            if late:
                wrong.append(f"{shape}, {what}: {ratio:.2f} x")
    print(f"\n{len(wrong)} choices are more than 10 % slower than another that would do")
    return 1 if wrong else 0


def check_kernels() -> int:
    """Print what became of each Pallas kernel; exit code 1 if one is not refused, and wrong."""
    import jax

    from attnzoo import ops
    from attnzoo.ops.kernels.verified import seen_path

    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    checks = ops.check_kernels()
    for check in checks:
        name = f"{check.implementation:<11} {check.dtype:<9}"
        if check.error is None:
            print(f"{name} {check.what}")
        else:
            verdict = "right" if check.is_right else "WRONG"
            print(f"{name} {verdict}, largest error {check.error:.1e} ({check.what})")
    print(f"\n{seen_path()}")
    return int(any(check.error is not None and not check.is_right for check in checks))


def tune(arguments: argparse.Namespace, cores: list[int]) -> int:
    """Tile sizes for the lengths, masks and dtype of the command line."""
    _pin(cores)
    import jax

    from attnzoo import ops
    from attnzoo.ops.kernels.tiles import cache_path

    for mask, length in itertools.product(arguments.masks, sorted(arguments.lengths)):
        N, H = arguments.heads, arguments.head_size
        x = jax.ShapeDtypeStruct((arguments.batch, length, N, H), arguments.dtype)
        try:
            found = ops.autotune(x, x, x, rounds=arguments.rounds, **_settings(mask))
        except ValueError as error:
            print(f"{length:>6} {mask:<9}{error}", flush=True)
            continue
        cells = (f"{t.queries} x {t.keys}: {1e3 * seconds:.1f}" for t, seconds in found.items())
        print(f"{length:>6} {mask:<9}{'  '.join(cells)}", flush=True)
    print(f"\n{cache_path()}")
    return 0


def _pin(cores: list[int]) -> None:
    if cores and hasattr(os, "sched_setaffinity"):  # before jax counts them
        os.sched_setaffinity(0, cores)


def _settings(mask: str) -> dict[str, Any]:
    """Arguments of ``flex_attention``."""
    import jax.numpy as jnp

    from attnzoo.ops import masks, score_mods

    return {
        "full": {},
        "causal": {"mask_mod": masks.causal()},
        "window": {"mask_mod": masks.sliding_window(128)},
        "document": {"mask_mod": masks.causal() & masks.document(jnp.arange(1 << 17) // 300)},
        "alibi": {"mask_mod": masks.causal(), "score_mod": score_mods.alibi(8)},
        "softcap": {"score_mod": score_mods.softcap(20.0)},
    }[mask]


def _attentions(shape: Shape) -> tuple[dict[str, Callable[..., Any]], list[Any]]:
    """The chosen one first, then each by its name; and q, k, v."""
    import jax

    from attnzoo import ops

    (T, S, B, N, K, H, mask, dtype, weights) = shape
    keys = jax.random.split(jax.random.key(T + S), 3)
    sizes = ((B, T, N, H), (B, S, K, H), (B, S, K, H))
    given = [jax.random.normal(key, size, dtype) for key, size in zip(keys, sizes)]
    settings = _settings(mask)
    if mask == "causal":
        from attnzoo.ops import masks

        settings["mask_mod"] = masks.causal().offset(S - T)
    choice = ops.explain_choice(*given, return_weights=weights, **settings)
    dense = 4 * B * N * T * S > MOST
    others = [
        name
        for name, why in choice.others.items()
        if not why.startswith("refused") and not (dense and name in ("reference", "xla"))
    ]

    def attention(name: str | None) -> Callable[..., Any]:
        return lambda q, k, v: ops.flex_attention(
            q, k, v, **settings, return_weights=weights, implementation=name
        )

    named = {name: attention(name) for name in (choice.name, *others)}
    return {CHOSEN: attention(None), **named}, given


def _call(attend: Callable[..., Any], what: str, given: list[Any]) -> Callable[[], Any]:
    import jax

    def both(q: Any, k: Any, v: Any, cotangent: Any) -> Any:
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(cotangent)

    if what == "both":
        # An operand: of a constant XLA makes another program.
        out = jax.eval_shape(attend, *given)
        given = [*given, jax.random.normal(jax.random.key(0), out.shape, out.dtype)]
    compiled = jax.jit(attend if what == "forward" else both).lower(*given).compile()
    return lambda: jax.block_until_ready(compiled(*given))


def _clock(threads: int) -> Callable[[], float]:
    """CPU time where one core computes and others may disturb it, else what a user waits for."""
    import jax

    on_one_core = jax.default_backend() == "cpu" and threads == 1
    return time.process_time if on_one_core else time.perf_counter


def _medians(
    calls: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    repeats = dict.fromkeys(calls, 1)
    order, random = list(calls.items()), Random(0)
    for count in range(rounds + 2):
        random.shuffle(order)  # who comes after the one that fills the cache has to wait for it
        for name, call in order:
            start = clock()
            for _ in range(repeats[name]):
                call()
            seconds = (clock() - start) / repeats[name]
            if count < 2:  # warm up, then see how many calls are long enough to be timed
                repeats[name] = max(1, round(LEAST / max(seconds, 1e-7))) if count else 1
            else:
                times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _ratio(times: Mapping[str, float]) -> float:
    return times[CHOSEN] / min(times.values())

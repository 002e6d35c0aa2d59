"""One visit to a Hopper GPU: errors, tile sizes, speeds of the attention kernels, in 8 minutes.

    python scripts/gpu_attention.py OUT [--seconds 480] [--dry]

Writes ``OUT/gpu_attention.json`` and ``OUT/gpu_attention.md`` after every measurement, most wanted
ones first, so that a run that is cut off has lost nothing. Wants Python 3.12 and jax 0.11 with
CUDA. ``--dry`` runs tiny shapes in the interpreter on a CPU, where the times mean nothing.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.ops import BlockMask, masks, score_mods
from attnzoo.ops.choice import IMPLEMENTATIONS
from attnzoo.ops.kernels import mosaic_gpu, reference
from attnzoo.ops.kernels.mosaic_gpu_kernels import Tuning, tuned
from attnzoo.ops.logits import Scoring, scoring

WINDOW, SOFTCAP = 1024, 30.0
HEADS = {64: 32, 128: 16, 256: 8}
"""Heads by their size: the same model width."""
TOKENS = 16_384
"""Tokens of a call, in as many sequences as they fill."""
LENGTHS = (16_384, 4096, 32_768, 1024, 131_072, 512, 2048, 8192, 65_536)
CASES = ("causal", "full", "window", "document", "alibi", "softcap", "t5", "dropout")
CHECKED = ("causal", "alibi", "softcap", "document", "t5", "dense", "dropout")
"""Whose errors are measured."""
RATE = 0.1
FORWARD, BOTH = "forward", "forward and backward"


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sequences of a call, their length, heads, and head size."""

    B: int
    T: int
    N: int
    H: int

    def draw(self, dtype: Any = jnp.bfloat16) -> list[jax.Array]:
        """q, k, v and the gradient of the output."""
        keys = jax.random.split(jax.random.key(0), 4)
        return [jax.random.normal(key, (self.B, self.T, self.N, self.H), dtype) for key in keys]


def documents(T: int) -> np.ndarray:
    """Eight documents of unequal lengths."""
    ends = np.cumsum(np.array([1, 3, 2, 4, 1, 2, 2, 1]) * T // 16)
    return np.searchsorted(ends, np.arange(T), side="right").astype(np.int32)[None]


def settings_of(case: str, shape: Shape) -> tuple[Scoring, float]:
    """How the case scores, and the number of pairs of a query and a key that see each other."""
    B, T, N = shape.B, shape.T, shape.N
    ids = jnp.asarray(documents(T))
    mask = {
        "full": None,
        "window": masks.sliding_window(WINDOW),
        "document": masks.document(ids, ids) & masks.causal(),
    }.get(case, masks.causal())
    table = jnp.sin(jnp.arange(32 * N, dtype=jnp.float32)).reshape(N, 32)
    mod = {
        "alibi": score_mods.alibi(score_mods.alibi_slopes(N)),
        "t5": score_mods.t5_bias(table, bidirectional=False),
    }.get(case)
    if case == "dense":
        bias = jax.random.normal(jax.random.key(1), (1, N, T, T), jnp.float32)
        mod = score_mods.dense_bias(bias)
    block = None
    if mask is not None:
        block = BlockMask.from_mask(mask, B, N, T, T, block_size=128)
    lengths = np.bincount(documents(T)[0])
    pairs = {
        "full": float(T) * T,
        "window": sum(min(i + 1, WINDOW) for i in range(T)),
        "document": float(np.sum(lengths * (lengths + 1.0) / 2)),
    }.get(case, T * (T + 1) / 2)
    settings = scoring(
        (B, N, T, T),
        mask=block,
        bias=None,
        scale=None,
        softcap=SOFTCAP if case == "softcap" else None,
        score_mod=mod,
        sinks=None,
        is_causal=False,
    )
    return settings, B * N * pairs


def dropout(case: str) -> tuple[Any, ...]:
    """Rate and key, where weights are dropped."""
    return (RATE, jax.random.key(2)) if case == "dropout" else ()


def attention(name: str, case: str, shape: Shape, tuning: Tuning | None, dry: bool) -> Any:
    """``f(q, k, v)`` of a contender; None where it has no such case."""
    if name.startswith("jax.nn"):
        if case not in ("causal", "full", "window"):
            return None
        window = (WINDOW - 1, 0) if case == "window" else None
        implementation: Any = name.split()[1]
        return lambda q, k, v: jax.nn.dot_product_attention(
            q,
            k,
            v,
            is_causal=case != "full",
            local_window_size=window,
            implementation=implementation,
        )
    settings, _ = settings_of(case, shape)
    drop = dropout(case)
    if name == "mosaic_gpu":
        return lambda q, k, v: mosaic_gpu.attend(
            q, k, v, settings, *drop, tuning=tuning, staged=dry
        )[0]
    return lambda q, k, v: IMPLEMENTATIONS[name].attend(q, k, v, settings, *drop)[0]


def with_backward(attend: Callable[..., Any]) -> Callable[..., Any]:
    def run(q: Any, k: Any, v: Any, d_out: Any) -> Any:
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(d_out)

    return run


def seconds(run: Callable[..., Any], arrays: list[jax.Array], dry: bool) -> float:
    """The best of a few means over calls that were queued together."""
    compiled = jax.jit(run)
    jax.block_until_ready(compiled(*arrays))
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arrays))
    one = time.perf_counter() - start
    if dry:
        return one
    calls = max(1, min(100, int(0.1 / one)))
    means = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready([compiled(*arrays) for _ in range(calls)][-1])
        means.append((time.perf_counter() - start) / calls)
    return min(means)


class Notes:
    """What has been measured, on disk at every moment."""

    def __init__(self, out: Path, until: float, dry: bool):
        self.out, self.until, self.dry = out, until, dry
        self.found: dict[str, Any] = {
            "device": str(jax.devices()[0].device_kind),
            "jax": jax.__version__,
            "dry": dry,
            "errors": [],
            "tuning": [],
            "times": [],
            "failures": [],
        }
        out.mkdir(parents=True, exist_ok=True)

    @property
    def is_over(self) -> bool:
        return time.perf_counter() > self.until

    @contextlib.contextmanager
    def trying(self, **what: Any) -> Generator[None]:
        """A contender that fails is a result, too."""
        try:
            yield
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            self.found["failures"].append({**what, "error": said[0][:300]})
            self.save()

    def add(self, part: str, **row: Any) -> None:
        self.found[part].append(row)
        print(part, json.dumps(row), flush=True)
        self.save()

    def save(self) -> None:
        text = json.dumps(self.found, indent=1)
        (self.out / "gpu_attention.json").write_text(text)
        parts = [f"{self.found['device']}, jax {self.found['jax']}, bfloat16\n"]
        for part in ("times", "errors", "tuning", "failures"):
            rows = self.found[part]
            if rows:
                parts += [f"## {part}\n", table(rows)]
        (self.out / "gpu_attention.md").write_text("\n".join(parts))


def table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    for row in rows:
        cells = (row.get(name, "") for name in names)
        lines.append([f"{x:.4g}" if isinstance(x, float) else str(x) for x in cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def errors(notes: Notes, contenders: list[str]) -> None:
    """Relative root mean square errors of output and gradients against float64."""
    sizes = (
        [(1, 128, 1, 64)] if notes.dry else [(1, 1025, 4, 64), (1, 2048, 2, 128), (1, 1024, 2, 256)]
    )
    for (size, case), name in itertools.product(itertools.product(sizes, CHECKED), contenders):
        shape = Shape(*size)
        attend = attention(name, case, shape, None, notes.dry)
        if attend is None or notes.is_over:
            continue
        with notes.trying(errors=name, case=case, shape=size):
            arrays = shape.draw()
            got = jax.jit(with_backward(attend))(*arrays)
            again = jax.jit(with_backward(attend))(*arrays)
            with jax.enable_x64(True):
                exact = exactly(case, shape, arrays)
            row = {}
            for label, x, y in zip(("out", "dq", "dk", "dv"), leaves(got), leaves(exact)):
                row[label] = float(np.sqrt(np.mean((x - y) ** 2) / np.mean(y**2)))
            equal = all(np.array_equal(x, y) for x, y in zip(leaves(got), leaves(again)))
            notes.add("errors", name=name, case=case, shape=str(size), **row, repeats=equal)


def exactly(case: str, shape: Shape, arrays: list[jax.Array]) -> Any:
    """Output and gradients of the reference in the dtype that is switched on, float64."""
    settings, _ = settings_of(case, shape)
    run = with_backward(lambda q, k, v: reference.attend(q, k, v, settings, *dropout(case))[0])
    return jax.jit(run)(*(jnp.asarray(np.asarray(x, np.float64)) for x in arrays))


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]


def tune(notes: Notes, H: int) -> Tuning:
    """The fastest tile sizes of each kernel, one after the other, causal."""
    best = tuned(H, H, notes.dry)
    if notes.dry:
        return best
    shape = Shape(2, 8192, HEADS[H], H)
    arrays = shape.draw()
    ways = {
        FORWARD: [
            {"keys": k, "slots": s} for k, s in ((128, 2), (64, 2), (64, 3), (64, 4), (128, 3))
        ],
        BOTH: [
            *({"dkv_queries": q, "dkv_slots": s} for q, s in ((64, 2), (64, 3), (128, 2))),
            *({"dq_keys": k, "dq_slots": (s, s)} for k, s in ((64, 2), (64, 3), (128, 2))),
        ],
    }
    for what, changes in ways.items():
        fastest = float("inf")
        start = best
        for change in ({}, *changes):
            if notes.is_over:
                return best
            tried = dataclasses.replace(best if what == BOTH else start, **change)
            attend = attention("mosaic_gpu", "causal", shape, tried, False)
            with notes.trying(tuning=str(tried), H=H):
                took = (
                    seconds(attend, arrays[:3], False)
                    if what == FORWARD
                    else seconds(with_backward(attend), arrays, False)
                )
                notes.add("tuning", H=H, what=what, **dataclasses.asdict(tried), ms=1e3 * took)
                if took < fastest:
                    fastest, best = took, tried
    return best


def measure(notes: Notes, contenders: list[str], tunings: dict[int, Tuning]) -> None:
    """Times and TFLOP/s over the grid: 4 H operations for a pair, 14 H with backward."""
    lengths = (128,) if notes.dry else LENGTHS
    heads = (64,) if notes.dry else (128, 64, 256)
    cases = ("causal",) if notes.dry else CASES
    grid = sorted(
        itertools.product(range(len(lengths)), range(len(heads)), range(len(cases))), key=sum
    )
    for i, j, c in grid:
        T, H, case = lengths[i], heads[j], cases[c]
        shape = Shape(1 if notes.dry else max(1, TOKENS // T), T, 1 if notes.dry else HEADS[H], H)
        _, pairs = settings_of(case, shape)
        for name in contenders:
            weights = 4.0 * shape.B * shape.N * T * T
            attend = attention(name, case, shape, tunings.get(H), notes.dry)
            if attend is None or (name == "jax.nn xla" and weights > 8e9):
                continue
            for what, flops in ((FORWARD, 4.0), (BOTH, 14.0)):
                if notes.is_over:
                    return
                with notes.trying(times=name, case=case, T=T, H=H, what=what):
                    arrays = shape.draw()
                    run = attend if what == FORWARD else with_backward(attend)
                    took = seconds(run, arrays[: 3 if what == FORWARD else 4], notes.dry)
                    notes.add(
                        "times", case=case, T=T, H=H, B=shape.B, N=shape.N, name=name, what=what,
                        ms=1e3 * took, tflops=flops * H * pairs / took / 1e12,
                    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    if not options.dry and jax.default_backend() != "gpu":
        print(f"a GPU is wanted, the default is {jax.default_backend()}; --dry runs without one")
        return 1
    notes = Notes(options.out, time.perf_counter() + options.seconds, options.dry)
    contenders = ["mosaic_gpu", "jax.nn xla"]
    if not options.dry:
        contenders = ["mosaic_gpu", "jax.nn cudnn", "jax.nn xla"]
    interpret: Any = contextlib.nullcontext()
    if options.dry:
        from jax.experimental.pallas import mosaic_gpu as backend

        plgpu: Any = backend
        interpret = plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True))
    with interpret:
        errors(notes, contenders)
        tunings = {H: tune(notes, H) for H in ((64,) if options.dry else (128, 64, 256))}
        measure(notes, contenders, tunings)
    notes.save()
    print(f"{options.out}/gpu_attention.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())

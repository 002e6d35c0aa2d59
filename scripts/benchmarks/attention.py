# Over 400 lines: one benchmark with its contenders, which have to be timed alike.
"""`benchmark attention`: implementations of attention beside jax.nn and PyTorch.

Times are CPU milliseconds on one pinned core, or milliseconds on several (`--threads`), medians
over rounds in which all contenders take turns; compilation is excluded. jax and PyTorch live in a
process each, with the allocator settings that PyTorch needs. Errors are root mean squares against
float64 on the same inputs, relative to the root mean square of the exact values. Memory is what XLA
plans for temporaries of forward and backward; of PyTorch it is not known.

`python -m benchmarks.attention PEER DIRECTORY` is such a process: a line "prepare CASE"
compiles and answers with what it can time, a line "time NAME WHAT" with CPU seconds.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from attnzoo.errors import UserError
from child_process import environment

MASKS = ("full", "causal", "window", "document", "alibi", "softcap")
CONTENDERS = ("chosen", "blockwise", "reference", "jax.nn", "sdpa", "flex")
WINDOW, DOCUMENTS, SOFTCAP = 256, 8, 20.0
DENSE_LIMIT, REFERENCE_LIMIT, EXACT_LIMIT = 4096, 1024, 1024
"""Lengths up to which T x T weights are made by peers, by our reference, and in float64."""
FORWARD, BOTH = "forward", "both"


def add_parser(workloads: Any, positive: Callable[[str], int]) -> None:
    """The subcommand of `benchmark`."""
    parser = workloads.add_parser(
        "attention",
        help="attention in tiles beside jax.nn and PyTorch, by length and mask",
        description=__doc__.split("\n\n`python")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lengths", type=positive, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--masks", nargs="+", choices=MASKS, default=list(MASKS))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=positive, default=1)
    parser.add_argument("--heads", type=positive, default=8)
    parser.add_argument("--head-size", type=positive, default=64)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--threads", type=positive, default=1, help="cores to pin all to")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"some of {', '.join(CONTENDERS)}; flex takes most of the time, to compile",
    )
    parser.add_argument("--quick", action="store_true", help="two lengths, full and causal")
    parser.add_argument("--figure", type=Path, help="also draw times by length (.png or .svg)")
    parser.add_argument("--json", type=Path, help="also write all numbers")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--check-choice",
        action="store_true",
        help="time what implementation=None picks beside each other that would do; exit code 1 if "
        "it is more than 10 %% slower (of the other options, --rounds and --quick count)",
    )
    instead.add_argument(
        "--check-kernels",
        action="store_true",
        help="compare the Pallas kernels with the reference on this device, and let implementation="
        "None choose those that are right; exit code 1 if one is wrong",
    )
    instead.add_argument(
        "--tune",
        action="store_true",
        help="time tile sizes and keep the fastest in the user's cache directory",
    )


class Worker:
    """A child process that prepares cases and times one call at a time."""

    def __init__(
        self,
        name: str,
        directory: Path,
        allocator: Mapping[str, str],
        *,
        threads: int = 1,
        module: str = __name__,
    ):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, name, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(
                **allocator,
                OMP_NUM_THREADS=str(threads),
                MKL_NUM_THREADS=str(threads),
                JAX_PLATFORMS="cpu",
            ),
        )
        self.label = self._answer()

    def ask(self, line: str) -> Any:
        """One line there, one line of JSON back."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise UserError(f"the peer {self.name!r} ended with exit code {code}, see above")
        return json.loads(line)


def measure(arguments: argparse.Namespace, cores: list[int], allocator: Mapping[str, str]) -> int:
    """Run every case, print the table, draw the figure."""
    lengths = [256, 1024] if arguments.quick else sorted(arguments.lengths)
    chosen = ["full", "causal"] if arguments.quick else arguments.masks
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        settings = {
            "cores": cores,
            "threads": arguments.threads,
            "dtype": arguments.dtype,
            "contenders": arguments.contenders,
            "shape": [arguments.batch, arguments.heads, arguments.head_size],
        }
        (directory / "settings.json").write_text(json.dumps(settings))
        workers = []
        try:
            for name in ("jax", *(["torch"] if importlib.util.find_spec("torch") else [])):
                worker = Worker(name, directory, allocator, threads=arguments.threads)
                workers.append(worker)
            labels = ", ".join(worker.label for worker in workers)
            B, N, H = settings["shape"]
            print(
                f"{labels}; B {B}, N {N}, H {H}, {arguments.dtype}, cores: {arguments.threads}, "
                f"{arguments.rounds} rounds\n"
            )
            print(
                f"{'length':>6} {'mask':<9}{'':<20}{'forward ms':>11}{'+ backward':>11}"
                f"{'GFLOP/s':>9}{'MiB':>7}{'error':>9}{'of grads':>9}"
            )
            for mask, length in itertools.product(chosen, lengths):
                rows += _case(workers, mask, length, arguments)
        finally:
            for worker in workers:
                worker.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    if arguments.figure:
        from attnzoo.plotting import save
        from benchmarks.figure import times_by_length

        panels: dict[str, dict[str, dict[int, float]]] = {}
        for what, title in ((FORWARD, "forward"), (BOTH, "forward + backward")):
            for row in rows:
                if row[what] is not None:
                    lines = panels.setdefault(f"{row['mask']}, {title}", {})
                    lines.setdefault(row["name"], {})[row["length"]] = row[what]
        ylabel = "CPU ms" if arguments.threads == 1 else "ms"
        save(times_by_length(panels, ylabel=ylabel), arguments.figure)
        print(f"\n{arguments.figure}")
    return 0


def _case(
    workers: Sequence[Worker], mask: str, length: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    offered = [
        (worker, name, facts)
        for worker in workers
        for name, facts in worker.ask(f"prepare {mask} {length}").items()
    ]
    times: dict[tuple[str, str], list[float]] = {}
    calls = [(worker, name, what) for worker, name, facts in offered for what in facts["can"]]
    random = Random(length)
    for count in range(arguments.rounds + 1):
        random.shuffle(calls)  # who comes after the one that fills the cache has to wait for it
        for worker, name, what in calls:
            seconds = worker.ask(f"time {name} {what}")
            if count > 0:  # the first one warms up
                times.setdefault((name, what), []).append(seconds)
    rows = []
    for _, name, facts in offered:
        forward, both = (
            1e3 * statistics.median(times[name, what]) if (name, what) in times else None
            for what in (FORWARD, BOTH)
        )
        row = {"mask": mask, "length": length, "name": name, FORWARD: forward, BOTH: both, **facts}
        row["GFLOP/s"] = None if forward is None else facts["flops"] / forward / 1e6
        row["spread"] = {
            what: [1e3 * min(seconds), 1e3 * max(seconds)]
            for (who, what), seconds in times.items()
            if who == name
        }
        rows.append(row)
        if facts.get("refused"):
            print(f"{length:>6} {mask:<9}{name:<20}  {facts['refused']}", flush=True)
            continue
        memory = facts["memory"]
        cells = (
            (forward, ">11.1f"),
            (both, ">11.1f"),
            (row["GFLOP/s"], ">9.0f"),
            (None if memory is None else memory / 2**20, ">7.0f"),
            (facts["error"], ">9.0e"),
            (facts["gradient_error"], ">9.0e"),
        )
        text = "".join(
            f"{'-':>{kind[1:].split('.')[0]}}" if value is None else format(value, kind)
            for value, kind in cells
        )
        print(f"{length:>6} {mask:<9}{name:<20}{text}", flush=True)
    return rows


# What a worker does -------------------------------------------------------------------------------


def inputs(mask: str, T: int, settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """q, k, v and the cotangent, B N T H, float32 (rounded to bfloat16); document ids; slopes."""
    B, N, H = settings["shape"]
    random = np.random.default_rng([MASKS.index(mask), T])
    drawn = {name: random.standard_normal((B, N, T, H), np.float32) for name in "qkvw"}
    if settings["dtype"] == "bfloat16":
        drawn = {name: _round_to_bfloat16(x) for name, x in drawn.items()}
    starts = np.sort(random.choice(np.arange(1, T), min(DOCUMENTS, T) - 1, replace=False))
    ids = np.searchsorted(starts, np.arange(T), side="right").astype(np.int32)
    slopes = (2.0 ** (-8 * (np.arange(N) + 1) / N)).astype(np.float32)
    return {**drawn, "ids": ids, "slopes": slopes}


def _round_to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def visible(mask: str, ids: np.ndarray) -> np.ndarray:
    """T x T bool."""
    T = len(ids)
    q, k = np.arange(T)[:, None], np.arange(T)[None, :]
    return {
        "full": (q == q) & (k == k),
        "window": (k <= q) & (k > q - WINDOW),
        "document": (k <= q) & (ids[:, None] == ids[None, :]),
    }.get(mask, k <= q)


def exact(mask: str, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Output and gradients in float64 from the closed formulas."""
    q, k, v, w = (given[name].astype(np.float64) for name in "qkvw")
    T, H = q.shape[2:]
    hidden = ~visible(mask, given["ids"])
    distance = np.abs(np.arange(T)[:, None] - np.arange(T)[None, :])
    found = {name: np.empty_like(q) for name in ("out", "q", "k", "v")}
    for b, n in np.ndindex(*q.shape[:2]):
        s = q[b, n] @ k[b, n].T / H**0.5
        slope = 1.0
        if mask == "softcap":
            s = SOFTCAP * np.tanh(s / SOFTCAP)
            slope = 1 - (s / SOFTCAP) ** 2
        if mask == "alibi":
            s = s - given["slopes"][n].astype(np.float64) * distance
        s[hidden] = -np.inf
        p = np.exp(s - s.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        out = p @ v[b, n]
        delta = np.sum(w[b, n] * out, axis=1, keepdims=True)
        ds = p * (w[b, n] @ v[b, n].T - delta) * slope / H**0.5
        parts = {"out": out, "q": ds @ k[b, n], "k": ds.T @ q[b, n], "v": p.T @ w[b, n]}
        for name, part in parts.items():
            found[name][b, n] = part
    return found


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference by that of the exact values."""
    difference = np.asarray(got, np.float64) - wanted
    return float(np.sqrt(np.mean(difference**2) / np.mean(wanted**2)))


Contender = tuple[Callable[[], Any], Callable[[], Any] | None, int | None]
"""Forward; forward and backward (output, then gradients); bytes of temporaries."""


def jax_contenders(
    mask: str, T: int, given: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> tuple[dict[str, Contender], dict[str, str], Callable[[Any], np.ndarray]]:
    """Ours by name and jax.nn; those that refuse, with their reason; from array to B N T H."""
    import jax
    import jax.numpy as jnp

    from attnzoo import ops
    from attnzoo.ops import masks, score_mods

    q, k, v, w = (jnp.asarray(given[name].swapaxes(1, 2), settings["dtype"]) for name in "qkvw")
    mask_mod = {
        "full": None,
        "window": masks.sliding_window(WINDOW),
        "document": masks.document(jnp.asarray(given["ids"])) & masks.causal(),
    }.get(mask, masks.causal())
    score_mod = {
        "alibi": score_mods.alibi(jnp.asarray(given["slopes"])),
        "softcap": score_mods.softcap(SOFTCAP),
    }.get(mask)

    def ours(name: str | None) -> Callable[..., jax.Array]:
        return lambda q, k, v: ops.flex_attention(q, k, v, score_mod, mask_mod, implementation=name)

    def of_jax(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        bias, seen = None, None
        if mask in ("window", "document"):
            seen = jnp.asarray(visible(mask, given["ids"]))[None, None]
        if mask == "alibi":
            bias = score_mods.alibi(jnp.asarray(given["slopes"])).to_dense(1, q.shape[2], T, T)
            bias = bias.astype(q.dtype)
        causal = mask in ("causal", "alibi")
        return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=seen, is_causal=causal)

    wanted = settings["contenders"]
    functions: dict[str, Callable[..., jax.Array]] = {}
    refused: dict[str, str] = {}
    if "chosen" in wanted:
        functions["attnzoo chosen"] = ours(None)
    if "blockwise" in wanted:
        functions["attnzoo blockwise"] = ours("blockwise")
    if "reference" not in wanted:
        pass
    elif T <= REFERENCE_LIMIT:
        functions["attnzoo reference"] = ours("reference")
    else:
        refused["attnzoo reference"] = f"not run: T x T weights, beyond {REFERENCE_LIMIT}"
    if "jax.nn" not in wanted:
        pass
    elif mask == "softcap":
        refused["jax.nn"] = "has no soft cap"
    elif T <= DENSE_LIMIT:
        functions["jax.nn"] = of_jax
    else:
        refused["jax.nn"] = f"not run: T x T weights, beyond {DENSE_LIMIT}"
    contenders = {}
    for name, function in functions.items():

        def both(q: Any, k: Any, v: Any, function: Any = function) -> Any:
            out, pull = jax.vjp(function, q, k, v)
            return out, *pull(w)

        forward, compiled = jax.jit(function), jax.jit(both).lower(q, k, v).compile()
        planned = compiled.memory_analysis()
        contenders[name] = (
            lambda forward=forward: jax.block_until_ready(forward(q, k, v)),
            lambda compiled=compiled: jax.block_until_ready(compiled(q, k, v)),
            None if planned is None else planned.temp_size_in_bytes,
        )
    return contenders, refused, lambda x: np.asarray(x.astype(jnp.float32)).swapaxes(1, 2)


def torch_contenders(
    mask: str, T: int, given: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> tuple[dict[str, Contender], dict[str, str], Callable[[Any], np.ndarray]]:
    """PyTorch's fused SDPA and compiled FlexAttention, which has no backward pass on a CPU."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from torch.nn.functional import scaled_dot_product_attention

    dtype = getattr(torch, settings["dtype"])
    q, k, v, w = (torch.tensor(given[name]).to(dtype) for name in "qkvw")
    ids, slopes = torch.tensor(given["ids"]), torch.tensor(given["slopes"])
    grads = [x.clone().requires_grad_() for x in (q, k, v)]
    contenders: dict[str, Contender] = {}
    refused: dict[str, str] = {}

    if "sdpa" not in settings["contenders"]:
        pass
    elif mask == "softcap":
        refused["torch SDPA"] = "has no soft cap"
    elif mask not in ("full", "causal") and T > DENSE_LIMIT:
        refused["torch SDPA"] = f"not run: a T x T mask, beyond {DENSE_LIMIT}"
    else:
        attn_mask: torch.Tensor | None = None
        if mask in ("window", "document", "alibi"):
            attn_mask = torch.tensor(visible(mask, given["ids"]))[None, None]
        if mask == "alibi":
            distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
            bias = -slopes[:, None, None] * distance
            attn_mask = torch.where(distance >= 0, bias, -torch.inf)[None].to(dtype)
        arguments: dict[str, Any] = {"attn_mask": attn_mask, "is_causal": mask == "causal"}

        def sdpa() -> Any:
            with torch.no_grad():
                return scaled_dot_product_attention(q, k, v, **arguments)

        def sdpa_both() -> Any:
            out = scaled_dot_product_attention(grads[0], grads[1], grads[2], **arguments)
            return out.detach(), *torch.autograd.grad(out, grads, w)

        contenders["torch SDPA"] = (sdpa, sdpa_both, None)

    if "flex" not in settings["contenders"]:
        return contenders, refused, lambda x: x.float().numpy()
    mods: dict[str, Any] = {
        "full": None,
        "window": lambda b, h, i, j: (j <= i) & (j > i - WINDOW),
        "document": lambda b, h, i, j: (j <= i) & (ids[i] == ids[j]),
    }
    mask_mod = mods.get(mask, lambda b, h, i, j: j <= i)
    score_mod = {
        "alibi": lambda s, b, h, i, j: s - slopes[h] * (i - j),
        "softcap": lambda s, b, h, i, j: SOFTCAP * torch.tanh(s / SOFTCAP),
    }.get(mask)
    block_mask = None
    if mask_mod is not None:
        block_mask = create_block_mask(mask_mod, None, None, T, T, device="cpu")
    torch.compiler.reset()  # or the second length would be compiled for all lengths, and slower
    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def flex() -> Any:
        with torch.no_grad():
            return compiled(q, k, v, score_mod=score_mod, block_mask=block_mask)

    try:
        flex()
    except Exception as error:  # no C++ compiler, or a mask that it cannot compile
        refused["torch flex"] = f"fails: {str(error).splitlines()[0][:60]}"
    else:
        contenders["torch flex"] = (flex, None, None)
    return contenders, refused, lambda x: x.float().numpy()


def _prepare(
    peer: str, mask: str, T: int, settings: Mapping[str, Any]
) -> tuple[dict[str, Contender], dict[str, Any]]:
    given = inputs(mask, T, settings)
    make = {"jax": jax_contenders, "torch": torch_contenders}[peer]
    contenders, refused, to_numpy = make(mask, T, given, settings)
    B, N, H = settings["shape"]
    flops = 4 * B * N * H * int(visible(mask, given["ids"]).sum())
    wanted = exact(mask, given) if T <= EXACT_LIMIT else None
    answer: dict[str, Any] = {}
    for name, (forward, both, memory) in contenders.items():
        facts: dict[str, Any] = {"flops": flops, "memory": memory}
        facts |= {"error": None, "gradient_error": None}
        facts["can"] = [FORWARD] if both is None else [FORWARD, BOTH]
        if wanted is not None:
            facts["error"] = relative_error(to_numpy(forward()), wanted["out"])
            if both is not None:
                gradients = zip(both()[1:], ("q", "k", "v"))
                facts["gradient_error"] = max(
                    relative_error(to_numpy(x), wanted[name]) for x, name in gradients
                )
        answer[name] = facts
    for name, reason in refused.items():
        answer[name] = {"can": [], "refused": reason, "flops": flops}
    return contenders, answer


def work(peer: str, directory: Path) -> None:
    """Answer the parent line by line until it closes stdin."""
    settings = json.loads((directory / "settings.json").read_text())
    if settings["cores"] and hasattr(os, "sched_setaffinity"):  # before jax and torch count them
        os.sched_setaffinity(0, settings["cores"])
    if peer == "torch":
        import torch

        torch.set_num_threads(settings["threads"])
        label = f"PyTorch {torch.__version__}"
    else:
        import jax

        label = f"attnzoo on jax {jax.__version__}"
    print(json.dumps(label), flush=True)
    clock = time.process_time if settings["threads"] == 1 else time.perf_counter
    contenders: dict[str, Contender] = {}
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "prepare":
            contenders, answer = _prepare(peer, rest[0], int(rest[1]), settings)
            print(json.dumps(answer), flush=True)
        else:
            forward, both, _ = contenders[" ".join(rest[:-1])]
            call = forward if rest[-1] == FORWARD else both
            assert call is not None
            start = clock()
            call()
            print(json.dumps(clock() - start), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))

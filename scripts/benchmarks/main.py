"""`benchmark WORKLOAD`: this package beside its peers, on the same cores in turn.

The workloads `attention`, `context`, `explain`, `generation`, `images`, `linear` and `training` are
told in ``scripts/benchmarks/WORKLOAD.py`` and by `benchmark WORKLOAD --help`.

`benchmark seq2seq`: a training step of the additive translator beside PyTorch's.

Both peers start from the same weights and read the same batch; their losses and gradients are
compared before anything is timed. Each lives in its own process; the processes share the same cores
and take turns step by step, so that whatever else runs on the machine disturbs both alike. What is
reported is the median CPU time of a step (forward, backward, clipping by norm, Adam), compilation
excluded.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

from attnzoo.cli.common import run
from attnzoo.errors import UserError
from benchmarks import (
    attention,
    choice,
    context,
    data,
    explain,
    generation,
    images,
    linear,
    start,
    training,
)
from benchmarks import input as input_pipeline
from child_process import environment

TOLERANCE = 1e-4
WARM_UP = 2

# glibc gives freed memory back to the system at once, and PyTorch pays up to 30 % for asking again:
# a win against a peer without these is none. Both peers get them.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967295",
    "MALLOC_TRIM_THRESHOLD_": "4294967295",
    "MALLOC_TOP_PAD_": "268435456",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    workloads = parser.add_subparsers(dest="workload", required=True, metavar="WORKLOAD")
    seq2seq = workloads.add_parser(
        "seq2seq",
        help="the additive translator of Bahdanau et al. 2015 against PyTorch",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    positive = _positive
    seq2seq.add_argument("--vocabulary", type=positive, default=8000, help="of either language")
    seq2seq.add_argument("--width", type=positive, default=256, help="embedding, hidden, maxout")
    seq2seq.add_argument("--batch", type=positive, default=64, help="sentence pairs")
    seq2seq.add_argument("--length", type=positive, default=25, help="tokens of the longest one")
    seq2seq.add_argument("--rounds", type=positive, default=7, help="timed steps of each peer")
    seq2seq.add_argument("--threads", type=positive, default=1, help="cores that both are held to")
    linear.add_parser(workloads, positive)
    attention.add_parser(workloads, positive)
    context.add_parser(workloads, positive)
    explain.add_parser(workloads, positive)
    generation.add_parser(workloads, positive)
    training.add_parser(workloads, positive)
    start.add_parser(workloads, positive)
    input_pipeline.add_parser(workloads, positive)
    data.add_parser(workloads, positive)
    images.add_parser(workloads, positive)
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(f"{value} is not positive")
    return value


class Peer:
    """A child process that steps when told to."""

    def __init__(self, name: str, directory: Path, threads: int):
        self.name, self.directory = name, directory
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(
                **ALLOCATOR,
                OMP_NUM_THREADS=str(threads),
                MKL_NUM_THREADS=str(threads),
                JAX_PLATFORMS="cpu",
            ),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.label = self._answer().removeprefix("ready ")

    def check(self) -> Path:
        """Let it write its loss and gradients."""
        self._tell("check")
        return self.directory / f"{self.name}.npz"

    def step(self, *, timed: bool = True) -> None:
        """One training step."""
        cpu, wall = self._tell("step").split()
        if timed:
            self.cpu.append(float(cpu))
            self.wall.append(float(wall))

    def close(self) -> None:
        """End the process."""
        self.stdin.close()
        self.process.wait()

    def _tell(self, line: str) -> str:
        self.stdin.write(line + "\n")
        self.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        line = self.stdout.readline()
        if not line:
            code = self.process.wait()
            raise UserError(f"the peer {self.name!r} ended with exit code {code}, see above")
        return line.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: measured; 1: a choice was too slow; 2: peers that disagree or fail."""
    arguments = parse(argv)
    if arguments.workload == "context":
        return run(lambda: context.measure(arguments))
    if arguments.workload == "linear":
        return run(lambda: linear.measure(arguments, _cores(arguments.threads)))
    if arguments.workload == "attention" and arguments.check_choice:
        return run(lambda: choice.check(arguments, _cores(arguments.threads)))
    if arguments.workload == "attention" and arguments.check_kernels:
        return run(choice.check_kernels)
    if arguments.workload == "attention" and arguments.tune:
        return run(lambda: choice.tune(arguments, _cores(arguments.threads)))
    if arguments.workload == "attention":
        return run(lambda: attention.measure(arguments, _cores(arguments.threads), ALLOCATOR))
    if arguments.workload == "explain":
        return run(lambda: explain.measure(arguments, _cores(1)))
    if arguments.workload == "generation":
        return run(lambda: generation.measure(arguments, _cores(1), ALLOCATOR))
    if arguments.workload == "training":
        return run(lambda: training.measure(arguments, _cores(1), ALLOCATOR))
    if arguments.workload == "input":
        return run(lambda: input_pipeline.measure(arguments, _cores(1)))
    if arguments.workload == "start":
        return run(lambda: start.measure(arguments))
    if arguments.workload == "data":
        return run(lambda: data.measure(arguments))
    if arguments.workload == "images":
        return run(lambda: images.measure(arguments))
    return run(lambda: _seq2seq(arguments))


def _seq2seq(arguments: argparse.Namespace) -> int:
    cores = _cores(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        directory = Path(temporary)
        (directory / "settings.json").write_text(json.dumps({**vars(arguments), "cores": cores}))
        _write_batch(directory / "batch.npz", arguments)
        names = ["ours"] + (["torch"] if importlib.util.find_spec("torch") else [])
        peers = [stack.enter_context(_peer(name, directory, arguments.threads)) for name in names]
        if len(peers) > 1:
            difference, where = _difference(*(peer.check() for peer in peers))
            if not difference <= TOLERANCE:
                raise UserError(
                    f"the peers disagree: {where} differs by {difference:.1e} of its norm "
                    f"(allowed: {TOLERANCE:.0e}); their times say nothing"
                )
            print(f"loss and gradients agree: largest difference {difference:.1e} ({where})")
        for count in range(WARM_UP + arguments.rounds):
            for peer in peers:
                peer.step(timed=count >= WARM_UP)
        _report(arguments, peers)
    return 0


@contextlib.contextmanager
def _peer(name: str, directory: Path, threads: int) -> Generator[Peer, None, None]:
    peer = Peer(name, directory, threads)
    try:
        yield peer
    finally:
        peer.close()


def _cores(threads: int) -> list[int]:
    """The cores that the peers are pinned to; only Linux pins, elsewhere the system decides."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    available = sorted(os.sched_getaffinity(0))
    if threads > len(available):
        raise UserError(f"--threads {threads}: this process may use {len(available)} cores")
    return available[-threads:]


def _write_batch(path: Path, arguments: argparse.Namespace) -> None:
    """Sentences of 80 to 100 % of the length, as a length bucket holds them."""
    import numpy as np

    random = np.random.default_rng(1)
    B, L = arguments.batch, arguments.length
    lengths = random.integers(-(-4 * L // 5), L + 1, (2, B, 1))
    lengths[:, 0] = L
    source = random.integers(min(4, arguments.vocabulary - 1), arguments.vocabulary, (B, L))
    target = random.integers(min(4, arguments.vocabulary - 1), arguments.vocabulary, (B, L + 1))
    np.savez(
        path,
        allow_pickle=False,
        source=np.where(np.arange(L) < lengths[0], source, 0).astype(np.int32),
        target=np.where(np.arange(L + 1) < lengths[1] + 1, target, 0).astype(np.int32),
    )


def _difference(a: Path, b: Path) -> tuple[float, str]:
    """The largest ||x - y|| / ||y|| over loss and gradients, and whose it is."""
    import numpy as np

    with np.load(a) as left, np.load(b) as right:
        if set(left) != set(right):
            return float("inf"), "the set of parameters"

        def apart(name: str) -> float:
            x, y = left[name].astype(np.float64), right[name].astype(np.float64)
            relative = np.linalg.norm(x - y) / max(np.linalg.norm(y), np.finfo(np.float32).tiny)
            # max() would lose a NaN that does not come first.
            return float(relative) if np.isfinite(relative) else float("inf")

        return max((apart(name), name) for name in left)


def _report(arguments: argparse.Namespace, peers: Sequence[Peer]) -> None:
    medians = [statistics.median(peer.cpu) for peer in peers]
    tokens = arguments.batch * arguments.length
    print(
        f"vocabulary {arguments.vocabulary}, width {arguments.width}, batch {arguments.batch}, "
        f"length {arguments.length}, float32, {arguments.threads} core(s), "
        f"{arguments.rounds} rounds\n"
    )
    print(f"{'':<28}{'CPU ms a step':>14}{'lowest':>9}{'highest':>9}{'tokens/CPU s':>14}")
    for peer, median in zip(peers, medians, strict=True):
        low, high = 1e3 * min(peer.cpu), 1e3 * max(peer.cpu)
        print(
            f"{peer.label:<28}{1e3 * median:>14.1f}{low:>9.1f}{high:>9.1f}{tokens / median:>14.0f}"
        )
    if len(peers) > 1:
        print(f"\nratio PyTorch / attnzoo: {medians[1] / medians[0]:.2f} (above 1: ours is faster)")
    else:
        print("\nPyTorch is not installed, so ours ran alone: pip install 'attnzoo[benchmark]'")

"""Hurt a run on purpose and count what survives; prints a table, exit status 1 if anything did not.

python scripts/torture.py resume CONFIG [key=value ...] --count 50   SIGKILL a training at a random
    instant, resume it, compare its last checkpoint bit by bit with an uninterrupted run's
python scripts/torture.py saves --count 100       SIGKILL a process that does nothing but save
python scripts/torture.py flips RUN --count 1000  flip one bit of a copy of a run's newest step
"""

import argparse
import collections
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SAVER = """
import sys
import numpy as np
from attnzoo.training.checkpoint import CheckpointStore
with CheckpointStore(sys.argv[1], keep=2) as store:
    start = (store.steps or [0])[-1]
    for step in range(start + 1, start + 100_000):
        rng = np.random.default_rng(step)
        store.save(step, {f"a{i}": rng.normal(size=(100, 1000)) for i in range(10)}, {"n": step})
        print(step, flush=True)
"""


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A Python process in the repository's root."""
    log = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=log, stderr=log)


def leaves(state: Any, prefix: str = "") -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name to dtype, shape and bytes."""
    if not isinstance(state, dict):
        return {prefix: (str(state.dtype), state.shape, state.tobytes())}
    return {
        k: v for key, value in state.items() for k, v in leaves(value, f"{prefix}/{key}").items()
    }


def resume(arguments: argparse.Namespace, work: Path) -> collections.Counter[str]:
    """Kill trainings at random instants and resume them."""
    from attnzoo.training.checkpoint import restore, verify

    train = ["scripts/train.py", arguments.config, *arguments.overrides, "--run-dir"]
    began = time.monotonic()
    if start([*train, str(work / "reference")]).wait():
        sys.exit(f"error: the uninterrupted run failed: {sys.executable} {' '.join(train[:-1])}")
    duration = time.monotonic() - began
    want = restore(work / "reference")
    print(f"uninterrupted: {duration:.1f} s to step {want.step}")
    print(f"{'trial':>5} {'killed at':>10} {'newest step':>12} {'resumed to':>11}  result")
    count: collections.Counter[str] = collections.Counter()
    trial = 0
    while trial < arguments.count:
        run = work / f"killed-{trial}"
        began = time.monotonic()
        process = start([*train, str(run)])
        instant = random.uniform(0, duration)
        try:
            process.wait(instant)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            # It had ended before its instant (the first run also compiled): no trial.
            duration = min(duration, time.monotonic() - began)
            shutil.rmtree(run)
            continue
        saved = [int(p.name) for p in (run / "checkpoints").glob("[0-9]*")]
        begun = saved or (run / "config.yaml").exists()
        status = start([*train, str(run), *(["--resume"] if begun else [])]).wait()
        if status:
            result, step = f"FAILED with exit status {status}", 0
        elif not all(report.ok for report in verify(run)):
            result, step = "FAILED: a step is damaged", 0
        else:
            got = restore(run)
            same = got.step == want.step and leaves(got.state) == leaves(want.state)
            result, step = "identical" if same else "FAILED: parameters differ", got.step
        count[result] += 1
        print(
            f"{trial:>5} {instant:>8.1f} s {max(saved, default=0):>12} {step:>11}  {result}",
            flush=True,
        )
        shutil.rmtree(run)
        trial += 1
    return count


def saves(arguments: argparse.Namespace, work: Path) -> collections.Counter[str]:
    """Kill a process that only saves; what it leaves must be whole and not older than known."""
    import numpy as np

    from attnzoo.training.checkpoint import restore

    count: collections.Counter[str] = collections.Counter()
    for _ in range(arguments.count):
        command = [sys.executable, "-c", SAVER, str(work)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        known = int(process.stdout.readline())
        time.sleep(random.uniform(0, 1.0))
        process.send_signal(signal.SIGKILL)
        # The last line may be cut off; every whole one says that the step before it is durable.
        known = max([known, *map(int, process.communicate()[0].split("\n")[:-1])])
        if known == 1:
            continue
        got = restore(work)
        rng = np.random.default_rng(got.step)
        exact = all(
            np.array_equal(got.state[f"a{i}"], rng.normal(size=(100, 1000))) for i in range(10)
        )
        fine = exact and got.meta == {"n": got.step} and got.step >= known - 1
        count["newest valid" if fine else "FAILED: lost or wrong"] += 1
    return count


def flips(arguments: argparse.Namespace, work: Path) -> collections.Counter[str]:
    """Flip one bit at a time; reading must give the saved numbers or say that it cannot."""
    from attnzoo.errors import UserError
    from attnzoo.training.checkpoint import restore

    want = restore(arguments.run)
    step = Path(arguments.run).resolve() / "checkpoints" / str(want.step)
    copy = Path(shutil.copytree(step, work / step.name))
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.stat().st_size)
    count: collections.Counter[str] = collections.Counter()
    for trial in range(arguments.count):
        # Half by size, so that numbers are hit; half by file, so that every small file is.
        sizes = [p.stat().st_size if trial % 2 else 1 for p in files]
        (file,) = random.choices(files, sizes)
        bit = random.randrange(8 * file.stat().st_size)
        with file.open("r+b") as stream:
            stream.seek(bit // 8)
            byte = stream.read(1)[0]
            stream.seek(bit // 8)
            stream.write(bytes([byte ^ 1 << bit % 8]))
        try:
            got = restore(copy)
        except UserError:
            count["detected"] += 1
        else:
            same = leaves(got.state) == leaves(want.state) and got.meta == want.meta
            count["read exactly all the same" if same else "FAILED: silently wrong"] += 1
        with file.open("r+b") as stream:
            stream.seek(bit // 8)
            stream.write(bytes([byte]))
    return count


def main() -> int:
    """Run one kind of torture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("target", nargs="?", help="a config (resume) or a run directory (flips)")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--count", type=int, default=10, help="trials (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants and bits (0)")
    arguments = parser.parse_intermixed_args()
    if arguments.kind != "saves" and arguments.target is None:
        parser.error(f"{arguments.kind} needs a config or a run directory")
    arguments.config = arguments.run = arguments.target
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="torture-") as work:
        count = KINDS[arguments.kind](arguments, Path(work))
    print(f"{arguments.kind}: " + ", ".join(f"{n} {what}" for what, n in count.most_common()))
    return 1 if any(what.startswith("FAILED") for what in count) else 0


KINDS = {"resume": resume, "saves": saves, "flips": flips}

if __name__ == "__main__":
    sys.exit(main())

"""What disks do: bits that flip, files that are lost or cut, no space left."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attnzoo.errors import UserError
from attnzoo.training.checkpoint import CheckpointStore, restore, verify
from attnzoo.training.step_files import METADATA_FILE, steps
from fault_injection.trials import Trial, leaves, python

LEVELS = 20


def state(step: int) -> dict[str, Any]:
    """Arrays like those of a training: some large, many tiny, of several types."""
    random = np.random.default_rng(step)
    return {
        "params": {f"w{i}": random.normal(size=(31, 37)).astype(np.float32) for i in range(3)},
        "tiny": {f"b{i}": random.normal(size=i + 1).astype(np.float32) for i in range(7)},
        "step": np.int32(step),
        "key": random.integers(0, 2**32, 2, np.uint32),
    }


def flip(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """One bit at a time; reading gives what was saved, or says that it cannot."""
    with CheckpointStore(work / "steps") as store:
        store.save(1, state(1), {"n": 1})
    want, step = restore(work / "steps"), work / "steps" / "1"
    files = sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)
    for trial in range(count):
        # Half by size, so that numbers are hit; half by file, so that every small file is.
        sizes = [path.stat().st_size if trial % 2 else 1 for path in files]
        (file,) = draws.choices(files, sizes)
        bit = draws.randrange(8 * file.stat().st_size)
        before = file.read_bytes()
        damaged = bytearray(before)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            got = restore(step)
        except UserError:
            yield Trial(True, "detected")
        else:
            same = leaves(got.state) == leaves(want.state) and got.meta == want.meta
            same = same and got.step == 1
            where = file.relative_to(step)
            yield Trial(same, "read exactly all the same" if same else f"silently wrong: {where}")
        file.write_bytes(before)


def _largest(step: Path) -> Path:
    return max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _truncate(step: Path) -> None:
    os.truncate(_largest(step), _largest(step).stat().st_size // 2)


def _zeros(step: Path) -> None:
    file = _largest(step)
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size // 4)
        stream.write(bytes(size // 4))


def _empty(step: Path) -> None:
    for file in (step / "state").rglob("*"):
        if file.is_file():
            os.truncate(file, 0)


def _changed(step: Path) -> None:
    file = step / METADATA_FILE
    content = json.loads(file.read_text())
    content["custom_metadata"]["manifest"]["meta"]["n"] = 99
    file.write_text(json.dumps(content))


def _replace(step: Path, part: str) -> None:
    """That part of the step before in the place of this one's."""
    shutil.rmtree(step / part)
    shutil.copytree(step.parent / "1" / part, step / part)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a file cut off": _truncate,
    "a block of zeros": _zeros,
    "array files empty": _empty,
    "array files missing": lambda step: shutil.rmtree(step / "state"),
    "array database missing": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "metadata missing": lambda step: (step / METADATA_FILE).unlink(),
    "metadata garbage": lambda step: (step / METADATA_FILE).write_text("{]"),
    "metadata changed": _changed,
    "arrays of another step": lambda step: _replace(step, "state"),
    "another step under this name": lambda step: _replace(step, "."),
}


def damage(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """The newest step is damaged; it is set aside, and the one before is read."""
    with CheckpointStore(work / "whole") as store:
        for step in (1, 2):
            store.save(step, state(step), {"n": step})
    kinds = list(DAMAGES)
    for trial in range(count):
        kind, home = kinds[trial % len(kinds)], work / f"trial-{trial}"
        shutil.copytree(work / "whole", home)
        DAMAGES[kind](home / "2")
        seen = [report.ok for report in verify(home)]
        with CheckpointStore(home) as store:
            got = store.restore_newest_valid()
        exact = got is not None and got.step == 1 and leaves(got.state) == leaves(state(1))
        aside = (home / "damaged" / "2").is_dir() and not (home / "2").exists()
        passed = seen == [True, False] and exact and aside
        yield Trial(passed, "fallen back" if passed else f"{kind}: not fallen back from")
        shutil.rmtree(home)


FILLER = """
import sys
import numpy as np
from attnzoo.cli.common import run
from attnzoo.training.checkpoint import CheckpointStore

def fill():
    with CheckpointStore(sys.argv[1], keep=1000) as store:
        for step in range(1, 1000):
            rng = np.random.default_rng(step)
            arrays = {f"a{i}": rng.normal(size=(20, 100)) for i in range(5)}
            print(step, flush=True)
            store.save(step, arrays, {"n": step}, wait=sys.argv[2] == "waiting")
            store.poll()
    print("done", flush=True)
    return 0

sys.exit(run(fill))
"""


def full(count: int, draws: random.Random, work: Path) -> Iterator[Trial]:
    """The disk is full after some steps, each time at another byte: the exit status is not 0, and
    every step that was saved before is there.
    """
    for trial in range(count):
        level, way = trial // 2 % LEVELS, ("background", "waiting")[trial % 2]
        with _small_disk(work / f"disk-{trial}", 60_000 + level * 47_000) as (home, options, how):
            process = python("-c", FILLER, home / "steps", way, **options)
            out, errors = process.communicate()
            begun = max(map(int, out.split()), default=0) if "done" not in out else 10**9
            reports = verify(home / "steps") if steps(home / "steps") else []
            whole = [one.step for one in reports if one.ok and not one.unfinished]
            # In the background a save that fails is noticed by the next one at the latest.
            least = begun - 2 if way == "background" else begun - 1
            # Around it, and in a line of theirs, there may be tracebacks that threads of
            # tensorstore print of event loops that orbax has closed.
            lines = [line.strip() for line in errors.splitlines() if line.strip()]
            said = any(re.search("error: /.*: .*earlier ones kept", line) for line in lines)
            if process.returncode != 2 or not said:
                yield Trial(False, f"exit status {process.returncode}: {' | '.join(lines)}")
            elif not all(one.ok for one in reports) or whole != list(range(1, len(whole) + 1)):
                yield Trial(False, "an earlier step is damaged or gone")
            elif len(whole) < least or not all(_exact(home / "steps", one) for one in whole):
                yield Trial(False, f"{len(whole)} steps are whole of {begun} that were begun")
            else:
                yield Trial(True, f"exit status 2, earlier steps whole ({how})")


def _exact(home: Path, step: int) -> bool:
    rng, got = np.random.default_rng(step), restore(home, step=step).state
    return all(np.array_equal(got[f"a{i}"], rng.normal(size=(20, 100))) for i in range(5))


@contextlib.contextmanager
def _small_disk(home: Path, size: int) -> Generator[tuple[Path, dict[str, Any], str]]:
    """A folder of so many bytes: for root a file system of its own, else a limit for each file."""
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(home)]
    if os.geteuid() == 0 and shutil.which("mount"):
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    else:
        mounted = False
    try:
        if mounted:
            yield home, {}, "tmpfs"
        else:
            # Of the 16 kB arrays each file of a step has some: it fails at the first one beyond.
            limit = size // 60
            bound = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
            yield home, {"preexec_fn": bound}, "file size limit"
    finally:
        if mounted:
            subprocess.run(["umount", str(home)], check=True)

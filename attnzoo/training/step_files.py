"""One step on disk: written whole or not at all, and read with every digest checked.

Orbax writes the arrays, then a commit file. It keeps no checksum of them, so its metadata file also
carries our manifest: path, dtype, shape and xxh3_128 digest of every leaf, the JSON dictionary that
was saved along, and a digest of the manifest itself.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from orbax.checkpoint import v1 as ocp

from attnzoo.errors import UserError
from attnzoo.training.leaves import Leaf, stored_dtype
from attnzoo.training.run_directory import fsync_directory, fsync_tree

FORMAT = 1
COMMIT_FILE = "commit_success.txt"
METADATA_FILE = "_CHECKPOINT_METADATA"
DAMAGED = "damaged"
ROLLED_BACK = "rolled_back"

logger = logging.getLogger(__name__)


class DamagedStepError(Exception):
    """A step on disk that is not what was saved; `problems` says what differs."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def steps(path: Path) -> list[int]:
    """The committed steps in a directory, ascending."""
    if not path.is_dir():
        return []
    found = [
        int(p.name) for p in path.iterdir() if p.name.isdecimal() and (p / COMMIT_FILE).exists()
    ]
    return sorted(found)


def open_for_writing(path: str | Path) -> Path:
    """Make a directory of steps, try to write into it, and remove what is not committed."""
    root = Path(path).expanduser().resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe.{os.getpid()}"
        probe.write_bytes(bytes(4096))
        probe.unlink()
        for child in root.iterdir():
            if child.name.isdecimal() and not (child / COMMIT_FILE).exists():
                logger.warning("%s: removed, its save was not finished", child)
                shutil.rmtree(child)
    except OSError as error:
        raise UserError(f"{root}: cannot write checkpoints here: {error.strerror}") from error
    return root


def write_step(path: Path, step: int, leaves: list[Leaf], meta: dict[str, Any]) -> None:
    manifest = {
        "format": FORMAT,
        "step": step,
        "leaves": [leaf.entry() for leaf in leaves],
        "meta": meta,
    }
    # Orbax refuses arrays without elements; the manifest alone describes them.
    arrays = {leaf.name: leaf.array for leaf in leaves if leaf.array.size}
    try:
        with _context():
            custom: dict[str, Any] = {"manifest": manifest, "digest": _manifest_digest(manifest)}
            ocp.save_checkpointables(str(path), {"state": arrays}, custom_metadata=custom)
        fsync_tree(path)
    except Exception as error:
        shutil.rmtree(path, ignore_errors=True)
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: checkpoint not written, earlier ones kept: {reason}") from error


def read_step(path: Path) -> tuple[list[Leaf], dict[str, Any]]:
    """Read one step and check all of it; DamagedStepError when it is not what was saved."""
    manifest = read_manifest(path)
    entries = {Leaf(tuple(e["path"]), "", np.empty(0)).name: e for e in manifest["leaves"]}
    stored = {name: e for name, e in entries.items() if math.prod(e["shape"])}
    try:
        with _context():
            found = ocp.checkpointables_metadata(str(path)).metadata["state"]
            # A damaged shape could ask for any amount of memory: look before reading.
            shapes = {name: list(array.shape) for name, array in found.items()}
            if shapes != {name: e["shape"] for name, e in stored.items()}:
                raise DamagedStepError(["names or shapes of the stored arrays differ"])
            arrays = ocp.load_checkpointables(str(path), {"state": None})["state"]
    except DamagedStepError:
        raise
    except Exception as error:  # orbax and tensorstore raise whatever they stumble over
        reason = " ".join(str(error).split())[:200]
        raise DamagedStepError([f"cannot be read: {type(error).__name__}: {reason}"]) from error
    leaves, problems = [], []
    for name, e in entries.items():
        array = arrays[name] if name in stored else np.empty(e["shape"], stored_dtype(e["dtype"]))
        leaf = Leaf(tuple(e["path"]), e["dtype"], np.asarray(array))
        leaves.append(leaf)
        if leaf.array.dtype != stored_dtype(e["dtype"]) or leaf.entry() != e:
            problems.append(f"{name}: the digest differs")
    if problems:
        raise DamagedStepError(problems)
    return leaves, manifest["meta"]


def read_manifest(path: Path) -> dict[str, Any]:
    if not (path / COMMIT_FILE).exists():
        raise DamagedStepError([f"{COMMIT_FILE} is missing"])
    try:
        text = (path / METADATA_FILE).read_text(encoding="utf-8")
        custom = json.loads(text)["custom_metadata"]
        manifest, digest = custom["manifest"], custom["digest"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedStepError([f"{METADATA_FILE} cannot be read: {error!r}"]) from error
    if digest != _manifest_digest(manifest):
        raise DamagedStepError(["the manifest's digest differs"])
    if manifest["format"] > FORMAT:
        raise UserError(f"{path}: written by a newer version (format {manifest['format']})")
    if path.name.isdecimal() and manifest["step"] != int(path.name):
        raise DamagedStepError([f"holds step {manifest['step']}, not {path.name}"])
    return manifest


def _manifest_digest(manifest: dict[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def set_aside(path: Path, folder: str) -> None:
    """Move a step into a directory beside it, whatever lies there already."""
    home = path.parent / folder
    home.mkdir(exist_ok=True)
    target, copy = home / path.name, 1
    while target.exists():
        target, copy = home / f"{path.name}.{copy}", copy + 1
    path.rename(target)
    fsync_directory(home)
    fsync_directory(path.parent)


def delete_step(path: Path) -> None:
    """Remove a step; whenever this is interrupted, what is left is not taken for a step."""
    (path / COMMIT_FILE).unlink()
    fsync_directory(path)
    shutil.rmtree(path)


def _context() -> ocp.Context:
    context = ocp.Context()
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    # Otherwise a directory that cannot be made leaves threads that wait for it for 300 s.
    context.asynchronous.create_directories_asynchronously = False
    return context

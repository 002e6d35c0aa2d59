"""Files of one saved step: written completely or not at all, and verified on reading.

Orbax writes the arrays, then a commit file. It keeps no checksum of them, so its metadata file also
carries our manifest: path, dtype, shape and xxh3_128 digest of every leaf, the JSON dictionary that
was saved with them, and a digest of the manifest itself.
"""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import tensorstore as ts
import xxhash
from orbax.checkpoint import v1 as ocp

from attnzoo.errors import UserError
from attnzoo.files import read_json
from attnzoo.training.leaves import Leaf
from attnzoo.training.processes import is_first
from attnzoo.training.run_directory import fsync_directory, fsync_tree

FORMAT = 1
COMMIT_FILE = "commit_success.txt"
METADATA_FILE = "_CHECKPOINT_METADATA"
DAMAGED = "damaged"
ROLLED_BACK = "rolled_back"

logger = logging.getLogger(__name__)
# Orbax also logs, with a traceback, every error that it raises; one line is enough.
logging.getLogger("absl").addFilter(
    lambda record: not ("orbax" in record.pathname and record.levelno >= logging.WARNING)
)


class _Entry(TypedDict):
    """Manifest entry of a leaf."""

    path: list
    dtype: str
    shape: list[int]
    digest: str


class _Manifest(TypedDict):
    """Manifest of a step; ``meta`` is the dictionary that was saved with the arrays."""

    format: int
    step: int
    leaves: list[_Entry]
    meta: dict


class _Custom(TypedDict):
    """Our part of orbax's metadata."""

    manifest: _Manifest
    digest: str


class _Metadata(TypedDict):
    """Content of orbax's metadata file, as far as it is read."""

    custom_metadata: _Custom


class DamagedStepError(Exception):
    """A step on disk that fails verification; `problems` lists the differences."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def steps(path: Path) -> list[int]:
    """Return the committed steps in a directory, ascending."""
    try:
        found = [p for p in path.iterdir() if p.name.isdecimal() and (p / COMMIT_FILE).exists()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return sorted(int(p.name) for p in found)


def open_for_writing(path: str | Path) -> Path:
    """Make a directory of steps and check write access."""
    root = Path(path).expanduser().resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe.{os.getpid()}"
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        raise UserError(f"{root}: cannot write checkpoints here: {error.strerror}") from error
    return root


def unfinished(root: Path) -> list[Path]:
    """Return the steps in a directory that have no commit file."""
    children = root.iterdir() if root.is_dir() else ()
    return [p for p in children if p.name.isdecimal() and not (p / COMMIT_FILE).exists()]


def remove_unfinished(root: Path) -> None:
    """Remove the steps in a directory that have no commit file."""
    try:
        for step in unfinished(root):
            logger.warning("%s: removed, its save was not finished", step)
            shutil.rmtree(step)
    except OSError as error:
        raise UserError(f"{root}: cannot write checkpoints here: {error.strerror}") from error


def write_step(path: Path, step: int, leaves: list[Leaf], meta: dict[str, Any]) -> None:
    """Write one step; all processes must call it, and the first one writes.

    Orbax waits for all processes.
    """
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
        if is_first():
            fsync_tree(path)
    except Exception as error:
        if is_first():
            shutil.rmtree(path, ignore_errors=True)
        text = " ".join(str(error).split())
        full = "RESOURCE_EXHAUSTED" in text or "No space left" in text
        reason = "no space left on the disk" if full else text[:300]
        raise UserError(f"{path}: checkpoint not written, earlier ones kept: {reason}") from error


def read_step(path: Path) -> tuple[list[Leaf], dict[str, Any]]:
    """Read one step and verify all leaves; raise DamagedStepError if one differs.

    Reads orbax's files (one zarr3 array per leaf in an OCDBT database) with tensorstore directly:
    orbax's reader reports damage without the leaf's name, from threads that outlive the call.
    """
    manifest = read_manifest(path)
    base = {"driver": "file", "path": f"{path / 'state'}/"}
    shared = ts.Context()
    leaves, problems, opening = [], [], []
    for entry in manifest["leaves"]:
        try:
            leaf = Leaf.empty(entry)
        except (TypeError, ValueError, MemoryError) as error:
            raise DamagedStepError([f"manifest: {str(error).splitlines()[0][:80]}"]) from error
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{leaf.name}/"}
        spec = {"driver": "zarr3", "kvstore": kvstore}
        stored = ts.open(spec, open=True, read=True, context=shared) if leaf.array.size else None
        opening.append((entry, leaf, stored))
    for entry, leaf, stored in opening:
        try:
            if stored is not None:
                array = stored.result()
                # A damaged shape could request any amount of memory: check before reading.
                if array.shape != leaf.array.shape or array.dtype.numpy_dtype != leaf.array.dtype:
                    raise ValueError("shape or dtype differs")
                leaf = dataclasses.replace(leaf, array=array.read().result())
            if leaf.entry() != entry:
                raise ValueError("the digest differs")
        except Exception as error:  # tensorstore may raise any exception
            problems.append(f"{leaf.name}: {str(error).splitlines()[0][:80]}")
        leaves.append(leaf)
    if problems:
        raise DamagedStepError(problems)
    return leaves, manifest["meta"]


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a step; DamagedStepError if it is missing or its digest differs."""
    if not (path / COMMIT_FILE).exists():
        raise DamagedStepError([f"{COMMIT_FILE} is missing"])
    try:
        custom = read_json(path / METADATA_FILE, _Metadata)["custom_metadata"]
    except UserError as error:
        reason = str(error).removeprefix(f"{path / METADATA_FILE}: ")
        raise DamagedStepError([f"{METADATA_FILE} cannot be read: {reason}"]) from error
    manifest: dict[str, Any] = custom["manifest"]
    if custom["digest"] != _manifest_digest(manifest):
        raise DamagedStepError(["the manifest's digest differs"])
    if manifest["format"] > FORMAT:
        raise UserError(f"{path}: written by a newer version (format {manifest['format']})")
    if path.name.isdecimal() and manifest["step"] != int(path.name):
        raise DamagedStepError([f"holds step {manifest['step']}, not {path.name}"])
    return manifest


def _manifest_digest(manifest: dict[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def set_aside(path: Path, folder: str) -> None:
    """Move a step into a directory beside it, under a new name if its name is taken."""
    home = path.parent / folder
    home.mkdir(exist_ok=True)
    target, copy = home / path.name, 1
    while target.exists():
        target, copy = home / f"{path.name}.{copy}", copy + 1
    path.rename(target)
    fsync_directory(home)
    fsync_directory(path.parent)


def delete_step(path: Path) -> None:
    """Remove a step; after an interruption its remaining files do not count as a step."""
    (path / COMMIT_FILE).unlink()
    fsync_directory(path)
    shutil.rmtree(path)


def _context() -> ocp.Context:
    context = ocp.Context()
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    # Otherwise a directory that cannot be created leaves threads that wait 300 s for it.
    context.asynchronous.create_directories_asynchronously = False
    return context

"""Manifest of a run: digests of the files that give its numbers a meaning, and sizes of its data.

The files are config.yaml and those that the task declares: tokenizers, class names, statistics.
"""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import xxhash

from attnzoo.errors import UserError
from attnzoo.files import read_bytes, read_json
from attnzoo.training.run_directory import RunDirectory, write_durably

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
FORMAT = 1
DIGESTED = 2**26
"""Files of data of up to so many bytes have a digest in the manifest, others a size and a time."""

Sizes = dict[str, dict[str, int]]


class _Content(TypedDict):
    """Content of the manifest's file."""

    format: int
    digest: str
    files: dict[str, str]
    accepted: dict[str, str]
    data: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Digests of a run's files, and the sizes of the data it was trained on.

    Attributes:
      files: xxh3_128 of each file's bytes, by name, as training wrote it.
      accepted: digests of the files that were changed on purpose afterwards.
      data: bytes, time of change, rows and xxh3_64 of each file of the data.
    """

    files: dict[str, str]
    accepted: dict[str, str] = dataclasses.field(default_factory=dict)
    data: Sizes = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path, names: Sequence[str], config: str, data: Sizes) -> "Manifest":
        """Make the manifest of a run with these files and the text of its config."""
        digests = {name: digest((directory / name).read_bytes()) for name in names}
        return cls({CONFIG: digest(config.encode()), **digests}, data=data)

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """Read the manifest of a run; None if it has none. A damaged one is a UserError."""
        path = directory / MANIFEST
        if not path.exists():
            return None
        hint = "restore it from a copy, or remove it: the steps have the digests of the files too"
        try:
            found = read_json(path, _Content)
        except UserError as error:
            raise UserError(f"{path}: damaged ({error}); {hint}") from None
        if found.pop("digest") != _own_digest(found) or found.pop("format") != FORMAT:
            raise UserError(f"{path}: damaged, or of a newer version; {hint}")
        return cls(**found)

    def write(self, directory: Path) -> None:
        """Write the manifest durably."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        content["digest"] = _own_digest(content)
        write_durably(directory / MANIFEST, json.dumps(content, indent=1) + "\n")

    def problems(self, directory: Path) -> dict[str, str]:
        """Return the problem of each file by name; an empty text for a whole file."""
        wanted = self.files | self.accepted
        return {name: _problem(directory / name, wanted[name]) for name in wanted}

    def check(self, directory: Path) -> None:
        """Raise a UserError for the first file that is missing or was changed."""
        for name, problem in self.problems(directory).items():
            if problem:
                raise UserError(f"{directory / name}: {problem}")


def accept(path: str | Path, name: str) -> None:
    """Record the present content of a file of a run as right, under the run's lock.

    Raises:
      UserError: there is no such file in the run's manifest.
    """
    run = RunDirectory.open(path)
    manifest = Manifest.read(run.path)
    if manifest is None or name not in manifest.files:
        known = ", ".join(manifest.files) if manifest else f"none, there is no {MANIFEST}"
        raise UserError(f"--accept {name}: no such file in {MANIFEST}; it names {known}")
    now = {name: digest(read_bytes(run.path / name))}
    with run.lock():
        dataclasses.replace(manifest, accepted=manifest.accepted | now).write(run.path)


def open_run(path: str | Path) -> tuple[RunDirectory, Manifest | None]:
    """Open a run for reading, and its manifest, after checking its files; nothing is written.

    A run of an older version has no manifest, which is a warning.

    Raises:
      UserError: there is no run, or a file of it is missing or was changed.
    """
    directory = RunDirectory.open(path)
    manifest = Manifest.read(directory.path)
    if manifest is None:
        logger.warning("%s: no %s, its files cannot be checked", directory.path, MANIFEST)
    else:
        manifest.check(directory.path)
    return directory, manifest


def check_step(directory: Path, manifest: Manifest | None, meta: Mapping[str, Any]) -> None:
    """Raise a UserError if a saved step was trained with other files than those of the run."""
    if problem := step_problem(directory, manifest, meta.get("files", {})):
        raise UserError(problem)


def step_problem(directory: Path, manifest: Manifest | None, trained: Mapping[str, str]) -> str:
    """Return the difference between a run's files and those a step was trained with, or "".

    `trained` are digests by name; a step of an older version has none.
    """
    for name, before in trained.items():
        if manifest is None:
            if problem := _problem(directory / name, before):
                return f"{directory / name}: {problem}"
        elif manifest.files.get(name) != before:
            return f"{directory}: the step belongs to another run, which had another {name}"
    return ""


def digest(content: bytes) -> str:
    """Return the xxh3_128 of bytes."""
    return xxhash.xxh3_128_hexdigest(content)


def sizes_of_data(config: Any, rows: Mapping[str, int]) -> Sizes:
    """Return bytes, time of change and digest of the files of a data config, and the rows read.

    Rows have the name of a report: a file, several, or a data set of the hub.
    """
    sizes = {str(path): _size(path) for path in _paths(config)}
    for name, count in rows.items():
        sizes[name] = sizes.get(name, {}) | {"rows": count}
    return sizes


def changes(before: Sizes, now: Sizes, *, certain: bool = False) -> list[str]:
    """Return a line for each file of the data that is gone, or has another content.

    If there is none, those without a digest that were written again with as many bytes, unless only
    ``certain`` changes are wanted.
    """
    surely, possible = [], []
    for name in before | now:
        old, new = before.get(name, {}), now.get(name, {})
        told = [
            f"{old.get(unit, 0):,} {unit} then, {new.get(unit, 0):,} now"
            for unit in ("rows", "bytes", "files")
            if old.get(unit, 0) != new.get(unit, 0)
        ]
        if "bytes" in old and "bytes" not in new:
            surely.append(f"{name} (is gone)")
        elif told:
            surely.append(f"{name} ({'; '.join(told)})")
        elif "xxh3_64" in old and "xxh3_64" in new:
            if old["xxh3_64"] != new["xxh3_64"]:
                surely.append(f"{name} (as many bytes, but others)")
        elif old.get("modified") != new.get("modified") and new.get("modified"):
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(new["modified"] / 1e9))
            possible.append(f"{name} (as many bytes, but written at {when})")
    return surely if surely or certain else possible


def _problem(path: Path, wanted: str) -> str:
    try:
        found = digest(read_bytes(path))
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return f"cannot be read: {reason}; restore it from a copy of the run"
    if found == wanted:
        return ""
    return (
        "changed since training (its digest differs); restore it, or if the change is meant: "
        f"attnzoo verify {path.parent} --accept {path.name}"
    )


def _own_digest(content: Mapping[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True).encode())


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _paths(getattr(value, field.name))
    elif isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _paths(item)


def _size(path: Path) -> dict[str, int]:
    path = path.expanduser()
    # A member of an archive is named as if the archive were a folder.
    found = next((p for p in (path, *path.parents) if p.exists()), path)
    if found != path and found.is_dir():
        return {}
    if not found.exists():
        return {}
    if not found.is_dir():
        size = _summed([found.stat()])
        if size["bytes"] > DIGESTED or not found.is_file():
            return size
        return {**size, "xxh3_64": xxhash.xxh3_64_intdigest(found.read_bytes())}
    stats = [Path(home, name).stat() for home, _, names in os.walk(found) for name in names]
    return {**_summed(stats), "files": len(stats)}


def _summed(stats: Sequence[os.stat_result]) -> dict[str, int]:
    modified = max((stat.st_mtime_ns for stat in stats), default=0)
    return {"bytes": sum(stat.st_size for stat in stats), "modified": modified}

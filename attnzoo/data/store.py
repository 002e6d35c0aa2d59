"""Token stores: flat columns of numbers in one folder, memory-mapped, with a ledger.

A store is a folder of files of little-endian numbers, one for each column (`NAME.bin`), and
`ledger.json`, which is written last: a folder without it is not a store. The ledger has `format`
("attnzoo.store"), `version`, `columns` (for each name its `dtype`, `count` and xxh3_128 `digest`),
`key` (everything that decided the content) and `about` (what the writer noted: counts, reports,
fingerprints). A list of texts is two columns: `ids`, all texts one after the other, and `lengths`,
one number for each. docs/data.md describes the format for other programs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from attnzoo.errors import UserError
from attnzoo.files import read_json

FORMAT = "attnzoo.store"
# Raised by hand when the same source would give other columns; old stores are then made anew.
FORMAT_VERSION = 1
LEDGER = "ledger.json"
READ_BYTES = 2**24
# Stores up to this size are read and compared with their digests when they are opened.
CHECKED_BYTES = 2**28

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Store:
    """An open store: `columns` are memory-mapped arrays, `about` is what its writer noted."""

    folder: Path
    key: dict[str, Any]
    about: dict[str, Any]
    columns: dict[str, np.ndarray]

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open a store; sizes are checked, and the digests of one of up to 256 MB.

        A folder that is no store, of another version, or whose files are not what was written, is
        a UserError.
        """
        ledger = read_ledger(folder)
        columns = {}
        for name, entry in ledger["columns"].items():
            path = folder / f"{name}.bin"
            dtype = np.dtype(entry["dtype"]).newbyteorder("<")
            size, wanted = _size(path), entry["count"] * dtype.itemsize
            if size != wanted:
                raise UserError(
                    f"{path}: {size:,} bytes, the ledger says {wanted:,}: the store is damaged; "
                    f"remove {folder} and it is made anew"
                )
            # An empty file cannot be mapped; a view as a plain array makes indexing faster.
            columns[name] = (
                np.asarray(np.memmap(path, dtype, "r")) if wanted else np.empty(0, dtype)
            )
        store = cls(folder, ledger["key"], ledger["about"], columns)
        if sum(column.nbytes for column in columns.values()) <= CHECKED_BYTES:
            store.verify()
        return store

    def verify(self) -> None:
        """Read every column and compare its digest; a difference is a UserError with its file."""
        for name, entry in read_ledger(self.folder)["columns"].items():
            path = self.folder / f"{name}.bin"
            if file_digest(path) != entry["digest"]:
                raise UserError(
                    f"{path}: its content is not what was written: the store is damaged; remove "
                    f"{self.folder} and it is made anew"
                )


def read_ledger(folder: Path) -> dict[str, Any]:
    """Read the ledger of a store; a folder that is no store of this version is a UserError."""
    path = folder / LEDGER
    try:
        ledger = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; remove {folder} and the store is made anew") from None
    if ledger.get("format") != FORMAT:
        raise UserError(f"{path}: not a token store: its 'format' is not {FORMAT!r}")
    if ledger.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: a store of version {ledger.get('version')}, wanted {FORMAT_VERSION}; remove "
            f"{folder} and it is made anew"
        )
    return ledger


class StoreWriter:
    """Writer of a store that survives its process: complete pieces, then columns, then the ledger.

    A piece is a part of all columns with a number. `put` writes one, from any process; `done` tells
    which are there. `finish` joins them in the order of their numbers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pieces = folder / "pieces"
        try:
            self.pieces.mkdir(parents=True, exist_ok=True)
            for partial in self.pieces.glob("*.part"):  # of a process that was killed
                partial.unlink()
        except OSError as error:
            raise _write_error(folder, error) from None

    def put(self, number: int, columns: Columns, about: Mapping[str, Any]) -> None:
        """Write piece `number`; `about` is JSON values."""
        entries = {}
        try:
            for name, array in columns.items():
                content = np.ascontiguousarray(array, _little(array.dtype)).data
                entries[name] = _entry(array, xxhash.xxh3_128_hexdigest(content))
                _replace(self._file(number, name), content)
            entry = {"columns": entries, "about": dict(about)}
            _replace(self._file(number, "json"), json.dumps(entry).encode())
        except OSError as error:
            raise _write_error(self.folder, error) from None

    def done(self, number: int) -> dict[str, Any] | None:
        """Return the notes about a complete piece; None for a piece that is missing or damaged."""
        try:
            entry = self._piece(number)
            for name, column in entry["columns"].items():
                size = column["count"] * np.dtype(column["dtype"]).itemsize
                if _size(self._file(number, name)) != size:
                    return None
        except (OSError, UserError, ValueError, KeyError):
            return None
        return entry["about"]

    def read(self, number: int, name: str) -> np.ndarray:
        """Read one column of a piece."""
        dtype = self._piece(number)["columns"][name]["dtype"]
        return np.fromfile(self._file(number, name), _little(dtype))

    def finish(
        self,
        count: int,
        key: Mapping[str, Any],
        about: Mapping[str, Any],
        small: Columns,
    ) -> Store:
        """Join pieces 0 .. `count` - 1 into a store, and open the store.

        Columns of `small` replace those of the pieces.

        A piece whose bytes are not what was written is a UserError. The pieces are removed at the
        end: until then the disk holds everything twice.
        """
        columns: dict[str, Any] = {}
        try:
            for name in self._piece(0)["columns"] if count else ():
                if name not in small:
                    columns[name] = self._join(count, name)
            for name, array in small.items():
                content = np.ascontiguousarray(array, _little(array.dtype)).data
                columns[name] = _entry(array, xxhash.xxh3_128_hexdigest(content))
                _replace(self.folder / f"{name}.bin", content)
            ledger = {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "columns": columns,
                "key": dict(key),
                "about": dict(about),
            }
            _replace(self.folder / LEDGER, json.dumps(ledger, indent=1, default=str).encode())
            shutil.rmtree(self.pieces)
        except OSError as error:
            raise _write_error(self.folder, error) from None
        return Store.open(self.folder)

    def _join(self, count: int, name: str) -> dict[str, Any]:
        path, whole, total = self.folder / f"{name}.bin", xxhash.xxh3_128(), 0
        with path.open("wb") as file:
            for number in range(count):
                entry, digest = self._piece(number)["columns"][name], xxhash.xxh3_128()
                for block in _blocks(self._file(number, name)):
                    digest.update(block)
                    whole.update(block)
                    file.write(block)
                if digest.hexdigest() != entry["digest"]:
                    raise UserError(
                        f"{self._file(number, name)}: its content is not what was written: remove "
                        f"{self.pieces} and start again"
                    )
                total += entry["count"]
            file.flush()
            os.fsync(file.fileno())
        dtype = self._piece(0)["columns"][name]["dtype"]
        return {"dtype": dtype, "count": total, "digest": whole.hexdigest()}

    def _piece(self, number: int) -> dict[str, Any]:
        return json.loads(self._file(number, "json").read_text(encoding="utf-8"))

    def _file(self, number: int, name: str) -> Path:
        return self.pieces / f"{number:05d}.{name}"


@contextlib.contextmanager
def only_writer(folder: Path, waiting: Any) -> Generator[None]:
    """Hold the right to write a store; `waiting()` is called if another process has it."""
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise _write_error(folder, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: both write the same bytes
            pass
        yield
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """Return the xxh3_128 of a file's bytes."""
    digest = xxhash.xxh3_128()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _entry(array: np.ndarray, digest: str) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "count": len(array), "digest": digest}


def _blocks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            yield block


def _little(dtype: Any) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _replace(path: Path, content: Any) -> None:
    """Write a file under another name, and give it its own when it is on the disk."""
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _write_error(folder: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        return UserError(
            f"{folder}: the disk is full ({free / 1e9:.1f} GB are free): make room and start "
            "again (what is done is kept), or set cache.path to another disk"
        )
    return UserError(f"{folder}: cannot be written: {error.strerror or error}; set cache.path")

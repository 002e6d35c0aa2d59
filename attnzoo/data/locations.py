"""Opening of files, members of archives and URLs, and what a list of them means."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from attnzoo.errors import UserError

# Bytes that one file may unpack to where it is read whole, and that one line may have.
LIMIT = 2**30
CHUNK = 2**20
RECORDS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".zst", ".bz2", ".xz")
# Errors of files and archives; an encrypted zip is a RuntimeError.
DAMAGE = (
    OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile, lzma.LZMAError
)  # fmt: skip
Stream = IO[bytes] | io.BufferedIOBase


def open_stream(path: str | Path) -> io.BufferedIOBase:
    """Open a file, a member of a zip, or a URL for reading, unpacked.

    What is missing, or is no file, is a UserError. Errors of later reads are those of the library
    that unpacks; `reading` makes them a UserError.
    """
    with reading(path):
        return unpacked(open_packed(path))


def unpacked(raw: Any) -> Any:
    """Return a stream that unpacks another one with `peek`, or that one if it is not packed."""
    first = raw.peek(16)
    unpack = next((u for magic, u in UNPACK.items() if re.match(magic, first)), None)
    return raw if unpack is None else _Buffered(unpack(raw), raw)


def expand(spec: Sequence[str | Path]) -> list[str]:
    """Return the files that are meant by files, folders, zips, globs and URLs of these.

    A folder or a zip means all files in it with a known suffix (`.txt`, `.jsonl`, `.csv`, `.tsv`,
    `.parquet`, compressed or not), sorted. An entry for which there is no file is a UserError.
    """
    files: list[str] = []
    for entry in map(spelled, spec):
        with reading(entry):
            found = _expand_remote(url) if (url := _url(entry)) else _expand_local(Path(entry))
        if not found:
            raise UserError(f"{entry}: no file there ({', '.join(RECORDS)}, compressed or not)")
        files += found
    return files


def spelled(path: str | Path) -> str:
    """Return a path as text; an address with both of its slashes, of which a Path has only one."""
    return _url(path) or str(path)


def identity(path: str | Path) -> dict[str, str | int]:
    """Return what changes when a file does: its path, size and time, or URL, size and ETag."""
    with reading(path):
        if url := _url(path):
            info = _filesystem(url)[0].info(url)
            tags = ("ETag", "etag", "md5Hash", "last_modified", "LastModified", "created", "mtime")
            tag = next((str(info[name]) for name in tags if info.get(name)), "")
            return {"url": url, "size": info.get("size") or 0, "etag": tag}
        status = (_archive(Path(path)) or Path(path)).stat()
        return {
            "path": str(Path(path).absolute()),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """Read a whole file, unpacked; more than `limit` bytes (default `LIMIT`) are a UserError."""
    limit, size, parts = LIMIT if limit is None else limit, 0, []
    with reading(path), open_stream(path) as stream:
        while part := stream.read(CHUNK):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise UserError(f"{path}: more than {limit:,} bytes, unpacked")
    return b"".join(parts)


@contextmanager
def reading(path: str | Path) -> Generator[None]:
    """Turn every failure to open, read or unpack `path` into a UserError with its name."""
    path = spelled(path)
    try:
        yield
    except (FileNotFoundError, KeyError):
        raise UserError(f"{path}: no such file") from None
    except ImportError as error:
        needed = f"pip install {error.name}" if error.name else str(error).splitlines()[0]
        raise UserError(f"{path}: reading it needs a package: {needed}") from None
    except (UserError, UnicodeError, MemoryError):
        raise
    except Exception as error:
        # Libraries of object stores have exceptions of their own, without a base.
        if not isinstance(error, DAMAGE) and _url(path) is None:
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: cannot be read: {reason.splitlines()[0]}") from None


class _Buffered(io.BufferedReader):
    """Stream of bytes that closes the packed one behind it too."""

    mode = "rb"  # `gzip` has a number there

    def __init__(self, stream: Any, packed: Stream) -> None:
        super().__init__(stream, CHUNK)
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


def _zstd(packed: Stream) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(packed, "zstd")


UNPACK: dict[bytes, Callable[[Any], Any]] = {
    rb"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=packed),
    rb"\x28\xb5\x2f\xfd": _zstd,
    rb"BZh[1-9]1AY&SY": bz2.BZ2File,
    rb"\xfd7zXZ\x00": lzma.LZMAFile,
}


def open_packed(path: str | Path) -> Any:
    """Open the bytes as they are stored, with `peek`."""
    if url := _url(path):
        system, name = _filesystem(url)
        stream = system.open(name, "rb")
        return _Buffered(stream, stream)
    path = Path(path)
    archive = _archive(path)
    if archive is not None:
        with zipfile.ZipFile(archive) as members:
            return members.open(path.relative_to(archive).as_posix())
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise UserError(f"{path}: cannot be read: {kind}, wanted a file")
    return path.open("rb")


def _archive(path: Path) -> Path | None:
    return next((p for p in path.parents if p.suffix == ".zip" and p.is_file()), None)


def _url(path: str | Path) -> str | None:
    found = re.match(r"([a-z][a-z0-9+.-]+(?:::[a-z0-9+.-]+)*):/+", str(path))
    if found is None:
        return None
    return f"{found[1]}://{'/' * (found[1] == 'file')}{str(path)[found.end() :]}"


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(url)


def _expand_remote(url: str) -> list[str]:
    system, name = _filesystem(url)
    if glob.has_magic(name):
        found = [item for item in system.glob(name) if not system.isdir(item)]
    elif not url.startswith("http") and system.isdir(name):
        found = [item for item in system.find(name) if _known(item)]
    else:
        return [url]
    return [system.unstrip_protocol(item) for item in sorted(found)]


def _expand_local(path: Path) -> list[str]:
    if path.is_dir():
        found = path.rglob("*")
        return [str(p) for p in sorted(found) if _known(p.name) and p.is_file()]
    if path.suffix == ".zip" and path.is_file():
        with zipfile.ZipFile(path) as members:
            return [f"{path}/{name}" for name in sorted(members.namelist()) if _known(name)]
    if glob.has_magic(str(path)) and not path.exists():
        found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        return [str(p) for p in sorted(found) if p.is_file()]
    return [str(path)]


def _known(name: str) -> bool:
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return name.endswith(RECORDS) and not Path(name).name.startswith(".")

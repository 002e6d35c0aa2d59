"""Files and streams from outside the program, read within bounds of size, kind and shape.

Whatever is wrong with one of them is a UserError of one line. Data sets have readers of their own,
which take their bounds from here.
"""

import contextlib
import io
import json
import os
import stat
import sys
from collections.abc import Generator
from pathlib import Path
from typing import (
    Any,
    TextIO,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from attnzoo.errors import UserError

MEBIBYTE = 2**20
LARGEST = 256 * MEBIBYTE
"""Bytes of the largest small file, which the tokenizer of a million words stays far below."""
LONGEST_LINE = 16 * MEBIBYTE
"""Bytes of the longest line of a log."""
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a regular file and return its descriptor; an ``opener`` for the function ``open``.

    A file that is written is not reached through a symbolic or hard link, which could point to
    anything. Opening never waits: a named pipe is refused, not read.

    Raises:
      UserError: a directory, a device, a pipe, or a link to be written through.
      OSError: as ``os.open``, for instance FileNotFoundError.
    """
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
    # Only a file that is known to be the right one is emptied.
    opened = flags & ~os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if writes else 0)
    if writes and Path(path).is_symlink():
        raise UserError(f"{path}: is a symbolic link; wanted a file of its own, remove the link")
    descriptor = os.open(path, opened, mode)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: is {KINDS.get(stat.S_IFMT(found.st_mode))}; wanted a file")
        if writes and found.st_nlink > 1:
            raise UserError(f"{path}: has {found.st_nlink} names (hard links); wanted a file alone")
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: str | Path, limit: int = LARGEST) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes.

    Raises:
      UserError: the file is missing, may not be read, is larger, or is no regular file.
    """
    try:
        with open(path, "rb", opener=open_regular) as file:
            return read_at_most(file, limit, str(path))
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def read_at_most(stream: io.BufferedIOBase, limit: int, place: str) -> bytes:
    """Return the rest of a stream of at most ``limit`` bytes; a longer one is a UserError."""
    parts, total = [], 0
    # In pieces: a read of `limit` bytes would claim that much memory at once.
    while part := stream.read(min(MEBIBYTE, limit + 1 - total)):
        total += len(part)
        if total > limit:
            raise UserError(f"{place}: more than {_size(limit)}; wanted a smaller file")
        parts.append(part)
    return b"".join(parts)


def read_text(path: str | Path, limit: int = LARGEST) -> str:
    """Return a UTF-8 file as text, without a byte order mark.

    Raises:
      UserError: as ``read_bytes``, and for another encoding, with the line.
    """
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8; one that would be reached through a link is a UserError."""
    with open(path, "w", encoding="utf-8", opener=open_regular) as file:
        file.write(text)


def require_writable(path: Path) -> None:
    """Raise a UserError unless a file can be written there; it is neither emptied nor left."""
    existed = path.exists()
    try:
        with open(path, "a", opener=open_regular):
            pass
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    if not existed:
        path.unlink()


def read_json(path: str | Path, wanted: Any = dict, limit: int = LARGEST) -> Any:
    """Return the value in a JSON file, of a type such as ``dict``, ``list[str]`` or a TypedDict.

    Raises:
      UserError: as ``read_text``, for text that is not JSON, and for another type.
    """
    text = read_text(path, limit)
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half a pair could never be written again
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not JSON ({reason})") from None
    if not _fits(value, wanted):
        raise UserError(f"{path}: wanted {_in_words(wanted)}, got a {type(value).__name__}")
    return value


class Messages(io.TextIOBase):
    """Stream of messages to the user; one that cannot be written is lost, without an error."""

    def __init__(self, stream: io.TextIOBase | TextIO):
        self._stream = stream

    @classmethod
    def on_stderr(cls) -> "Messages":
        """Return standard error as such a stream."""
        stream = sys.stderr
        return stream if isinstance(stream, Messages) else cls(stream or io.StringIO())

    def write(self, text: str) -> int:
        """Write a text, if that is possible."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether a terminal shows the messages."""
        with contextlib.suppress(ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # ty: ignore[incompatible-property-override]
        """Encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"


@contextlib.contextmanager
def standard_streams() -> Generator[None]:
    """Make the standard streams safe for a program: messages cannot fail, closed ones are replaced.

    Without a replacement the next file that is opened, perhaps a checkpoint, takes the descriptor
    of a closed stream and what libraries write there. Input is then empty, messages vanish, output
    is an error. What is left in a stream that cannot be written does not change the exit status.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
        try:
            os.fstat(number)
        except OSError:
            null = os.dup2(null, number)
        setattr(sys, name, os.fdopen(null, "r" if name == "stdin" else "w", closefd=False))
    errors = sys.stderr
    sys.stderr = Messages.on_stderr()
    try:
        yield
    finally:
        sys.stderr = errors
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                with contextlib.suppress(OSError, ValueError):  # a stream in memory
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def cache_directory() -> Path:
    """Return the directory of files that may be deleted: ``attnzoo`` in the user's cache.

    That is in XDG_CACHE_HOME, or else in ~/.cache.

    Raises:
      UserError: neither is known, as for a container's user without a name.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "attnzoo"
    except RuntimeError:
        raise UserError("no home directory for caches; set XDG_CACHE_HOME to a folder") from None


def _fits(value: Any, wanted: Any) -> bool:
    kind, inner = get_origin(wanted) or wanted, get_args(wanted)
    if is_typeddict(wanted):
        hints = get_type_hints(wanted)
        return isinstance(value, dict) and all(
            name in value and _fits(value[name], hint) for name, hint in hints.items()
        )
    if kind is float:
        kind = int | float
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return not inner or all(_fits(part, inner[-1]) for part in parts)


def _in_words(wanted: Any) -> str:
    if is_typeddict(wanted):
        return f"an object with {', '.join(get_type_hints(wanted))}"
    return {dict: "an object"}.get(wanted, str(wanted) if get_args(wanted) else wanted.__name__)


def _size(count: int) -> str:
    return f"{count / MEBIBYTE:,.0f} MiB" if count >= MEBIBYTE else f"{count:,} bytes"

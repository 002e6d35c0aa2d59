"""Files as bytes, text and lines: plain, gzipped, or within a zip."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

from attnzoo.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """Read a file; gzip is recognised by its magic number and unpacked.

    The path of a file within a zip continues the zip's: `qc.zip/qc/train.txt`. A file that is
    missing or damaged is a UserError.
    """
    path = Path(path)
    try:
        archive = next((p for p in path.parents if p.suffix == ".zip" and p.is_file()), None)
        if archive is None:
            data = path.read_bytes()
        else:
            with zipfile.ZipFile(archive) as members:
                data = members.read(path.relative_to(archive).as_posix())
        return gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data
    except (FileNotFoundError, KeyError):
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read: {reason}") from None


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Read a whole file as text with newlines as line ends; an invalid byte is a UserError."""
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not {encoding.upper()}: {error.reason}") from None
    return text.replace("\r\n", "\n")


def read_lines(path: Path) -> list[bytes]:
    """Read the lines of a file as bytes, without line ends.

    Lines end at a newline only: Unicode's other line separators belong to the sentence.
    """
    lines = read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":  # the end of the last line, or an empty file
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]

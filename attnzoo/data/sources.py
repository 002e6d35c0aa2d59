"""Files, archive members and URLs as bytes, lines and records, in bounded memory.

Text means the same whatever it comes through. A gzip, zstd, bzip2 or xz file is known by its first
bytes; a member of a zip is `qc.zip/qc/train.txt`; an address such as `gs://bucket/a.jsonl` is read
by `fsspec`. Text is UTF-8 unless an encoding is given; a byte order mark at the start overrides
both; lines end with a line feed, with or without a carriage return before it, or with a carriage
return alone if the file has no line feed. Unicode's other separators belong to the line.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from attnzoo.data.locations import (
    CHUNK,
    LIMIT,
    UNPACK,
    Stream,
    expand,
    identity,
    open_packed,
    open_stream,
    read_bytes,
    reading,
)
from attnzoo.errors import UserError

__all__ = [
    "advise_encoding",
    "blocks",
    "decode",
    "expand",
    "identity",
    "open_stream",
    "read_bytes",
    "read_lines",
    "read_text",
    "reading",
    "records",
    "stream_lines",
    "text_of",
]

BLOCK = 2**25
# A file without a line feed in its first bytes has lines that end with a carriage return.
LINE_END_WITHIN = 2**20
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# The place of a record (`file:line`, or `file: row i`) and its fields.
Record = tuple[str, dict[str, Any]]
# An invalid sequence of another encoding becomes one that is invalid in UTF-8, so that its line
# alone is refused.
codecs.register_error("attnzoo.invalid", lambda error: ("\udc80", getattr(error, "end", 0)))


def read_text(path: str | Path, encoding: str = "utf-8", limit: int | None = None) -> str:
    """Read a whole file as text; an invalid byte is a UserError with its line."""
    data = b"".join(_text(io.BytesIO(read_bytes(path, limit)), encoding, path))
    try:
        return decode(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        advice = advise_encoding(path, encoding)
        raise UserError(f"{path}:{line}: not {encoding.upper()}{advice}") from None


def read_lines(path: str | Path, encoding: str = "utf-8", limit: int | None = None) -> list[bytes]:
    """Read the lines of a file as bytes of UTF-8, without line ends; `decode` makes them text."""
    return list(stream_lines(io.BytesIO(read_bytes(path, limit)), encoding, path))


def stream_lines(
    stream: Stream, encoding: str = "utf-8", name: str | Path = "standard input"
) -> Iterator[bytes]:
    """Yield the lines of a stream as `read_lines` does, each as soon as it has arrived."""
    rest: list[bytes] = []
    held = 0
    for chunk in _text(stream, encoding, name):
        first, *others = chunk.split(b"\n")
        rest.append(first)
        held += len(first)
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest, held = [others[-1]], len(others[-1])
        elif held > LIMIT:
            raise UserError(f"{name}: a line of more than {LIMIT:,} bytes")
    if last := b"".join(rest):
        yield last


def lines_as_they_come(
    stream: io.BufferedIOBase | BinaryIO,
    most: int,
    encoding: str = "utf-8",
    name: str = "standard input",
    wait: float = 0.05,
) -> Iterator[list[bytes]]:
    """Yield the lines of a stream in batches, as `read_lines` gives those of a file.

    A batch is ready when it has `most` lines, or when `wait` seconds after its first line no
    more have come. A file or a quick pipe gives full batches, a slow pipe or a terminal line by
    line; what arrives while one batch is worked on is the next.

    Bytes that are not text, and a line without an end, are a UserError.
    """
    try:  # unbuffered: a thread that waits for a buffer could not be left alone at the end
        raw: Any = io.FileIO(stream.fileno(), closefd=False)
    except (AttributeError, io.UnsupportedOperation):  # bytes in memory
        raw = stream
    lines: queue.Queue[bytes | UserError | None] = queue.Queue(2 * most)

    def read() -> None:
        try:
            for line in stream_lines(raw, encoding, name):
                lines.put(line)
            lines.put(None)
        except UserError as error:
            lines.put(error)

    threading.Thread(target=read, daemon=True).start()
    line = lines.get()
    while isinstance(line, bytes):
        batch, deadline = [line], time.monotonic() + wait
        line = b""
        while len(batch) < most:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if not isinstance(line, bytes):
                break
            batch.append(line)
        yield batch
        line = lines.get() if isinstance(line, bytes) else line
    if line is not None:
        raise line


def decode(line: bytes, encoding: str = "utf-8") -> str:
    """Decode bytes strictly: an invalid sequence is a UnicodeDecodeError.

    Lines and blocks of this module are UTF-8 whatever the encoding of their file is.
    """
    return line.decode(_codec(encoding))


def blocks(path: str | Path, size: int = BLOCK, encoding: str = "utf-8") -> Iterator[bytes]:
    """Yield the lines of a file in blocks of about `size` bytes of UTF-8.

    Each block ends after a line feed, but perhaps the last, and is as long as fits in `size` (one
    line at least), so that blocks depend on the bytes of the file alone. Together they are the
    bytes of a UTF-8 file without its mark and with a line feed at each line's end.
    """
    with reading(path), open_stream(path) as stream:
        parts: list[bytes] = []
        held = 0
        for chunk in _text(stream, encoding, path):
            parts.append(chunk)
            held += len(chunk)
            if held < size:
                continue
            data, start = b"".join(parts), 0
            while len(data) - start >= size:
                end = data.rfind(b"\n", start, start + size) + 1 or data.find(b"\n", start) + 1
                if not end:
                    break
                yield data[start:end]
                start = end
            parts, held = [data[start:]], len(data) - start
            if held > LIMIT:
                raise UserError(f"{path}: a line of more than {LIMIT:,} bytes")
        if last := b"".join(parts):
            yield last


def records(
    path: str | Path,
    file_format: str,
    fields: Sequence[str] | None = None,
    *,
    header: bool = True,
    encoding: str = "utf-8",
) -> Iterator[Record]:
    """Yield the records of a jsonl, csv, tsv or parquet file, one at a time.

    A dot in a field's name selects within a field, as `translation.en`. Columns of a csv or tsv
    without `header` are called 0, 1, ... A field that a record lacks, and a malformed record, are a
    UserError with its place.
    """
    for place, record in RECORD_READERS[file_format](path, encoding, header):
        if fields is not None:
            record = {name: _field(record, name, place) for name in fields}
        yield place, record


def text_of(value: Any) -> str:
    """Return a record's value as text: null and NaN as an empty one, others as they print."""
    return "" if value is None or value != value else str(value)


def advise_encoding(path: str | Path, encoding: str) -> str:
    """Return the end of an error that names an encoding in which the file would be valid."""
    for other in ("utf-8", "cp1252", "latin-1"):
        if codecs.lookup(other).name != codecs.lookup(encoding).name:
            try:
                for block in itertools.islice(blocks(path, CHUNK, other), 64):
                    decode(block)
            except UnicodeDecodeError:
                continue
            return f" (it would be valid as {other}: set `encoding: {other}`)"
    return ""


def _codec(encoding: str) -> str:
    try:
        found = codecs.lookup(encoding)
        "a".encode(encoding)  # LookupError for hex, rot13 and others between bytes or texts alone
        return found.name
    except (LookupError, UnicodeError):
        raise UserError(f"encoding {encoding!r} is not known: try utf-8 or latin-1") from None


def _text(stream: Stream, encoding: str, name: str | Path) -> Iterator[bytes]:
    """Yield the text of a stream as UTF-8 without its mark, with line feeds as line ends."""
    chunks = _utf8(stream, encoding, name)
    first = b""
    for chunk in chunks:
        first += chunk
        if b"\n" in first[:LINE_END_WITHIN] or len(first) >= LINE_END_WITHIN:
            break
    returns_alone = b"\n" not in first[:LINE_END_WITHIN]
    held = b""
    for chunk in itertools.chain([first], chunks):
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        if b"\r" in chunk:
            chunk = chunk.removesuffix(held).replace(b"\r\n", b"\n")
            chunk = chunk.replace(b"\r", b"\n") if returns_alone else chunk
        yield chunk
    if held:
        yield b"\n" if returns_alone else held


def _utf8(stream: Stream, encoding: str, name: str | Path) -> Iterator[bytes]:
    # A pipe gives what has arrived.
    read = stream.read if stream.seekable() else getattr(stream, "read1", stream.read)
    first = b""
    with nullcontext() if isinstance(stream, io.BytesIO) else reading(name):
        while len(first) < 4 and (more := read(CHUNK)):
            first += more
        if any(re.match(magic, first) for magic in UNPACK):
            raise UserError(f"{name}: packed; unpack it first (gzip -dc, zstd -dc, ...)")
        mark, codec = next((m for m in MARKS if first.startswith(m[0])), (b"", _codec(encoding)))
        first = first[len(mark) :]
        if not mark and codec == "utf-8" and first[:CHUNK].count(0) > len(first[:CHUNK]) // 4:
            raise UserError(f"{name}: not text (UTF-16 without a mark? set `encoding: utf-16-le`)")
        if codec == "utf-8":
            yield first
            while chunk := read(CHUNK):
                yield chunk
            return
        decoder = codecs.getincrementaldecoder(codec)("attnzoo.invalid")
        while first:
            yield decoder.decode(first).encode("utf-8", "surrogatepass")
            first = read(CHUNK)
        yield decoder.decode(b"", True).encode("utf-8", "surrogatepass")


def _field(record: dict[str, Any], name: str, place: str) -> Any:
    value: Any = record
    for key in [name] if name in record else name.split("."):
        if not isinstance(value, dict) or key not in value:
            near = get_close_matches(name, record, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{place}: no field {name!r}{hint}; it has {', '.join(record)}")
        value = value[key]
    return value


def _numbered(path: str | Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line, strictly decoded."""
    with open_stream(path) as stream:
        for number, line in enumerate(stream_lines(stream, encoding, path), start=1):
            try:
                yield number, decode(line)
            except UnicodeDecodeError:
                advice = advise_encoding(path, encoding)
                raise UserError(f"{path}:{number}: not {encoding.upper()}{advice}") from None


def _jsonl(path: str | Path, encoding: str, header: bool) -> Iterator[Record]:
    del header
    for number, line in _numbered(path, encoding):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "\\ud" in line.lower():  # perhaps half a character, which UTF-8 cannot write
                json.dumps(record, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: a {type(record).__name__}, wanted an object")
        yield f"{path}:{number}", record


def _table(quoted: bool) -> Callable[[str | Path, str, bool], Iterator[Record]]:
    def read(path: str | Path, encoding: str, header: bool) -> Iterator[Record]:
        names: list[str] | None = None
        for number, row in (_quoted if quoted else _tabbed)(path, encoding):
            if names is None:
                names = row if header else [str(column) for column in range(len(row))]
                if header:
                    continue
            if len(row) != len(names):
                raise UserError(
                    f"{path}:{number}: {len(row)} columns, the first line has {len(names)}"
                )
            yield f"{path}:{number}", dict(zip(names, row, strict=True))

    return read


def _tabbed(path: str | Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    return ((i, line.split("\t")) for i, line in _numbered(path, encoding) if line)


def _quoted(path: str | Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), LIMIT))
    reader = csv.reader((f"{line}\n" for _, line in _numbered(path, encoding)), strict=True)
    number = 1
    try:
        for row in reader:
            if row:
                yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _parquet(path: str | Path, encoding: str, header: bool) -> Iterator[Record]:
    del encoding, header
    import pyarrow.parquet

    with reading(path), open_packed(path) as stream:
        row = 0
        for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(1_000):
            for record in batch.to_pylist():
                yield f"{path}: row {row}", record
                row += 1


RECORD_READERS: dict[str, Callable[[str | Path, str, bool], Iterator[Record]]] = {
    "jsonl": _jsonl,
    "csv": _table(quoted=True),
    "tsv": _table(quoted=False),
    "parquet": _parquet,
}

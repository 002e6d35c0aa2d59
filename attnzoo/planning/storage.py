"""Disk and host memory of a training's data: read from its token stores, or estimated."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data import picture_files
from attnzoo.data.corpus import PARTS
from attnzoo.data.documents import DocumentReader
from attnzoo.data.files import files_of
from attnzoo.data.images import PIXELS_HELD, files_of_pattern
from attnzoo.data.locations import PACKED, identity, open_stream, reading
from attnzoo.data.store import LEDGER, read_ledger
from attnzoo.errors import UserError

SAMPLE = 2**20
"""Bytes at the head of a file in which rows and words are counted."""
PACKED_RATIO = 3.0
"""Bytes of text in a byte of a packed file."""
PIECES_PER_WORD = 1.3
"""Tokens of a word for tokenizers of pieces; German or Japanese text has more."""
TEXT_ROW, PAIR_ROW = 16, 80
"""Bytes of host memory for each row of a store: offsets, lengths and the order of an epoch."""
ENDS = {"blank_lines": "\n\n"}
STRING = 57
"""Bytes of a string in a list of Python, besides its characters."""
PICTURE_ROW = 200
"""Bytes of host memory for each encoded picture: its name, place, class, and place in an epoch."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """Bytes that the data of a training takes on a host, with the ``source`` of the figures.

    ``memory`` is without the pages of stores, which the system drops when it needs the room.
    Pictures have no ``tokens``; each is one of ``rows``.
    """

    disk: int
    memory: int
    tokens: int
    rows: int
    source: str


def storage_of(config: ExperimentConfig) -> Storage | None:
    """Return the storage of the files of a config; None: it has none, or they are not here."""
    data: Any = config.data
    if data.kind == "images":
        return _of_pictures(config)
    if data.kind not in ("files", "text") or getattr(data, "hub", None) is not None:
        return None
    pairs = data.kind == "files"
    try:
        files_of_part = partial(files_of, data) if pairs else DocumentReader(data).files
        files = {str(path): identity(path) for part in PARTS for path in files_of_part(part)}
        size = sum(int(file["size"]) for file in files.values())
        large = size >= max(config.cache.memory, 1)
        row = PAIR_ROW if pairs else TEXT_ROW
        if large and (made := _made(config.cache.path.expanduser(), list(files.values()))):
            disk, tokens, rows = (sum(store[i] for store in made.values()) for i in range(3))
            how = f"counted in {len(made)} stores in {config.cache.path}"
            return Storage(disk, rows * row, tokens, rows, how)
        links = {str(part.links) for name in PARTS if (part := _pairs(data, name))}
        counts = [
            _counts(path, int(file["size"]), config)
            for path, file in files.items()
            if path not in links
        ]
    except UserError:
        return None
    characters, tokens, lengths = (math.ceil(sum(column)) for column in zip(*counts, strict=True))
    rows = lengths // 2 if pairs else lengths  # a pair has a length on either side, and its number
    vocabulary = getattr(config.tokenizer, "vocab_size", None) or 0
    stored = tokens * (2 if vocabulary < 2**16 else 4) + 4 * (lengths + (rows if pairs else 0))
    if large:
        how = f"estimate from {size / 1e6:,.0f} MB in {len(files)} files"
        return Storage(stored, rows * row, tokens, rows, how)
    how = f"estimate; {size / 1e6:,.1f} MB of files are below cache.memory"
    return Storage(0, characters + lengths * (STRING + 8) + 4 * tokens, tokens, rows, how)


def _of_pictures(config: ExperimentConfig) -> Storage | None:
    """Return the storage of pictures in a folder or in archives."""
    data: Any = config.data
    if data.source.kind == "folder":
        paths = [data.source.path]
    elif data.source.kind == "shards":
        paths = [path for part in PARTS for path in getattr(data.source, part)]
    else:
        return None
    try:
        if paths and paths[0].is_dir():
            count, disk, size = len(picture_files.in_folder(paths[0])), 0, 0
        else:
            files = [file for path in paths for file in files_of_pattern(path, "file")]
            size = sum(file.stat().st_size for file in files)
            counts = [picture_files.count_pictures(file) for file in files]
            count, disk = (sum(column) for column in zip(*counts, strict=True))
    except (UserError, ValueError):  # not there, or there is none
        return None
    side = data.size or getattr(config.model, "image_size", 0)
    pixels = count * side * side * data.source.channels
    held = f"{pixels / 1e6:,.0f} MB of pixels are kept" if pixels <= PIXELS_HELD else "decoded anew"
    how = f"estimate; {held}"
    memory = count * PICTURE_ROW + (pixels if pixels <= PIXELS_HELD else 0)
    if size <= picture_files.HELD_BYTES:
        return Storage(0, memory + disk, 0, count, how)
    return Storage(disk, memory, 0, count, how)


def _made(cache: Path, files: list[dict[str, Any]]) -> dict[str, tuple[int, int, int]]:
    """Return bytes, tokens and rows of the newest store of each part made of these files."""
    found: dict[str, tuple[float, str, tuple[int, int, int]]] = {}
    for path in cache.glob(f"*/{LEDGER}"):
        try:
            ledger = read_ledger(path.parent)
        except UserError:
            continue
        sources = ledger["key"].get("files", [])
        if sources and all(source in files for source in sources):
            columns = ledger["columns"]
            count = sum(c["count"] * np.dtype(c["dtype"]).itemsize for c in columns.values())
            tokens = sum(c["count"] for name, c in columns.items() if name.endswith("ids"))
            rows = next((c["count"] for name, c in columns.items() if name.endswith("lengths")), 0)
            part = path.parent.name.rpartition("-")[0]
            new = ledger["about"].get("made", 0.0), path.parent.name, (count, tokens, rows)
            found[part] = max(new, found.get(part, new))
    whole = any(part.endswith("-train") for part in found)
    return {name: counts for _, name, counts in found.values()} if whole else {}


def _counts(path: str, size: int, config: ExperimentConfig) -> tuple[float, float, float]:
    """Return characters, tokens and lists of tokens of a file, as its head has them."""
    head = b""
    with reading(path), open_stream(path) as stream:
        while len(head) < SAMPLE and (block := stream.read(SAMPLE - len(head))):
            head += block
    if len(head) < SAMPLE:
        scale = 1.0
    else:
        scale = max(size * (PACKED_RATIO if path.endswith(PACKED) else 1) / len(head), 1.0)
    text = head.decode("utf-8", "replace")
    words = len(text.split())
    tokens = {"char": len(text), "byte": len(head), "word": words}.get(
        config.tokenizer.kind, PIECES_PER_WORD * words
    )
    documents = getattr(config.data, "documents", "lines")
    rows = 1.0 if documents == "files" else scale * text.count(ENDS.get(documents, "\n"))
    parts = [part for name in PARTS if (part := _pairs(config.data, name))]
    tables = [str(part.table or part.records) for part in parts]
    return len(text) * scale, tokens * scale, rows * (2 if path in tables else 1)


def _pairs(data: Any, part: str) -> Any:
    """Return the files of a part of sentence pairs; None for a text, and where there are none."""
    return getattr(data, part) if data.kind == "files" else None

"""Records of labelled text from files: tables, JSON lines, question classes, entailment pairs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from attnzoo.data.sources import read_bytes, read_text
from attnzoo.errors import UserError

# Place of a record (file:line) and its columns.
Record = tuple[str, dict[str, str]]


def read_records(path: Path, file_format: str, *, header: bool, encoding: str) -> Iterator[Record]:
    """Yield the records of one file; a malformed line is a UserError with its number."""
    if file_format == "rte":
        return _rte(path)
    text = read_text(path, encoding)
    if file_format in ("tsv", "csv"):
        return _table(path, text, quoted=file_format == "csv", header=header)
    return _LINES[file_format](path, text)


def _table(path: Path, text: str, *, quoted: bool, header: bool) -> Iterator[Record]:
    names: list[str] | None = None
    if quoted:
        reader = csv.reader(text.split("\n"), strict=True)
        rows = ((reader.line_num, row) for row in reader if row)
    else:
        lines = text.split("\n")
        rows = ((i, line.split("\t")) for i, line in enumerate(lines, start=1) if line)
    try:
        for number, row in rows:
            if names is None:
                names = row if header else [str(column) for column in range(len(row))]
                if header:
                    continue
            if len(row) != len(names):
                raise UserError(
                    f"{path}:{number}: {len(row)} columns, the first line has {len(names)}"
                )
            yield f"{path}:{number}", dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _json_lines(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: a {type(record).__name__}, wanted an object")
        yield f"{path}:{number}", {key: str(value) for key, value in record.items()}


def _trec(path: Path, text: str) -> Iterator[Record]:
    """Read lines like `DESC:manner How did serfdom develop ?` (Li and Roth 2002)."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fine, _, question = line.partition(" ")
        label, colon, _ = fine.partition(":")
        if not colon or not question.strip():
            raise UserError(f"{path}:{number}: {line[:40]!r}, wanted 'CLASS:fine the question'")
        yield f"{path}:{number}", {"text": question, "label": label, "fine": fine}


def _rte(path: Path) -> Iterator[Record]:
    """Read the XML of the entailment challenges; TRUE in RTE-1 becomes the later YES."""
    try:
        root = ET.fromstring(read_bytes(path))
    except ET.ParseError as error:
        raise UserError(f"{path}:{error.position[0]}: not XML: {error}") from None
    for pair in root.iter("pair"):
        value = pair.get("entailment", pair.get("value", ""))
        yield (
            f"{path}:{pair.get('id')}",
            {
                "text": (pair.findtext("t") or "").strip(),
                "hypothesis": (pair.findtext("h") or "").strip(),
                "label": {"TRUE": "YES", "FALSE": "NO"}.get(value, value),
            },
        )


_LINES: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    "jsonl": _json_lines,
    "trec": _trec,
}

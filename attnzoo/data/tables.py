"""Records of labelled text from files: tables, JSON, parquet, question and entailment sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from attnzoo.data.sources import read_bytes, read_text, records, text_of
from attnzoo.errors import UserError

# Place of a record (file:line) and its columns.
Record = tuple[str, dict[str, str]]


def read_records(
    path: str | Path, file_format: str, *, header: bool, encoding: str
) -> Iterator[Record]:
    """Yield the records of one file; a malformed line is a UserError with its number."""
    if file_format == "rte":
        return _rte(path)
    if file_format == "trec":
        return _trec(path, encoding)
    if file_format == "lines":
        return _lines(path, encoding)
    found = records(path, file_format, header=header, encoding=encoding)
    return ((place, {name: text_of(v) for name, v in record.items()}) for place, record in found)


def _trec(path: str | Path, encoding: str) -> Iterator[Record]:
    """Read lines like `DESC:manner How did serfdom develop ?` (Li and Roth 2002)."""
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        fine, _, question = line.partition(" ")
        label, colon, _ = fine.partition(":")
        if not colon or not question.strip():
            raise UserError(f"{path}:{number}: {line[:40]!r}, wanted 'CLASS:fine the question'")
        yield f"{path}:{number}", {"text": question, "label": label, "fine": fine}


def _lines(path: str | Path, encoding: str) -> Iterator[Record]:
    """Read one text a line, all of the class that the file is named after."""
    label = Path(path).name
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", {"text": line, "label": label}


def _rte(path: str | Path) -> Iterator[Record]:
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

"""Parallel text in local files: two plain files or one TSV, plain or gzipped, links or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attnzoo.alignment.links import Links, parse_pharaoh
from attnzoo.data.corpus import Corpus, Report
from attnzoo.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
MAX_WORDS = 1_000


def read_pair(
    source: Path,
    target: Path,
    *,
    links: Path | None = None,
    target_first: bool = False,
    max_words: int = MAX_WORDS,
    source_language: str = "",
    target_language: str = "",
) -> tuple[Corpus, Report]:
    """Two files with one sentence a line, and a third with one line of Pharaoh links a pair.

    `target_first` says that each link `i-j` names the target's word first. Single lines that are
    not UTF-8, empty, or longer than `max_words` words are skipped and counted in the report; a
    missing or damaged file, files of different lengths, and a bad link are a UserError.
    """
    files = [source, target] if links is None else [source, target, links]
    columns = [read_lines(path) for path in files]
    if len({len(lines) for lines in columns}) > 1:
        counts = ", ".join(
            f"{path} has {len(lines):,} lines" for path, lines in zip(files, columns, strict=True)
        )
        raise UserError(f"{counts}: line i of one must belong to line i of the other")
    rows = (
        (tuple(f"{path}:{number}" for path in files), fields)
        for number, fields in enumerate(zip(*columns, strict=True), start=1)
    )
    name = f"{source} + {target.name}"
    return _collect(rows, name, target_first, max_words, source_language, target_language)


def read_tsv(
    path: Path,
    *,
    source_column: int = 0,
    target_column: int = 1,
    links_column: int | None = None,
    target_first: bool = False,
    max_words: int = MAX_WORDS,
    source_language: str = "",
    target_language: str = "",
) -> tuple[Corpus, Report]:
    """One file with tab-separated columns, counted from 0; there is no quoting.

    A line with too few columns is skipped and counted; otherwise as `read_pair`.
    """
    columns = [source_column, target_column] + ([] if links_column is None else [links_column])
    if min(columns) < 0:
        raise ValueError(f"columns={columns}: columns are counted from 0")
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split(b"\t")
        place = f"{path}:{number}"
        chosen = [fields[column] if column < len(fields) else None for column in columns]
        rows.append(((place,) * len(columns), chosen))
    return _collect(rows, str(path), target_first, max_words, source_language, target_language)


def read_lines(path: Path) -> list[bytes]:
    """The lines of a plain or gzipped file as bytes, without line ends; gzip is known by its magic.

    Lines end at a newline only: Unicode's other line separators belong to the sentence.
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(GZIP_MAGIC):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read: {reason}") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":  # the end of the last line, or an empty file
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


def parse_links(
    text: str, place: str, source: str, target: str, *, target_first: bool = False
) -> Links:
    """Pharaoh links of one sentence pair, checked against its words; `place` is for the error."""
    try:
        links = parse_pharaoh(text)
        links = links.inverse() if target_first else links
        return links.check(len(source.split()), len(target.split()))
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def _collect(
    rows: Iterable[tuple[tuple[str, ...], Any]],
    name: str,
    target_first: bool,
    max_words: int,
    source_language: str,
    target_language: str,
) -> tuple[Corpus, Report]:
    report = Report(name)
    sources, targets, all_links = [], [], []
    has_links = False
    for places, fields in rows:
        report.read += 1
        has_links = len(fields) == 3
        usable = _decode(places, fields, max_words, report)
        if usable is None:
            continue
        source, target = usable[:2]
        if has_links:
            all_links.append(
                parse_links(usable[2], places[2], source, target, target_first=target_first)
            )
        sources.append(source)
        targets.append(target)
    if not sources:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in report.skipped.items())
        raise UserError(f"{name}: no usable sentence pair ({reasons or 'no lines'})")
    corpus = Corpus(
        source=sources,
        target=targets,
        links=all_links if has_links else None,
        source_language=source_language,
        target_language=target_language,
        name=name,
    )
    return corpus, report


def _decode(
    places: tuple[str, ...], fields: Any, max_words: int, report: Report
) -> list[str] | None:
    """The fields of one line as text, or None where the line was skipped."""
    texts = []
    for place, field in zip(places, fields, strict=True):
        if field is None:
            report.skip("too few columns", place)
            return None
        try:
            texts.append(field.decode("utf-8").strip())
        except UnicodeDecodeError:
            report.skip("not UTF-8", place)
            return None
    for place, text in zip(places[:2], texts[:2], strict=True):
        if not text:
            report.skip("empty sentence", place)
            return None
        if len(text.split()) > max_words:
            report.skip(f"more than {max_words:,} words", place)
            return None
    return texts

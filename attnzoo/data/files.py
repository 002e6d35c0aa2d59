"""Parallel text in local files: two plain files or one TSV, plain or gzipped, links optional."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnzoo.alignment.links import Links, parse_pharaoh
from attnzoo.data.corpus import Corpus, Report, Splits
from attnzoo.data.sources import advise_encoding, decode, read_lines
from attnzoo.errors import UserError

MAX_WORDS = 1_000

# The place (file:line) and bytes of each field; None if the line has too few columns.
Row = tuple[tuple[str, ...], Sequence[bytes | None]]


@dataclass(frozen=True)
class Reading:
    """Settings for reading the text and links of a file.

    A pair with a side of more than `max_words` whitespace-separated words is skipped; to skip more
    than the share `max_skipped` of the pairs is a UserError. With `keep_all` pair `i` is line `i`:
    no pair is left out, and text that cannot be decoded is empty. A link `i-j`
    names the source word first, unless `target_first`, and counts from 0, unless `one_based`.
    """

    max_words: int = MAX_WORDS
    max_skipped: float = 1.0
    encoding: str = "utf-8"
    keep_all: bool = False
    target_first: bool = False
    one_based: bool = False
    source_language: str = ""
    target_language: str = ""


def read_pair(
    source: Path, target: Path, links: Path | None = None, reading: Reading = Reading()
) -> tuple[Corpus, Report]:
    """Read two files with one sentence per line, and optionally a third with Pharaoh links.

    Single lines that are not UTF-8, empty or too long are skipped and counted in the report; a
    missing or damaged file, files of different lengths, and a bad link are a UserError.
    """
    files = [source, target] if links is None else [source, target, links]
    columns = [read_lines(path, reading.encoding) for path in files]
    if len({len(lines) for lines in columns}) > 1:
        counts = ", ".join(
            f"{path} has {len(lines):,} lines" for path, lines in zip(files, columns, strict=True)
        )
        raise UserError(f"{counts}: line i of one must belong to line i of the other")
    rows = (
        (tuple(f"{path}:{number}" for path in files), fields)
        for number, fields in enumerate(zip(*columns, strict=True), start=1)
    )
    return _collect(rows, f"{source} + {target.name}", links is not None, reading)


def read_table(
    path: Path,
    source_column: int = 0,
    target_column: int = 1,
    links_column: int | None = None,
    reading: Reading = Reading(),
) -> tuple[Corpus, Report]:
    """Read one file with tab-separated columns, counted from 0; there is no quoting.

    A line with too few columns is skipped and counted; otherwise like `read_pair`.
    """
    columns = [source_column, target_column] + ([] if links_column is None else [links_column])
    if min(columns) < 0:
        raise ValueError(f"columns={columns}: columns are counted from 0")

    def rows() -> Iterator[Row]:
        for number, line in enumerate(read_lines(path, reading.encoding), start=1):
            fields = line.split(b"\t")
            chosen = [fields[column] if column < len(fields) else None for column in columns]
            yield (f"{path}:{number}",) * len(columns), chosen

    return _collect(rows(), str(path), links_column is not None, reading)


def load_files(config: Any) -> Splits:
    """Load the parts of a `Files` config; parts that are not configured are empty."""
    reading = Reading(
        max_words=config.max_words,
        max_skipped=config.max_skipped,
        encoding=config.encoding,
        target_first=config.links_reversed,
        one_based=config.links_one_based,
        source_language=config.source_language,
        target_language=config.target_language,
    )
    columns = config.source_column, config.target_column, config.links_column
    empty = Corpus([], [], None, config.source_language, config.target_language)
    parts: dict[str, Corpus] = {}
    reports = []
    for name in ("train", "validation", "test"):
        part = getattr(config, name)
        if part is None:
            parts[name] = empty
            continue
        if part.table is not None:
            parts[name], report = read_table(part.table, *columns, reading=reading)
        else:
            parts[name], report = read_pair(part.source, part.target, part.links, reading)
        reports.append(report)
    if config.limit is not None:
        parts["train"] = parts["train"].select(range(min(config.limit, len(parts["train"]))))
    return Splits(**parts, reports=reports)


def _collect(
    rows: Iterable[Row], name: str, has_links: bool, reading: Reading
) -> tuple[Corpus, Report]:
    report = Report(name)
    sources, targets, all_links = [], [], []
    for places, fields in rows:
        report.read += 1
        texts, usable = _texts(places, fields, reading, report)
        if not usable and not reading.keep_all:
            continue
        sources.append(texts[0])
        targets.append(texts[1])
        if has_links:
            all_links.append(_links(texts, places[2], reading) if usable else Links.of([]))
    undecoded = f"not {reading.encoding.upper()}" in report.skipped
    advice = advise_encoding(name.split(" + ")[0], reading.encoding) if undecoded else ""
    if not report.kept:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in report.skipped.items())
        raise UserError(f"{name}: no usable sentence pair ({reasons or 'no lines'}){advice}")
    report.check(reading.max_skipped, advice)
    corpus = Corpus(
        source=sources,
        target=targets,
        links=all_links if has_links else None,
        source_language=reading.source_language,
        target_language=reading.target_language,
        name=name,
    )
    return corpus, report


def _texts(
    places: tuple[str, ...], fields: Sequence[bytes | None], reading: Reading, report: Report
) -> tuple[list[str], bool]:
    """Return the fields of one line as text, and whether the pair is usable."""
    texts = []
    skip = None
    for place, field in zip(places, fields, strict=True):
        try:
            texts.append("" if field is None else decode(field).strip())
        except UnicodeDecodeError:
            texts.append("")
            skip = skip or (f"not {reading.encoding.upper()}", place)
        if field is None:
            skip = skip or ("too few columns", place)
    reason = reason_to_skip(texts[0], texts[1], reading.max_words)
    if reason is not None:
        side, why = reason
        skip = skip or (why, places[side])
    if skip is not None:
        report.skip(*skip)
    return texts, skip is None


def reason_to_skip(source: str, target: str, max_words: int) -> tuple[int, str] | None:
    """Return the side (0 or 1) to skip a pair for, and the reason; None for a good pair."""
    for side, text in enumerate((source, target)):
        words = len(text.split())
        if not words:
            return side, "empty sentence"
        if words > max_words:
            return side, f"more than {max_words:,} words"
    return None


def _links(texts: list[str], place: str, reading: Reading) -> Links:
    source, target, text = texts
    try:
        links = parse_pharaoh(text, one_based=reading.one_based)
        links = links.inverse() if reading.target_first else links
        return links.check(len(source.split()), len(target.split()))
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None

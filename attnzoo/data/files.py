"""Parallel text in local files: two plain files, one TSV, or JSON lines; compressed or not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from attnzoo.alignment.links import Links, parse_pharaoh
from attnzoo.data.corpus import Corpus, Report, Splits
from attnzoo.data.locations import open_stream, reading, spelled
from attnzoo.data.sources import advise_encoding, decode, stream_lines
from attnzoo.errors import UserError

MAX_WORDS = 1_000
# Lines of a block; a constant of the token store's format (`store.FORMAT_VERSION`).
BLOCK_LINES = 100_000


@dataclass(frozen=True)
class Reading:
    """Settings for reading the text and links of a file.

    A pair with a side of more than `max_words` whitespace-separated words is skipped; to skip more
    than the share `max_skipped` of the pairs is a UserError. With `keep_all` pair `i` is line `i`:
    no pair is left out, and text that cannot be decoded is empty. A link `i-j` names the source
    word first, unless `target_first`, and counts from 0, unless `one_based`.
    `columns` are those of a table, counted from 0: source, target, perhaps links. `fields` are
    those of JSON lines, source and target; None: the files are text. Only the first
    `source_words` words of a source are read.
    """

    max_words: int = MAX_WORDS
    max_skipped: float = 1.0
    keep_all: bool = False
    target_first: bool = False
    one_based: bool = False
    source_language: str = ""
    target_language: str = ""
    encoding: str = "utf-8"
    columns: tuple[int, ...] = (0, 1)
    fields: tuple[str, str] | None = None
    source_words: int | None = None


@dataclass(frozen=True)
class Block:
    """Successive lines as they were read: `lines[i]` are those of `files[i]`, from line `first`.

    Two or three files have a column of the corpus each; one file is a table. Without files these
    are columns of a `table` of rows.
    """

    files: tuple[str, ...]
    first: int
    lines: tuple[Sequence[bytes | str | None], ...]
    table: str = ""

    @property
    def name(self) -> str:
        """Name of the block's source, for reports."""
        return self.table or " + ".join([self.files[0], *(Path(f).name for f in self.files[1:2])])

    def place(self, side: int, number: int) -> str:
        """Return the place of a line for reports and errors."""
        if self.table:
            return f"row {number}"
        return f"{self.files[min(side, len(self.files) - 1)]}:{number}"


def read_pair(
    source: Path, target: Path, links: Path | None = None, reading: Reading = Reading()
) -> tuple[Corpus, Report]:
    """Read two files with one sentence per line, and optionally a third with Pharaoh links.

    Single lines that cannot be decoded, are empty or too long are skipped and counted in the
    report; a missing or damaged file, files of different lengths, and a bad link are a UserError.
    """
    return _read_all([source, target] if links is None else [source, target, links], reading)


def read_table(path: Path, reading: Reading = Reading()) -> tuple[Corpus, Report]:
    """Read one file with tab-separated columns; there is no quoting.

    A line with too few columns is skipped and counted; otherwise like `read_pair`.
    """
    return _read_all([path], reading)


def load_files(config: Any) -> Splits:
    """Load the parts of a `Files` config; parts that are not configured are empty."""
    empty = Corpus([], [], None, config.source_language, config.target_language)
    parts: dict[str, Corpus] = {}
    reports = []
    for name in ("train", "validation", "test"):
        parts[name] = empty
        if files := files_of(config, name):
            parts[name], report = _read_all(files, reading_of(config))
            reports.append(report)
    if config.limit is not None:
        parts["train"] = parts["train"].select(range(min(config.limit, len(parts["train"]))))
    return Splits(**parts, reports=reports)


def files_of(config: Any, part: str) -> list[Path]:
    """Return the files of a part of a `Files` config: a table, or one for each column."""
    files = getattr(config, part)
    if files is None:
        return []
    whole = files.table or files.records
    columns = (whole,) if whole is not None else (files.source, files.target)
    return [path for path in (*columns, files.links) if path is not None]


def reading_of(config: Any) -> Reading:
    """Return how the files of a `Files` config, or the rows of a `Hub` config, are read."""
    shared = {
        name: getattr(config, name)
        for name in ("max_words", "max_skipped", "source_language", "target_language")
    }
    if config.kind == "hub":
        return Reading(**shared)
    columns = (config.source_column, config.target_column, config.links_column)
    return Reading(
        **shared,
        target_first=config.links_reversed,
        one_based=config.links_one_based,
        encoding=config.encoding,
        columns=tuple(column for column in columns if column is not None),
        fields=config.fields,
        source_words=config.source_words,
    )


def read_blocks(files: Sequence[Path], encoding: str = "utf-8") -> Iterator[Block]:
    """Yield the lines of a table, or of files that belong together, in blocks.

    Files of different lengths are a UserError at the end of the shortest.
    """
    names = tuple(map(spelled, files))
    columns = [_lines(path, encoding) for path in files]
    first = 1
    while True:
        lines = tuple(list(islice(column, BLOCK_LINES)) for column in columns)
        if len({len(column) for column in lines}) > 1:
            counts = ", ".join(
                f"{name} has {first - 1 + len(read) + sum(1 for _ in rest):,} lines"
                for name, read, rest in zip(names, lines, columns, strict=True)
            )
            raise UserError(f"{counts}: line i of one must belong to line i of the other")
        if not lines[0]:
            return
        yield Block(names, first, lines)
        first += len(lines[0])


def parse_block(block: Block, reading: Reading) -> tuple[Corpus, Report, list[int]]:
    """Return the usable pairs of a block, a report of the others, and the line of each pair."""
    if reading.fields is not None:
        return _parse_records(block, reading, reading.fields)
    if len(block.files) == 1:
        columns = reading.columns
        if min(columns) < 0:
            raise ValueError(f"columns={columns}: columns are counted from 0")
        has_links = len(columns) > 2
        lines: Any = block.lines[0]
        fields = (line.split(b"\t") for line in lines)
        rows: Any = (
            [row[column] if column < len(row) else None for column in columns] for row in fields
        )
    else:
        has_links = len(block.lines) > 2
        rows = zip(*block.lines, strict=True)
    report = Report(block.name)
    sources, targets, all_links, numbers = [], [], [], []
    for number, row in enumerate(rows, start=block.first):
        report.read += 1
        texts, usable = _texts(block, number, row, reading, report)
        if not usable and not reading.keep_all:
            continue
        sources.append(texts[0])
        targets.append(texts[1])
        numbers.append(number)
        if has_links:
            place = block.place(2, number)
            all_links.append(_links(texts, place, reading) if usable else Links.of([]))
    corpus = Corpus(
        source=sources,
        target=targets,
        links=all_links if has_links else None,
        source_language=reading.source_language,
        target_language=reading.target_language,
        name=block.name,
    )
    return corpus, report, numbers


def _parse_records(
    block: Block, reading: Reading, fields: tuple[str, str]
) -> tuple[Corpus, Report, list[int]]:
    """Apply ``parse_block`` to JSON lines: a pair for each reference of a record."""
    report = Report(block.name)
    kept: list[tuple[str, str, int]] = []
    lines: Any = block.lines[0]
    for number, line in enumerate(lines, start=block.first):
        place = block.place(0, number)
        try:
            sources, targets = read_record(line, fields)
        except (ValueError, UnicodeDecodeError) as error:
            undecoded = isinstance(error, UnicodeDecodeError)
            report.read += 1
            report.skip(f"not {reading.encoding.upper()}" if undecoded else str(error), place)
            continue
        for target in targets:
            report.read += 1
            source = cut_words("\n".join(sources), reading.source_words)
            reason = reason_to_skip(source, target, reading.max_words)
            if reason is None:
                kept.append((source, target, number))
            else:
                report.skip(reason[1], place)
    corpus = Corpus(
        source=[source for source, _, _ in kept],
        target=[target for _, target, _ in kept],
        source_language=reading.source_language,
        target_language=reading.target_language,
        name=block.name,
    )
    return corpus, report, [number for _, _, number in kept]


def read_record(line: bytes | str, fields: Sequence[str]) -> list[list[str]]:
    """Return the texts of each of these fields of a JSON line: one text, or those of a list.

    Line breaks inside a text become spaces, so that a source can have its sentences on lines.

    Raises:
      ValueError: no JSON object, a field that is missing, or one that holds no text.
      UnicodeDecodeError: a line that is not UTF-8.
    """
    text = decode(line) if isinstance(line, bytes) else line
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    found = []
    for name in fields:
        value = record.get(name)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            why = "no text in" if name in record else "no"
            raise ValueError(f"{why} field {name!r}")
        found.append([" ".join(text.split()) for text in texts] or [""])
    return found


def check_usable(report: Report, reading: Reading) -> None:
    """Raise UserError if a report has no usable pair, or too many pairs were skipped."""
    undecoded = f"not {reading.encoding.upper()}" in report.skipped
    advice = advise_encoding(report.name.split(" + ")[0], reading.encoding) if undecoded else ""
    if not report.kept:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in report.skipped.items())
        raise UserError(f"{report.name}: no usable sentence pair ({reasons or 'no lines'}){advice}")
    report.check(reading.max_skipped, advice)


def _read_all(files: Sequence[Path], reading: Reading) -> tuple[Corpus, Report]:
    blocks = list(read_blocks(files, reading.encoding))
    names = tuple(map(spelled, files))
    columns = zip(*(block.lines for block in blocks), strict=True)
    lines = tuple(list(chain.from_iterable(column)) for column in columns)
    corpus, report, _ = parse_block(Block(names, 1, lines or ([],) * len(files)), reading)
    check_usable(report, reading)
    return corpus, report


def _lines(path: Path, encoding: str) -> Iterator[bytes]:
    with reading(path), open_stream(path) as stream:
        yield from stream_lines(stream, encoding, path)


def _texts(
    block: Block,
    number: int,
    fields: Sequence[bytes | str | None],
    reading: Reading,
    report: Report,
) -> tuple[list[str], bool]:
    """Return the fields of one line as text, and whether the pair is usable."""
    texts = []
    skip = None
    for side, field in enumerate(fields):
        try:
            text = decode(field) if isinstance(field, bytes) else field or ""
            texts.append(text.strip())
        except UnicodeDecodeError:
            texts.append("")
            skip = skip or (f"not {reading.encoding.upper()}", block.place(side, number))
        if field is None and not block.table:
            skip = skip or ("too few columns", block.place(side, number))
    texts[0] = cut_words(texts[0], reading.source_words)
    reason = reason_to_skip(texts[0], texts[1], reading.max_words)
    if reason is not None:
        side, why = reason
        skip = skip or (why, block.place(side, number))
    if skip is not None:
        report.skip(*skip)
    return texts, skip is None


def cut_words(text: str, count: int | None) -> str:
    """Return the beginning of a text up to its word number ``count``, with its spacing."""
    words = () if count is None else islice(re.finditer(r"\S+", text), count)
    end = max((word.end() for word in words), default=len(text))
    return text[:end]


def reason_to_skip(source: str, target: str, max_words: int) -> tuple[int, str] | None:
    """Return the side (0 or 1) to skip a pair for, and the reason; None for a good pair."""
    for side, text in enumerate((source, target)):
        if not text or text.isspace():
            return side, "empty sentence"
        # So many words and the spaces between them take at least so many characters.
        if len(text) >= 2 * max_words and len(text.split()) > max_words:
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

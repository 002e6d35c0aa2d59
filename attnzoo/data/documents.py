"""Documents of running text: small texts in memory, large ones through a token store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import xxhash

from attnzoo.data.corpus import PARTS, Report, Splits, add_strings
from attnzoo.data.locations import PACKED, expand, identity
from attnzoo.data.sources import (
    RECORD_READERS,
    advise_encoding,
    blocks,
    decode,
    records,
    text_of,
)
from attnzoo.data.text import line_cut
from attnzoo.errors import UserError

# Characters of a block; a constant of the token store's format (`store.FORMAT_VERSION`).
BLOCK = 2**24
HUB_ROWS = 10_000


@dataclass(frozen=True)
class TextCorpus:
    """Text documents in order."""

    documents: list[str]
    name: str = ""

    def __len__(self) -> int:
        return len(self.documents)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every document, the same in every process."""
        digest = xxhash.xxh3_128()
        add_strings(digest, self.documents)
        return digest.hexdigest()


@dataclass(frozen=True)
class TextBlock:
    """Successive documents; the first may continue that of the block before, as may the last."""

    texts: list[str]
    continues: bool = False
    ends: bool = True


def load_text(config: Any, cache_dir: Path | None = None) -> Splits[TextCorpus]:
    """Load the parts of a `Text` config, or cut them off the training part; others are empty."""
    reader = DocumentReader(config, cache_dir)
    parts: dict[str, TextCorpus] = {}
    for part in PARTS:
        documents: list[str] = []
        for block in reader.blocks(part):
            texts = block.texts
            if block.continues:
                documents[-1] += texts[0]
                texts = texts[1:]
            documents += texts
        limit = config.limit if part == "train" else None
        parts[part] = TextCorpus(documents[:limit], part)
    return Splits(**parts, reports=list(reader.reports.values()))


class DocumentReader:
    """The documents of a `Text` config in blocks, with `reports` of the files that were read."""

    def __init__(self, config: Any, cache_dir: Path | None = None) -> None:
        self.config = config
        self._cache_dir = cache_dir
        self.reports: dict[str, Report] = {}
        self._tables: dict[str, tuple[str, Any]] = {}
        # Only whole files are cut within a document, at characters; others between documents.
        self._whole = config.hub is None and config.documents == "files"
        self._size: int | None = None

    def files(self, part: str) -> list[str]:
        """Return the files that are given for a part."""
        return expand(given) if (given := getattr(self.config, part)) else []

    def identities(self) -> list[dict[str, Any]]:
        """Return what changes when the files or tables do, each with its `size` in bytes."""
        if self.config.hub is None:
            return [dict(identity(path)) for part in PARTS for path in self.files(part)]
        found = []
        for label, table in (self._table(part) for part in PARTS if self._given(part)):
            size = table.select_columns([self.config.field]).data.nbytes
            found.append({"table": label, "fingerprint": table._fingerprint, "size": size})
        return found

    def has(self, part: str) -> bool:
        """Return whether a part is given, or cut off the training part."""
        return self._given(part) or part in self._shares()

    def blocks(self, part: str) -> Iterator[TextBlock]:
        """Yield the documents of a part; a part that is cut off the training part has a share."""
        cut = self._shares()
        if part in cut or (part == "train" and cut):
            # The cuts are those of nanoGPT: at `int(n * (1 - share))` characters, or documents.
            # A share of the whole text, not of the rest after the test part.
            total = self._total()
            ends = {"test": total}
            ends["validation"] = int(total * (1 - cut["test"])) if "test" in cut else total
            left = 1 - self.config.test_share
            ends["train"] = ends["validation"]
            if "validation" in cut:
                ends["train"] = int(ends["validation"] * (1 - cut["validation"] / left))
            start = {"train": 0, "validation": ends["train"], "test": ends["validation"]}[part]
            yield from self._cut(start, ends[part])
        elif self._given(part):
            yield from self._read(part)

    def _shares(self) -> dict[str, float]:
        """Return the shares of the parts that are cut off the training part."""
        shares = {"test": self.config.test_share, "validation": self.config.validation_share}
        return {name: share for name, share in shares.items() if share and not self._given(name)}

    def _given(self, part: str) -> bool:
        if self.config.hub is not None:
            return getattr(self.config.hub, f"{part}_split") is not None
        return bool(getattr(self.config, part))

    def _total(self) -> int:
        if self._size is None:
            every = (text for block in self._read("train") for text in block.texts)
            self._size = sum(len(text) if self._whole else 1 for text in every)
        return self._size

    def _cut(self, start: int, stop: int) -> Iterator[TextBlock]:
        place = 0
        for block in self._read("train"):
            if not self._whole:
                texts = block.texts[max(start - place, 0) : max(stop - place, 0)]
                place += len(block.texts)
                if texts:
                    yield TextBlock(texts)
                continue
            (text,) = block.texts
            first, place = place, place + len(text)
            kept = text[max(start - first, 0) : max(stop - first, 0)]
            if kept:
                ends = block.ends or place >= stop
                yield TextBlock([kept], block.continues and first > start, ends)

    def _read(self, part: str) -> Iterator[TextBlock]:
        if self.config.hub is not None:
            yield from self._hub(part)
            return
        for path in self.files(part):
            report = self.reports[path] = Report(path, unit="documents")
            if self._whole:
                yield from self._file(path, report)
                continue
            texts, size = [], 0
            for text in _without_blank(self._documents(path), report):
                texts.append(text)
                size += len(text)
                if size >= BLOCK:
                    yield TextBlock(texts)
                    texts, size = [], 0
            if texts:
                yield TextBlock(texts)

    def _file(self, path: str, report: Report) -> Iterator[TextBlock]:
        """Yield one document in blocks that end between lines, where tokens do."""
        report.read, text, continues, blank = 1, "", False, True
        pieces = self._decoded(path)
        for piece in pieces:
            blank = blank and not piece.strip()
            text += piece
            while len(text) > BLOCK:
                end = line_cut(text, BLOCK // 2, BLOCK)
                yield TextBlock([text[:end]], continues, ends=False)
                text, continues = text[end:], True
        if blank:
            raise UserError(f"{path}: there is no text in it")
        yield TextBlock([text], continues)

    def _decoded(self, path: str) -> Iterator[str]:
        line, encoding = 1, self.config.encoding
        for block in blocks(path, BLOCK, encoding):
            try:
                yield decode(block)
            except UnicodeDecodeError as error:
                line += block.count(b"\n", 0, error.start)
                advice = advise_encoding(path, encoding)
                raise UserError(f"{path}:{line}: not {encoding.upper()}{advice}") from None
            line += block.count(b"\n")

    def _documents(self, path: str) -> Iterator[str]:
        units = {"lines": self._lines, "blank_lines": self._paragraphs, "records": self._records}
        return units[self.config.documents](path)

    def _lines(self, path: str) -> Iterator[str]:
        for text in self._decoded(path):
            yield from text.removesuffix("\n").split("\n")

    def _paragraphs(self, path: str) -> Iterator[str]:
        lines: list[str] = []
        for line in chain(self._lines(path), [""]):
            if line.strip():
                lines.append(line)
            elif lines:
                yield "\n".join(lines)
                lines = []

    def _records(self, path: str) -> Iterator[str]:
        field, name = self.config.field, path
        for suffix in PACKED:
            name = name.removesuffix(suffix)
        file_format = name.rpartition(".")[2]
        if file_format not in RECORD_READERS:
            known = ", ".join(f".{known}" for known in RECORD_READERS)
            raise UserError(f"{path}: documents=records reads {known}, compressed or not")
        for _, record in records(path, file_format, [field], encoding=self.config.encoding):
            yield text_of(record[field])

    def _hub(self, part: str) -> Iterator[TextBlock]:
        label, table = self._table(part)
        report = self.reports[label] = Report(label, unit="documents")
        columns = (
            table[start : start + HUB_ROWS][self.config.field]
            for start in range(0, len(table), HUB_ROWS)
        )
        texts = _without_blank((text or "" for column in columns for text in column), report)
        while block := list(islice(texts, HUB_ROWS)):
            yield TextBlock(block)

    def _table(self, part: str) -> tuple[str, Any]:
        """Return the name and the table of a part of a hub's data set."""
        from attnzoo.data.hub import check_text, hub_label, load_table

        if part not in self._tables:
            split = getattr(self.config.hub, f"{part}_split")
            table = load_table(self.config.hub, split, self._cache_dir)
            self._tables[part] = hub_label(self.config.hub, split), table
            check_text(table, self._tables[part][0], self.config.field)
        return self._tables[part]


def _without_blank(documents: Iterable[str], report: Report) -> Iterator[str]:
    """Yield the documents that are not blank; none at all is a UserError."""
    for document in documents:
        report.read += 1
        if document and not document.isspace():
            yield document
        else:
            report.skip("blank document", f"{report.name}:{report.read}")
    if not report.kept:
        raise UserError(f"{report.name}: there is no text in it")

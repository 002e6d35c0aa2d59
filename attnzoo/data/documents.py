"""Documents of running text: small texts in memory, large ones through a token store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from attnzoo.config.cache import CacheConfig
from attnzoo.data.build import About, build_store, store_folder, trained_once
from attnzoo.data.corpus import Report, Splits, add_strings
from attnzoo.data.locations import PACKED, expand, identity
from attnzoo.data.pairs import add_array, array_blocks, offsets_of
from attnzoo.data.parallel import PARTS, join_digests
from attnzoo.data.sources import (
    RECORD_READERS,
    advise_encoding,
    blocks,
    decode,
    records,
    text_of,
)
from attnzoo.data.store import FORMAT_VERSION, Columns, StoreWriter
from attnzoo.data.text import TokenizedText, encode_documents, line_cut
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer, load_tokenizer
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
        # Only whole files are cut within a document, at characters; others between documents.
        self._whole = config.hub is None and config.documents == "files"
        self._size: int | None = None

    def files(self, part: str) -> list[str]:
        """Return the files that are given for a part."""
        return expand(given) if (given := getattr(self.config, part)) else []

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
            raise UserError(f"{path}: documents=records reads {known}, packed or not")
        for _, record in records(path, file_format, [field], encoding=self.config.encoding):
            yield text_of(record[field])

    def _hub(self, part: str) -> Iterator[TextBlock]:
        from attnzoo.data.hub import hub_label, load_table, text_column

        split = getattr(self.config.hub, f"{part}_split")
        if split is None:
            return
        label = hub_label(self.config.hub, split)
        report = self.reports[label] = Report(label, unit="documents")
        table = load_table(self.config.hub, split, self._cache_dir)
        column = text_column(table, label, self.config.field)
        texts = _without_blank((text or "" for text in column), report)
        while block := list(islice(texts, HUB_ROWS)):
            yield TextBlock(block)


class TextData:
    """The running text of a data config, read when it is wanted.

    A text whose files are together smaller than `cache.memory`, or that comes from a hub, is read
    as a whole. A larger one is never in memory: `tokens` keeps its ids in a token store. `reports`
    and `fingerprint` tell of the parts that were read.
    """

    def __init__(self, config: Any, cache: CacheConfig) -> None:
        self.config, self.cache = config, cache
        self.reader = DocumentReader(config)
        self.size = 0
        if config.hub is None:
            files = [path for part in PARTS for path in self.reader.files(part)]
            self.size = sum(int(identity(path)["size"]) for path in files)
        self.splits = None if self.large else load_text(config)
        self.reports: list[Report] = [] if self.splits is None else list(self.splits.reports)
        self._fingerprints: dict[str, str] = {}

    @property
    def large(self) -> bool:
        """Whether the text goes through a token store."""
        return self.size >= max(self.cache.memory, 1)

    def has(self, part: str) -> bool:
        """Return whether a part has documents."""
        if self.splits is not None:
            return len(getattr(self.splits, part)) > 0
        return self.reader.has(part)

    def tokenizer(self, config: Any) -> TextTokenizer:
        """Train a tokenizer on the training part, or load it; of large data, train it only once."""
        if self.splits is not None or config.kind in ("file", "byte"):
            return build_tokenizer(config, self.texts(config))
        key = self._key() | {
            "kind": "tokenizer",
            "config": dataclasses.asdict(config),
            "sample": self.cache.tokenizer_sample,
        }
        path = store_folder(self.cache.path, "tokenizer", key).with_suffix(".json")
        return trained_once(
            path, lambda: build_tokenizer(config, self.texts(config)), load_tokenizer
        )

    def _key(self) -> dict[str, Any]:
        """Return what decides the documents of all parts."""
        return {
            "format": FORMAT_VERSION,
            "files": [identity(path) for name in PARTS for path in self.reader.files(name)],
            "reading": dataclasses.asdict(self.config),
        }

    def texts(self, config: Any) -> Iterable[str]:
        """Yield the training text that a tokenizer of this config is trained on."""
        if self.splits is not None:
            yield from self.splits.train.documents
            return
        every = -(-self.size // self.cache.tokenizer_sample) if config.kind != "char" else 1
        limit, begun = self.config.limit, 0
        for number, block in enumerate(self.reader.blocks("train")):
            begun += len(block.texts) - block.continues
            over = 0 if limit is None else max(begun - limit, 0)
            if number % every == 0:
                yield from block.texts[: len(block.texts) - over]
            if over:
                return

    def tokens(self, part: str, tokenizer: TextTokenizer, separator: int | None) -> TokenizedText:
        """Return the documents of a part as ids, with `separator` after each if it is large."""
        if self.splits is not None:
            return TokenizedText.from_documents(getattr(self.splits, part).documents, tokenizer)
        limit = self.config.limit if part == "train" else None
        key = self._key() | {
            "kind": "text",
            "part": part,
            "tokenizer": tokenizer.fingerprint(),
            "separator": separator,
        }
        reader = DocumentReader(self.config)
        store = build_store(
            store_folder(self.cache.path, f"text-{part}", key),
            key,
            lambda: reader.blocks(part),
            TextEncoder(tokenizer, separator),
            TextJoin(reader, limit, separator),
            workers=self.cache.workers,
            size=self.size if part == "train" else 0,
            enough=lambda pieces: limit is not None and sum(p["begun"] for p in pieces) > limit,
        )
        known = {report.name for report in self.reports}
        reports = [Report(**report) for report in store.about["reports"]]
        self.reports += [report for report in reports if report.name not in known]
        self._fingerprints[part] = store.about["data"]
        return TokenizedText(
            store.columns["ids"],
            offsets_of(store.columns["lengths"]),
            tokenizer.vocab_size,
            separator,
            store.about["fingerprint"],
        )

    def fingerprint(self) -> str:
        """Return the xxh3_128 of the documents of the parts that were read."""
        if self.splits is not None:
            return self.splits.fingerprint()
        empty = TextCorpus([]).fingerprint()
        return join_digests(self._fingerprints.get(part, empty) for part in PARTS)


@dataclass(frozen=True)
class TextEncoder:
    """What a worker does with a block of documents."""

    tokenizer: TextTokenizer
    separator: int | None

    def __call__(self, block: TextBlock) -> tuple[Columns, About]:
        ids, lengths = encode_documents(block.texts, self.tokenizer)
        if self.separator is not None:
            ends = np.cumsum(lengths, dtype=np.int64)[: len(lengths) - (not block.ends)]
            ids = np.insert(ids, ends, self.separator)
            lengths[: len(ends)] += 1
        about = {
            "bytes": sum(map(len, block.texts)),
            "continues": block.continues,
            "begun": len(lengths) - block.continues,
            "digest": TextCorpus(block.texts).fingerprint(),
        }
        return {"ids": ids, "lengths": lengths}, about


@dataclass(frozen=True)
class TextJoin:
    """What is known only of all pieces: documents over several of them, and fingerprints."""

    reader: DocumentReader
    limit: int | None
    separator: int | None

    def __call__(self, writer: StoreWriter, pieces: list[About]) -> tuple[About, Columns]:
        lengths: list[np.ndarray] = []
        for number, piece in enumerate(pieces):
            column = writer.read(number, "lengths")
            if piece["continues"]:
                lengths[-1][-1] += column[0]
                column = column[1:]
            if len(column):
                lengths.append(column.astype(np.uint64))
        joined = np.concatenate([np.empty(0, np.uint64), *lengths])[: self.limit]
        total = int(joined.sum())
        small = {"lengths": joined.astype(np.uint32) if total < 2**32 else joined}
        if len(joined) == 1 and self.separator is not None:
            total -= 1  # one document alone is a stream without a separator
        digest = xxhash.xxh3_128(f"{(total,)}".encode())
        for number in range(len(pieces)):
            ids = writer.read(number, "ids")[:total]
            for block in array_blocks(ids):
                add_array(digest, block, "<i4")
            total -= len(ids)
        prints = [piece["digest"] for piece in pieces]
        about = {
            "reports": [dataclasses.asdict(report) for report in self.reader.reports.values()],
            "data": prints[0] if len(prints) == 1 else join_digests(prints),
            "fingerprint": digest.hexdigest(),
        }
        return about, small


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

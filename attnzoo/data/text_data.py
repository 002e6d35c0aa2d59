"""Running text of a config as ids: small texts in memory, large ones through a token store."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from attnzoo.config.cache import CacheConfig
from attnzoo.data.build import About, build_store, store_folder, trained_once
from attnzoo.data.corpus import PARTS, Report, only_part
from attnzoo.data.documents import DocumentReader, TextBlock, TextCorpus, load_text
from attnzoo.data.megatron import open_megatron
from attnzoo.data.pairs import add_array, array_blocks, offsets_of
from attnzoo.data.parallel import join_digests
from attnzoo.data.store import FORMAT_VERSION, Columns, StoreWriter
from attnzoo.data.text import TokenizedText, array_fingerprint, encode_documents, in_lines
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer, load_tokenizer
from attnzoo.errors import UserError


class TextData:
    """The running text of a data config, read when it is wanted.

    A text whose files or tables are together smaller than `cache.memory` is read as a whole. A
    larger one is never in memory: `tokens` keeps its ids in a token store. `reports` and
    `fingerprint` tell of the parts that were read.
    """

    def __init__(self, config: Any, cache: CacheConfig) -> None:
        self.config, self.cache = config, cache
        self.reader = DocumentReader(config)
        self.size = sum(found["size"] for found in self.reader.identities())
        given = [Path(path) for part in PARTS for path in getattr(config, part)]
        self.tokenized = any(path.suffix == ".bin" for path in given)
        if self.tokenized and (config.validation_share or config.test_share or config.limit):
            raise UserError(
                "data: a .bin is read as it is, without shares and limit: remove "
                "validation_share, test_share and limit"
            )
        if self.tokenized and any(len(getattr(config, part)) > 1 for part in PARTS):
            raise UserError("data: one .bin for each part is wanted (Megatron-LM can merge them)")
        self.splits = None if self.large or self.tokenized else load_text(config)
        self.reports: list[Report] = [] if self.splits is None else list(self.splits.reports)
        self._fingerprints: dict[str, str] = {}

    @property
    def large(self) -> bool:
        """True if the text goes through a token store."""
        return self.size >= max(self.cache.memory, 1)

    def has(self, part: str) -> bool:
        """Return whether a part has documents."""
        if self.splits is not None:
            return len(getattr(self.splits, part)) > 0
        return self.reader.has(part)

    def tokenizer(self, config: Any) -> TextTokenizer:
        """Train a tokenizer on the training part, or load it; of large data, train it only once."""
        if self.tokenized and config.kind != "file":
            raise UserError(
                f"tokenizer={config.kind}: a .bin has ids; give the tokenizer they are of: "
                "tokenizer={kind: file, path: ...}"
            )
        if self.splits is not None or config.kind in ("file", "byte"):
            return build_tokenizer(config, self.texts(config))
        key = self._key("train") | {
            "kind": "tokenizer",
            "config": dataclasses.asdict(config),
            "sample": self.cache.tokenizer_sample,
        }
        path = store_folder(self.cache.path, "tokenizer", key).with_suffix(".json")
        train = functools.partial(self._train, config)
        return trained_once(path, train, load_tokenizer, self.cache.workers)

    def _train(self, config: Any) -> TextTokenizer:
        return build_tokenizer(config, self.texts(config))

    def _key(self, part: str) -> dict[str, Any]:
        """Return what decides the documents of a part."""
        config = only_part(self.config, part)
        return {
            "format": FORMAT_VERSION,
            "files": DocumentReader(config).identities(),
            "reading": dataclasses.asdict(config),
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
                for text in block.texts[: len(block.texts) - over]:
                    yield from in_lines(text)
            if over:
                return

    def tokens(self, part: str, tokenizer: TextTokenizer, separator: int | None) -> TokenizedText:
        """Return the documents of a part as ids, with `separator` after each if it is large."""
        if self.tokenized:
            (path,) = getattr(self.config, part)
            return open_megatron(path, tokenizer.vocab_size, separator)
        if self.splits is not None:
            return TokenizedText.from_documents(getattr(self.splits, part).documents, tokenizer)
        limit = self.config.limit if part == "train" else None
        key = self._key(part) | {
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
            store,
        )

    def fingerprint(self, part: str | None = None) -> str:
        """Return the xxh3_128 of the documents of a part, or of all parts, that were read."""
        if self.splits is not None:
            return (self.splits if part is None else getattr(self.splits, part)).fingerprint()
        if self.tokenized:  # the plans have fingerprints of the ids
            key = {
                "format": FORMAT_VERSION,
                "files": self.reader.identities(),
                "reading": dataclasses.asdict(self.config),
            }
            return array_fingerprint(f"{key}")
        if part is not None:
            return self._fingerprints[part]
        empty = TextCorpus([]).fingerprint()
        return join_digests(self._fingerprints.get(part, empty) for part in PARTS)


@dataclass(frozen=True)
class TextEncoder:
    """Function of a worker from a block of documents to the columns of a store."""

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
    """Last step of a store: join documents over several pieces, and compute fingerprints."""

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

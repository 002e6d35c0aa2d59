"""Sentence pairs of a config as ids: small corpora in memory, large files through a token store."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import xxhash

from attnzoo.config.cache import CacheConfig
from attnzoo.data.build import About, build_store, store_folder, trained_once
from attnzoo.data.corpus import PARTS, Corpus, Report, Splits, load_corpus
from attnzoo.data.files import (
    Block,
    Reading,
    check_usable,
    files_of,
    parse_block,
    read_blocks,
    reading_of,
)
from attnzoo.data.locations import identity
from attnzoo.data.pairs import TokenizedPairs, offsets_of
from attnzoo.data.store import FORMAT_VERSION, Columns, Store, StoreWriter
from attnzoo.data.tokenizers import Tokenizer, train_tokenizer

SIDES = ("source", "target")


class PairData:
    """The sentence pairs of a data config, read when they are wanted.

    Files and hub data sets that are smaller than `cache.memory`, and made data, are read as a
    whole. Larger ones are never in memory: `tokens` keeps their ids in a token store.
    `reports` and `fingerprint` tell of the parts that were read.
    """

    def __init__(self, config: Any, cache: CacheConfig) -> None:
        self.config, self.cache = config, cache
        self._sources = open_sources(config)
        self.size = sum(source.size for source in self._sources.values())
        self.splits: Splits[Corpus] | None = None
        if not self.large:
            self.splits = load_corpus(config)
        self.reports: list[Report] = [] if self.splits is None else list(self.splits.reports)
        self._fingerprints: dict[str, str] = {}

    @property
    def large(self) -> bool:
        """True if the data goes through a token store."""
        return self.size >= max(self.cache.memory, 1)

    def has(self, part: str) -> bool:
        """Return whether a part has pairs."""
        if self.splits is not None:
            return len(getattr(self.splits, part)) > 0
        return part in self._sources

    def head(self, part: str, count: int) -> Corpus:
        """Return the first pairs of a part."""
        if self.splits is not None:
            corpus = getattr(self.splits, part)
            return corpus.select(range(min(count, len(corpus))))
        for corpus, _, _ in self._parsed(part):
            return corpus.select(range(min(count, len(corpus))))
        return Corpus([], [])

    def tokenizers(
        self, config: Any, target_config: Any = None, *, shared: bool = False
    ) -> tuple[Tokenizer, Tokenizer]:
        """Train the tokenizer of each side on the training part; of large data, only once.

        With `shared` it is the same object, trained on both sides.
        """
        if shared:
            both = self._trained(config, *SIDES)
            return both, both
        return self._trained(config, "source"), self._trained(target_config or config, "target")

    def _trained(self, config: Any, *sides: str) -> Tokenizer:
        train = functools.partial(self._train, config, sides)
        if self.splits is not None:
            return train()
        key = self._key("train") | {
            "kind": "tokenizer",
            "sides": sides,
            "config": dataclasses.asdict(config),
            "sample": self.cache.tokenizer_sample,
        }
        path = store_folder(self.cache.path, "tokenizer", key).with_suffix(".json")
        return trained_once(path, train, Tokenizer.load, self.cache.workers)

    def _train(self, config: Any, sides: Sequence[str]) -> Tokenizer:
        return train_tokenizer(config, chain.from_iterable(map(self.sentences, sides)))

    def _key(self, part: str) -> dict[str, Any]:
        """Return what decides the usable sentences of a part."""
        return {
            "format": FORMAT_VERSION,
            "files": self._sources[part].files,
            "reading": dataclasses.asdict(reading_of(self.config)),
        }

    def sentences(self, side: str) -> Iterator[str]:
        """Yield the training sentences of a side that a tokenizer is trained on."""
        if self.splits is not None:
            yield from getattr(self.splits.train, side)
            return
        every = -(-self._sources["train"].size // self.cache.tokenizer_sample)
        parsed = self._parsed("train", every)
        lines = chain.from_iterable(getattr(corpus, side) for corpus, _, _ in parsed)
        yield from islice(lines, self.config.limit)

    def tokens(
        self, part: str, source: Tokenizer, target: Tokenizer, max_length: int
    ) -> tuple[TokenizedPairs, Report]:
        """Return the pairs of a part as ids, and a report of pairs that are too long or empty."""
        if self.splits is not None:
            corpus = getattr(self.splits, part)
            return TokenizedPairs.from_corpus(corpus, source, target, max_length)
        store = self._store(part, source, target, max_length)
        pairs, read, skipped, data = open_pairs(store)
        check_usable(read, reading_of(self.config))
        self._fingerprints[part] = data
        self.reports = [r for r in self.reports if r.name != read.name] + [read]
        return pairs, skipped

    def fingerprint(self, source: Tokenizer, target: Tokenizer, max_length: int) -> str:
        """Return the xxh3_128 of the sentences of all parts; a large test part is read for it."""
        if self.splits is not None:
            return self.splits.fingerprint()
        for part in PARTS:
            if part not in self._fingerprints and self.has(part):
                self.tokens(part, source, target, max_length)
        empty = Corpus([], []).fingerprint()
        return join_digests(self._fingerprints.get(part, empty) for part in PARTS)

    def _store(self, part: str, source: Tokenizer, target: Tokenizer, max_length: int) -> Store:
        pairs, reading = self._sources[part], reading_of(self.config)
        limit = self.config.limit if part == "train" else None
        key = self._key(part) | {
            "kind": "pairs",
            "tokenizers": [source.fingerprint(), target.fingerprint()],
            "max_length": max_length,
            "limit": limit,
        }
        sizes = source.vocab_size, target.vocab_size
        return build_store(
            store_folder(self.cache.path, f"pairs-{part}", key),
            key,
            pairs.blocks,
            PairEncoder(source, target, reading, max_length),
            PairJoin(sizes, limit),
            workers=self.cache.workers,
            size=pairs.size,
            enough=lambda pieces: limit is not None and sum(p["kept"] for p in pieces) >= limit,
        )

    def _parsed(self, part: str, every: int = 1) -> Iterator[tuple[Corpus, Report, list[int]]]:
        reading = reading_of(self.config)
        for number, block in enumerate(self._sources[part].blocks()):
            if number % every == 0:
                yield parse_block(block, reading)


@dataclasses.dataclass(frozen=True)
class PairSource:
    """The lines of one part of a data set: bytes, what changes with them, and their blocks."""

    size: int
    files: list[dict[str, Any]]
    blocks: Callable[[], Iterable[Block]]


def open_sources(config: Any) -> dict[str, PairSource]:
    """Return the sources of a config's parts; none for data that is made rather than read."""
    if config.kind == "hub":
        from attnzoo.data.hub import HubPairs, hub_splits

        parts = {part: HubPairs(config, part) for part in hub_splits(config)}
        return {name: PairSource(p.size, [p.identity], p.blocks) for name, p in parts.items()}
    if config.kind != "files":
        return {}
    sources = {}
    for part in PARTS:
        if paths := files_of(config, part):
            files: list[dict[str, Any]] = [dict(identity(path)) for path in paths]
            blocks = functools.partial(read_blocks, paths, config.encoding)
            sources[part] = PairSource(sum(file["size"] for file in files), files, blocks)
    return sources


@dataclasses.dataclass(frozen=True)
class PairEncoder:
    """Function of a worker from a block of lines to the columns of its usable pairs."""

    source: Tokenizer
    target: Tokenizer
    reading: Reading
    max_length: int

    def __call__(self, block: Block) -> tuple[Columns, About]:
        corpus, read, numbers = parse_block(block, self.reading)
        pairs, skipped = TokenizedPairs.from_corpus(
            corpus,
            self.source,
            self.target,
            self.max_length,
            lambda row: block.place(0, numbers[row]),
        )
        columns = {"rows": pairs.rows}
        for side in SIDES:
            ids, offsets = getattr(pairs, f"{side}_ids"), getattr(pairs, f"{side}_offsets")
            columns[f"{side}.ids"] = ids
            columns[f"{side}.lengths"] = np.diff(offsets).astype(np.uint32)
        about = {
            "bytes": sum(len(line or "") + 1 for lines in block.lines for line in lines),
            "kept": len(corpus),
            "digest": corpus.fingerprint(),
            "read": dataclasses.asdict(read),
            "skipped": dataclasses.asdict(skipped),
        }
        return columns, about


@dataclasses.dataclass(frozen=True)
class PairJoin:
    """Last step of a store: number the rows, cut at `limit`, and compute fingerprints."""

    vocab_sizes: tuple[int, int]
    limit: int | None = None

    def __call__(self, writer: StoreWriter, pieces: list[About]) -> tuple[About, Columns]:
        firsts = offsets_of(np.asarray([piece["kept"] for piece in pieces], np.int64))
        numbers = range(len(pieces))
        small = {
            "rows": np.concatenate(
                [np.empty(0, np.int32)]
                + [writer.read(i, "rows") + np.int32(firsts[i]) for i in numbers]
            )
        }
        left = len(small["rows"])
        if self.limit is not None:
            left = int(np.searchsorted(small["rows"], self.limit))
            small["rows"] = small["rows"][:left]
        digest = xxhash.xxh3_128()
        for side in SIDES:
            name = f"{side}.lengths"
            columns = [writer.read(i, name) for i in numbers]
            small[name] = np.concatenate([np.empty(0, np.uint32), *columns])[:left]
            offsets = offsets_of(small[name])
            room = int(offsets[-1])
            for i in numbers:
                ids = writer.read(i, f"{side}.ids")[:room]
                digest.update(ids.astype("<i4").data)
                room -= len(ids)
            digest.update(offsets.astype("<i8").data)
        digest.update(small["rows"].astype("<i4").data)
        digest.update("{} {}".format(*self.vocab_sizes).encode())
        prints = [piece["digest"] for piece in pieces]
        about = {
            "read": merged([piece["read"] for piece in pieces]),
            "skipped": merged([piece["skipped"] for piece in pieces]),
            "data": prints[0] if len(prints) == 1 else join_digests(prints),
            "fingerprint": digest.hexdigest(),
            "vocab_sizes": list(self.vocab_sizes),
        }
        return about, small


def open_pairs(store: Store) -> tuple[TokenizedPairs, Report, Report, str]:
    """Return the pairs of a store, the reports of reading and tokenizing, and the data's digest."""
    columns, about = store.columns, store.about
    arrays: dict[str, Any] = {"rows": np.asarray(columns["rows"])}
    for side, size in zip(SIDES, about["vocab_sizes"], strict=True):
        arrays[f"{side}_offsets"] = offsets_of(columns[f"{side}.lengths"])
        arrays[f"{side}_ids"] = columns[f"{side}.ids"]
        arrays[f"{side}_vocab_size"] = size
    pairs = TokenizedPairs(**arrays, known_fingerprint=about["fingerprint"])
    return pairs, Report(**about["read"]), Report(**about["skipped"]), about["data"]


def join_digests(digests: Iterable[str]) -> str:
    """Return one digest for those of pieces, in their order."""
    return xxhash.xxh3_128_hexdigest("".join(digests).encode())


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add reports of pieces up: counts, and the first places of each reason."""
    first = reports[0] if reports else {"name": "", "unit": "pairs"}
    whole = Report(first["name"], unit=first["unit"])
    for report in reports:
        whole.read += report["read"]
        for reason, count in report["skipped"].items():
            for place in report["places"][reason][:count]:
                whole.skip(reason, place)
            whole.skipped[reason] += count - len(report["places"][reason])
    return dataclasses.asdict(whole)

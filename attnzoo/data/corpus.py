"""Parallel corpora, the three parts of a data set, and the loaders of each kind of data config."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import xxhash

from attnzoo.alignment.links import Links
from attnzoo.errors import UserError

# Number of places that a report names per reason; the counts are always complete.
PLACES_NAMED = 5


@dataclass
class Report:
    """Counts of examples read and skipped, with a reason and places for every skipped one."""

    name: str
    read: int = 0
    unit: str = "pairs"
    skipped: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, place: str) -> None:
        """Count one skip; `place` is `file:line` (only the first few of a reason are kept)."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        places = self.places.setdefault(reason, [])
        if len(places) < PLACES_NAMED:
            places.append(place)

    @property
    def kept(self) -> int:
        return self.read - sum(self.skipped.values())

    def check(self, max_skipped: float, advice: str = "") -> None:
        """Raise a UserError if more than the share `max_skipped` of the examples was skipped."""
        count = sum(self.skipped.values())
        if count > max_skipped * self.read:
            reasons = "; ".join(line.removeprefix(f"{self.name}: ") for line in self.lines()[1:])
            raise UserError(
                f"{self.name}: {count:,} of {self.read:,} {self.unit} cannot be used, more than "
                f"data.max_skipped={max_skipped:g}: {reasons}{advice}"
            )

    def lines(self) -> list[str]:
        """Describe the kept examples, then each reason for skipping with its first places."""
        lines = [f"{self.name}: {self.kept:,} of {self.read:,} {self.unit}"]
        for reason, count in self.skipped.items():
            named = ", ".join(self.places[reason])
            more = ", ..." if count > len(self.places[reason]) else ""
            lines.append(f"{self.name}: skipped {count:,}: {reason} ({named}{more})")
        return lines


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs in order; `target[i]` translates `source[i]`.

    If `links` is given, `links[i]` aligns the whitespace-separated words of `source[i]` (first
    index) with those of `target[i]` (second index), counted from 0. Different lengths of the three
    lists are a ValueError.
    """

    source: list[str]
    target: list[str]
    links: list[Links] | None = None
    source_language: str = ""
    target_language: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target):
            raise ValueError(
                f"source has {len(self.source)} sentences, target has {len(self.target)}: "
                "a parallel corpus needs as many of one as of the other"
            )
        if self.links is not None and len(self.links) != len(self.source):
            raise ValueError(
                f"links has {len(self.links)} entries for {len(self.source)} sentence pairs: "
                "one entry a pair is wanted"
            )

    def __len__(self) -> int:
        return len(self.source)

    def select(self, rows: Iterable[int]) -> Corpus:
        """Return the pairs of these rows, in this order."""
        rows = list(rows)
        return Corpus(
            source=[self.source[row] for row in rows],
            target=[self.target[row] for row in rows],
            links=None if self.links is None else [self.links[row] for row in rows],
            source_language=self.source_language,
            target_language=self.target_language,
            name=self.name,
        )

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every sentence and link, the same in every process."""
        digest = xxhash.xxh3_128()
        for side in (self.source, self.target):
            add_strings(digest, side)
        if self.links is not None:
            add_strings(digest, (f"{sorted(x.sure)} {sorted(x.possible)}" for x in self.links))
        return digest.hexdigest()


@runtime_checkable
class Part(Protocol):
    """Interface of one part of a data set."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str: ...


Kept = TypeVar("Kept", bound=Part)


@dataclass(frozen=True)
class Splits(Generic[Kept]):
    """The three parts of a data set, with `reports` of the examples read and skipped."""

    train: Kept
    validation: Kept
    test: Kept
    reports: Sequence[Report] = ()

    def fingerprint(self) -> str:
        parts = (self.train, self.validation, self.test)
        return xxhash.xxh3_128_hexdigest("".join(part.fingerprint() for part in parts).encode())


def load_corpus(config: Any) -> Splits[Any]:
    """Load the data set of a data config of `attnzoo.config.data`, by its `kind`.

    Errors in the files, the locale or the name of the data set are a UserError.
    """
    if config.kind not in LOADERS:
        raise ValueError(f"config.kind={config.kind!r} is none of {', '.join(LOADERS)}")
    # Sources are imported on use: `datasets` alone takes seconds to import.
    module, _, function = LOADERS[config.kind].partition(":")
    return getattr(importlib.import_module(f"attnzoo.data.{module}"), function)(config)


def load_part(config: Any, part: str) -> Corpus:
    """Load one part of a parallel corpus; no other part is read."""
    config = only_part(config, part)
    return Corpus([], []) if config is None else getattr(load_corpus(config), part)


def only_part(config: Any, part: str) -> Any:
    """Return a data config without the files that a part does not need.

    A part that is drawn from the training part needs that. Data that is made, or sorted into parts
    by its folders, stays as it is. None: the config has no such part.
    """
    nested = (
        name for name in ("hub", "source") if dataclasses.is_dataclass(getattr(config, name, 0))
    )
    inner = next(nested, "")
    holder = getattr(config, inner) if inner else config
    fields = {p: f"{p}_split" if hasattr(holder, f"{p}_split") else p for p in PARTS}
    values = {p: getattr(holder, field, 0) for p, field in fields.items()}
    if isinstance(values["train"], int):
        return config
    given = {p for p in PARTS if values[p]}
    kept = part if part in given else "train"
    drawn = getattr(config, f"{part}_share", 0) or getattr(config, f"{part}_names", None)
    if kept not in given or not (kept == part or drawn):
        return None
    others: dict[str, Any] = {
        fields[p]: () if isinstance(values[p], tuple) else None for p in given - {kept}
    }
    settings: dict[str, Any] = {inner: dataclasses.replace(holder, **others)} if inner else others
    for name in given - {"train"}:
        if hasattr(config, f"{name}_share"):
            settings[f"{name}_share"] = 0.0
    if kept != "train":
        settings["limit"] = None  # that of the training part
    return dataclasses.replace(config, **settings)


PARTS = ("train", "validation", "test")
LOADERS = {
    "cldr": "cldr.build:load_cldr",
    "files": "files:load_files",
    "hub": "hub:load_hub",
    "synthetic": "synthetic:load_synthetic",
    "reports": "reports:load_reports",
    "text": "documents:load_text",
    "labelled_text": "labelled:load_labelled",
    "tagged_text": "tagged:load_tagged",
    "images": "images:load_images",
    "interactions": "interactions:load_interactions",
    "boxes": "boxes:load_boxes",
    "questions": "questions:load_questions",
    "made_questions": "made_questions:load_made_questions",
    "stories": "stories:load_stories",
    "made_stories": "made_stories:load_made_stories",
    "captions": "captions:load_captions",
    "scenes": "scenes:load_scenes",
    "speech": "speech:load_speech",
    "spliced": "spliced:load_spliced",
}


def add_strings(digest: xxhash.xxh3_128, strings: Iterable[str]) -> None:
    """Update a digest with strings, one by one."""
    # Lengths are included, so that moving a character across a boundary changes the digest.
    for string in strings:
        encoded = string.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)

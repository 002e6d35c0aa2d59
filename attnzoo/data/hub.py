"""Data from the Hugging Face `datasets` library: by name, or from local files in its formats."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attnzoo.data.corpus import PARTS, Corpus, Splits
from attnzoo.data.files import BLOCK_LINES, Block, check_usable, parse_block, reading_of
from attnzoo.errors import UserError

# Options of the builders of `datasets` to read what is in a file: no word is a missing value, and
# a byte order mark is no character.
AS_WRITTEN: dict[str, dict[str, Any]] = {
    "csv": {"encoding": "utf-8-sig", "keep_default_na": False},
    "text": {"encoding": "utf-8-sig"},
}


def load_hub(config: Any, cache_dir: Path | None = None) -> Splits:
    """Load the three splits of a `Hub` config; a split that is null is empty.

    Rows without text, or longer than `max_words`, are skipped and counted; more than the share
    `max_skipped`, an unknown data set, split or field, and a hub that cannot be reached, are a
    UserError.
    """
    reading, reports = reading_of(config), []
    parts = {
        part: Corpus([], [], None, config.source_language, config.target_language) for part in PARTS
    }
    for part in hub_splits(config):
        pairs = HubPairs(config, part, cache_dir)
        parts[part], report, _ = parse_block(pairs.block(0, None), reading)
        check_usable(report, reading)
        reports.append(report)
    if config.limit is not None:
        parts["train"] = parts["train"].select(range(min(config.limit, len(parts["train"]))))
    return Splits(**parts, reports=reports)


class HubPairs:
    """The rows of one split of a `Hub` config, as a table that lies on the disk.

    A dot in a field's name selects a nested field, as `translation.en` in the OPUS sets.
    """

    def __init__(self, config: Any, part: str, cache_dir: Path | None = None) -> None:
        split = hub_splits(config)[part]
        self.label = hub_label(config, split)
        self.fields = config.source_field, config.target_field
        self.table = load_table(config, split, cache_dir)
        for field in self.fields:
            check_text(self.table, self.label, field)

    @property
    def size(self) -> int:
        """Bytes of the two columns."""
        return self.table.select_columns(list(self.fields)).data.nbytes

    @property
    def identity(self) -> dict[str, str]:
        """A value that changes when the rows do."""
        return {"table": self.label, "fingerprint": self.table._fingerprint}

    def block(self, start: int, stop: int | None) -> Block:
        """Return rows as a block of lines."""
        columns = tuple(self.table[field][start:stop] for field in self.fields)
        return Block((), start, columns, self.label)

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in blocks."""
        for start in range(0, len(self.table), BLOCK_LINES):
            yield self.block(start, start + BLOCK_LINES)


def hub_splits(hub: Any) -> dict[str, str]:
    """Return the configured splits of a data set by part: train, validation, test."""
    splits = {part: getattr(hub, f"{part}_split") for part in PARTS}
    return {part: split for part, split in splits.items() if split is not None}


def hub_label(hub: Any, split: str) -> str:
    """Return the name of a split for reports and errors."""
    local = (hub.data_files or {}).get(split.split("[")[0])
    config = f"/{hub.config}" if hub.config else ""
    return f"{hub.name}{config} {split}{f' ({local})' if local else ''}"


def load_table(hub: Any, split: str, cache_dir: Path | None = None, *, flatten: bool = True) -> Any:
    """Load one split of a config's data set as a `datasets` table.

    With `flatten` nested columns become columns with dotted names.

    An unknown data set or split, and a hub that cannot be reached, are a UserError.
    """
    # Takes seconds to import, so it is imported only here.
    import datasets
    import datasets.exceptions

    files = {name: str(path) for name, path in (hub.data_files or {}).items()}
    for path in files.values():
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file")
    try:
        table = datasets.load_dataset(
            hub.name,
            hub.config,
            split=split,
            revision=hub.revision,
            data_files=files or None,
            cache_dir=None if cache_dir is None else str(cache_dir),
            **AS_WRITTEN.get(hub.name, {}),
        )
    # All errors of the library for a wrong name, configuration or split, a damaged file, or
    # an unreachable hub. The cause says more than "an error occurred while generating".
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ if "generating" in str(error) and error.__cause__ else error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(f"{hub_label(hub, split)}: {reason}") from None
    return table.flatten() if flatten else table


def text_column(table: Any, label: str, field: str) -> list[str | None]:
    """Return a column of text; a missing column, or another type, is a UserError."""
    check_text(table, label, field)
    return table[field][:]


def check_text(table: Any, label: str, field: str) -> None:
    """Raise UserError for a missing column, or one that holds no text."""
    check_field(table, label, field)
    dtype = getattr(table.features[field], "dtype", None)
    if dtype not in ("string", "large_string"):
        raise UserError(f"{label}: field {field!r} holds {dtype or 'no plain values'}, wanted text")


def label_column(table: Any, label: str, field: str) -> list[Any]:
    """Return a column of classes, or of lists of classes, as names; numbers become strings."""
    import datasets

    check_field(table, label, field)
    feature = table.features[field]
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, datasets.ClassLabel):
        names = [*inner.names, "-1"]  # -1 means that the class is unknown
    elif getattr(inner, "dtype", "").startswith(("int", "uint", "bool", "string", "large_string")):
        names = None
    else:
        raise UserError(f"{label}: field {field!r} holds {inner}, wanted classes")

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(item) for item in value]
        if value is None:
            return ""
        return str(value) if names is None else names[value]

    return [name(value) for value in table[field][:]]


def check_field(table: Any, label: str, field: str) -> None:
    """Raise UserError for a missing column, with the existing ones."""
    if field not in table.column_names:
        near = get_close_matches(field, table.column_names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(
            f"{label}: no field {field!r}{hint}; it has {', '.join(table.column_names)}"
        )

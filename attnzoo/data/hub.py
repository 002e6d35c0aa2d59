"""Data from the Hugging Face `datasets` library: by name, or from local files in its formats."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attnzoo.data.corpus import Corpus, Report, Splits
from attnzoo.data.files import MAX_WORDS, reason_to_skip
from attnzoo.errors import UserError

# Options of the builders of `datasets` to read what is in a file: no word is a missing value, and
# an encoding mark is no character.
AS_WRITTEN: dict[str, dict[str, Any]] = {
    "csv": {"encoding": "utf-8-sig", "keep_default_na": False},
    "text": {"encoding": "utf-8-sig"},
}


def read_split(
    name: str,
    split: str,
    source_field: str,
    target_field: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    data_files: dict[str, Path] | None = None,
    cache_dir: Path | None = None,
    max_words: int = MAX_WORDS,
    max_skipped: float = 1.0,
    source_language: str = "",
    target_language: str = "",
) -> tuple[Corpus, Report]:
    """Read two text columns of one split of a data set.

    `name` is a data set's name, or `json`, `csv` or `parquet` with `data_files`. A dot in a field
    name selects a nested field, as `translation.en` in the OPUS sets. Rows without text, or longer
    than `max_words`, are skipped and counted; more than the share `max_skipped`, an unknown data
    set, split or field, and a hub that cannot be reached, are a UserError.
    """
    label = _label(name, config, split, data_files)
    table = _load(label, name, config, split, revision, data_files, cache_dir).flatten()
    columns = [text_column(table, label, field) for field in (source_field, target_field)]
    report = Report(label)
    sources, targets = [], []
    for row, (source, target) in enumerate(zip(*columns, strict=True)):
        report.read += 1
        source, target = (source or "").strip(), (target or "").strip()
        reason = reason_to_skip(source, target, max_words)
        if reason is not None:
            report.skip(reason[1], f"row {row}")
            continue
        sources.append(source)
        targets.append(target)
    if not sources:
        raise UserError(f"{label}: no usable sentence pair in {report.read:,} rows")
    report.check(max_skipped)
    return Corpus(sources, targets, None, source_language, target_language, label), report


def load_hub(config: Any, cache_dir: Path | None = None) -> Splits:
    """Load the three splits of a `Hub` config; a split that is null is empty."""
    parts: dict[str, Corpus] = {}
    reports = []
    for part in ("train", "validation", "test"):
        split = getattr(config, f"{part}_split")
        if split is None:
            parts[part] = Corpus([], [], None, config.source_language, config.target_language)
            continue
        parts[part], report = read_split(
            config.name,
            split,
            config.source_field,
            config.target_field,
            config=config.config,
            revision=config.revision,
            data_files=config.data_files,
            cache_dir=cache_dir,
            max_words=config.max_words,
            max_skipped=config.max_skipped,
            source_language=config.source_language,
            target_language=config.target_language,
        )
        reports.append(report)
    if config.limit is not None:
        parts["train"] = parts["train"].select(range(min(config.limit, len(parts["train"]))))
    return Splits(**parts, reports=reports)


def hub_splits(hub: Any) -> dict[str, str]:
    """Return the configured splits of a data set by part: train, validation, test."""
    splits = {part: getattr(hub, f"{part}_split") for part in ("train", "validation", "test")}
    return {part: split for part, split in splits.items() if split is not None}


def hub_label(hub: Any, split: str) -> str:
    """Return the name of a split for reports and errors."""
    return _label(hub.name, hub.config, split, hub.data_files)


def load_table(hub: Any, split: str, cache_dir: Path | None = None, *, flatten: bool = True) -> Any:
    """Load one split of a config's data set as a `datasets` table.

    With `flatten` nested columns become columns with dotted names.

    An unknown data set or split, and a hub that cannot be reached, are a UserError.
    """
    label = hub_label(hub, split)
    table = _load(label, hub.name, hub.config, split, hub.revision, hub.data_files, cache_dir)
    return table.flatten() if flatten else table


def text_column(table: Any, label: str, field: str) -> list[str | None]:
    """Return a column of text; a missing column, or another type, is a UserError."""
    check_field(table, label, field)
    dtype = getattr(table.features[field], "dtype", None)
    if dtype not in ("string", "large_string"):
        raise UserError(f"{label}: field {field!r} holds {dtype or 'no plain values'}, wanted text")
    return table[field][:]


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


def _label(name: str, config: str | None, split: str, data_files: dict[str, Path] | None) -> str:
    local = (data_files or {}).get(split.split("[")[0])
    return f"{name}{f'/{config}' if config else ''} {split}{f' ({local})' if local else ''}"


def _load(
    label: str,
    name: str,
    config: str | None,
    split: str,
    revision: str | None,
    data_files: dict[str, Path] | None,
    cache_dir: Path | None,
) -> Any:
    # Takes seconds to import, so it is imported only here.
    import datasets
    import datasets.exceptions

    for path in (data_files or {}).values():
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file")
    try:
        return datasets.load_dataset(
            name,
            config,
            split=split,
            revision=revision,
            data_files=None if data_files is None else {k: str(v) for k, v in data_files.items()},
            cache_dir=None if cache_dir is None else str(cache_dir),
            **AS_WRITTEN.get(name, {}),
        )
    # All errors of the library for a wrong name, configuration or split, a damaged file, or
    # an unreachable hub. The cause says more than "an error occurred while generating".
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ if "generating" in str(error) and error.__cause__ else error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(f"{label}: {reason}") from None

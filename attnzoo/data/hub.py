"""Parallel text through the Hugging Face `datasets` library: by name, or from its local formats."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attnzoo.data.corpus import Corpus, Report, Splits
from attnzoo.data.files import MAX_WORDS, reason_to_skip
from attnzoo.errors import UserError


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
    source_language: str = "",
    target_language: str = "",
) -> tuple[Corpus, Report]:
    """One split of a data set, two of its text columns.

    `name` is a data set's name, or `json`, `csv` or `parquet` with `data_files`. A dot in a field
    descends, as `translation.en` in the OPUS sets. Rows without text, or longer than `max_words`,
    are skipped and counted; an unknown data set, split or field, and a hub that cannot be reached,
    are a UserError.
    """
    local = (data_files or {}).get(split.split("[")[0])
    label = f"{name}{f'/{config}' if config else ''} {split}{f' ({local})' if local else ''}"
    table = _load(label, name, config, split, revision, data_files, cache_dir).flatten()
    columns = [_column(table, label, field) for field in (source_field, target_field)]
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
    return Corpus(sources, targets, None, source_language, target_language, label), report


def load_hub(config: Any, cache_dir: Path | None = None) -> Splits:
    """The three splits that a `Hub` config names; a split that is null is empty."""
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
            source_language=config.source_language,
            target_language=config.target_language,
        )
        reports.append(report)
    if config.limit is not None:
        parts["train"] = parts["train"].select(range(min(config.limit, len(parts["train"]))))
    return Splits(**parts, reports=reports)


def _load(
    label: str,
    name: str,
    config: str | None,
    split: str,
    revision: str | None,
    data_files: dict[str, Path] | None,
    cache_dir: Path | None,
) -> Any:
    # Takes seconds to import, so only who reads a data set pays for it.
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
        )
    # All that the library raises for a wrong name, configuration or split, for a damaged file and
    # for a hub out of reach; its cause says more than "an error occurred while generating".
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ if "generating" in str(error) and error.__cause__ else error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(f"{label}: {reason}") from None


def _column(table: Any, label: str, field: str) -> list[str | None]:
    if field not in table.column_names:
        near = get_close_matches(field, table.column_names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(
            f"{label}: no field {field!r}{hint}; it has {', '.join(table.column_names)}"
        )
    dtype = getattr(table.features[field], "dtype", None)
    if dtype not in ("string", "large_string"):
        raise UserError(f"{label}: field {field!r} holds {dtype or 'no plain values'}, wanted text")
    return table[field][:]

"""Parts of a data set that share files, lists or splits, in every kind of data."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest

from attnzoo.config.data import FilePartConfig, FilesConfig, LabelledTextConfig, TextConfig
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.parts import repeated_parts


def classes(annotation: Any) -> list[type]:
    """The config classes in a type, through unions and annotations."""
    if dataclasses.is_dataclass(annotation):
        return [typing.cast(type, annotation)]
    return [one for part in typing.get_args(annotation) for one in classes(part)]


def kinds() -> dict[str, type]:
    """Every config class of data, sources of pictures and data sets of the hub included."""
    found = classes(typing.get_type_hints(ExperimentConfig)["data"])
    for kind in list(found):
        hints = typing.get_type_hints(kind)
        found += [x for name in ("source", "hub") if name in hints for x in classes(hints[name])]
    return {kind.__name__: kind for kind in found}


def parts(kind: type) -> tuple[str, Any, Any] | None:
    """How a kind names its parts: the field's ending, and two values of it; None: it makes them."""
    hints = typing.get_type_hints(kind)
    if "train_split" in hints:
        return "_split", "train", "other"
    hint = hints.get("train", int)
    if FilePartConfig in (hint, *typing.get_args(hint)):
        return "", FilePartConfig(table=Path("a.tsv")), FilePartConfig(table=Path("b.tsv"))
    if "Path" in str(hint):
        several = "tuple" in str(hint)
        a, b = Path("a.json"), Path("b.json")
        return ("", (a,), (b,)) if several else ("", a, b)
    return ("", "train", "other") if "str" in str(hint) else None


@pytest.mark.parametrize("name", [name for name, kind in kinds().items() if parts(kind)])
def test_a_part_that_is_read_twice_is_said(name: str) -> None:
    kind = kinds()[name]
    ending, one, other = parts(kind) or ("", "", "")
    for values, count in (((one, one, other), 1), ((one, other, one), 1), ((one, other, None), 0)):
        config = object.__new__(kind)
        for part, value in zip(("train", "validation", "test"), values):
            object.__setattr__(config, part + ending, value)
        object.__setattr__(config, "hub", None)
        lines = repeated_parts(config)
        assert len(lines) == count
        assert all("which data.train reads too" in line for line in lines)


def test_patterns_and_other_names_of_a_file_are_the_same_file(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("words\n")
    (tmp_path / "link.txt").symlink_to("a.txt")
    config = TextConfig(
        train=(tmp_path / "*.txt",), validation=(tmp_path / ".." / tmp_path.name / "b.txt",)
    )
    assert len(repeated_parts(config)) == 1
    config = TextConfig(train=(tmp_path / "a.txt",), validation=(tmp_path / "link.txt",))
    assert len(repeated_parts(config)) == 1
    config = TextConfig(train=(tmp_path / "a.txt",), validation=(tmp_path / "b.txt",))
    assert repeated_parts(config) == []


def test_one_shared_side_of_parallel_text_is_no_repeated_part() -> None:
    part = FilePartConfig(source=Path("a.en"), target=Path("a.de"))
    other = FilePartConfig(source=Path("a.en"), target=Path("b.de"))
    assert repeated_parts(FilesConfig(train=part, validation=other)) == []
    assert len(repeated_parts(FilesConfig(train=part, validation=part))) == 1


def test_a_share_of_the_training_file_is_held_out() -> None:
    config = LabelledTextConfig(train=(Path("a.tsv"),), validation_share=0.1)
    assert repeated_parts(config) == []

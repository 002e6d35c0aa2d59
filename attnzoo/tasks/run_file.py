"""Files that a task keeps in its run directory: tokenizers, class names, pixel statistics."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from attnzoo.config.data import FileTokenizerConfig
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.pretrained_tokenizers import load_side
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer, load_tokenizer
from attnzoo.files import read_json, write_text


@dataclasses.dataclass(frozen=True)
class RunFile:
    """File of a run directory without which the numbers of the run have no meaning.

    Attributes:
      name: file name in the run directory.
      read: function from a path to the value; UserError for a damaged file.
      write: function that writes a value to a path.
    """

    name: str
    read: Callable[[Path], Any]
    write: Callable[[Any, Path], None]


class _Labels(TypedDict):
    """Content of ``labels.json`` of a run on images."""

    names: list[str]
    mean: list[float]
    std: list[float]


@dataclasses.dataclass(frozen=True)
class ImageLabels:
    """Class names, and mean and standard deviation per channel of the training pixels."""

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "ImageLabels":
        """Read labels.json of a run on images."""
        kept = read_json(path, _Labels)
        mean, std = (np.asarray(kept[name], np.float32) for name in ("mean", "std"))
        return cls(tuple(kept["names"]), mean, std)

    def write(self, path: Path) -> None:
        """Write labels.json of a run on images."""
        kept = {"names": self.names, "mean": self.mean.tolist(), "std": self.std.tolist()}
        write_text(path, json.dumps(kept, indent=2) + "\n")


def _write_names(names: tuple[str, ...], path: Path) -> None:
    write_text(path, json.dumps(names) + "\n")


def _save(tokenizer: Any, path: Path) -> None:
    tokenizer.save(path)


TOKENIZER = RunFile("tokenizer.json", load_tokenizer, _save)
SOURCE_TOKENIZER = RunFile("source.tokenizer.json", load_side, _save)
TARGET_TOKENIZER = RunFile("target.tokenizer.json", load_side, _save)
CLASS_NAMES = RunFile("labels.json", lambda path: tuple(read_json(path, list[str])), _write_names)
PIXELS = RunFile("pixels.json", ImageLabels.read, ImageLabels.write)
IMAGE_LABELS = RunFile("labels.json", ImageLabels.read, ImageLabels.write)


def is_run(path: Path) -> bool:
    """Return whether a path is a run directory rather than the folder of a model."""
    return (path / "checkpoints").is_dir()


def start_of(config: ExperimentConfig) -> Path | None:
    """Return the path of ``config.start_from``, with ``~`` expanded; None for new weights."""
    return None if config.start_from is None else config.start_from.expanduser()


def tokenizer_of(config: ExperimentConfig) -> dict[str, TextTokenizer]:
    """Return the tokenizer of running text of ``config.start_from``, as ``tokenizer``."""
    start = start_of(config)
    if start is None:
        return {}
    if is_run(start):
        return {"tokenizer": TOKENIZER.read(start / TOKENIZER.name)}
    return {"tokenizer": build_tokenizer(FileTokenizerConfig(path=start), [])}


def class_names_of(path: Path) -> tuple[str, ...]:
    """Return the class names of a run or of a model's folder, in order; none if it has no classes.

    A run has them in labels.json, a folder of transformers in config.json.
    """
    file = path / (CLASS_NAMES.name if is_run(path) else "config.json")
    if not file.exists():
        return ()
    found = read_json(file, object)
    if isinstance(found, list):
        return tuple(found)
    named = found.get("id2label") or {}
    return tuple(found.get("names", (named[key] for key in sorted(named, key=int))))

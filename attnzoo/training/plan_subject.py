"""What is to be planned: the task of a config and the shapes of its largest batch."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from attnzoo.config.data import ByteTokenizer
from attnzoo.config.experiment import Experiment
from attnzoo.data.text import TokenizedText
from attnzoo.data.text_tokenizers import build_tokenizer
from attnzoo.errors import UserError
from attnzoo.tasks import task_class
from attnzoo.tasks.image_classification import ImageClassificationTask
from attnzoo.tasks.language_modeling import TextTask
from attnzoo.tasks.task import Task

Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A task, the arrays of a batch, and how many positions and units (tokens, images) it has."""

    task: Task
    batch: Shapes
    positions: int
    """Places of all sequences of the batch, source and target."""
    units: int
    notes: tuple[str, ...]

    def with_config(self, config: Experiment) -> "Subject":
        """The same with another batch size, remat policy or mesh."""
        rows = config.training.batch_size
        before = self.task.config.training.batch_size
        task = object.__new__(type(self.task))
        task.__dict__.update(self.task.__dict__)
        task.config = config
        batch = {
            name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
            for name, x in self.batch.items()
        }
        return dataclasses.replace(
            self,
            task=task,
            batch=batch,
            positions=self.positions * rows // before,
            units=self.units * rows // before,
        )


def subject_of(config: Experiment) -> Subject:
    """The task and its batch: from the config alone where that tells all sizes, else the data is
    opened as a training would.

    Raises:
      UserError: what a training would refuse.
    """
    notes: list[str] = []
    task = _from_config(config, notes)
    if task is None:
        with tempfile.TemporaryDirectory() as directory:
            task = task_class(config.task).create(config, Path(directory), resume=False)
        notes.append("sizes of the vocabulary and of the batches are those of the data")
    assert task.train is not None
    first = task.inputs(task.train.batch(0))
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in first.items()}
    buckets = getattr(task.train, "buckets", None)
    if buckets:
        length = next(x.shape[1] for x in batch.values() if len(x.shape) > 1)
        batch = {name: _longer(x, buckets[-1] - length) for name, x in batch.items()}
        if len(buckets) > 1:
            notes.append(f"batches have lengths {list(buckets)}; planned for the longest")
    return Subject(task, batch, _positions(config, batch), _units(task, batch), tuple(notes))


def _longer(x: jax.ShapeDtypeStruct, more: int) -> jax.ShapeDtypeStruct:
    shape = (x.shape[0], x.shape[1] + more, *x.shape[2:]) if len(x.shape) > 1 else x.shape
    return jax.ShapeDtypeStruct(shape, x.dtype)


def _from_config(config: Experiment, notes: list[str]) -> Task | None:
    """A task that has seen no data, with plans over nothing that give batches of the right shape;
    None where the config does not tell the sizes.
    """
    cls: Any = task_class(config.task)
    if config.start_from is not None:
        return None
    if issubclass(cls, TextTask):
        size = getattr(config.tokenizer, "vocab_size", None)
        if size is not None and size > 300:
            # A tokenizer of bytes and so many sentinels has that many tokens, untrained.
            bytewise = build_tokenizer(ByteTokenizer(mask=True), []).vocab_size
            tokenizer = build_tokenizer(ByteTokenizer(mask=True, sentinels=size - bytewise), [])
            notes.append(f"vocabulary of {size:,}, as tokenizer.vocab_size says")
        elif config.tokenizer.kind in ("byte", "file"):
            tokenizer = build_tokenizer(config.tokenizer, [])
            notes.append(f"vocabulary of {tokenizer.vocab_size:,}")
        else:
            return None
        task: Any = cls(config, tokenizer)
        length: Any = config.task
        ids = np.full(4 * length.context + 8, tokenizer.vocab_size - 1, np.int32)
        text = TokenizedText(ids, np.array([0, len(ids)], np.int64), tokenizer.vocab_size)
        try:
            task.train = task.plan(text, shuffle=True)
        except ValueError as error:
            raise UserError(f"task: {error}") from error
        return task
    if issubclass(cls, ImageClassificationTask):
        known = _known_images(config)
        if known is None:
            return None
        side, channels, classes = known
        task = cls(
            config,
            tuple(map(str, range(classes))),
            np.zeros(channels, np.float32),
            np.ones(channels, np.float32),
        )
        task.train = _Blank(config.training.batch_size, side, channels)
        notes.append(f"images of {side} x {side} pixels, {classes} classes")
        return task
    return None


class _Blank:
    """Batches of images of which only the shape matters."""

    steps_per_epoch = 1

    def __init__(self, rows: int, side: int, channels: int):
        self.sizes = rows, side, side, channels

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rows = self.sizes[0]
        # One zero seen from everywhere: nothing is allocated.
        images = np.broadcast_to(np.uint8(0), self.sizes)
        return {"images": images, "labels": np.zeros(rows, np.int32), "rows": np.arange(rows)}


def _known_images(config: Experiment) -> tuple[int, int, int] | None:
    """Side, channels and classes."""
    data: Any = config.data
    source = data.source
    if source.kind == "digits":
        return data.size or 8, 1, 10
    if source.kind == "planted":
        return data.size or source.side * source.patch, 1, source.classes
    return None


def _positions(config: Experiment, batch: Shapes) -> int:
    model: Any = config.model
    if "images" in batch:
        rows, height, width, _ = batch["images"].shape
        patch = getattr(model, "patch", 1)
        return rows * (height * width // patch**2 + getattr(model, "prefix", 0))
    names = [name for name in ("tokens", "source", "target") if name in batch]
    return sum(int(np.prod(batch[name].shape)) for name in names)


def _units(task: Task, batch: Shapes) -> int:
    """What a second of training is counted in."""
    if "counted" in batch:
        return int(np.prod(batch["counted"].shape))
    rows, length = batch["target"].shape
    return rows * (length - 1)

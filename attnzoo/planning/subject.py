"""The task that is planned, and the shapes of its largest batch."""

import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.config.data import ByteTokenizerConfig
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.training import TrainingConfig
from attnzoo.data.text import TokenizedText
from attnzoo.data.text_tokenizers import build_tokenizer
from attnzoo.errors import UserError
from attnzoo.tasks import task_class
from attnzoo.tasks.image_classification import ImageClassificationTask
from attnzoo.tasks.language_modeling import TextTask
from attnzoo.tasks.run_file import ImageLabels
from attnzoo.tasks.task import Task
from attnzoo.training.start import create_task, inherit
from attnzoo.training.step import make_train_step

Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A task and the arrays of its batch."""

    task: Task
    batch: Shapes
    positions: int
    """Positions of all sequences of the batch, source and target."""
    units: int
    """Tokens or images of the batch: speed is counted in them."""
    notes: tuple[str, ...]

    @property
    def settings(self) -> TrainingConfig:
        """Settings of the training."""
        return self.task.config.training

    @property
    def width(self) -> int:
        """Bytes of a number in the dtype that the model computes in."""
        return jnp.dtype(self.settings.compute_dtype).itemsize

    def with_config(self, config: ExperimentConfig) -> "Subject":
        """Return the subject with another batch size, remat policy or mesh."""
        rows, before = config.training.batch_size, self.settings.batch_size
        task = copy.copy(self.task)
        task.config = config
        return dataclasses.replace(
            self,
            task=task,
            batch={name: _reshaped(x, rows, *x.shape[1:]) for name, x in self.batch.items()},
            positions=self.positions * rows // before,
            units=self.units * rows // before,
        )

    def step(self, graph: Any, transform: Any, **more: Any) -> Callable[..., Any]:
        """Return the step of the training loop; ``more`` goes to ``make_train_step``."""
        given = {name: getattr(self.settings, name) for name in ("seed", "compute_dtype", "ema")}
        return make_train_step(graph, transform, self.task.loss, **given, **more)


def subject_of(config: ExperimentConfig) -> Subject:
    """Return the task of a config with the shapes of its batch.

    They come from the config alone where it tells all sizes; else the data is opened as a training
    would.

    Raises:
      UserError: as a training would.
    """
    config, notes = inherit(config)
    task = _without_data(config, notes)
    if task is None:
        with tempfile.TemporaryDirectory() as directory:
            task = create_task(config, Path(directory))
        notes.append("sizes of the vocabulary and of the batches are those of the data")
    assert task.train is not None
    batch: Shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for name, x in task.inputs(task.train.batch(0)).items()
    }
    buckets = getattr(task.train, "buckets", None)
    if buckets:
        padded = {n: x for n, x in batch.items() if x.ndim > 1 and n not in task.fixed_shapes}
        more = buckets[-1] - next(x.shape[1] for x in padded.values())
        batch |= {
            name: _reshaped(x, x.shape[0], *(n + more for n in x.shape[1:]))
            for name, x in padded.items()
        }
        targets = getattr(task.train, "target_buckets", buckets)
        if targets != buckets:
            x = batch["target"]
            batch["target"] = _reshaped(x, x.shape[0], targets[-1] + 1)
        if len(buckets) > 1:
            notes.append(f"batches have lengths {list(buckets)}; planned for the longest")
    if "counted" in batch:
        units = math.prod(batch["counted"].shape)
    else:
        rows, length = batch["target"].shape
        units = rows * (length - 1)
    return Subject(task, batch, _positions(config.model, batch), units, tuple(notes))


def _reshaped(x: jax.ShapeDtypeStruct, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, x.dtype)


def _positions(model: Any, batch: Shapes) -> int:
    if "images" in batch:
        rows, height, width, _ = batch["images"].shape
        patches = height * width // getattr(model, "patch", getattr(model, "cell", 1)) ** 2
        return rows * (patches + getattr(model, "prefix", 0))
    names = ("tokens", "source", "target")
    # Places of pictures are those of a model's encoder, and few.
    return sum(math.prod(batch[n].shape) for n in names if n in batch and batch[n].ndim < 4)


def _without_data(config: ExperimentConfig, notes: list[str]) -> Task | None:
    """A task whose batches have the right shapes, or None where the config does not tell them."""
    cls: Any = task_class(config.task)
    if config.start_from is not None:
        return None
    if issubclass(cls, TextTask):
        return _text_task(cls, config, notes)
    if issubclass(cls, ImageClassificationTask):
        return _image_task(cls, config, notes)
    return None


def _text_task(cls: Any, config: ExperimentConfig, notes: list[str]) -> Task | None:
    size = getattr(config.tokenizer, "vocab_size", None)
    if size is not None and size > 300:
        # A tokenizer of bytes and so many sentinels has that many tokens, untrained.
        bytewise = build_tokenizer(ByteTokenizerConfig(mask=True), []).vocab_size
        tokenizer = build_tokenizer(ByteTokenizerConfig(mask=True, sentinels=size - bytewise), [])
        notes.append(f"vocabulary of {size:,}, as tokenizer.vocab_size says")
    elif config.tokenizer.kind in ("byte", "file"):
        tokenizer = build_tokenizer(config.tokenizer, [])
        notes.append(f"vocabulary of {tokenizer.vocab_size:,}")
    else:
        return None
    task = cls(config, tokenizer)
    settings: Any = config.task
    ids = np.full(4 * settings.context + 8, tokenizer.vocab_size - 1, np.int32)
    text = TokenizedText(ids, np.array([0, len(ids)], np.int64), tokenizer.vocab_size)
    try:
        task.train = task.plan(text, shuffle=True)
    except ValueError as error:
        raise UserError(f"task: {error}") from error
    return task


def _image_task(cls: Any, config: ExperimentConfig, notes: list[str]) -> Task | None:
    data: Any = config.data
    source = data.source
    if source.kind == "digits":
        side, classes = data.size or 8, 10
    elif source.kind == "planted":
        side, classes = data.size or source.side * source.patch, source.classes
    else:
        return None
    names, one = tuple(map(str, range(classes))), np.ones(1, np.float32)
    task = cls(config, ImageLabels(names, 0 * one, one))
    rows = config.training.batch_size
    # One zero seen from everywhere: nothing is allocated.
    images = np.broadcast_to(np.uint8(0), (rows, side, side, 1))
    batch = {"images": images, "labels": np.zeros(rows, np.int32), "rows": np.arange(rows)}
    task.train = SimpleNamespace(batch=lambda step: batch, steps_per_epoch=1)
    notes.append(f"images of {side} x {side} pixels, {classes} classes")
    return task

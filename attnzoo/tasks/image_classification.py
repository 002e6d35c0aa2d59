"""Image classification: augmented images, class names, accuracy."""

import json
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.augment import augment, normalise, to_float
from attnzoo.data.images import ImagePlan, channel_statistics, load_images
from attnzoo.errors import UserError
from attnzoo.files import read_json
from attnzoo.models import model_class
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.task import Batch, Task

LABELS = "labels.json"


class _Labels(TypedDict):
    """Content of ``labels.json``: names of the classes, statistics of the channels."""

    names: list[str]
    mean: list[float]
    std: list[float]


class ImageClassificationTask(Task):
    """Classification of images; pixels are normalised by the training part's mean and deviation."""

    unit = "images"
    best = ("accuracy", "max")

    def __init__(
        self, config: ExperimentConfig, names: tuple[str, ...], mean: np.ndarray, std: np.ndarray
    ):
        super().__init__(config)
        self.names, self.mean, self.std = names, mean, std
        self.sizes = [0, 0, 0]
        self.data: Any = config.data

    @classmethod
    def open(cls, config: ExperimentConfig, directory: Path) -> "ImageClassificationTask":
        """Load the class names and pixel statistics of a run."""
        kept = read_json(directory / LABELS, _Labels)
        mean, std = (np.asarray(kept[name], np.float32) for name in ("mean", "std"))
        return cls(config, tuple(kept["names"]), mean, std)

    @classmethod
    def create(
        cls, config: ExperimentConfig, directory: Path, *, resume: bool
    ) -> "ImageClassificationTask":
        """Read the images and write the class names and pixel statistics."""
        splits = load_images(config.data)
        if not len(splits.train) or not len(splits.validation):
            raise UserError(
                "data: training needs a train and a validation part, one is empty "
                "(data.validation_share=0.1 draws one)"
            )
        mean, std = channel_statistics(splits.train.images)
        task = cls(config, splits.train.names, mean, std)
        kept = {"names": task.names, "mean": mean.tolist(), "std": std.tolist()}
        (directory / LABELS).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        task.notes = [line for report in splits.reports for line in report.lines()]
        task.data_fingerprint = splits.fingerprint()
        settings = config.training
        task.sizes = [len(splits.train), len(splits.validation), len(splits.test)]
        task.train = ImagePlan(splits.train, settings.batch_size, settings.seed)
        task.validation = ImagePlan(splits.validation, settings.batch_size, shuffle=False)
        if len(splits.test):
            task.test = ImagePlan(splits.test, settings.batch_size, shuffle=False)
        return task

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the config's classifier, with as many classes as the data has."""
        model = model_class(self.config.model)
        return model(self.config.model, len(self.names), rngs=rngs)

    def inputs(self, batch: Any) -> Batch:
        """Return the arrays that the loss reads; ``counted`` is False for padding rows."""
        return {**super().inputs(batch), "counted": batch["rows"] >= 0}

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the cross-entropy with label smoothing, of mixed labels if images were mixed."""
        mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)
        counted, labels = jnp.asarray(batch["counted"]), jnp.asarray(batch["labels"])
        if rngs is None:
            images = normalise(to_float(jnp.asarray(batch["images"])), mean, std)
            return mean_loss(model(images), labels, counted)
        images, targets = augment(
            self.data.augmentation,
            rngs.dropout(),
            jnp.asarray(batch["images"]),
            jax.nn.one_hot(labels, len(self.names), dtype=jnp.float32),
            mean,
            std,
        )
        logits = model(images, rngs=rngs).astype(jnp.float32)
        smooth = optax.smooth_labels(targets, self.config.training.label_smoothing)
        losses = optax.softmax_cross_entropy(logits, smooth) * counted.astype(jnp.float32)
        _, sums = mean_loss(logits, labels, counted)
        return jnp.sum(losses) / jnp.maximum(sums["count"], 1.0), sums

    def introduction(self) -> str:
        """Describe the number of images and classes."""
        assert self.train is not None
        train, validation, test = self.sizes
        return (
            f"{train:,} images to train on, {validation:,} to validate and {test:,} to test on, "
            f"{self.train.steps_per_epoch} steps an epoch; {len(self.names)} classes"
        )

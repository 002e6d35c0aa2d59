"""Image classification: augmented images, class names, accuracy."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt8

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.augment import augment, normalise, to_float
from attnzoo.data.corpus import Splits
from attnzoo.data.images import ImagePlan, ImageSet, channel_statistics, load_images
from attnzoo.data.picture_preparation import PicturePreparation
from attnzoo.data.pictures import fitted, open_picture
from attnzoo.errors import UserError
from attnzoo.models import model_class
from attnzoo.tasks.class_answers import ONE_CLASS, class_answer, class_scores
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.picture_task import PictureTask
from attnzoo.tasks.prediction import Prediction, PredictSettings
from attnzoo.tasks.run_file import ImageLabels
from attnzoo.tasks.task import Batch


class ImageClassificationTask(PictureTask):
    """Classification of images; pixels are normalised by the training part's mean and deviation."""

    unit = "images"
    best = ("accuracy", "max")

    def __init__(self, config: ExperimentConfig, labels: ImageLabels):
        super().__init__(config, labels)
        self.preparation: PicturePreparation | None = None  # of a folder of transformers
        self.problem_type = ONE_CLASS

    @classmethod
    def read(cls, config: ExperimentConfig) -> Splits[ImageSet]:
        """Read the images."""
        return load_images(config.data, config.cache.path)

    def read_again(self, config: ExperimentConfig, part: str | None = None) -> Splits[ImageSet]:
        """Read the images, with the classes of the run; an unknown class is a UserError."""
        return load_images(config.data, config.cache.path, names=self.names, part=part)

    def open_part(self, data: Splits[ImageSet], part: str) -> ImagePlan:
        """Return the batches of one part."""
        images = getattr(data, part)
        self.data_fingerprint = images.fingerprint()
        return ImagePlan(images, self.config.training.batch_size, shuffle=False)

    @classmethod
    def statistics(cls, pictures: ImageSet) -> tuple[Any, Any]:
        """Return the mean and the deviation of each channel of the training pictures."""
        return channel_statistics(pictures.images)

    def take(self, data: Splits[ImageSet]) -> None:
        """Make the plans of the parts."""
        self.data_fingerprint = data.fingerprint()
        settings = self.config.training
        self.sizes = [len(data.train), len(data.validation), len(data.test)]
        self.train = ImagePlan(data.train, settings.batch_size, settings.seed)
        self.validation = ImagePlan(data.validation, settings.batch_size, shuffle=False)
        if len(data.test):
            self.test = ImagePlan(data.test, settings.batch_size, shuffle=False)

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

    @property
    def side(self) -> int | None:
        """Side in pixels of the pictures trained on; None: each picture's own size."""
        size = getattr(self.data, "size", None)  # a folder has no data
        return size or getattr(self.config.model, "image_size", None)

    def pixels(self, image: Any) -> UInt8[np.ndarray, "h w C"]:
        """Return a Pillow image as pixels of the size trained on.

        They are those of the folder's preparation, otherwise those of the training's pictures.
        """
        if self.preparation is not None:
            return self.preparation.pixels(image)
        config: Any = self.config.model
        size = self.side or min(image.size)
        resize = getattr(getattr(self.data, "source", None), "resize", None)
        return np.asarray(fitted(image, size, resize)).reshape(size, size, config.channels)

    def predict(
        self, model: Any, inputs: Sequence[Path], settings: PredictSettings
    ) -> Iterator[Prediction]:
        """Yield the class of every picture."""
        graph, state = nnx.split(model)
        channels: int = getattr(self.config.model, "channels", 3)
        mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)

        @jax.jit
        def said(state: Any, pixels: Array) -> Array:
            logits = nnx.merge(graph, state)(normalise(to_float(pixels), mean, std))
            return class_scores(logits, self.problem_type)

        paths, rows = iter(inputs), settings.batch_size or 16
        while some := list(islice(paths, rows)):
            opened: list[np.ndarray | str] = []
            for path in some:
                try:
                    picture = open_picture(path.read_bytes(), str(path), channels)
                    opened.append(self.pixels(picture))
                except (UserError, OSError) as error:
                    opened.append(str(error).removeprefix(f"{path}: "))
            shares: dict[int, np.ndarray] = {}
            readable = [n for n, one in enumerate(opened) if not isinstance(one, str)]
            for shape in {np.shape(opened[n]) for n in readable}:
                same = [n for n in readable if np.shape(opened[n]) == shape]
                # A batch is filled up, so that one program serves all of a size.
                filled = np.stack([opened[same[i % len(same)]] for i in range(rows)])
                shares |= dict(zip(same, jax.device_get(said(state, jnp.asarray(filled)))))
            for number, (path, one) in enumerate(zip(some, opened, strict=True)):
                if isinstance(one, str):
                    yield Prediction(str(path), "", problem=one)
                else:
                    said_of = class_answer(self.names, shares[number], self.problem_type)
                    yield Prediction(str(path), *said_of)

    def introduction(self) -> str:
        """Describe the number of images and classes."""
        assert self.train is not None
        train, validation, test = self.sizes
        return (
            f"{train:,} images to train on, {validation:,} to validate and {test:,} to test on, "
            f"{self.train.steps_per_epoch} steps an epoch; {len(self.names)} classes"
        )

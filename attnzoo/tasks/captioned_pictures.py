"""Base of tasks on pictures with captions: the data, its tokenizer, and prepared pixels."""

import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.augment import augment, normalise, to_float
from attnzoo.data.captions import CaptionedPictures, CaptionPlan, load_captions
from attnzoo.data.corpus import Splits, load_corpus
from attnzoo.data.images import channel_statistics
from attnzoo.data.order import MAX_BUCKETS, most_buckets
from attnzoo.data.pictures import decode
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.data.tokenizers import Tokenizer
from attnzoo.errors import UserError
from attnzoo.tasks.run_file import PIXELS, TARGET_TOKENIZER, ImageLabels
from attnzoo.tasks.task import Batch
from attnzoo.tasks.to_text import ToTextTask


class CaptionedPicturesTask(ToTextTask):
    """Base class of tasks with batches of pictures (``source``) and their captions (``target``).

    Pixels are normalised by the training part's mean and deviation.
    """

    files = types.MappingProxyType({"tokenizer": TARGET_TOKENIZER, "pixels": PIXELS})
    fixed_shapes = frozenset({"source", "cells"})

    def __init__(
        self,
        config: ExperimentConfig,
        tokenizer: Tokenizer | TextTokenizer,
        pixels: ImageLabels,
    ):
        super().__init__(config, tokenizer)
        self.pixels = pixels
        self.data: Any = config.data
        self.counts = {"train": 0, "validation": 0, "test": 0}
        self.held_out: CaptionedPictures | None = None

    @classmethod
    def read(cls, config: ExperimentConfig) -> Splits[CaptionedPictures]:
        """Read the pictures and their captions, or make them."""
        return _loaded(config)

    def read_again(
        self, config: ExperimentConfig, part: str | None = None
    ) -> Splits[CaptionedPictures]:
        """Read the data, or one part of the data."""
        return _loaded(config, part)

    @classmethod
    def texts(cls, data: Any) -> Iterator[str]:
        """Yield the captions of the training part."""
        return iter(data.train.texts())

    @classmethod
    def take_over(cls, config: ExperimentConfig) -> dict[str, Any]:
        """Return tokenizer and pixel statistics of ``config.start_from``, a run on captions."""
        known = super().take_over(config)
        if known and config.start_from is not None:
            known["pixels"] = PIXELS.read(config.start_from.expanduser() / PIXELS.name)
        return known

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Train the tokenizer, and compute the pixel statistics of the training part."""
        if known:
            return known
        pixels = ImageLabels((), *channel_statistics(data.train.images))
        return super().learn(config, data, known) | {"pixels": pixels}

    def take(self, data: Splits[CaptionedPictures]) -> None:
        """Make the plans of the parts."""
        self.data_fingerprint = data.fingerprint()
        self.counts = {name: len(getattr(data, name)) for name in self.counts}
        self.limit_buckets(len(data.train.texts()))
        self.train = self._plan(data.train, shuffle=True)
        self.validation = self._plan(data.validation, shuffle=False)
        self.test = self._plan(data.test, shuffle=False) if len(data.test) else None
        self.held_out = data.validation

    def open_part(self, data: Splits[CaptionedPictures], part: str) -> CaptionPlan:
        """Return the batches of one part in its own order."""
        pictures = getattr(data, part)
        self.data_fingerprint = pictures.fingerprint()
        self.max_buckets = most_buckets(
            -(-len(pictures.texts()) // self.config.training.batch_size)
        )
        return self._plan(pictures, shuffle=False)

    def _plan(self, data: CaptionedPictures, *, shuffle: bool) -> CaptionPlan:
        settings = self.config.training
        plan = CaptionPlan(
            data,
            self.tokenizer,
            settings.batch_size,
            settings.max_length,
            settings.buckets if shuffle else None,
            settings.seed,
            shuffle,
            self.max_buckets or MAX_BUCKETS,
        )
        if shuffle:
            plan.report.check(settings.max_skipped, "; raise training.max_length")
        self.notes += plan.report.lines() if plan.report.skipped else []
        return plan

    def source(self, batch: Batch, rngs: nnx.Rngs | None = None) -> Float[Array, "B h w C"]:
        """Return the normalised pixels, augmented in training."""
        images = jnp.asarray(batch["source"])
        mean, std = jnp.asarray(self.pixels.mean), jnp.asarray(self.pixels.std)
        if rngs is None:
            return normalise(to_float(images), mean, std)
        # Pictures are not mixed, so that nothing happens to the targets.
        none = jnp.zeros((len(images), 1), jnp.float32)
        return augment(self.data.augmentation, rngs.dropout(), images, none, mean, std)[0]

    def introduction(self) -> str:
        """Describe the number of pictures and captions, and the vocabulary."""
        assert isinstance(self.train, CaptionPlan)
        train, validation, test = self.counts.values()
        return (
            f"{train:,} pictures with {len(self.train):,} captions to train on, {validation:,} "
            f"pictures to validate and {test:,} to test on, {self.train.steps_per_epoch} steps an "
            f"epoch; vocabulary {self.tokenizer.vocab_size:,}"
        )

    def open_source(self, path: Path) -> UInt8[np.ndarray, "H W C"]:
        """Read a picture as the training pictures were read."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        size, channels = self.data.size, self.data.channels
        return decode(content, str(path), size=size, resize=None, channels=channels)

    def collate(self, sources: Sequence[Any], rows: int) -> Batch:
        """Return the batch of some pictures, filled up with black ones."""
        more = [np.zeros_like(sources[0])] * (rows - len(sources))
        return {"source": np.stack([*sources, *more])}


def _loaded(config: ExperimentConfig, part: str | None = None) -> Splits[CaptionedPictures]:
    data: Any = config.data
    if data.kind == "captions":
        return load_captions(data, config.cache.path, part)
    return load_corpus(data)

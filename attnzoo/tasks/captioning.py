"""Image captioning: pictures with several captions each, and where each word looks."""

import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from attnzoo import plotting
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.augment import augment, normalise, to_float
from attnzoo.data.captions import CaptionedPictures, CaptionPlan, load_captions
from attnzoo.data.corpus import Splits, load_corpus
from attnzoo.data.images import channel_statistics
from attnzoo.data.order import MAX_BUCKETS, most_buckets
from attnzoo.data.pictures import decode
from attnzoo.data.tokenizers import Tokenizer
from attnzoo.errors import UserError
from attnzoo.tasks.caption_scores import nearest, score_captions
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.prediction import Evaluation, Prediction, PredictSettings
from attnzoo.tasks.run_file import TARGET_TOKENIZER, ImageLabels, RunFile
from attnzoo.tasks.task import Batch, Plan
from attnzoo.tasks.text_generator import GeneratedText, TextGenerator
from attnzoo.tasks.to_text import ToTextTask
from attnzoo.tasks.translation import translation_loss

PIXELS = RunFile("pixels.json", ImageLabels.read, ImageLabels.write)
CHUNK = 1024
"""Number of pictures that are decoded together for their captions."""


class CaptioningTask(ToTextTask):
    """Captions of pictures, whose pixels are normalised by the training part's mean and deviation.

    Where the right place of words is known, ``pointing`` is the share of such words for which the
    place with the heaviest attention is right, when the model reads the known caption.
    """

    files = types.MappingProxyType({"tokenizer": TARGET_TOKENIZER, "pixels": PIXELS})
    predicts = "pictures"
    fixed_shapes = frozenset({"source", "cells"})

    def __init__(self, config: ExperimentConfig, tokenizer: Tokenizer, pixels: ImageLabels):
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
        """Return tokenizer and pixel statistics of ``config.start_from``, a run that captions."""
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

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the ``translation_loss``, and in training what the model adds to it."""
        if rngs is None:
            return super().loss(model, batch)
        settings = self.config.training
        read = {"source": self.source(batch, rngs), "target": jnp.asarray(batch["target"])}
        logits, more = model.in_training(read["source"], read["target"], rngs=rngs)
        loss, sums = translation_loss(
            model,
            read,
            label_smoothing=settings.label_smoothing,
            per=settings.loss_per,
            logits=logits,
        )
        return loss + jnp.sum(more) / jnp.maximum(sums["weight"], 1.0), sums

    def measure(self, model: Any, batch: Batch) -> Sums:
        """Return the sums of a validation batch, those of pointing included."""
        if "cells" not in batch:
            return super().measure(model, batch)
        source, target = self.source(batch), jnp.asarray(batch["target"])
        logits, weights = model(source, target[:, :-1], return_weights=True)
        _, sums = translation_loss(model, {"target": target}, logits=logits)
        right, known = _pointed(
            jnp.mean(weights, axis=1),
            jnp.asarray(batch["cells"]),
            model.source_encoder.grid(source),
        )
        return {**sums, "pointed": jnp.sum(right & known), "placed": jnp.sum(known)}

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the loss, and the pointing score where places are known."""
        scores = super().scores(sums)
        if "placed" in sums:
            scores["pointing"] = sums["pointed"] / max(sums["placed"], 1.0)
        return scores

    def describe(self, scores: Mapping[str, float]) -> str:
        """Format validation scores in one line."""
        more = f", pointing {scores['pointing']:.1%}" if "pointing" in scores else ""
        return super().describe(scores) + more

    def introduction(self) -> str:
        """Describe the number of pictures and captions, and the vocabulary."""
        assert isinstance(self.train, CaptionPlan)
        train, validation, test = self.counts.values()
        return (
            f"{train:,} pictures with {len(self.train):,} captions to train on, {validation:,} "
            f"pictures to validate and {test:,} to test on, {self.train.steps_per_epoch} steps an "
            f"epoch; vocabulary {self.tokenizer.vocab_size:,}"
        )

    def evaluate(self, model: Any, part: str, plan: Plan, settings: PredictSettings) -> Evaluation:
        """Score the captions of the part's pictures, and those of the nearest training picture.

        A neighbour is nearest in pixels, the mean colours of 8 x 8 blocks, or in the mean feature
        of the run's own encoder. Its caption is its first one.
        """
        assert isinstance(plan, CaptionPlan)
        data, generator = plan.data, self.generator(model, batch_size=settings.batch_size)
        written: list[str] = []
        for first in range(0, len(data), CHUNK):
            pictures = list(data.images[first : first + CHUNK])
            written += [one.text for one in self.write(generator, pictures, settings)]
        score = functools.partial(
            score_captions, references=data.captions, language=self.data.language
        )
        scores = score(written)
        lines = [_line("", scores), *([scores["note"]] if "note" in scores else [])]
        try:
            train = self.read_part("train")[1].train
        except UserError as error:
            lines.append(f"no nearest training pictures: {error}")
        else:
            for space, captions in self._neighbours(generator, data, train).items():
                found = score(captions)
                scores[f"neighbour_{space}"] = found
                lines.append(_line(f"nearest training picture by {space}", found))
        texts = "".join(f"{n}\t{t}\n" for n, t in zip(data.names, written, strict=True))
        return Evaluation(scores, tuple(lines), {"captions.tsv": texts})

    def _neighbours(
        self, generator: TextGenerator, data: CaptionedPictures, train: CaptionedPictures
    ) -> dict[str, list[str]]:
        """Return the first caption of the nearest training picture of each picture, by space."""
        found = {}
        for space, features in (
            ("pixels", _pixel_features),
            ("features", functools.partial(self._mean_features, generator)),
        ):
            rows = nearest(features(data.images), features(train.images))
            found[space] = [train.captions[row][0] for row in rows]
        return found

    def _mean_features(self, generator: TextGenerator, images: Any) -> Float[np.ndarray, "n D"]:
        """Return the mean feature of each picture by the encoder of the model."""
        model = generator.model
        graph, state = nnx.split(model.source_encoder)

        @jax.jit
        def mean(state: Any, batch: Any) -> Array:
            return jnp.mean(nnx.merge(graph, state)(self.source(batch))[0], axis=1)

        rows = generator.batch_size
        means = [
            np.asarray(mean(state, self.collate(list(images[first : first + rows]), rows)))
            for first in range(0, len(images), rows)
        ]
        return np.concatenate(means)[: len(images)]

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

    def prediction(self, model: Any, name: str, source: Any, text: GeneratedText) -> Prediction:
        """Return the caption of a picture, with the attention of each word, also as a figure."""
        plain = super().prediction(model, name, source, text)
        words, maps = self.word_maps(model, source, text)
        if maps is None:
            return plain
        record = {
            **plain.record,
            "words": words,
            "attention": np.round(maps, 4).tolist(),
        }
        figure = functools.partial(plotting.caption_attention, source / 255, words, maps)
        return Prediction(name, plain.text, record, figure)

    def word_maps(
        self, model: Any, source: Any, text: GeneratedText
    ) -> tuple[list[str], Float[np.ndarray, "words rows columns"] | None]:
        """Return the words of a caption, and the mean attention of the tokens of each one.

        None in the place of the attention for an encoder without a grid, or a caption without a
        word.
        """
        grid = model.source_encoder.grid(self.source({"source": source[None]}))
        words = text.target.words
        if grid is None or not words:
            return list(words), None
        of_word = np.asarray(text.target.word_ids)
        maps = [text.weights[: len(of_word)][of_word == i].mean(0) for i in range(len(words))]
        return list(words), np.stack(maps).reshape(len(words), *grid)

    def glimpse(self, model: Any) -> tuple[str, plotting.Figure] | str | None:
        """Draw the attention of the words of the first validation picture's caption."""
        assert self.held_out is not None
        picture = self.held_out.images[0]
        generator = self.generator(model, batch_size=1)
        (text,) = self.write(generator, [picture], PredictSettings(beam=1))
        drawn = self.prediction(model, self.held_out.names[0], picture, text).figure
        return text.text if drawn is None else ("attention", drawn())


def _loaded(config: ExperimentConfig, part: str | None = None) -> Splits[CaptionedPictures]:
    data: Any = config.data
    if data.kind == "captions":
        return load_captions(data, config.cache.path, part)
    return load_corpus(data)


def _pointed(
    weights: Float[Array, "B T S"], cells: Any, grid: tuple[int, int] | None
) -> tuple[Array, Array]:
    """Return whether the heaviest place of each step lies on a right cell, and where any is known.

    The centre of a place decides, if the grid of the model is not that of the cells.
    """
    if grid is None:
        raise ValueError("pointing wants an encoder with a grid of rows and columns")
    heaviest = jnp.argmax(weights, axis=-1).astype(jnp.int32)
    side = round(cells.shape[-1] ** 0.5)
    row, column = jnp.divmod(heaviest, grid[1])
    row = (2 * row + 1) * side // (2 * grid[0])
    column = (2 * column + 1) * side // (2 * grid[1])
    right = jnp.take_along_axis(cells, (row * side + column)[..., None], axis=-1)[..., 0]
    return right, jnp.any(cells, axis=-1)


def _pixel_features(images: Any) -> Float[np.ndarray, "n D"]:
    """Return the mean colours of 8 x 8 blocks of each picture."""
    parts = []
    for first in range(0, len(images), CHUNK):
        some = np.asarray(images[first : first + CHUNK], np.float32)
        for axis in (1, 2):
            blocks = np.array_split(some, min(8, some.shape[axis]), axis=axis)
            some = np.stack([block.mean(axis) for block in blocks], axis=axis)
        parts.append(some.reshape(len(some), -1))
    return np.concatenate(parts)


def _line(title: str, scores: Mapping[str, Any]) -> str:
    bleu = " ".join(f"{scores[f'bleu{n}']:.1f}" for n in (1, 2, 3, 4))
    return (
        f"{title}{': ' if title else ''}BLEU-1 to 4 {bleu}, chrF {scores['chrf']:.1f}, "
        f"CIDEr-D {scores['cider']:.3f}, exact {scores['exact']:.1%}"
    )

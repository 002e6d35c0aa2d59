"""Image captioning: pictures with several captions each, and where each word looks."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo import plotting
from attnzoo.data.captions import CaptionedPictures, CaptionPlan
from attnzoo.errors import UserError
from attnzoo.tasks.caption_scores import nearest, score_captions
from attnzoo.tasks.captioned_pictures import CaptionedPicturesTask
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.prediction import Evaluation, Prediction, PredictSettings
from attnzoo.tasks.task import Batch, Plan
from attnzoo.tasks.text_generator import GeneratedText, TextGenerator
from attnzoo.tasks.translation import translation_loss

CHUNK = 1024
"""Number of pictures that are decoded together for their captions."""


class CaptioningTask(CaptionedPicturesTask):
    """Captions of pictures, whose pixels are normalised by the training part's mean and deviation.

    Where the right place of words is known, ``pointing`` is the share of such words for which the
    place with the heaviest attention is right, when the model reads the known caption.
    """

    predicts = "pictures"

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

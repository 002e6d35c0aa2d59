"""Contrastive training of an image and a text encoder on pictures with captions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.captions import CaptionPlan
from attnzoo.data.picture_preparation import PicturePreparation
from attnzoo.data.pretrained_tokenizers import PretrainedTokenizer
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.data.tokenizers import Tokenizer
from attnzoo.errors import UserError
from attnzoo.models import model_class
from attnzoo.special_tokens import EOS, PAD
from attnzoo.tasks.captioned_pictures import CaptionedPicturesTask
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.prediction import Evaluation, PredictSettings
from attnzoo.tasks.run_file import ImageLabels
from attnzoo.tasks.task import Batch, Plan

LARGEST_SCALE = 100.0
"""Bound of the factor on cosines in training (Radford et al. 2021, section 2.5)."""
RANKS = (1, 5)
Rows = tuple[Int[np.ndarray, "J T"], Bool[np.ndarray, "J T"]]


class ContrastiveTask(CaptionedPicturesTask):
    """Pictures and captions whose features are compared, each batch with itself.

    Two captions of one picture in a batch are no negatives of each other. The losses depend on the
    size of the batch, and so does the accuracy in the validation; recalls of ``evaluate`` are over
    the whole part.
    """

    unit = "captions"
    predict_options = ("batch_size",)

    def __init__(
        self,
        config: ExperimentConfig,
        tokenizer: Tokenizer | TextTokenizer,
        pixels: ImageLabels,
    ):
        super().__init__(config, tokenizer, pixels)
        self.preparation: PicturePreparation | None = None  # of a folder of transformers

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build both encoders of the config, over the tokenizer's vocabulary."""
        config: Any = self.config.model
        if not isinstance(self.tokenizer, PretrainedTokenizer):  # the ids are those of the folder
            config = config.with_ids(pad_id=PAD, eos_id=EOS)
        longest = self.config.training.max_length + len(self.tokenizer.frames["target"].around(()))
        if longest > config.longest:
            raise ValueError(
                f"text.max_length={config.longest}, but texts have up to {longest} tokens: "
                "training.max_length and those around a text"
            )
        if self.settings.loss == "sigmoid" and config.logit_bias is None:
            raise ValueError(
                "logit_bias is null; task.loss=sigmoid wants a number, such as -10, since most "
                "pairs do not belong together"
            )
        return model_class(config)(config, self.tokenizer.vocab_size, rngs=rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the loss per caption, and sums over both directions for the scores."""
        target, picture = jnp.asarray(batch["target"]), jnp.asarray(batch["picture"])
        # Behind the token that stands for the text there is padding, of whatever id.
        ends = model.text.place(target)
        valid = jnp.arange(target.shape[1])[None] <= ends[:, None]
        texts = _text_features(model, target, valid, rngs)
        images = model.image_features(self.source(batch, rngs), rngs=rngs)
        logits = model.logits(images, texts, most=LARGEST_SCALE).astype(jnp.float32)
        counted = jnp.any(target != target[:, :1], axis=1)  # a row without a text has one id
        own = jnp.eye(len(target), dtype=bool)
        compared = own | (picture[:, None] != picture[None])
        compared = compared & counted[:, None] & counted[None]
        shown, numbers = jnp.where(compared, logits, -1e9), jnp.arange(len(target))
        to_text, found = mean_loss(shown, numbers, counted)
        to_image, other = mean_loss(shown.T, numbers, counted)
        sums = {
            **found,
            "nll": (found["nll"] + other["nll"]) / 2,
            "images_found": other["correct"],
        }
        if self.settings.loss == "softmax":
            return (to_text + to_image) / 2, sums
        pairs = jnp.where(own, -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits))
        sums["nll"] = jnp.sum(jnp.where(compared, pairs, 0.0))
        return sums["nll"] / jnp.maximum(sums["weight"], 1.0), sums

    def measure(self, model: Any, batch: Batch) -> Sums:
        """Return the sums of a validation batch."""
        return self.loss(model, batch)[1]

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the loss, and the share of own captions and pictures found in their batch."""
        count = max(sums["count"], 1.0)
        return {
            "nll": sums["nll"] / count,
            "accuracy": sums["correct"] / count,
            "image_accuracy": sums["images_found"] / count,
        }

    def describe(self, scores: Mapping[str, float]) -> str:
        """Format validation scores in one line."""
        return (
            f"loss {scores['nll']:.4f}, in its batch found by the picture "
            f"{scores['accuracy']:.1%}, by the caption {scores['image_accuracy']:.1%}"
        )

    def evaluate(self, model: Any, part: str, plan: Plan, settings: PredictSettings) -> Evaluation:
        """Return the recall of captions by pictures and of pictures by captions.

        A picture is right if one of its captions is among the nearest ones.
        """
        assert isinstance(plan, CaptionPlan)
        data, rows = plan.data, settings.batch_size or self.config.training.batch_size
        texts, of_picture, left_out = [], [], 0
        for number, captions in enumerate(data.captions):
            for ids in self.encode(captions):
                fits = len(ids) <= model.max_length
                left_out += not fits
                if fits:
                    texts.append(ids)
                    of_picture.append(number)
        images = self._images_of(model, data.images, rows)
        cosines = images @ self.features_of(model, texts, rows).T
        own = np.asarray(of_picture)[None] == np.arange(len(images))[:, None]
        scores = {"to_text": recalls(cosines, own), "to_image": recalls(cosines.T, own.T)}
        lines = [
            f"recall of {what}: "
            + ", ".join(f"at {k} {scores[name][f'recall{k}']:.1%}" for k in RANKS)
            + f" (at random {' and '.join(f'{chance:.1%}' for chance in at_random(matrix))})"
            for name, what, matrix in (
                ("to_text", f"{len(texts):,} captions by {len(images):,} pictures", own),
                ("to_image", f"{len(images):,} pictures by {len(texts):,} captions", own.T),
            )
        ]
        if left_out:
            lines.append(f"{left_out:,} captions of more than {model.max_length} tokens left out")
        return Evaluation(scores, tuple(lines))

    def features_of(
        self, model: Any, texts: Sequence[Sequence[int]], rows: int = 64
    ) -> Float[np.ndarray, "J F"]:
        """Return the features of texts as ids, which have their begin and end."""
        tokens, valid = text_rows(model.config.text, texts)
        graph, state = nnx.split(model)

        @jax.jit
        def run(state: Any, tokens: Array, valid: Array) -> Array:
            return _text_features(nnx.merge(graph, state), tokens, valid, None)

        return _by_rows(lambda *some: run(state, *some), rows, tokens, valid)

    def _images_of(self, model: Any, images: Any, rows: int) -> Float[np.ndarray, "I F"]:
        graph, state = nnx.split(model)

        @jax.jit
        def run(state: Any, pixels: Array) -> Array:
            return nnx.merge(graph, state).image_features(self.source({"source": pixels}))

        return _by_rows(lambda some: run(state, some), rows, images)

    def zero_shot(self, model: Any, labels: Sequence[str]) -> nnx.Module:
        """Return a classifier of pictures whose classes are these texts.

        Raises:
          UserError: fewer than two texts, the same one twice, or one that is too long.
        """
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise UserError(f"labels: {len(set(labels))} different; wanted two or more, each once")
        if not all(text.strip() for text in labels):
            raise UserError("labels: one is an empty text; wanted words for each class")
        ids = self.encode(labels)
        for text, one in zip(labels, ids, strict=True):
            if len(one) > model.max_length:
                raise UserError(
                    f"label {text[:40]!r}: {len(one)} tokens with begin and end; the model reads "
                    f"{model.max_length}"
                )
        return model.zero_shot(jnp.asarray(self.features_of(model, ids, len(ids))))


def text_rows(config: Any, texts: Sequence[Sequence[int]]) -> Rows:
    """Return padded ids of texts, and where they are no padding; ``config`` is a text encoder's."""
    longest = max(map(len, texts))
    tokens = np.full((len(texts), longest), config.pad_id, np.int32)
    valid = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(texts):
        tokens[row, : len(ids)], valid[row, : len(ids)] = ids, True
    return tokens, valid


def recalls(cosines: Float[np.ndarray, "I J"], own: Bool[np.ndarray, "I J"]) -> dict[str, float]:
    """Return the share of rows with one of their own columns among the k highest, for each k.

    Equal cosines count against a row, so that features that are all alike find nothing.
    """
    best = np.where(own, cosines, -np.inf).max(axis=1)
    before = ((cosines >= best[:, None]) & ~own).sum(axis=1)
    return {f"recall{k}": float((before < k).mean()) for k in RANKS}


def at_random(own: Bool[np.ndarray, "I J"]) -> list[float]:
    """Return expected recalls of a random order, 1 - C(J - m, k) / C(J, k) for m own columns."""
    J, found = own.shape[1], []
    for k in RANKS:
        missed = np.ones(len(own))
        for i in range(k):
            missed *= np.clip(J - own.sum(axis=1) - i, 0, None) / max(J - i, 1)
        found.append(float(1 - missed.mean()))
    return found


def _text_features(
    model: Any, tokens: Array, valid: Array, rngs: nnx.Rngs | None
) -> Float[Array, "J F"]:
    """Return the features of padded texts; SigLIP reads padding up to its longest text."""
    text = model.config.text
    if text.pooling == "last":
        more = text.max_length - tokens.shape[1]
        tokens = jnp.pad(tokens, ((0, 0), (0, more)), constant_values=text.pad_id)
        return model.text_features(tokens, rngs=rngs)
    return model.text_features(tokens, valid=valid, rngs=rngs)


def _by_rows(run: Callable[..., Array], rows: int, *arrays: Any) -> Float[np.ndarray, "n F"]:
    """Apply a compiled function to some rows at a time; the last batch is filled up."""
    count, found = len(arrays[0]), []
    for first in range(0, count, rows):
        chosen = np.minimum(np.arange(first, first + rows), count - 1)
        found.append(np.asarray(run(*(jnp.asarray(x[chosen]) for x in arrays)), np.float32))
    return np.concatenate(found)[:count]

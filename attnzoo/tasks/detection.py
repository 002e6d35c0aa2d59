"""Object detection: augmented pictures, the set loss, and COCO's average precision."""

import functools
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
from attnzoo.data.augment import normalise, to_float
from attnzoo.data.box_augment import Boxed, augment_boxes
from attnzoo.data.boxes import BoxPlan, BoxSet, fit_picture, load_boxes, to_pixels
from attnzoo.data.corpus import Splits
from attnzoo.data.images import channel_statistics
from attnzoo.data.pictures import open_picture
from attnzoo.errors import UserError
from attnzoo.files import read_bytes
from attnzoo.models import model_class
from attnzoo.models.detr import Detections, probabilities
from attnzoo.ops.boxes import iou, to_corners
from attnzoo.tasks.average_precision import Found, Truth, average_precision
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.picture_task import PictureTask
from attnzoo.tasks.prediction import Evaluation, Prediction, PredictSettings
from attnzoo.tasks.set_loss import set_loss, weighted
from attnzoo.tasks.task import Batch

LEVELS = tuple(level / 20 for level in range(1, 20))
"""Probabilities from which on a prediction counts, of which F1 takes the best."""
MEANT = 1000
"""Training pictures, the first ones, from which mean and deviation of the pixels are taken."""


class DetectionTask(PictureTask):
    """Detection of objects as the prediction of a set (Carion et al. 2020, arXiv 2005.12872).

    The loss is that of every decoder block, and of the encoder's proposals if there are any
    (section 3.1 and appendix A.2). Validation has the best F1 over thresholds of the probability: a
    prediction is right if it is matched to an object of its class with an IoU of at least 1/2.
    ``evaluate`` adds the average precision of COCO and VOC.
    """

    unit = "pictures"
    best = ("f1", "max")

    @classmethod
    def read(cls, config: ExperimentConfig) -> Splits[BoxSet]:
        """Read the pictures and boxes."""
        model: Any = config.model
        return load_boxes(config.data, model.channels)

    def read_again(self, config: ExperimentConfig, part: str | None = None) -> Splits[BoxSet]:
        """Read the pictures and boxes; those of a class that the run does not know are skipped."""
        model: Any = config.model
        return load_boxes(config.data, model.channels, self.names, part)

    @classmethod
    def statistics(cls, pictures: BoxSet) -> tuple[Any, Any]:
        """Return the mean and the deviation of each channel of the first thousand pictures."""
        some = range(min(len(pictures), MEANT))
        return channel_statistics(np.stack([pictures.pixels(row) for row in some]))

    def take(self, data: Splits[BoxSet]) -> None:
        """Make the plans of the parts."""
        settings = self.config.training
        parts = data.train, data.validation, data.test
        self.sizes = [len(part) for part in parts]
        self.train = self.plan(data.train, settings.seed, shuffle=True)
        self.validation = self.plan(data.validation, 0, shuffle=False)
        self.test = self.plan(data.test, 0, shuffle=False) if len(data.test) else None
        self.data_fingerprint = data.fingerprint()

    def open_part(self, data: Splits[BoxSet], part: str) -> BoxPlan:
        """Return the batches of one part."""
        boxes = getattr(data, part)
        self.data_fingerprint = boxes.fingerprint()
        return self.plan(boxes, 0, shuffle=False)

    def plan(self, boxes: BoxSet, seed: int, *, shuffle: bool) -> BoxPlan:
        """Return the batches of a part; a UserError if a picture has more boxes than queries."""
        model: Any = self.config.model
        if boxes.most() > model.num_queries:
            row = int(np.diff(boxes.starts).argmax())
            raise UserError(
                f"{boxes.pictures[row]}: {boxes.most()} boxes, more than "
                f"model.num_queries={model.num_queries}; wanted as many queries at least"
            )
        size = self.config.training.batch_size
        return BoxPlan(boxes, size, boxes.most(), seed, shuffle)

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the config's detector, with as many classes as the data has."""
        config: Any = self.config.model
        rows, columns = (-(-side // config.cell) for side in self.data.size)
        if config.queries == "proposals" and rows * columns < config.num_queries:
            raise UserError(
                f"model.num_queries={config.num_queries}: pictures of data.size="
                f"{list(self.data.size)} have {rows} x {columns} cells to propose; wanted fewer "
                "queries, larger pictures or fewer model.stages"
            )
        return model_class(config)(config, len(self.names), rngs=rngs)

    def inputs(self, batch: Any) -> Batch:
        """Return the arrays that the loss reads; ``counted`` is False for padding rows."""
        left_out = ("areas", "sizes")
        kept = {name: x for name, x in super().inputs(batch).items() if name not in left_out}
        return {**kept, "counted": batch["rows"] >= 0}

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the sum of the set losses of all blocks, mean over the objects of the batch."""
        given = {name: jnp.asarray(x) for name, x in batch.items()}
        real, extent, labels = given["counted"], given["extent"], given["labels"]
        boxed = Boxed(to_float(given["images"]), given["boxes"], (labels >= 0) & ~given["ignored"])
        if rngs is not None:
            boxed = augment_boxes(self.data.augmentation, rngs.dropout(), boxed, extent)
        found = model(self._normalised(boxed.images), extent=extent, rngs=rngs)
        config: Any = self.config.model
        softmax = config.scores == "softmax"
        matched = functools.partial(set_loss, real=real, settings=self.settings, softmax=softmax)
        objects = boxed.boxes, labels, boxed.kept
        sums, query = matched(*found.layers, *objects)
        L = found.layers.boxes.shape[0]
        loss = L * weighted(sums, self.settings)
        if found.proposals is not None:
            times = self.settings.repeats
            many = (jnp.repeat(x, times, axis=1) for x in objects)
            cells = tuple(x[None] for x in found.proposals)
            loss += weighted(matched(*cells, *many)[0], self.settings)
        count = jnp.sum(real).astype(jnp.float32)
        total = {
            **{name: sums[name] for name in ("class", "class_weight", "l1", "giou", "boxes")},
            **self._hits(found, *objects, query[-1], real),
            "count": count,
            "weight": sums["boxes"] / L,
        }
        return loss, total

    def _normalised(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return normalise(images, jnp.asarray(self.mean), jnp.asarray(self.std))

    def _hits(
        self, found: Detections, corners: Array, labels: Array, kept: Array, query: Array,
        real: Array,
    ) -> Sums:  # fmt: skip
        """Return the numbers of objects, of predictions at each level, and of right ones."""
        config: Any = self.config.model
        chance = probabilities(found.last.logits, config)
        best, named = chance.max(axis=-1), chance.argmax(axis=-1)
        chosen = jnp.maximum(query, 0)
        own = functools.partial(jnp.take_along_axis, indices=chosen, axis=1)
        boxes = jnp.take_along_axis(found.last.boxes, chosen[..., None], axis=1)
        near = iou(to_corners(boxes), corners) >= 0.5
        right = kept & near & (own(named) == labels)
        sums = {"objects": jnp.sum(kept).astype(jnp.float32)}
        for level in LEVELS:
            sums[f"right@{level}"] = jnp.sum(right & (own(best) >= level)).astype(jnp.float32)
            there = (best >= level) & real[:, None]
            sums[f"found@{level}"] = jnp.sum(there).astype(jnp.float32)
        return sums

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the loss of a block, its parts, and the best F1 over levels of probability."""
        boxes = max(sums["boxes"], 1.0)
        parts = {
            "class": sums["class"] / max(sums["class_weight"], 1e-6),
            "l1": sums["l1"] / boxes,
            "giou": sums["giou"] / boxes,
        }
        task = self.settings
        weights = {"class": task.class_weight, "l1": task.box_weight, "giou": task.giou_weight}
        f1 = [
            2 * sums[f"right@{level}"] / max(sums[f"found@{level}"] + sums["objects"], 1.0)
            for level in LEVELS
        ]
        nll = sum(weights[name] * value for name, value in parts.items())
        return {"nll": nll, **parts, "f1": max(f1)}

    def describe(self, scores: Mapping[str, float]) -> str:
        """Format validation scores in one line."""
        return (
            f"loss {scores['nll']:.4f} (class {scores['class']:.3f}, L1 {scores['l1']:.4f}, "
            f"1 - GIoU {scores['giou']:.3f}), best F1 {scores['f1']:.3f} at IoU .5"
        )

    def introduction(self) -> str:
        """Describe the number of pictures and classes."""
        assert self.train is not None
        train, validation, test = self.sizes
        return (
            f"{train:,} pictures to train on, {validation:,} to validate and {test:,} to test on, "
            f"{self.train.steps_per_epoch} steps an epoch; {len(self.names)} classes"
        )

    def evaluate(self, model: Any, part: str, plan: Any, settings: PredictSettings) -> Evaluation:
        """Return COCO's scores, VOC's at an overlap of 1/2, and AP and AP50 of each class."""
        found, truths = [], []
        for batch in plan.batches():
            logits, boxes, _ = self._detect(model, batch["images"], batch["extent"])
            for i, row in enumerate(batch["rows"].tolist()):
                if row < 0:
                    continue
                own = plan.data.of(row)
                size, extent = batch["sizes"][i], batch["extent"][i]
                found.append(self._found(logits[i], boxes[i], size, extent))
                columns = (plan.data.boxes, plan.data.labels, plan.data.ignored, plan.data.areas)
                truths.append(Truth(*(column[own] for column in columns)))
        scored = average_precision(found, truths, len(self.names))
        summary = scored.summary()
        voc = [value for value in scored.voc.tolist() if value >= 0]
        summary["VOC_AP50"] = float(np.mean(voc)) if voc else float("nan")
        classes = {name: scored.of_class(i) for i, name in enumerate(self.names)}
        coco = f"AP {summary['AP']:.3f}, AP50 {summary['AP50']:.3f}, AP75 {summary['AP75']:.3f}"
        lines = [f"{coco} (COCO); AP50 {summary['VOC_AP50']:.3f} (VOC)"]
        lines += [f"  {n}: AP {ap:.3f}, AP50 {ap50:.3f}" for n, (ap, ap50) in classes.items()]
        each = {name: {"AP": ap, "AP50": ap50} for name, (ap, ap50) in classes.items()}
        return Evaluation({**summary, "classes": each}, tuple(lines))

    def predict(
        self, model: Any, inputs: Sequence[Path], settings: PredictSettings
    ) -> Iterator[Prediction]:
        """Yield the boxes of each picture whose probability is at least ``task.threshold``."""
        size = settings.batch_size or self.config.training.batch_size
        for first in range(0, len(inputs), size):
            yield from self._predicted(model, list(inputs[first : first + size]), size)

    def _predicted(self, model: Any, paths: list[Path], size: int) -> Iterator[Prediction]:
        config: Any = self.config.model
        fitted: list[Any] = []
        for path in paths:
            try:
                image = open_picture(read_bytes(path), str(path), config.channels)
                fitted.append((image, *fit_picture(image, self.data.size, self.data.fit)))
            except UserError as error:
                fitted.append(str(error).removeprefix(f"{path}: "))
        good = [one for one in fitted if not isinstance(one, str)]
        blank = np.zeros((*self.data.size, config.channels), np.uint8)
        spare = size - len(good)
        pixels = np.stack([*(one[1] for one in good), *[blank] * spare])
        extents = np.asarray([*(one[2] for one in good), *[(1.0, 1.0)] * spare], np.float32)
        logits, boxes, maps = self._detect(model, pixels, extents)
        row = 0
        for path, one in zip(paths, fitted, strict=True):
            if isinstance(one, str):
                yield Prediction(str(path), "", problem=one)
                continue
            image = one[0]
            own = np.asarray([image.height, image.width])
            found = self._found(logits[row], boxes[row], own, extents[row])
            chosen = found.scores >= self.settings.threshold
            queries = np.flatnonzero(chosen)
            queries = queries[np.argsort(-found.scores[queries], kind="stable")]
            yield self._prediction(str(path), image, found, queries, maps, row, extents[row])
            row += 1

    def _prediction(
        self, name: str, image: Any, found: Found, queries: np.ndarray, maps: np.ndarray, row: int,
        extent: np.ndarray,
    ) -> Prediction:  # fmt: skip
        config: Any = self.config.model
        objects: list[dict[str, Any]] = [
            {
                "class": self.names[found.labels[q]],
                "score": round(float(found.scores[q]), 4),
                "box": [round(float(x), 1) for x in found.boxes[q]],
            }
            for q in queries.tolist()
        ]
        text = "; ".join(
            f"{one['class']} {one['score']:.2f} {' '.join(f'{x:.0f}' for x in one['box'])}"
            for one in objects
        )
        record = {"width": image.width, "height": image.height, "objects": objects}
        size = tuple(self.data.size)
        classes = [int(found.labels[q]) for q in queries]
        return Prediction(
            name,
            text,
            record,
            lambda: plotting.detections(
                np.asarray(image.convert("RGB")) / 255,
                [(f"{one['class']} {one['score']:.2f}", one["box"]) for one in objects],
                classes,
                [_uncovered(maps[row, q], size, config.cell, extent) for q in queries],
            ),
        )

    def _detect(
        self, model: Any, images: UInt8[np.ndarray, "B H W C"], extent: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return probabilities, boxes as corners, and the last cross-attention, mean over heads."""
        graph, state = nnx.split(model)
        found = self._program(graph, state, images, extent)
        chance, boxes, weights = (np.asarray(x, np.float32) for x in found)
        return chance, boxes, weights

    @functools.cached_property
    def _program(self) -> Any:
        """Return the compiled program of ``_detect``."""
        config: Any = self.config.model

        @functools.partial(jax.jit, static_argnums=0)
        def run(graph: Any, state: Any, images: Array, extent: Array) -> Any:
            found, maps = self.forward(nnx.merge(graph, state), images, extent, capture=True)
            weights = maps[f"decoder/{config.decoder_layers - 1}/cross"]
            last = found.last
            chance = probabilities(last.logits, config)
            return chance, to_corners(last.boxes), jnp.mean(weights, axis=1)

        return run

    def forward(
        self, model: Any, images: Array, extent: Array | None = None, *, capture: bool = False
    ) -> Any:
        """Run the model on pixels 0 .. 255."""
        return model(self._normalised(to_float(images)), extent=extent, capture=capture)

    def _found(
        self, chance: np.ndarray, boxes: np.ndarray, size: np.ndarray, extent: np.ndarray
    ) -> Found:
        """Return the best class of every query, and its box in pixels of the picture."""
        return Found(to_pixels(boxes, size, extent), chance.argmax(axis=1), chance.max(axis=1))


def _uncovered(
    weights: Float[np.ndarray, " P"], size: tuple[int, int], cell: int, extent: np.ndarray
) -> Float[np.ndarray, "h w"]:
    """Return the weights of cells for every pixel of an image without its margins."""
    rows, columns = (-(-side // cell) for side in size)
    pixels = np.kron(weights.reshape(rows, columns), np.ones((cell, cell)))[: size[0], : size[1]]
    top, left = (round(side * (1 - share) / 2) for side, share in zip(size, extent.tolist()))
    return pixels[top : size[0] - top, left : size[1] - left]

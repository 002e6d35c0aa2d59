"""CIFAR-10 for claims: small pictures in memory, and small residual networks trained on them."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from attnzoo.config.images import ImageFolderConfig, ImagesConfig
from attnzoo.data.augment import flip, normalise, pad_and_crop, to_float
from attnzoo.data.corpus import load_corpus
from attnzoo.files import write_text
from reproductions.claim import Setting
from reproductions.training import fit

FOLDER = "cifar10-jpeg"
SIDE = 16
MEAN, DEVIATION = (0.491, 0.482, 0.447), (0.245, 0.243, 0.261)


class Pictures(NamedTuple):
    """Pictures of 16 x 16 pixels with their classes."""

    train: UInt8[np.ndarray, "n 16 16 3"]
    train_classes: Int[np.ndarray, " n"]
    test: UInt8[np.ndarray, "m 16 16 3"]
    test_classes: Int[np.ndarray, " m"]


def pictures(setting: Setting) -> Pictures:
    """Return all pictures of CIFAR-10 at half their height and width, in a random order."""
    return _read(setting.data / FOLDER, setting.folder.parents[1] / "cifar-10-16.npz")


@functools.cache
def _read(folder: Path, kept: Path) -> Pictures:
    if not kept.exists():
        source = ImageFolderConfig(path=folder / "cifar10-jpeg.tar.xz")
        found = load_corpus(ImagesConfig(source=source, size=SIDE, validation_share=0.0))
        kept.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {}
        for part in ("train", "test"):
            one: Any = getattr(found, part)
            order = np.random.default_rng(0).permutation(len(one.labels))
            arrays[part] = np.asarray(one.images[:])[order]
            arrays[f"{part}_classes"] = np.asarray(one.labels)[order].astype(np.int32)
        np.savez(kept, **arrays)
    with np.load(kept) as stored:
        return Pictures(**stored)


def train(
    model: Any,
    setting: Setting,
    *,
    steps: int,
    rate: float,
    rows: int = 64,
    one_program: bool = True,
    **keywords: Any,
) -> None:
    """Train a classifier on pictures that are mirrored and shifted by 2 pixels at random.

    ``keywords`` are those of the model in training.
    """
    data = pictures(setting)

    def batch(
        key: Array, images: Array, classes: Array
    ) -> tuple[Float[Array, "B h w C"], Int[Array, " B"]]:
        rows_key, flip_key, crop_key = jax.random.split(key, 3)
        chosen = jax.random.randint(rows_key, (rows,), 0, len(classes))
        shown = pad_and_crop(crop_key, flip(flip_key, to_float(images[chosen])), 2)
        return _normal(shown), classes[chosen]

    def loss(model: Any, made: tuple[Array, Array]) -> Float[Array, ""]:
        logits = model(made[0], **keywords)
        return optax.softmax_cross_entropy_with_integer_labels(logits, made[1]).mean()

    fit(
        model, loss, batch, steps=steps, seed=setting.seed, learning_rate=rate,
        warm_up=min(100, max(1, steps // 4)), weight_decay=0.01,
        one_program=one_program, data=(jnp.asarray(data.train), jnp.asarray(data.train_classes)),
    )  # fmt: skip


def _normal(images: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    return normalise(images, jnp.asarray(MEAN), jnp.asarray(DEVIATION))


def accuracy(model: nnx.Module, setting: Setting, count: int = 10_000) -> float:
    """Return the share of right answers on the first ``count`` test pictures."""
    data, rows = pictures(setting), 100
    graph, state = nnx.split(model)

    @jax.jit
    def right(state: Any, images: Array, classes: Array) -> Array:
        def one(batch: tuple[Array, Array]) -> Array:
            model: Any = nnx.merge(graph, state)
            return jnp.sum(model(_normal(to_float(batch[0]))).argmax(-1) == batch[1])

        parts = images.reshape(-1, rows, *images.shape[1:]), classes.reshape(-1, rows)
        return jnp.sum(jax.lax.map(one, parts))

    found = right(state, jnp.asarray(data.test[:count]), jnp.asarray(data.test_classes[:count]))
    return int(found) / count


def shared(
    setting: Setting, label: str, measure: Callable[[Setting], dict[str, float]]
) -> dict[str, float]:
    """Return numbers that several claims read, measured for the first of them and kept."""
    path = setting.folder.parents[1] / label / f"{setting.seed}.json"
    if not path.exists():
        found = measure(setting)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(found, indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def shown(setting: Setting, count: int) -> tuple[Float[Array, "B h w C"], Int[Array, " B"]]:
    """Return the first ``count`` test pictures as a model reads them, and their classes."""
    data = pictures(setting)
    return _normal(to_float(jnp.asarray(data.test[:count]))), jnp.asarray(data.test_classes[:count])

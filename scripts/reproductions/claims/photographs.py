"""A Vision Transformer of photographs: how far its heads look, and what explains its answers."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from scipy.stats import spearmanr

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.explain import capture_attention
from attnzoo.explain.distance import attention_distance
from attnzoo.explain.explained import explain
from attnzoo.models import ViT
from reproductions.cifar import FOLDER, SIDE, accuracy, shown, train
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead, headline
from reproductions.claims.planted import BLIND, METHODS, areas, came_removed
from reproductions.training import kept

LAYERS, PATCH = 6, 2
GRID = SIDE // PATCH
CONFIG = ViTConfig(
    attention=MultiHeadConfig(num_heads=4), image_size=SIDE, patch=PATCH, dim=64, hidden=128,
    layers=LAYERS,
)  # fmt: skip


class Training(NamedTuple):
    """Steps of a training, and photographs in each."""

    steps: int
    rows: int


SHORT, LONG = Training(1_200, 32), Training(8_000, 64)


def build(setting: Setting) -> ViT:
    """Return a model with its first weights."""
    return ViT(CONFIG, num_classes=10, rngs=nnx.Rngs(setting.seed))


def learned(setting: Setting, training: Training) -> ViT:
    """Return the model that was trained on photographs, once for all claims."""
    model = build(setting)
    steps = setting.pick(training.steps, 2)
    path = setting.folder.parents[1] / "photographs" / f"{steps} {setting.seed}.npz"
    kept(
        None if setting.quick else path,
        model,
        lambda: train(model, setting, steps=steps, rate=1e-3, rows=training.rows),
    )
    return model


def distances(setting: Setting, training: Training = SHORT) -> Mapping[str, Measured]:
    """Measure how far the heads of each layer look, before and after training."""
    images, _ = shown(setting, setting.pick(256, 4))
    model = learned(setting, training)
    found: dict[str, Measured] = {"accuracy": accuracy(model, setting, setting.pick(10_000, 100))}
    for name, one in (("trained", model), ("untrained", build(setting))):
        _, maps = capture_attention(one, images)
        heads = np.stack(
            [
                np.asarray(
                    attention_distance(weights, (GRID, GRID), prefix=CONFIG.prefix, pixels=PATCH)
                ).mean(axis=0)
                for weights in maps.values()
            ]
        )  # layers, heads
        layers = heads.mean(axis=1)
        found |= {f"{name}/{1 + layer}": float(value) for layer, value in enumerate(layers)}
        found[f"rank correlation, {name}"] = float(spearmanr(range(LAYERS), layers)[0])
        found[f"rise, {name}"] = float(layers[-1] - layers[0])
        found[f"spread of layer 1, {name}"] = float(heads[0].max() - heads[0].min())
    return found


def removed(setting: Setting, training: Training = SHORT) -> Mapping[str, Measured]:
    """Remove and insert patches in the order of explanations and in random orders."""
    images, _ = shown(setting, setting.pick(200, 2))
    model = learned(setting, training)
    result = explain(model, images, methods=tuple(METHODS.values()), num_samples=5)
    return areas(result, METHODS)


def halves(
    model: ViT, setting: Setting, each: int
) -> tuple[Float[Array, "B h w C"], Int[np.ndarray, "B 2"]]:
    """Return pictures whose left and right half show two photographs, and the two classes.

    Each half is the middle half of a photograph. There are ten times ``each`` pictures, of the
    photographs that the model is surest of, among those of each class that it classifies rightly.
    """
    images, classes = shown(setting, setting.pick(10_000, 1_000))
    sure = np.concatenate([jax.nn.softmax(model(part)) for part in jnp.split(images, 10)])
    own = np.where(sure.argmax(axis=1) == classes, sure.max(axis=1), sure.max(axis=1) - 1)
    best = np.stack(
        [np.where(classes == c, own, -2.0).argsort()[::-1][:each] for c in range(10)]
    )  # classes, each
    left, rank = np.meshgrid(np.arange(10), np.arange(each))
    right = (left + 1 + rank % 9) % 10
    quarter = SIDE // 4
    parts = [
        images[best[which, rank].ravel(), :, quarter : SIDE - quarter] for which in (left, right)
    ]
    return jnp.concatenate(parts, axis=2), np.stack([left.ravel(), right.ravel()], axis=1)


def asked(setting: Setting, training: Training = SHORT) -> Mapping[str, Measured]:
    """Explain pictures of two photographs for the class of each of the two."""
    model = learned(setting, training)
    images, classes = halves(model, setting, setting.pick(5, 1))
    result = explain(
        model,
        jnp.concatenate([images, images]),
        methods=tuple(BOTH.values()),
        target=np.concatenate([classes[:, 0], classes[:, 1]]),
        num_samples=setting.pick(4, 1),
    )
    answers = np.asarray(result.probabilities)[: len(images)].argmax(axis=1)
    found: dict[str, Measured] = {
        "answer is one of the two": float((answers[:, None] == classes).any(axis=1).mean())
    }
    for name, method in BOTH.items():
        scores = np.maximum(result.maps[method], 0).reshape(2, -1, GRID, 2, GRID // 2)
        mass = scores.sum(axis=(2, 4))  # asked for, pictures, halves
        total, of_asked = mass.sum(axis=2), np.stack([mass[0, :, 0], mass[1, :, 1]])
        share = np.where(total > 0, of_asked / np.where(total > 0, total, 1), 0.5)
        found[f"{MASS}, {name}"] = float(share.mean())
    return found | areas(result, BOTH)


def _came_asked(results: Results) -> str:
    told = [f"{results.mean(f'mass on the one asked for, {name}'):.0%} by {name}" for name in BOTH]
    return (
        "Of the mass of a map, the half with the photograph that was asked for has "
        f"{', '.join(told[:-1])} and {told[-1]}. {came_removed(results, BOTH)}"
    )


def _came_distances(results: Results) -> str:
    def told(name: str) -> str:
        first, last = (results.mean(f"{name}/{layer}") for layer in (1, LAYERS))
        return f"from {first:.1f} to {last:.1f} pixels"

    return (
        f"From the first layer to the last the mean distance goes {told('trained')} after training "
        f"and {told('untrained')} before it (rank correlation with depth "
        f"{results.mean('rank correlation, trained'):.2f} and "
        f"{results.mean('rank correlation, untrained'):.2f}); the heads of the "
        f"first layer differ by {results.mean('spread of layer 1, trained'):.1f} and "
        f"{results.mean('spread of layer 1, untrained'):.1f} pixels; "
        f"{results.mean('accuracy'):.1%} of the test pictures are classified rightly."
    )


MASS = "mass on the one asked for"
ASKED = ("CDAM", "GradCAM", "AttnLRP")
BOTH = METHODS | {"AttnLRP": "attn_lrp"}

TRAINED = "trained for {0.steps:,} steps of {0.rows} from scratch"
PHOTOGRAPHS = (
    f"CIFAR-10 at {SIDE} x {SIDE} pixels; a ViT of {LAYERS} layers of width 64 with four heads, a "
    f"class token and patches of {PATCH} pixels, {TRAINED.format(SHORT)}. The papers' models are a "
    "hundred times larger, trained on up to 300 million photographs. "
)

BRIEFLY = (
    Claim(
        name="attention-distance",
        title="Heads of a ViT look farther with depth, some from the first layer on",
        source="Dosovitskiy et al. 2021, arXiv 2010.11929, section 4.5, figure 7 right",
        claimed="The mean distance in the picture over which heads integrate information grows "
        "with depth, and already in the lowest layers some heads attend to most of the picture "
        "while others stay near.",
        setup=PHOTOGRAPHS + "Distances on 256 test pictures, over rows of weights on patches, "
        "before and after training: what an untrained model does is no result of learning.",
        criterion=(
            headline(above("rank correlation, trained", 0.8)),
            ahead("rise, trained", "rise, untrained"),
            headline(ahead("spread of layer 1, trained", "spread of layer 1, untrained")),
        ),
        measure=distances,
        came=_came_distances,
        meaning="Without a convolution's fixed reach each head learns its own: neighbourhoods "
        "first, the whole picture later.",
        otherwise="Trained heads look a little farther with depth than untrained ones do, but not "
        "from layer to layer, nor do those of the first layer differ more, as far as these "
        "trainings can tell.",
        minutes=2.5,
        needs=(FOLDER,),
        axes=("layer", "mean attention distance, pixels"),
    ),
    Claim(
        name="removing-patches-of-photographs",
        title="On photographs too, explanations find what the answer hangs on",
        source="Petsiuk, Das and Saenko 2018, arXiv 1806.07421 (deletion and insertion); Brocki, "
        "Binda and Chung 2023, arXiv 2312.02364 (CDAM)",
        claimed="The probability of a class falls faster when the patches are removed in the order "
        "of an explanation than in random order, and rises faster when they are inserted; "
        "explanations that use the gradient of the class do better than attention alone.",
        setup=PHOTOGRAPHS + "200 test pictures, the class that the model says; removed patches "
        "show the picture's mean.",
        criterion=(
            *(
                check
                for name in METHODS
                for check in (
                    headline(ahead("deletion, random order", f"deletion, {name}")),
                    headline(ahead(f"insertion, {name}", "insertion, random order")),
                )
            ),
            ahead("deletion, attention", "deletion, CDAM"),
            ahead("deletion, attention", "deletion, GradCAM"),
        ),
        measure=removed,
        came=came_removed,
        meaning="Each of these maps knows something of what the answer hangs on, and those with "
        "the gradient of the class know more of it.",
        otherwise="Not each of these maps is better than chance on photographs: the areas, with "
        "those of random orders beside them, tell which to believe.",
        minutes=1.5,
        needs=(FOLDER,),
        axes=("area under the class's probability", ""),
    ),
    Claim(
        name="class-asked-of-two-photographs",
        title="Of two photographs, maps with gradients of a class find the one asked for",
        source="Brocki, Binda and Chung 2023, arXiv 2312.02364 (CDAM); Böhle, Fritz and Schiele "
        "2021, arXiv 2104.00032 (mass on one of several photographs)",
        claimed="In a picture of two objects, raw attention and its rollout are the same whichever "
        "class is asked for, while CDAM, GradCAM and relevance propagation put their mass on the "
        "object of that class, and removing what they name lowers its probability.",
        setup=PHOTOGRAPHS + "50 pictures whose halves are the middle halves of two photographs of "
        "different classes, of those which the model classifies rightly and most surely, each "
        "explained for both classes; mass is the share of the positive scores, of which a map "
        "that does not know the class has one half by construction, attention as rollout.",
        criterion=(
            *(
                headline(ahead(f"{MASS}, {name}", f"{MASS}, {blind}", by=0.1))
                for name in ASKED
                for blind in BLIND
            ),
            *(
                check
                for name in ASKED
                for check in (
                    ahead("deletion, random order", f"deletion, {name}"),
                    ahead(f"insertion, {name}", "insertion, random order"),
                )
            ),
        ),
        measure=asked,
        came=_came_asked,
        meaning="On photographs too, what is read for any answer is one question, and what speaks "
        "for this answer another, which only the answer's gradient can tell.",
        otherwise="In a ViT of several layers, whose last tokens have read each other, not each "
        "map with the gradient of a class finds the photograph of that class as surely as was "
        "asked.",
        minutes=2,
        needs=(FOLDER,),
        axes=("share of the mass, or area under the class's probability", ""),
    ),
)


def _longer(claim: Claim) -> Claim:
    """Return the same claim, by the same criterion, for a model trained 13 times longer."""
    measure: Any = claim.measure
    return dataclasses.replace(
        claim,
        name=f"{claim.name}-longer",
        title=f"{claim.title}: trained longer",
        setup=claim.setup.replace(TRAINED.format(SHORT), TRAINED.format(LONG)),
        measure=functools.partial(measure, training=LONG),
        minutes=claim.minutes + 15,
    )


CLAIMS = BRIEFLY + tuple(_longer(claim) for claim in BRIEFLY)

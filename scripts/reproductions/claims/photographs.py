"""A Vision Transformer of photographs: how far its heads look, and what explains its answers."""

from collections.abc import Mapping

import numpy as np
from flax import nnx
from scipy.stats import spearmanr

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.explain import capture_attention
from attnzoo.explain.distance import attention_distance
from attnzoo.explain.explained import explain
from attnzoo.models import ViT
from reproductions.cifar import FOLDER, SIDE, accuracy, shown, train
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead
from reproductions.claims.planted import METHODS, areas, came_removed
from reproductions.training import kept

LAYERS, PATCH, STEPS, ROWS = 6, 2, 1_200, 32
GRID = SIDE // PATCH
CONFIG = ViTConfig(
    attention=MultiHeadConfig(num_heads=4), image_size=SIDE, patch=PATCH, dim=64, hidden=128,
    layers=LAYERS,
)  # fmt: skip


def build(setting: Setting) -> ViT:
    """Return a model with its first weights."""
    return ViT(CONFIG, num_classes=10, rngs=nnx.Rngs(setting.seed))


def learned(setting: Setting) -> ViT:
    """Return the model that was trained on photographs, once for both claims."""
    model = build(setting)
    steps = setting.pick(STEPS, 2)
    path = setting.folder.parents[1] / "photographs" / f"{steps} {setting.seed}.npz"
    kept(
        None if setting.quick else path,
        model,
        lambda: train(model, setting, steps=steps, rate=1e-3, rows=ROWS),
    )
    return model


def distances(setting: Setting) -> Mapping[str, Measured]:
    """Measure how far the heads of each layer look, before and after training."""
    images, _ = shown(setting, setting.pick(256, 4))
    model = learned(setting)
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


def removed(setting: Setting) -> Mapping[str, Measured]:
    """Remove and insert patches in the order of explanations and in random orders."""
    images, _ = shown(setting, setting.pick(200, 2))
    model = learned(setting)
    result = explain(model, images, methods=tuple(METHODS.values()), num_samples=5)
    return areas(result, METHODS)


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


PHOTOGRAPHS = (
    f"CIFAR-10 at {SIDE} x {SIDE} pixels; a ViT of {LAYERS} layers of width 64 with four heads, a "
    f"class token and patches of {PATCH} pixels, trained for {STEPS:,} steps of {ROWS} from "
    "scratch. The papers' models are a hundred times larger, trained on up to 300 million "
    "photographs. "
)

CLAIMS = (
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
            above("rank correlation, trained", 0.8),
            ahead("rise, trained", "rise, untrained"),
            ahead("spread of layer 1, trained", "spread of layer 1, untrained"),
        ),
        measure=distances,
        came=_came_distances,
        meaning="Without a convolution's fixed reach each head learns its own: neighbourhoods "
        "first, the whole picture later.",
        otherwise="How far heads look is a matter of size and training: a small model of small "
        "pictures has not learned all of the order of a large one.",
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
                    ahead("deletion, random order", f"deletion, {name}"),
                    ahead(f"insertion, {name}", "insertion, random order"),
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
)

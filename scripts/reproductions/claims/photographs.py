"""A small Vision Transformer on CIFAR-10: how far it looks, and whether explanations are true."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.explain.agreement import spearman
from attnzoo.explain.capture import capture_attention
from attnzoo.explain.distance import attention_distance
from attnzoo.explain.explained import explain
from attnzoo.models.vit import ViT
from reproductions.cifar import FOLDER, SIDE, accuracy, shared, shown, train
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead
from reproductions.claims.planted import METHODS, areas, came_removed

LAYERS, PATCH = 6, 2
CONFIG = ViTConfig(
    attention=MultiHeadConfig(num_heads=4),
    image_size=SIDE,
    patch=PATCH,
    dim=32,
    hidden=64,
    layers=LAYERS,
)


def _all(setting: Setting) -> dict[str, float]:
    """Train a ViT; return its accuracy, distances and areas."""
    model = ViT(CONFIG, 10, rngs=nnx.Rngs(setting.seed))
    train(model, setting, steps=setting.pick(1_200, 2), rate=3e-3)
    found = {"accuracy": accuracy(model, setting, setting.pick(10_000, 100))}
    images, _ = shown(setting, setting.pick(200, 4))
    _, maps = nnx.jit(capture_attention)(model, images)
    side = SIDE // PATCH
    even = float(attention_distance(jnp.ones((1, 1, side**2, side**2)), (side, side))[0, 0])
    by_layer = np.stack(
        [
            np.asarray(attention_distance(one, (side, side), prefix=CONFIG.prefix)).mean(axis=0)
            for one in maps.values()
        ]
    )
    for name, values in (
        ("mean of the heads", by_layer.mean(axis=1)),
        ("farthest head", by_layer.max(axis=1)),
        ("nearest head", by_layer.min(axis=1)),
    ):
        for layer, value in enumerate(values):
            found[f"{name}/{layer + 1}"] = float(value) / even
    depth = jnp.arange(LAYERS, dtype=jnp.float32)
    means = jnp.asarray(by_layer.mean(axis=1), jnp.float32)
    found["rank correlation"] = float(spearman(depth[None], means[None])[0])
    result = explain(
        model,
        images[: setting.pick(60, 2)],
        methods=tuple(METHODS.values()),
        num_samples=4,
        key=jax.random.key(setting.seed),
    )
    return found | areas(result, METHODS)


def distances(setting: Setting) -> Mapping[str, Measured]:
    """Read the distances of the heads, and the accuracy."""
    found = shared(setting, "cifar-vit", _all)
    return {name: one for name, one in found.items() if not name.startswith(("del", "ins"))}


def removed(setting: Setting) -> Mapping[str, Measured]:
    """Read the areas of deletion and insertion."""
    found = shared(setting, "cifar-vit", _all)
    return {name: one for name, one in found.items() if name.startswith(("del", "ins"))}


def _came_distance(results: Results) -> str:
    first, last = (results.mean(f"mean of the heads/{n}") for n in (1, LAYERS))
    far = results.mean("farthest head/1")
    return (
        f"Here the mean distance is {first:.0%} of that of even weights in the first layer and "
        f"{last:.0%} in the last, with a rank correlation of {results.mean('rank correlation'):.2f}"
        f" over {LAYERS} layers; the farthest head of the first layer is at {far:.0%}, and "
        f"{results.mean('accuracy'):.0%} of the test pictures are classified rightly."
    )


SETUP = (
    "CIFAR-10 at 16 x 16 pixels in patches of 2 x 2; a ViT of 6 layers, 4 heads and width 32, "
    "1,200 steps of 64 pictures from scratch. "
)

CLAIMS = (
    Claim(
        name="attention-distance",
        title="Heads look farther with depth",
        source="Dosovitskiy et al. 2021, arXiv 2010.11929, figure 7 and appendix D.7",
        claimed="The mean distance over which a ViT attends grows with depth, while some heads "
        "attend to most of the picture in the lowest layers already.",
        setup=SETUP + "Mean over 200 test pictures, as a share of the distance of even weights. "
        "The paper's models are pretrained on up to 300 million pictures.",
        criterion=(
            above("rank correlation", 0.8),
            ahead(f"mean of the heads/{LAYERS}", "mean of the heads/1", 0.1),
            above("farthest head/1", 0.8),
        ),
        measure=distances,
        came=_came_distance,
        meaning="Without being built to, a ViT reads near places first and far ones later, as a "
        "convolutional network does.",
        otherwise="A ViT that is small and trained briefly from scratch does not order its layers "
        "from near to far: that comes with much data, not with the architecture.",
        minutes=2.5,
        axes=("layer", "distance, share of even weights'"),
        needs=(FOLDER,),
    ),
    Claim(
        name="removing-evidence-in-photographs",
        title="On photographs too, explanations name what the answer rests on",
        source="Petsiuk, Das and Saenko 2018, arXiv 1806.07421, table 1 (deletion and insertion)",
        claimed="On photographs the class's probability falls faster when pixels are removed in "
        "the order of a good explanation, and rises faster when they are inserted in it.",
        setup=SETUP + "60 test pictures, 4 random orders each, removed patches show the picture's "
        "mean. The paper explains ResNet-50 and VGG16 on ImageNet and compares explanations with "
        "each other.",
        criterion=tuple(
            check
            for name in METHODS
            for check in (
                ahead("deletion, random order", f"deletion, {name}"),
                ahead(f"insertion, {name}", "insertion, random order"),
            )
        ),
        measure=removed,
        came=came_removed,
        meaning="All explanations tried are truer than chance on photographs.",
        otherwise="On photographs not every explanation tried is truer than chance, so a picture "
        "that looks plausible is no evidence; those that are have their row in the table.",
        minutes=2.5,
        axes=("area under the class's probability", ""),
        needs=(FOLDER,),
    ),
)

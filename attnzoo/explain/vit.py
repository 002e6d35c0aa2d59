"""Questions to a ViT: the patches that an answer depends on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.explain.explanations import EXPLANATIONS, ON_REQUEST
from attnzoo.explain.faithfulness import filled, with_patches
from attnzoo.explain.gradients import by_patch
from attnzoo.explain.question import Question
from attnzoo.models.vit import ViT


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageQuestion(Question):
    """Question about the patches of images, left to right, then down.

    Maps of all tokens are read at the class token; with a distillation head, at its token too;
    without a class token, at the mean of the patches.
    """

    @property
    def reading(self) -> Float[Array, "B T"]:
        """Row from which the answer is read, the same for all examples."""
        config, T = self.model.config, self.real.shape[1]
        if config.pooling not in ("class", "class_mean"):
            row = np.arange(T) >= config.prefix
        else:
            row = np.arange(T) < (2 if config.distillation == "head" else 1)
        return jnp.broadcast_to(jnp.asarray(row / row.sum(), jnp.float32), self.real.shape)

    @property
    def reading_token(self) -> Float[Array, "B T"]:
        """Row of the class token."""
        pooling = self.model.config.pooling
        if pooling not in ("class", "class_mean"):
            raise NotImplementedError(f"pooling={pooling!r}: there is no class token to read at")
        return self.reading

    @property
    def vectors(self) -> Float[Array, "B h w C"]:
        """Images, the input with a gradient."""
        return self.inputs[0]

    def of_vectors(self, vectors: Float[Array, "B h w C"]) -> Float[Array, " B"]:
        """Return the answer for other images."""
        return self.answer(self.model(vectors, **self.keywords))

    def by_unit(self, values: Float[Array, "B h w C"]) -> Float[Array, "B P"]:
        """Return sums over each patch's pixels and channels."""
        return by_patch(values, self.model.config.patch)

    def kept(self, keep: Bool[Array, "B P"], *, log: bool = False) -> Float[Array, " B"]:
        """Return the value with removed patches as the image's mean, its blur, or a number."""
        patch, images = self.model.config.patch, self.inputs[0]
        shown = with_patches(images, filled(images, patch, self.fill), keep, patch)
        return self.value(self.model(shown, **self.keywords), log=log)


def image_question(
    model: ViT, images: Float[Array, "B h w C"], *, units: Any = None, **rest: Any
) -> ImageQuestion:
    """Return the question about a batch of images."""
    if units is not None or rest["at"] is not None:
        raise ValueError(
            "units and at are for tokens, and images have patches and one answer: leave them out"
        )
    for name in ("layer", "head"):
        if rest[name] is not None:
            raise ValueError(
                f"{name}={rest[name]} is for tokens; of images the last layer is shown"
            )
    rows, columns = model.patches.grid(images)
    B, P, prefix = images.shape[0], rows * columns, model.config.prefix
    graph, state = nnx.split(model)
    numbers = jnp.broadcast_to(jnp.arange(P), (B, P))
    real = jnp.ones((B, prefix + P), bool)
    fill = "mean" if rest["fill"] is None else rest["fill"]
    if fill not in ("mean", "blur") and isinstance(fill, str):
        raise ValueError(f"fill={fill!r}; wanted mean, blur or a number for patches")
    settings: dict[str, Any] = {
        **rest,
        "fill": fill,
        "prefix": prefix,
        "stack": "encoder",
        "count": P,
    }
    return ImageQuestion(
        graph=graph, state=state, inputs=(images,), units=numbers, real=real, **settings
    )


def explain_vit(
    model: ViT,
    images: Float[Array, "B h w C"],
    classes: Int[Array, " B"],
    key: Key[Array, ""],
    *,
    num_samples: int = 20,
) -> dict[str, Float[Array, "B P"]]:
    """Return the scores of patches by each explanation that applies; can be called under jit.

    Scores are those of :func:`attnzoo.explain.explain`, which also reports what does not apply.

    Raises:
      ValueError: a class out of range (not under jit).
    """
    question = image_question(
        model, images, classes=classes, key=key, num_samples=num_samples, at=None, function=None,
        fill=None, layer=None, head=None, keywords={},
    )  # fmt: skip
    methods = [(name, one) for name, one in EXPLANATIONS.items() if name not in ON_REQUEST]
    return question.scores(methods)[0]

"""Faithfulness of explanations: remove units by their importance, and measure the answer.

Units are what can be removed: patches, tokens. ``score(keep)`` is one number per example, such as
the probability of the explained class, with only the units of ``keep`` (``B P``, True = kept);
:func:`images_score` builds such a function for an image model. Results depend strongly on the fill,
which the model never saw in training (Hooker et al. 2019, arXiv 1806.10758). So compare
explanations under one fill, and with random ones.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.explain.target import check_output

Importance = Float[Array, "B P"]
Score = Callable[[Bool[Array, "B P"]], Float[Array, " B"]]
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


class Curve(NamedTuple):
    """Scores of each example at each share of removed or inserted units."""

    shares: Float[Array, "B K"]
    scores: Float[Array, "B K"]

    @property
    def area(self) -> Float[Array, " B"]:
        """Area under the curve by trapezoids, over shares from 0 to 1."""
        widths = jnp.diff(self.shares, axis=1).astype(self.scores.dtype)
        heights = (self.scores[:, 1:] + self.scores[:, :-1]) / 2
        return jnp.sum(heights * widths, axis=1)


def ranks(importance: Importance, key: Key[Array, ""] | None = None) -> Int[Array, "B P"]:
    """Return the rank of each unit: 0 for the most important, P-1 for the least.

    Ties are broken by ``key``, else by position. NaN comes last.
    """
    clean = jnp.where(jnp.isnan(importance), -jnp.inf, importance)
    if key is None:
        order = jnp.argsort(-clean, axis=1)
    else:
        coin = jax.random.uniform(key, clean.shape)
        order = jnp.lexsort((coin, -clean), axis=1)
    return jnp.argsort(order, axis=1).astype(jnp.int32)


def deletion(
    score: Score,
    importance: Importance,
    *,
    steps: int | None = None,
    units: Int[Array, " B"] | None = None,
) -> Curve:
    """Remove the most important units first (Petsiuk et al. 2018, arXiv 1806.07421).

    A small area is good: the answer falls early. There are ``steps`` equal parts; None: one unit
    each. ``units`` is the number of units of each example, if some have fewer than P; the
    importance of the rest is NaN.
    """
    return _curve(score, importance, steps, units, inserting=False)


def insertion(
    score: Score,
    importance: Importance,
    *,
    steps: int | None = None,
    units: Int[Array, " B"] | None = None,
) -> Curve:
    """Insert the most important units first, starting from none; a large area is good.

    Arguments are those of :func:`deletion`.
    """
    return _curve(score, importance, steps, units, inserting=True)


def comprehensiveness(
    score: Score, importance: Importance, shares: tuple[float, ...] = BINS
) -> Float[Array, " B"]:
    """Return the mean fall of the score without the most important units; large is good.

    DeYoung et al., ACL 2020 (arXiv 1911.03429), equation 1, over the paper's shares of tokens. At
    least one unit is removed.
    """
    whole, place = score(jnp.ones(importance.shape, bool)), ranks(importance)
    falls = [whole - score(place >= n) for n in _counts(shares, importance.shape[1])]
    return jnp.mean(jnp.stack(falls), axis=0)


def sufficiency(
    score: Score, importance: Importance, shares: tuple[float, ...] = BINS
) -> Float[Array, " B"]:
    """Return the mean fall of the score with only the most important units; small is good.

    DeYoung et al. 2020, equation 2; below 0 where the other units speak against the answer.
    """
    whole, place = score(jnp.ones(importance.shape, bool)), ranks(importance)
    falls = [whole - score(place < n) for n in _counts(shares, importance.shape[1])]
    return jnp.mean(jnp.stack(falls), axis=0)


def leave_one_out(score: Score, shape: tuple[int, int]) -> Importance:
    """Return the fall of the score when each unit alone is removed."""
    whole = score(jnp.ones(shape, bool))
    units = jnp.arange(shape[1])

    def without(p: Array) -> Float[Array, " B"]:
        return whole - score(jnp.broadcast_to((units != p)[None], shape))

    return jax.lax.map(without, units).T


def random_importance(key: Key[Array, ""], shape: tuple[int, int]) -> Importance:
    """Return uniform random importance: the baseline of every explanation."""
    return jax.random.uniform(key, shape)


def images_score(
    model: nnx.Module,
    images: Float[Array, "B h w C"],
    classes: Int[Array, " B"] | Int[np.ndarray, " B"],
    patch: int,
    *,
    fill: Literal["mean", "blur"] | float = "mean",
) -> Score:
    """Return a function from kept patches to the probability of ``classes``.

    Removed patches are filled with each image's mean ("mean"), with the image blurred over about
    two patches ("blur"), or with a number.
    """
    removed = filled(images, patch, fill)
    graph, state = nnx.split(model)

    @jax.jit
    def probabilities(state: Any, keep: Bool[Array, "B P"]) -> Float[Array, "B V"]:
        model: Any = nnx.merge(graph, state)
        logits = model(with_patches(images, removed, keep, patch))
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    def score(keep: Bool[Array, "B P"]) -> Float[Array, " B"]:
        found = probabilities(state, keep)
        check_output(found, classes)
        return jnp.take_along_axis(found, jnp.asarray(classes)[:, None], axis=1)[:, 0]

    return score


def with_patches(
    images: Float[Array, "B h w C"],
    removed: Float[Array, "B h w C"],
    keep: Bool[Array, "B P"],
    patch: int,
) -> Float[Array, "B h w C"]:
    """Return the images with ``removed`` in place of the patches that are not kept."""
    kept = keep.reshape(-1, images.shape[1] // patch, images.shape[2] // patch)
    kept = jnp.repeat(jnp.repeat(kept, patch, axis=1), patch, axis=2)[..., None]
    return jnp.where(kept, images, removed)


def filled(images: Array, patch: int, fill: Any) -> Array:
    """Return the fill of removed patches: the mean of each image, its blur, or a number."""
    if fill == "mean":
        return jnp.broadcast_to(jnp.mean(images, axis=(1, 2), keepdims=True), images.shape)
    if fill == "blur":
        places = np.arange(-2 * patch, 2 * patch + 1)
        kernel = np.exp(-0.5 * (places / patch) ** 2)
        kernel = jnp.asarray(kernel / kernel.sum(), images.dtype)

        def along(x: Array, axis: int) -> Array:
            wide = [(0, 0)] * 4
            wide[axis] = (2 * patch, 2 * patch)
            padded = jnp.pad(x, wide, mode="edge")
            size = x.shape[axis]
            parts = [
                kernel[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
                for i in range(len(places))
            ]
            return sum(parts[1:], parts[0])

        return along(along(images, 1), 2)
    if isinstance(fill, str):
        raise ValueError(f"fill={fill!r}; wanted 'mean', 'blur' or a number")
    return jnp.full_like(images, fill)


def _curve(
    score: Score,
    importance: Importance,
    steps: int | None,
    units: Int[Array, " B"] | None,
    *,
    inserting: bool,
) -> Curve:
    B, P = importance.shape
    steps = P if steps is None else steps
    if not 1 <= steps <= P:
        raise ValueError(f"steps={steps}; wanted 1 to {P}, the number of units")
    units = jnp.full((B,), P) if units is None else units
    place = ranks(importance)
    step = jnp.arange(steps + 1, dtype=units.dtype)[:, None]
    counts = (2 * step * units[None] + steps) // (2 * steps)  # rounded

    def at(n: Int[Array, " B"]) -> Float[Array, " B"]:
        return score(place < n[:, None]) if inserting else score(place >= n[:, None])

    shares = counts.T / jnp.maximum(units, 1)[:, None]
    return Curve(shares, jax.lax.map(at, counts).T)


def _counts(shares: tuple[float, ...], P: int) -> list[int]:
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares={shares}; wanted some in 0 < share <= 1")
    return [max(1, round(share * P)) for share in shares]

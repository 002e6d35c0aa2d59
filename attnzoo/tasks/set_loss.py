"""Loss between a set of predictions and a set of objects (Carion et al. 2020, section 3.1)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from attnzoo.ops.boxes import generalised_iou, to_centres, to_corners
from attnzoo.ops.matching import match, match_on_host
from attnzoo.tasks.losses import Sums

focal_loss = functools.partial(optax.sigmoid_focal_loss, alpha=0.25, gamma=2.0)
"""Focal loss of sigmoids (Lin et al. 2017, arXiv 1708.02002, equation 5)."""


def set_loss(
    logits: Float[Array, "L B Q V"],
    boxes: Float[Array, "L B Q 4"],
    corners: Float[Array, "B M 4"],
    labels: Int[Array, "B M"],
    counted: Bool[Array, "B M"],
    real: Bool[Array, "B"],
    settings: Any,
    *,
    softmax: bool,
) -> tuple[Sums, Int[Array, "L B M"]]:
    """Return the sums of the losses of L sets of predictions, and the query of each object.

    Each object is matched to a prediction of its own, with the least sum of -P(class), the L1
    distance of the boxes and -GIoU, weighted as in ``settings``, a ``DetectionConfig``; with
    sigmoids the class costs what the focal loss does (Zhu et al. 2021, arXiv 2010.04159). All
    predictions have a class loss, matched ones also |box - box'|_1 and 1 - GIoU.

    Args:
      boxes: centres and sizes; corners: those of the objects.
      counted: False at padding. real: False for padding pictures.
      softmax: the last class is "no object"; its cross-entropy counts ``settings.no_object``.

    Returns:
      ``class``, ``l1`` and ``giou``: unweighted sums over predictions. ``class_weight``: the
      divisor of ``class``, the sum of the weights of a cross-entropy (as in the authors' code) or
      the number of objects. ``boxes``: the divisor of the others, L times the number of objects.
      The query of an object that is not counted is -1.
    """
    logits, boxes = logits.astype(jnp.float32), boxes.astype(jnp.float32)
    L, B, Q, V = logits.shape
    whole = (L, *labels.shape)
    counted = jnp.broadcast_to(counted[None], whole)
    labels = jnp.broadcast_to(jnp.maximum(labels, 0)[None], whole)
    places = jnp.broadcast_to(corners[None], (*whole, 4))
    cost = _cost(logits, boxes, places, labels, settings, softmax)
    found = (match_on_host if settings.matching == "host" else match)(cost, counted)
    chosen = jnp.maximum(found, 0)
    ours = jnp.take_along_axis(boxes, chosen[..., None], axis=2)
    weight = counted.astype(jnp.float32)
    l1 = jnp.sum(abs(ours - to_centres(places)), axis=-1) * weight
    giou = (1 - generalised_iou(to_corners(ours), places)) * weight
    # Objects of padding are given to a query that does not exist.
    query = jnp.where(counted, found, Q)
    at = jnp.arange(L)[:, None, None], jnp.arange(B)[None, :, None], query
    seen = jnp.broadcast_to(real.astype(jnp.float32)[None, :, None], (L, B, Q))
    if softmax:
        targets = jnp.full((L, B, Q), V - 1).at[at].set(labels, mode="drop")
        seen = seen * jnp.where(targets == V - 1, settings.no_object, 1.0)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        divisor = jnp.sum(seen)
    else:
        hot = jax.nn.one_hot(labels, V, dtype=jnp.float32)
        targets = jnp.zeros((L, B, Q, V)).at[at].set(hot, mode="drop")
        losses = jnp.sum(focal_loss(logits, targets), axis=-1)
        divisor = jnp.sum(weight)
    sums = {
        "class": jnp.sum(losses * seen),
        "class_weight": divisor,
        "l1": jnp.sum(l1),
        "giou": jnp.sum(giou),
        "boxes": jnp.sum(weight),
    }
    return sums, found


def weighted(sums: Sums, settings: Any) -> Float[Array, ""]:
    """Return the loss of a set of predictions, the mean over objects."""
    boxes = jnp.maximum(sums["boxes"], 1.0)
    return (
        settings.class_weight * sums["class"] / jnp.maximum(sums["class_weight"], 1e-6)
        + settings.box_weight * sums["l1"] / boxes
        + settings.giou_weight * sums["giou"] / boxes
    )


def _cost(
    logits: Float[Array, "L B Q V"],
    boxes: Float[Array, "L B Q 4"],
    corners: Float[Array, "L B M 4"],
    labels: Int[Array, "L B M"],
    settings: Any,
    softmax: bool,
) -> Float[Array, "L B M Q"]:
    """Return the cost of each object and prediction."""
    if softmax:
        price = -jax.nn.softmax(logits)
    else:
        object_is, object_not = (
            focal_loss(logits, jnp.full_like(logits, target)) for target in (1.0, 0.0)
        )
        price = object_is - object_not
    rows = jnp.broadcast_to(labels[..., None], (*labels.shape, logits.shape[2]))
    price = jnp.take_along_axis(jnp.swapaxes(price, 2, 3), rows, axis=2)
    far = jnp.sum(abs(to_centres(corners)[:, :, :, None] - boxes[:, :, None]), axis=-1)
    overlap = generalised_iou(corners[:, :, :, None], to_corners(boxes)[:, :, None])
    return (
        settings.class_weight * price + settings.box_weight * far - settings.giou_weight * overlap
    )

"""Cross-entropy of labels, and the sums from which scores are computed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnzoo.ops.argmax import argmax

Sums = dict[str, Float[Array, ""]]


def label_losses(
    logits: Float[Array, "*rows V"],
    labels: Int[Array, "*rows"],
    counted: Bool[Array, "*rows"],
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """Return (loss, negative log-likelihood) per label in nats, float32; 0 where not counted.

    Smoothing spreads ``label_smoothing`` uniformly over the vocabulary, the true label included
    (Vaswani et al. 2017, section 5.4); the second result is without it.
    """
    logits = logits.astype(jnp.float32)
    lse = jax.nn.logsumexp(logits, axis=-1)
    gold = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    real = counted.astype(jnp.float32)
    nll = (lse - gold) * real
    if label_smoothing == 0.0:
        return nll, nll
    uniform = (lse - jnp.mean(logits, axis=-1)) * real
    return (1 - label_smoothing) * nll + label_smoothing * uniform, nll


def mean_loss(
    logits: Float[Array, "*rows V"],
    labels: Int[Array, "*rows"],
    counted: Bool[Array, "*rows"],
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Sums]:
    """Return the mean loss over counted labels, and sums to aggregate over batches.

    The sums are ``nll``, ``count``, ``correct`` and ``weight``, the divisor of the mean.
    """
    losses, nll = label_losses(logits, labels, counted, label_smoothing)
    count = jnp.sum(counted).astype(jnp.float32)
    correct = jnp.sum((argmax(logits) == labels) & counted)
    sums = {
        "nll": jnp.sum(nll),
        "count": count,
        "correct": correct.astype(jnp.float32),
        "weight": count,
    }
    return jnp.sum(losses) / jnp.maximum(count, 1.0), sums

"""The loss of predicting labels, and the sums that scores are made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Sums = dict[str, Float[Array, ""]]


def label_losses(
    logits: Float[Array, "*rows V"],
    labels: Int[Array, "*rows"],
    counted: Bool[Array, "*rows"],
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """(loss, negative log-likelihood) of each label in nats, both 0 where not counted, float32.

    Smoothing spreads ``label_smoothing`` uniformly over the vocabulary, the true label included
    (Vaswani et al. 2017, section 5.4); the second result is the likelihood without it.
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
    """The mean over what is counted, and the sums ``nll``, ``count``, ``correct`` and ``weight``
    (what the mean was divided by).
    """
    losses, nll = label_losses(logits, labels, counted, label_smoothing)
    count = jnp.sum(counted).astype(jnp.float32)
    correct = jnp.sum((jnp.argmax(logits, axis=-1) == labels) & counted)
    sums = {
        "nll": jnp.sum(nll),
        "count": count,
        "correct": correct.astype(jnp.float32),
        "weight": count,
    }
    return jnp.sum(losses) / jnp.maximum(count, 1.0), sums

"""Objectives of a word aligner that need parallel sentences and no links.

Dou and Neubig, EACL 2021 (arXiv 2101.08231), section 2.2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.special_tokens import EOS, PAD
from attnzoo.tasks.losses import label_losses
from attnzoo.tasks.task import Batch

Loss = tuple[Float[Array, ""], Float[Array, ""]]
"""Sum of a loss, and the number of its terms."""


def masked_loss(model: Any, batch: Batch, share: float, rngs: nnx.Rngs) -> Loss:
    """Return the loss of translation language modelling: masked tokens of both sentences.

    Each token, but for the end tokens, is masked with probability ``share``: its embedding is 0.
    """
    source, target = jnp.asarray(batch["source"]), jnp.asarray(batch["target"])[:, 1:]
    masked = [
        (ids > EOS) & jax.random.bernoulli(rngs.dropout(), share, ids.shape)
        for ids in (source, target)
    ]
    total, count = jnp.float32(0), jnp.float32(0)
    logits = model.masked_logits(source, target, *masked, rngs=rngs)
    for predicted, ids, known in zip(logits, (source, target), masked, strict=True):
        total += jnp.sum(label_losses(predicted, ids, known)[1])
        count += jnp.sum(known).astype(jnp.float32)
    return total, count


def identification_loss(model: Any, batch: Batch, rngs: nnx.Rngs) -> Loss:
    """Return the loss of parallel sentence identification: is this the translation, or another's?

    The other translation is that of the next pair of the batch. A batch of one pair has no other.
    """
    source, target = jnp.asarray(batch["source"]), jnp.asarray(batch["target"])[:, 1:]
    real, other = jnp.any(source != PAD, axis=1), jnp.roll(target, -1, axis=0)
    differ = real & jnp.roll(real, -1) & jnp.any(other != target, axis=1)
    logits = model.pair_logits(
        jnp.concatenate([source, source]), jnp.concatenate([target, other]), rngs=rngs
    ).astype(jnp.float32)
    labels = jnp.concatenate([jnp.ones(real.shape), jnp.zeros(real.shape)]).astype(jnp.float32)
    counted = jnp.concatenate([real, differ]).astype(jnp.float32)
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    return jnp.sum(losses * counted), jnp.sum(counted)

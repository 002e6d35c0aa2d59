"""Functions of a translator that are compiled once for each shape of their batches."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnzoo.decoding import beam_search, greedy_search
from attnzoo.decoding.prompt import begin
from attnzoo.tasks.losses import label_losses


def search(graph, ids, rules, state, source, *, max_length: int, beam: int, alpha: float):
    """Return the hypotheses of a batch of sources, with greedy search for a beam of 1."""
    return searched(nnx.merge(graph, state), ids, rules, source, max_length, beam, alpha)[0]


def searched(model, ids, rules, source, max_length: int, beam: int, alpha: float):
    """Return the hypotheses of ``search``, and how it began (``decoding.prompt.Begun``)."""
    batch = jax.tree.leaves(source)[0].shape[0]
    begun = begin(model, source, rules, ids, batch=batch, max_length=max_length)
    shape: dict[str, Any] = {
        "batch": batch,
        "source_length": model.source_length(source),
        "max_length": max_length,
        "ids": ids,
        "rules": rules,
        "first": begun.token,
    }
    if beam == 1:
        return greedy_search(model.step, begun.state, begun.memory, **shape), begun
    shape |= {"beam": beam, "alpha": alpha}
    return beam_search(model.step, begun.state, begun.memory, **shape), begun


def force(graph, pad, head, state, source, target):
    """Return log-probabilities ``B T`` of known targets, and weights ``B T S`` of the steps."""
    model = nnx.merge(graph, state)
    labels = target[:, 1:]
    logits, weights = model(source, target[:, :-1], return_weights=True)
    log_probs = -label_losses(logits, labels, labels != pad)[1]
    return log_probs, jnp.mean(weights, axis=1) if head is None else weights[:, head]


def survey(graph, pad, state, source, target):
    """Compute ``force`` with weights ``B T S L N+1``: layers, then heads with their mean last."""
    model = nnx.merge(graph, state)
    labels = target[:, 1:]
    logits, layers = model.all_weights(source, target[:, :-1])
    log_probs = -label_losses(logits, labels, labels != pad)[1]
    heads = jnp.moveaxis(layers, 0, -1)  # B N T S L
    both = jnp.concatenate([heads, jnp.mean(heads, axis=1, keepdims=True)], axis=1)
    return log_probs, jnp.moveaxis(both, 1, -1)

"""Guided attention: one head of a translator learns links between words.

Chen, Matusov, Khadivi and Peter, AMTA 2016 (arXiv 1607.01628); Garg, Peitz, Nallasamy and Paulik,
EMNLP 2019 (arXiv 1909.02074), section 4.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnzoo.special_tokens import EOS
from attnzoo.tasks.task import Batch
from attnzoo.tasks.teacher import FORWARD


def guide(model: Any, config: Any) -> Any:
    """Set the guided layer, timing and pass as those of the weights that a model returns.

    ``config`` is a ``GuidedConfig``. ValueError for a layer or head that the model does not have,
    for a step that has not read its word, and for a second pass of a recurrent decoder.
    """
    layer = model.alignment_layer if config.layer is None else config.layer
    if layer >= model.layers:
        raise ValueError(f"guided.layer={layer}; the decoder's layers are 0 .. {model.layers - 1}")
    if config.head >= model.heads:
        raise ValueError(f"guided.head={config.head}; the heads are 0 .. {model.heads - 1}")
    if config.full_context and not model.has_full_context:
        raise ValueError(
            f"guided.full_context=true: {type(model).__name__} has no second pass without a causal "
            "mask; wanted model.kind=transformer or t5, or false"
        )
    reads = model.reads_before_attending
    if config.timing == "input" and not reads:
        raise ValueError(
            f"guided.timing=input: {type(model).__name__} attends before it reads a step's word; "
            "wanted predicted"
        )
    timing = config.timing if config.timing != "auto" else "input" if reads else "predicted"
    model.alignment_layer, model.credits = layer, timing
    model.full_context = config.full_context
    return model


def token_links(batch: Batch, unlinked: str = "ignore") -> Float[Array, "B T S"]:
    """Return the links of a batch between tokens: 1 / n for each of the n of a target token.

    A target token has the links of its word, each with all tokens of the source word. Rows without
    links are 0, or 1 at the end token of the source for words if ``unlinked`` is "eos".
    """
    words, sources = jnp.asarray(batch["target_words"]), jnp.asarray(batch["source_words"])
    known = (jnp.asarray(batch["links"]) & FORWARD > 0).astype(jnp.float32)
    rows = jnp.take_along_axis(known, jnp.maximum(words, 0)[:, :, None], axis=1)
    cells = jnp.take_along_axis(rows, jnp.maximum(sources, 0)[:, None, :], axis=2)
    real = (words >= 0)[:, :, None]
    cells = jnp.where(real & (sources >= 0)[:, None, :], cells, 0.0)
    if unlinked == "eos":
        ends = real & (jnp.asarray(batch["source"]) == EOS)[:, None, :]
        alone = ~jnp.any(cells > 0, axis=2, keepdims=True)
        cells = jnp.where(ends & alone, 1.0, cells)
    return cells / jnp.maximum(jnp.sum(cells, axis=2, keepdims=True), 1.0)


def alignment_loss(
    weights: Float[Array, "B N T S"], batch: Batch, config: Any, timing: str
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the cross-entropy of the guided head, summed over linked tokens, and their number.

    Garg et al. 2019, equation 3, with the rows of words that a step predicts, or of
    its "input", as ``timing`` says.
    """
    head = weights[:, config.head].astype(jnp.float32)
    if config.teacher.kind == "own":
        tokens = jnp.asarray(batch["target"])[:, 1:] > EOS
        wanted = jax.lax.stop_gradient(jnp.mean(weights, axis=1)).astype(jnp.float32)
        wanted = jnp.where(tokens[:, :, None], wanted, 0.0)
    else:
        wanted = token_links(batch, config.unlinked)
        if timing == "input":
            head, wanted = head[:, 1:], wanted[:, :-1]
    # The clip is below any weight that softmax gives, except 0.
    total = -jnp.sum(wanted * jnp.log(jnp.maximum(head, 1e-30)))
    return total, jnp.sum(jnp.any(wanted > 0, axis=2)).astype(jnp.float32)

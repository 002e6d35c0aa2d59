"""Guided attention: one head of a translator learns links between words.

Chen, Matusov, Khadivi and Peter, AMTA 2016 (arXiv 1607.01628); Garg, Peitz, Nallasamy and Paulik,
EMNLP 2019 (arXiv 1909.02074), section 4. An alignment module of its own in place of the head: Chen,
Liu, Chen, Jiang and Liu, EMNLP 2020 (arXiv 2004.14837). Contiguity: Zenkel, Wuebker and DeNero, ACL
2020 (arXiv 2004.14675).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.models.alignment_head import AlignmentHead
from attnzoo.special_tokens import EOS
from attnzoo.tasks.task import Batch
from attnzoo.tasks.teacher import FORWARD


def guide(model: Any, config: Any, rngs: nnx.Rngs) -> Any:
    """Set the guided layer, timing, pass and module as those of the weights that a model returns.

    ``config`` is a ``GuidedConfig``. ValueError for a layer or head that the model does not have,
    for a step that has not read its word, and for a second pass or a module of a recurrent decoder.
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
    if config.module and not model.takes_alignment_module:
        raise ValueError(
            f"guided.module={config.module}: {type(model).__name__} has no layer to take it; "
            "wanted model.kind=transformer or t5, or 0"
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
    if config.module:
        model.alignment_module = AlignmentHead(model.config.dim, config.module, rngs=rngs)
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
    """Return the loss of the guided head, summed over linked tokens, and their number.

    The loss is the cross-entropy of the links (Garg et al. 2019, equation 3), with the rows of
    words that a step predicts, or of its "input", as ``timing`` says; and the contiguity loss.
    """
    head = weights[:, config.head].astype(jnp.float32)
    rows = head[:, 1:] if timing == "input" else head
    if config.teacher.kind == "own":
        tokens = jnp.asarray(batch["target"])[:, 1:] > EOS
        wanted = jax.lax.stop_gradient(jnp.mean(weights, axis=1)).astype(jnp.float32)
        wanted = jnp.where(tokens[:, :, None], wanted, 0.0)
    else:
        wanted = token_links(batch, config.unlinked)
        head, wanted = rows, wanted[:, : rows.shape[1]]
    # The clip is below any weight that softmax gives, except 0.
    total = -jnp.sum(wanted * jnp.log(jnp.maximum(head, 1e-30)))
    count = jnp.sum(jnp.any(wanted > 0, axis=2)).astype(jnp.float32)
    if config.contiguity:
        words = jnp.asarray(batch["target"])[:, 1 : rows.shape[1] + 1] > EOS
        loss, pairs = contiguity_loss(rows, words, jnp.asarray(batch["source"]) > EOS)
        total += config.contiguity * loss * count / jnp.maximum(pairs, 1.0)
    return total, count


def contiguity_loss(
    weights: Float[Array, "B T S"], target: Bool[Array, "B T"], source: Bool[Array, "B S"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return -sum_t log max_s of weights that a 2 x 2 kernel of 1/2 smooths, and their number.

    Zenkel et al. 2020 (arXiv 2004.14675), the contiguity loss. A row t of the smoothed weights is
    that of the target tokens t and t + 1, and counts if both are real (``target``). The loss is 0
    if both rows have all their weight on neighbouring tokens, one after the other or the same two.
    """
    weights = jnp.where(source[:, None, :], weights, 0.0)
    wide = jnp.pad(weights, ((0, 0), (0, 0), (0, 1)))  # a source of one token has a neighbour too
    rows = wide[:, :-1] + wide[:, 1:]
    smooth = (rows[:, :, :-1] + rows[:, :, 1:]) / 2
    both = target[:, :-1] & target[:, 1:]
    logs = jnp.log(jnp.maximum(jnp.max(smooth, axis=2), 1e-30))
    return -jnp.sum(jnp.where(both, logs, 0.0)), jnp.sum(both).astype(jnp.float32)

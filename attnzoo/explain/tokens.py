"""Every explanation of what a text model says at one place, as scores of the text's tokens."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.explain.capture import capture_attention, weight_gradients
from attnzoo.explain.cdam import cdam
from attnzoo.explain.faithfulness import Score
from attnzoo.explain.gradients import gradient_times_input, integrated_gradients
from attnzoo.explain.relevance import relevance
from attnzoo.explain.rollout import fuse, gradient_rollout, rollout

Answer = Callable[[Any], Float[Array, " B"]]
TABLES = ("tokens", "embedding")
"""What the zoo's text models call their table of tokens."""


class GivenEmbedding(nnx.Module):
    """A table of tokens that gives these vectors whatever it is asked; its logits are the same."""

    def __init__(self, inner: Any, vectors: Callable[[], Float[Array, "B T D"]]):
        self.inner, self.vectors = inner, vectors

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """The vectors."""
        return self.vectors()

    def logits(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Those of the table."""
        return self.inner.logits(x)


def token_table(model: nnx.Module) -> tuple[str, Any]:
    """The attribute that is a text model's table of tokens, and the table.

    Raises:
      ValueError: there is none.
    """
    for name in TABLES:
        if hasattr(model, name):
            return name, getattr(model, name)
    raise ValueError(f"{type(model).__name__} has none of {', '.join(TABLES)}: no text model")


def reading(
    model: nnx.Module, vectors: Float[Array, "B T D"], tokens: Int[Array, "B T"], **keywords: Any
) -> Any:
    """The model's output where ``vectors`` are read in place of the tokens' own."""
    copy: Any = nnx.clone(model)
    name, table = token_table(copy)
    setattr(copy, name, GivenEmbedding(table, lambda: vectors))
    return copy(tokens, **keywords)


def explain_tokens(
    model: nnx.Module,
    answer: Answer,
    row: int,
    tokens: Int[Array, "B T"],
    *,
    steps: int = 20,
    layer: int = -1,
    head: int | None = None,
    gradients: bool = True,
    **keywords: Any,
) -> dict[str, Float[Array, "B T"]]:
    """Scores of the tokens by each method; more is more important, and signed ones stay signed.

    Args:
      answer: from the output to the number that is explained, such as the logit of a class.
      row: the token at which maps of all tokens by all are read: that of the class token, or the
        one whose next token is told.
      steps: of integrated gradients, from vectors of 0.
      layer, head: whose raw attention; None: the mean of the heads.
      gradients: False leaves out what needs gradients with respect to weights, which attentions
        other than ``MultiHeadAttention`` do not have.
    """
    if gradients:
        found = weight_gradients(model, answer, tokens, **keywords)
        weights, changes = list(found.weights.values()), list(found.gradients.values())
    else:
        weights = list(capture_attention(model, tokens, **keywords)[1].values())
        changes = []
    raw = fuse(weights[layer]) if head is None else weights[layer][:, head]
    maps = {"attention": raw, "rollout": rollout(weights)}
    if gradients:
        maps["gradient_rollout"] = gradient_rollout(weights, changes)
        maps["relevance"] = relevance(weights, changes)
    scores = {name: tokens_by_tokens[:, row] for name, tokens_by_tokens in maps.items()}
    scores["cdam"] = cdam(model, answer, tokens, **keywords)
    _, table = token_table(model)
    x = table(tokens)

    def f(x: Float[Array, "B T D"]) -> Float[Array, " B"]:
        return answer(reading(model, x, tokens, **keywords))

    scores["gradient_x_input"] = jnp.sum(gradient_times_input(f, x), axis=-1)
    scores["integrated_gradients"] = jnp.sum(integrated_gradients(f, x, steps=steps), axis=-1)
    return scores


def tokens_score(
    model: nnx.Module,
    answer: Answer,
    tokens: Int[Array, "1 T"],
    units: Int[Array, " P"],
    fill: Float[Array, " D"],
    **keywords: Any,
) -> Score:
    """``answer`` of one text with ``fill`` in place of the vectors of those of its tokens ``units``
    that are not kept; other tokens always stay. What it gives is a score of
    ``attnzoo.explain.faithfulness`` for importances ``B P`` of any number of orders, which are read
    as a batch.
    """
    graph, state = nnx.split(model)
    _, table = token_table(model)
    x = table(tokens)

    @jax.jit
    def compiled(state: Any, keep: Bool[Array, "B P"]) -> Float[Array, " B"]:
        B, T = keep.shape[0], tokens.shape[1]
        kept = jnp.ones((B, T), bool).at[:, units].set(keep)
        vectors = jnp.where(kept[..., None], x, fill.astype(x.dtype)[None, None])
        many = {name: jnp.broadcast_to(v, (B, *v.shape[1:])) for name, v in keywords.items()}
        ids = jnp.broadcast_to(tokens, (B, T))
        return answer(reading(nnx.merge(graph, state), vectors, ids, **many))

    return lambda keep: compiled(state, keep)

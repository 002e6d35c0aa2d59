"""Greedy search: the most probable token at each step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from attnzoo.decoding.hypotheses import DEFAULT_IDS, Hypotheses, TokenIds, next_log_probs
from attnzoo.decoding.rules import DEFAULT_RULES, Rules
from attnzoo.ops.argmax import argmax


def greedy_search(
    step,
    state,
    memory,
    *,
    batch: int,
    source_length: int,
    max_length: int,
    ids: TokenIds = DEFAULT_IDS,
    rules: Rules = DEFAULT_RULES,
    first: Int[Array, " B"] | None = None,
) -> Hypotheses:
    """Decode ``batch`` sentences by arg max; returns :class:`Hypotheses` with K = 1.

    ``step``, ``state``, ``memory`` as in :mod:`attnzoo.decoding`; ``ids`` are the special ids of
    the model, ``rules`` say which tokens are forced and forbidden, and ``first`` is the first input
    of each sentence (None: the start token). The loop ends when every sentence has ended, or after
    ``max_length`` tokens.

    Raises:
      ValueError: ``max_length`` below 1.
    """
    if max_length < 1:
        raise ValueError(f"max_length={max_length}; wanted at least 1")

    def unfinished(carry):
        position, _, _, _, done, *_ = carry
        return (position < max_length) & ~jnp.all(done)

    def advance(carry):
        position, token, history, state, done, length, log_prob, tokens, weights = carry
        logits, state, attention = step(token, state, memory)
        log_probs = next_log_probs(logits, ids)
        log_probs = rules.apply(log_probs, position, history, max_length, ids)
        token = jnp.where(done, ids.pad, argmax(log_probs))
        gained = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        log_prob = log_prob + jnp.where(done, 0.0, gained)
        row = jnp.where(done[:, None], 0.0, jnp.mean(attention, axis=1).astype(jnp.float32))
        tokens = tokens.at[:, position].set(token)
        history = None if history is None else history.at[:, position + 1].set(token)
        weights = weights.at[:, position].set(row)
        length = length + (~done).astype(jnp.int32)
        done = done | rules.ended(token, ids)
        return position + 1, token, history, state, done, length, log_prob, tokens, weights

    first = jnp.full((batch,), ids.start, jnp.int32) if first is None else first
    start = (
        jnp.int32(0),
        first,
        rules.history(batch, max_length, first),
        state,
        jnp.zeros((batch,), bool),
        jnp.zeros((batch,), jnp.int32),
        jnp.zeros((batch,), jnp.float32),
        jnp.full((batch, max_length), ids.pad, jnp.int32),
        jnp.zeros((batch, max_length, source_length), jnp.float32),
    )
    *_, lengths, log_prob, tokens, weights = jax.lax.while_loop(unfinished, advance, start)
    return Hypotheses(
        tokens[:, None], lengths[:, None], log_prob[:, None], log_prob[:, None], weights[:, None]
    )

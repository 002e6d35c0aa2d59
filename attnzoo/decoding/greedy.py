"""Greedy search: the most probable token at each step."""

import jax
import jax.numpy as jnp

from attnzoo.decoding.hypotheses import Hypotheses, next_log_probs
from attnzoo.special_tokens import BOS, EOS, PAD


def greedy_search(step, state, memory, *, batch: int, source_length: int, max_length: int):
    """Decode ``batch`` sentences by arg max; returns :class:`Hypotheses` with K = 1.

    ``step``, ``state``, ``memory`` as in :mod:`attnzoo.decoding`. The loop ends when every sentence
    has ended, or after ``max_length`` tokens.
    """

    def unfinished(carry):
        position, _, _, done, *_ = carry
        return (position < max_length) & ~jnp.all(done)

    def advance(carry):
        position, token, state, done, log_prob, tokens, weights = carry
        logits, state, attention = step(token, state, memory)
        log_probs = next_log_probs(logits)
        token = jnp.where(done, PAD, jnp.argmax(log_probs, axis=-1)).astype(jnp.int32)
        gained = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        log_prob = log_prob + jnp.where(done, 0.0, gained)
        row = jnp.where(done[:, None], 0.0, jnp.mean(attention, axis=1).astype(jnp.float32))
        tokens = tokens.at[:, position].set(token)
        weights = weights.at[:, position].set(row)
        return position + 1, token, state, done | (token == EOS), log_prob, tokens, weights

    start = (
        jnp.int32(0),
        jnp.full((batch,), BOS, jnp.int32),
        state,
        jnp.zeros((batch,), bool),
        jnp.zeros((batch,), jnp.float32),
        jnp.full((batch, max_length), PAD, jnp.int32),
        jnp.zeros((batch, max_length, source_length), jnp.float32),
    )
    *_, log_prob, tokens, weights = jax.lax.while_loop(unfinished, advance, start)
    lengths = jnp.sum(tokens != PAD, axis=1)
    return Hypotheses(
        tokens[:, None], lengths[:, None], log_prob[:, None], log_prob[:, None], weights[:, None]
    )

"""Beam search with a length penalty, as one compiled loop.

Each step expands the K running hypotheses of a sentence and keeps the 2K best candidates. Those
that end (and are among the K best) compete for K finished places; the others continue. Only back
pointers are stored; the tokens and attention of the winners are read from them at the end.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnzoo.decoding.hypotheses import (
    DEFAULT_IDS,
    Hypotheses,
    TokenIds,
    length_penalty,
    next_log_probs,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Search:
    position: Int[Array, ""]
    state: object  # leaves (B K) ...
    token: Int[Array, "B K"]
    log_prob: Float[Array, "B K"]  # of the running hypotheses
    # Finished places: score, log-probability, step of EOS and running row it came from.
    score: Float[Array, "B K"]
    final: Float[Array, "B K"]
    end: Int[Array, "B K"]
    row: Int[Array, "B K"]
    # History: tokens and parents of row k after step t; weights of the rows before selection.
    tokens: Int[Array, "L B K"]
    parents: Int[Array, "L B K"]
    weights: Float[Array, "L B K S"]


def beam_search(
    step,
    state,
    memory,
    *,
    batch: int,
    source_length: int,
    max_length: int,
    beam: int = 5,
    alpha: float = 0.6,
    ids: TokenIds = DEFAULT_IDS,
) -> Hypotheses:
    """Search the ``beam`` best outputs of ``batch`` sentences of padded length ``source_length``.

    ``step``, ``state``, ``memory`` as in :mod:`attnzoo.decoding`; ``alpha`` is the exponent of the
    length penalty (Wu et al. 2016), 0 for none; ``ids`` are the special ids of the model. The
    search of a sentence stops when no running hypothesis can beat its worst finished one. A
    sentence without a finished hypothesis returns its best running ones.

    Raises:
      ValueError: ``beam``, ``alpha`` or ``max_length`` out of range.
    """
    if beam < 1:
        raise ValueError(f"beam={beam}; wanted at least 1")
    if alpha < 0:
        raise ValueError(f"alpha={alpha}; wanted 0 or more")
    if max_length < 1:
        raise ValueError(f"max_length={max_length}; wanted at least 1")
    repeat = lambda tree: jax.tree.map(lambda x: jnp.repeat(x, beam, axis=0), tree)  # noqa: E731
    memory = repeat(memory)
    longest = length_penalty(jnp.int32(max_length), alpha)
    lowest = jnp.full((batch, beam), -jnp.inf, jnp.float32)
    zeros = jnp.zeros((batch, beam), jnp.int32)
    search = _Search(
        position=jnp.int32(0),
        state=repeat(state),
        token=jnp.full((batch, beam), ids.start, jnp.int32),
        log_prob=lowest.at[:, 0].set(0.0),  # all rows are equal at first: only one runs
        score=lowest,
        final=lowest,
        end=zeros,
        row=zeros,
        tokens=jnp.full((max_length, batch, beam), ids.pad, jnp.int32),
        parents=jnp.zeros((max_length, batch, beam), jnp.int32),
        weights=jnp.zeros((max_length, batch, beam, source_length), jnp.float32),
    )

    def undecided(search: _Search) -> Bool[Array, ""]:
        # log P only falls and the penalty is largest at the maximum length: an upper bound.
        bound = jnp.max(search.log_prob, axis=1) / longest
        return (search.position < max_length) & jnp.any(bound > jnp.min(search.score, axis=1))

    def advance(search: _Search) -> _Search:
        logits, state, attention = step(search.token.reshape(-1), search.state, memory)
        vocabulary = logits.shape[-1]
        log_probs = next_log_probs(logits, ids).reshape(batch, beam, vocabulary)
        total = (search.log_prob[:, :, None] + log_probs).reshape(batch, beam * vocabulary)
        best, index = jax.lax.top_k(total, 2 * beam)
        parent, token = index // vocabulary, (index % vocabulary).astype(jnp.int32)

        ends = token == ids.end
        among_first = jnp.arange(2 * beam)[None, :] < beam
        penalty = length_penalty(search.position + 1, alpha)
        offered = jnp.where(ends & among_first, best / penalty, -jnp.inf)
        pool = lambda old, new: jnp.concatenate([old, new], axis=1)  # noqa: E731
        score, keep = jax.lax.top_k(pool(search.score, offered), beam)
        choose = lambda old, new: jnp.take_along_axis(pool(old, new), keep, axis=1)  # noqa: E731

        log_prob, running = jax.lax.top_k(jnp.where(ends, -jnp.inf, best), beam)
        parent_running = jnp.take_along_axis(parent, running, axis=1)
        token_running = jnp.take_along_axis(token, running, axis=1)
        rows = jnp.arange(batch, dtype=jnp.int32)[:, None]
        flat = (rows * beam + parent_running).reshape(-1)
        at = search.position
        read = jnp.mean(attention, axis=1).astype(jnp.float32)
        return _Search(
            position=at + 1,
            state=jax.tree.map(lambda x: x[flat], state),
            token=token_running,
            log_prob=log_prob,
            score=score,
            final=choose(search.final, best),
            end=choose(search.end, jnp.broadcast_to(at, parent.shape)),
            row=choose(search.row, parent),
            tokens=search.tokens.at[at].set(token_running),
            parents=search.parents.at[at].set(parent_running),
            weights=search.weights.at[at].set(read.reshape(batch, beam, source_length)),
        )

    return _read_off(jax.lax.while_loop(undecided, advance, search), max_length, alpha, ids)


def _read_off(search: _Search, max_length: int, alpha: float, ids: TokenIds) -> Hypotheses:
    """Follow the back pointers of the finished hypotheses, or of the running ones without any."""
    none = jnp.all(search.score == -jnp.inf, axis=1, keepdims=True)
    running = search.log_prob / length_penalty(search.position, alpha)
    pick = lambda unfinished, finished: jnp.where(none, unfinished, finished)  # noqa: E731
    # A running hypothesis became row k at the last step; its first pointer is that row's parent.
    last = jnp.maximum(search.position - 1, 0)
    end = pick(jnp.broadcast_to(last, search.end.shape), search.end)
    row = pick(search.parents[last], search.row)
    last_token = pick(search.tokens[last], jnp.full_like(search.row, ids.end))

    def back(row, step):
        at, tokens, parents, weights = step
        inside = at <= end
        # At its last step a hypothesis is a candidate; before that, the row it became.
        token = jnp.where(at == end, last_token, jnp.take_along_axis(tokens, row, axis=1))
        source = jnp.where(at == end, row, jnp.take_along_axis(parents, row, axis=1))
        source = jnp.where(inside, source, row)
        read = jnp.take_along_axis(weights, source[:, :, None], axis=1)
        return source, (
            jnp.where(inside, token, ids.pad),
            jnp.where(inside[:, :, None], read, 0.0),
        )

    history = (
        jnp.arange(max_length, dtype=jnp.int32),
        search.tokens,
        search.parents,
        search.weights,
    )
    _, (tokens, weights) = jax.lax.scan(back, row, history, reverse=True)
    scores = pick(running, search.score)
    real = scores > -jnp.inf
    tokens = jnp.where(real[None], tokens, ids.pad)
    return Hypotheses(
        tokens=jnp.moveaxis(tokens, 0, 2),
        lengths=jnp.where(real, end + 1, 0),
        log_probs=pick(search.log_prob, search.final),
        scores=scores,
        weights=jnp.moveaxis(jnp.where(real[None, :, :, None], weights, 0.0), 0, 2),
    )

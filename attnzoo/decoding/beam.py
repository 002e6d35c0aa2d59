"""Beam search with a length penalty, as one compiled loop.

Each step expands the K running hypotheses of a sentence and keeps the (1 + E) K best candidates,
where E is the number of end tokens. Those that end (and are among the K best) compete for K
finished places; the others continue. Only back pointers are stored; the tokens and attention of the
winners are read from them at the end.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnzoo.decoding.hypotheses import (
    DEFAULT_IDS,
    Hypotheses,
    TokenIds,
    next_log_probs,
)
from attnzoo.decoding.rules import DEFAULT_RULES, Rules


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Search:
    position: Int[Array, ""]
    state: object  # leaves (B K) ...
    token: Int[Array, "B K"]
    log_prob: Float[Array, "B K"]  # of the running hypotheses
    known: Int[Array, "BK M"] | None  # their tokens, if a rule reads them
    undecided: Bool[Array, "B"]
    # Finished places: score, log-probability, last token, its step and the row it came from.
    score: Float[Array, "B K"]
    final: Float[Array, "B K"]
    last: Int[Array, "B K"]
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
    rules: Rules = DEFAULT_RULES,
    first: Int[Array, " B"] | None = None,
) -> Hypotheses:
    """Search the ``beam`` best outputs of ``batch`` sentences of padded length ``source_length``.

    ``step``, ``state``, ``memory`` as in :mod:`attnzoo.decoding`; ``alpha`` is the exponent of the
    length penalty (Wu et al. 2016), 0 for none; ``ids`` are the special ids of the model, and
    ``first`` the first input of each sentence (None: the start token). The search of a sentence
    stops when no running hypothesis can beat its worst finished one, unless
    ``rules`` say otherwise. A sentence without a finished hypothesis returns its best running ones.

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
    # Enough to go on with, even if every end token of every hypothesis is among them.
    candidates = (1 + len(rules.end_ids(ids))) * beam
    longest = rules.divisor(jnp.int32(max_length), alpha)
    lowest = jnp.full((batch, beam), -jnp.inf, jnp.float32)
    zeros = jnp.zeros((batch, beam), jnp.int32)
    first = zeros + ids.start if first is None else jnp.repeat(first[:, None], beam, axis=1)
    search = _Search(
        position=jnp.int32(0),
        state=repeat(state),
        token=first,
        log_prob=lowest.at[:, 0].set(0.0),  # all rows are equal at first: only one runs
        known=rules.history(batch * beam, max_length, first.reshape(-1)),
        undecided=jnp.ones((batch,), bool),
        score=lowest,
        final=lowest,
        last=zeros,
        end=zeros,
        row=zeros,
        tokens=jnp.full((max_length, batch, beam), ids.pad, jnp.int32),
        parents=jnp.zeros((max_length, batch, beam), jnp.int32),
        weights=jnp.zeros((max_length, batch, beam, source_length), jnp.float32),
    )

    def undecided(search: _Search) -> Bool[Array, "B"]:
        """Return whether a running hypothesis may still beat the worst finished one."""
        # log P only falls and the penalty is largest at the maximum length: an upper bound.
        divisor = longest if rules.stop == "bound" else rules.divisor(search.position, alpha)
        best = jnp.max(search.log_prob, axis=1) / divisor
        found = search.undecided & (best > jnp.min(search.score, axis=1))
        return found & jnp.any(search.score == -jnp.inf, axis=1) if rules.stop == "full" else found

    def unfinished(search: _Search) -> Bool[Array, ""]:
        return (search.position < max_length) & jnp.any(search.undecided)

    def advance(search: _Search) -> _Search:
        logits, state, attention = step(search.token.reshape(-1), search.state, memory)
        vocabulary = logits.shape[-1]
        log_probs = next_log_probs(logits, ids)
        log_probs = rules.apply(log_probs, search.position, search.known, max_length, ids)
        log_probs = log_probs.reshape(batch, beam, vocabulary)
        total = (search.log_prob[:, :, None] + log_probs).reshape(batch, beam * vocabulary)
        best, index = jax.lax.top_k(total, candidates)
        parent, token = index // vocabulary, (index % vocabulary).astype(jnp.int32)

        ends = rules.ended(token, ids)
        if rules.penalty == "power":
            ends |= search.position + 1 == max_length
        among_first = jnp.arange(candidates)[None, :] < beam
        penalty = rules.divisor(search.position + 1, alpha)
        offered = ends & among_first & search.undecided[:, None]
        offered = jnp.where(offered, best / penalty, -jnp.inf)
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
        known = search.known
        if known is not None:
            known = known[flat].at[:, at + 1].set(token_running.reshape(-1))
        found = _Search(
            position=at + 1,
            state=jax.tree.map(lambda x: x[flat], state),
            token=token_running,
            log_prob=log_prob,
            known=known,
            undecided=search.undecided,
            score=score,
            final=choose(search.final, best),
            last=choose(search.last, token),
            end=choose(search.end, jnp.broadcast_to(at, parent.shape)),
            row=choose(search.row, parent),
            tokens=search.tokens.at[at].set(token_running),
            parents=search.parents.at[at].set(parent_running),
            weights=search.weights.at[at].set(read.reshape(batch, beam, source_length)),
        )
        return dataclasses.replace(found, undecided=undecided(found))

    found = jax.lax.while_loop(unfinished, advance, search)
    return _read_off(found, max_length, found.log_prob / rules.divisor(found.position, alpha), ids)


def _read_off(
    search: _Search, max_length: int, running: Float[Array, "B K"], ids: TokenIds
) -> Hypotheses:
    """Follow the back pointers of the finished hypotheses, or of the running ones without any."""
    none = jnp.all(search.score == -jnp.inf, axis=1, keepdims=True)
    pick = lambda unfinished, finished: jnp.where(none, unfinished, finished)  # noqa: E731
    # A running hypothesis became row k at the last step; its first pointer is that row's parent.
    last = jnp.maximum(search.position - 1, 0)
    end = pick(jnp.broadcast_to(last, search.end.shape), search.end)
    row = pick(search.parents[last], search.row)
    last_token = pick(search.tokens[last], search.last)

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

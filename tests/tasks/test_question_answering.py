"""Answers of a reader whose spans are known, SQuAD's scores counted by hand, and real files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import cli
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.question_answering import QuestionsConfig
from attnzoo.data.questions import Question, load_questions, read_predictions
from attnzoo.data.text_tokenizers import build_tokenizer
from attnzoo.errors import UserError
from attnzoo.tasks.answer_scores import (
    answer_length,
    character_f1,
    exact_match,
    normalised,
    question_word,
    score_predictions,
    word_f1,
)
from attnzoo.tasks.prediction import PredictSettings
from attnzoo.tasks.question_answering import QuestionAnsweringTask, best_spans
from tests.pretrained.tiny_folders import tiny_folder


def test_texts_are_compared_as_by_squad() -> None:
    assert normalised("The  Cat's, an\tapple!") == "cats apple"
    assert normalised("Theatre (a) an«the»") == "theatre « »"
    assert exact_match("the U.S. Army", "US army") == 1
    # Two of three predicted words are right, and both of the answer: 2 * 2/3 * 1 / (5/3).
    np.testing.assert_allclose(word_f1("the red old boat", "a red boat"), 0.8)
    # A word counts as often as it stands in both.
    np.testing.assert_allclose(word_f1("to be or not to be", "to be to"), 2 * (3 / 6) * 1 / 1.5)
    assert (word_f1("", ""), word_f1("", "x"), word_f1("the", "a")) == (1, 0, 1)
    assert word_f1("東京都", "東京") == 0
    np.testing.assert_allclose(character_f1("東京都", "東京"), 2 * (2 / 3) / (5 / 3))


ASKED = [
    Question("q1", "Where?", "d", (("Rome", 0), ("in Rome", 0))),
    Question("q2", "What?", "d", (("red boat", 0),)),
    Question("q3", "Who?", "d"),
    Question("q4", "When?", "d"),
]
PREDICTED = {"q1": "Rome.", "q2": "the boat", "q3": "", "q4": "Oslo"}


def test_scores_are_those_of_the_scripts_counted_by_hand() -> None:
    scores = score_predictions(ASKED, PREDICTED)
    assert (scores["exact"], scores["has_answer_exact"], scores["no_answer_exact"]) == (50, 50, 50)
    np.testing.assert_allclose(scores["f1"], 100 * (1 + 2 / 3 + 1) / 4)
    np.testing.assert_allclose(scores["has_answer_f1"], 100 * (1 + 2 / 3) / 2)
    assert (scores["total"], scores["no_answer_total"]) == (4, 2)
    # Above 1 the prediction counts as empty: q3 and q4 are then right.
    odds = {"q1": -3.0, "q2": 1.0, "q3": 5.0, "q4": 2.0}
    scores = score_predictions(ASKED, PREDICTED, odds)
    assert scores["exact"] == 75
    np.testing.assert_allclose(scores["f1"], 100 * (1 + 2 / 3 + 1 + 1) / 4)
    # From 2 (all empty): +1 with q1, then + 0 or 2/3 with q2, - 1 with q4, + 0 with q3.
    assert (scores["best_exact"], scores["best_exact_threshold"]) == (75, -3.0)
    np.testing.assert_allclose(scores["best_f1"], 100 * (3 + 2 / 3) / 4)
    assert scores["best_f1_threshold"] == 1.0
    # As in version 1.1, what was not answered is wrong.
    assert score_predictions(ASKED[:2], {"q2": "red boat"})["exact"] == 50


@pytest.mark.parametrize(
    ("paths", "count"),
    [
        (["xquad/xquad.en.json.gz"], 1190),
        (["xquad/xquad.de.json.gz", "xquad/xquad.zh.json.gz"], 2380),
        (["jaquad/jaquad.tar.xz/jaquad_dev_*.json"], 2072),
    ],
)
def test_known_answers_score_100_on_real_files(
    paths: list[str], count: int, shared: Path, tmp_path: Path
) -> None:
    files = [shared / "data" / path for path in paths]
    items: list[Question] = []
    for file in files:  # XQuAD's languages have the same ids
        items += load_questions(QuestionsConfig(test=(file,))).test.items
    items = [dataclasses.replace(one, id=str(i)) for i, one in enumerate(items)]
    assert len(items) == count
    assert all(one.located for one in items)
    oracle = {one.id: f" The {one.answers[-1][0]}." for one in items}
    assert {score_predictions(items, oracle)[name] for name in ("exact", "f1")} == {100}
    # One question in four has no prediction, one in four a wrong word more: n words become n + 1.
    f1 = 0.0
    for i, one in enumerate(items):
        words = len(normalised(one.answers[0][0]).split())
        f1 += [0, 1, 2 * words / (2 * words + 1), 1][i % 4]
        oracle[one.id] += " zzz" * (i % 4 == 2)
        if i % 4 == 0:
            del oracle[one.id]
    scores = score_predictions(items, oracle)
    right = sum(i % 4 in (1, 3) for i in range(count))
    np.testing.assert_allclose(scores["exact"], 100 * right / count)
    np.testing.assert_allclose(scores["f1"], 100 * f1 / count)


def test_groups_have_names() -> None:
    one = Question("x", "In welchem Jahr?", "d", (("a b c", 0),))
    assert (question_word(one), answer_length(one)) == ("welchem", "2-3 words")
    one = Question("x", "首都はどこですか?", "d", (("東京都", 0),))
    assert (question_word(one), answer_length(one)) == ("どこ", "2-3 characters")
    assert answer_length(ASKED[2]) == "no answer"


def test_the_best_span_is_the_best_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 11, 2)).astype(np.float32)
    inside = rng.random((5, 11)) < 0.7
    inside[:, 0], inside[4, 1:] = True, False
    start, end, score, lse, null = map(
        np.asarray, best_spans(jnp.asarray(logits), jnp.asarray(inside), 3)
    )
    for b in range(5):
        pairs = {
            (i, j): float(logits[b, i, 0]) + float(logits[b, j, 1])
            for i in range(1, 11)
            for j in range(i, min(i + 3, 11))
            if inside[b, i] and inside[b, j]
        }
        np.testing.assert_allclose(null[b], logits[b, 0].sum(), rtol=1e-5)
        if not pairs:
            assert score[b] == -np.inf
            continue
        best = max(pairs, key=pairs.__getitem__)
        assert (start[b], end[b]) == best
        np.testing.assert_allclose(score[b], pairs[best], rtol=1e-5)
        np.testing.assert_allclose(lse[b], np.log(np.exp([*pairs.values()]).sum()), rtol=1e-5)


class Brackets(nnx.Module):
    """A reader that finds what stands in brackets, surely; else it prefers no answer a little."""

    def __init__(self, opening: int, closing: int):
        self.opening, self.closing = opening, closing

    def __call__(self, tokens: Any, *, segments: Any, valid: Any, rngs: Any = None, capture=False):
        starts = jnp.roll(tokens == self.opening, 1, axis=1)
        ends = jnp.roll(tokens == self.closing, -1, axis=1)
        logits = 9 * jnp.stack([starts, ends], axis=-1).astype(jnp.float32)
        logits = logits.at[:, 0].set(2.0)
        maps = {"encoder/0/self": jnp.ones((*tokens.shape[:1], 1, *tokens.shape[1:] * 2)) / 99}
        return (logits, maps) if capture else logits


def task_on(home: Path, squad: Any, **settings: Any) -> tuple[QuestionAnsweringTask, Any]:
    (home / "squad.json").write_text(json.dumps(squad))
    lines = [
        "name: qa",
        "task: {kind: question_answering, stride: 9, max_question: 5, no_answer: true}",
        f"data: {{kind: questions, validation: [{home / 'squad.json'}]}}",
        "tokenizer: char",
        "model: {kind: bidaf, hidden: 4}",
        "training: {steps: 1, batch_size: 3, max_length: 29}",
    ]
    (home / "qa.yaml").write_text("\n".join(lines))
    config = load(ExperimentConfig, home / "qa.yaml", [f"{k}={v}" for k, v in settings.items()])
    text = "".join(p["context"] for a in squad["data"] for p in a["paragraphs"]) + "who?"
    tokenizer = build_tokenizer(config.tokenizer, [text])
    reader = Brackets(*(tokenizer.encode_ids(sign)[0] for sign in "[]"))
    return QuestionAnsweringTask(config, tokenizer), reader


DOCUMENTS = ["a cat sat in [the hall] and slept on and on", "[it] was late", "nothing of this kind"]
SQUAD = {
    "data": [
        {"paragraphs": [{"context": text, "qas": [{"id": f"q{i}", "question": "who?",
         "answers": [{"text": a, "answer_start": text.index(a)}] if a else []}]}]}
        for i, (text, a) in enumerate(zip(DOCUMENTS, ["the hall", "it", ""], strict=True))
    ]
}  # fmt: skip


def test_a_reader_that_knows_scores_100(tmp_path: Path) -> None:
    task, reader = task_on(tmp_path, SQUAD)
    part, plan = task.scored("validation")
    assert plan.steps_per_epoch > 1  # several windows a document
    found = task.evaluate(reader, part, plan, PredictSettings())
    assert (found.scores["exact"], found.scores["f1"], found.scores["total"]) == (100, 100, 3)
    assert found.scores["no_answer_exact"] == 100
    (tmp_path / "p.json").write_text(found.files["predictions.json"])
    wanted = {"q0": "the hall", "q1": "it", "q2": ""}
    assert read_predictions(tmp_path / "p.json") == wanted
    odds = json.loads(found.files["null_odds.json"])
    np.testing.assert_allclose([odds["q0"], odds["q2"]], [4 - 18, 4], rtol=1e-5)
    assert any(line.strip().startswith("who") for line in found.lines)
    # With a threshold above the odds every question has an answer.
    task, _ = task_on(tmp_path, SQUAD, **{"task.threshold": 5})
    found = task.evaluate(reader, part, plan, PredictSettings())
    assert found.scores["no_answer_exact"] == 0
    assert (found.scores["best_exact"], found.scores["has_answer_exact"]) == (100, 100)


def test_predictions_come_for_every_line_and_question(tmp_path: Path) -> None:
    task, reader = task_on(tmp_path, SQUAD)
    lines = tmp_path / "lines.txt"
    first = b"who?\tfar [away we] go\nno tab\nwho?\t \n\xff\twho\nwho?\tnone\n"
    lines.write_bytes(first + b"who?\tso [x]\n" * 300)
    found = list(task.predict(reader, [lines, tmp_path / "squad.json"], PredictSettings()))
    assert [one.text for one in found[:6]] == ["away we", "", "", "", "", "x"]
    assert [one.problem for one in found[1:4]] == [
        "no tab; wanted a question, a tab, a document",
        "an empty document",
        "not UTF-8",
    ]
    assert found[4].problem is None
    assert found[4].record["no_answer"] is True
    assert [one.text for one in found[-3:]] == ["the hall", "it", ""]
    assert len(found) == 308
    record = found[0].record
    assert "far [away we] go"[record["start"] : record["end"]] == "away we"
    assert record["probability"] > 0.99
    for one in (found[0], found[-3], found[4]):
        assert one.figure is not None
        one.figure()
    (tmp_path / "bad.json").write_text('{"data": [{"paragraphs": [{"context": "", "qas": [{}]}]}]}')
    (bad,) = task.predict(reader, [tmp_path / "bad.json"], PredictSettings())
    assert bad.problem == "no question"
    assert bad.name.endswith("bad.json: article 1, paragraph 1, question 1")


def test_a_folder_of_transformers_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_folder("bert", tmp_path / "bert", architectures=["BertForQuestionAnswering"])
    lines = tmp_path / "lines.tsv"
    lines.write_text("who?\tthe cat sat on a mat, the cat sat on a mat\n")
    arguments = ["predict", str(folder), str(lines), "--json", "--figures", str(tmp_path / "f")]
    assert cli.main([*arguments, "--max-length", "12"]) == 0
    record = json.loads(capsys.readouterr().out)
    document = lines.read_text().partition("\t")[2]
    assert record["answer"]
    assert document[record["start"] : record["end"]] == record["answer"]
    assert (tmp_path / "f" / "lines-1.png").exists()
    assert cli.main([*arguments, "--max-length", "999"]) == 2
    assert "--max-length 999: the model reads at most" in capsys.readouterr().err


def test_what_the_task_does_not_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="label_smoothing: question_answering has none"):
        task_on(tmp_path, SQUAD, **{"training.label_smoothing": 0.1})
    task, _ = task_on(tmp_path, SQUAD, **{"task.no_answer": "false"})
    data = task.read(task.config)
    with pytest.raises(UserError, match="no training question has an answer"):
        task.take(dataclasses.replace(data, train=data.test))

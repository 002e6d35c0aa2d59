"""Summaries: scores by hand, the coverage loss, and a run that copies names it has never seen."""

import dataclasses
import gzip
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.cli import evaluate, predict
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.errors import UserError
from attnzoo.tasks.rouge import copying, fragments, score_summaries, sentences_of, words_of
from attnzoo.tasks.summarisation import SummarisationTask, coverage_loss
from attnzoo.training.loop import train

CONFIG = """
name: reports
task: {kind: summarisation, coverage_weight: 1, coverage_from: 140}
data: {kind: reports, min_sentences: 1, max_sentences: 2, train: 600, validation: 20, test: 30}
tokenizer: {kind: word, max_size: 60}
shared_vocabulary: true
model: {kind: pointer_generator, hidden: 32, embedding: 16, source_words: 12}
training: {steps: 150, batch_size: 24, max_length: 25, buckets: [21], learning_rate: 1e-2,
  evaluate_every: 150, tensorboard: false}
decoding: {beam: 2, max_length: 12}
"""


def test_the_best_reference_counts_and_the_baselines_are_sentences_of_the_source() -> None:
    """By hand: 2 of 3 and of 4 words are 2 * 2 / 7; the second reference has all words."""
    source = "A cat sat there.\nDogs run in the rain."
    found = score_summaries(
        ["cats sat down", "dogs run"], [source] * 2, [["a cat sat here"], ["x", "dog runs"]]
    )
    assert found["rouge1"] == pytest.approx(50 * (4 / 7 + 1))  # cats and run are stemmed
    assert found["rouge2"] == pytest.approx(50 * (2 / 5 + 1))
    assert found["rougeL"] == pytest.approx(50 * (4 / 7 + 1))
    lead, oracle, every = (found["baselines"][name] for name in ("lead", "oracle", "random"))
    assert lead["rouge1"] == pytest.approx(50 * 6 / 8)
    assert oracle["rouge1"] == pytest.approx(50 * (6 / 8 + 4 / 7))
    assert every["rouge1"] == pytest.approx(50 * (6 / 8 / 2 + 4 / 7 / 2))
    assert found["rouge_signature"].startswith("rouge-score:")


def test_japanese_is_scored_by_characters() -> None:
    assert words_of("東京 is Great") == ["東", "京", "is", "great"]
    found = score_summaries(["東京"], ["東京だ。大阪だ。"], [["東北"]], "ja")
    assert found["rouge1"] == pytest.approx(50)
    assert sentences_of("東京だ。大阪だ。") == ["東京だ。", "大阪だ。"]


def test_fragments_and_repetition_by_hand() -> None:
    summary, source = "a b c x b c".split(), "b c d a b".split()
    assert fragments(summary, source) == [["a", "b"], ["c"], ["b", "c"]]
    found = copying("a b c x b c", "b c d a b")
    assert found["coverage"] == pytest.approx(100 * 5 / 6)
    assert found["density"] == pytest.approx((4 + 1 + 4) / 6)
    assert found["copied_2"] == pytest.approx(100 * 3 / 5)
    assert found["repeated_1"] == pytest.approx(100 * 2 / 6)
    assert found["repeated_2"] == pytest.approx(100 * 1 / 5)
    assert copying("", "a b")["coverage"] == 0


def test_sentences_end_at_marks_unless_there_are_lines() -> None:
    assert sentences_of("We saw e.g. this. It ran! 3 dogs.") == [
        "We saw e.g. this.",
        "It ran!",
        "3 dogs.",
    ]
    assert sentences_of("We saw. It\nran.") == ["We saw. It", "ran."]


def test_the_coverage_loss_by_hand() -> None:
    """Weights (.7 .2 .1), (.6 .3 .1), (.1 .1 .8) cost 0, .9 and .4."""
    weights = jnp.asarray([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])[None, None]
    both = jnp.concatenate([weights, weights])
    real = jnp.asarray([[True, True, True], [True, True, False]])
    np.testing.assert_allclose(coverage_loss(both, real), [1.3, 0.9], rtol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("summaries")
    (home / "config.yaml").write_text(CONFIG)
    config = load(ExperimentConfig, home / "config.yaml")
    train(dataclasses.replace(config, directory=home / "run"))
    return home / "run"


def test_the_coverage_loss_counts_from_its_step(run: Path, tmp_path: Path) -> None:
    config = load(ExperimentConfig, run / "config.yaml")
    task = SummarisationTask.create(config, tmp_path, resume=False)
    assert isinstance(task, SummarisationTask)
    assert task.train is not None
    model = task.model(nnx.Rngs(0))
    batch = {k: jnp.asarray(x) for k, x in task.inputs(task.train.batch(140)).items()}
    with_loss, sums = task.loss(model, batch, rngs=nnx.Rngs(0))
    before = {**batch, "coverage": task.train.batch(139)["coverage"]}
    without, _ = task.loss(model, before, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(with_loss - without, sums["coverage"] / sums["count"], rtol=1e-4)
    assert sums["coverage"] > 0
    assert task.scores({k: float(v) for k, v in sums.items()})["coverage_loss"] > 0


def test_names_that_were_never_seen_are_copied(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run)]) == 0
    assert "lead sentence" in capsys.readouterr().out
    scores = json.loads((run / "test.scores.json").read_text())
    assert scores["exact_match"] >= 0.95
    assert scores["baselines"]["lead"]["rouge1"] < scores["rouge1"]
    summaries = (run / "test.hypotheses.txt").read_text().splitlines()
    assert len(summaries) == 30
    assert "<unk>" not in " ".join(summaries)


def test_every_line_has_an_answer_and_says_where_its_words_come_from(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "at last Qwertyu sold the lamp of Asdf ."
    (tmp_path / "a.txt").write_bytes(f"{text}\n\n".encode() + b"\xff\n")
    lines = [json.dumps({"source": text.split("\n")}), '{"other": 1}', json.dumps({"source": text})]
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    inputs = [str(tmp_path / name) for name in ("a.txt", "b.jsonl.gz")]
    figures = tmp_path / "figures"
    assert predict.main([str(run), *inputs, "--json", "--figures", str(figures)]) == 1
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [one["summary"] for one in records] == [
        *("Qwertyu sells the lamp of Asdf .", "", ""),
        *("Qwertyu sells the lamp of Asdf .", "", "Qwertyu sells the lamp of Asdf ."),
    ]
    words = {word["word"]: word for word in records[0]["words"]}
    assert words["Asdf"]["source"] == "Asdf"
    assert words["Asdf"]["p_gen"] < 0.5
    assert words["sells"]["p_gen"] > 0.5
    for name, why in (("a.txt:2", "empty"), ("a.txt:3", "encoding"), ("gz:2", "'source'")):
        assert any(name in line and why in line for line in err.splitlines())
    assert len(list(figures.iterdir())) == 3


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rouge_score", None)
    with pytest.raises(UserError, match=r"attnzoo\[summarisation\]"):
        score_summaries(["a"], ["a"], [["a"]])

"""Speech recognition: made words that are learnt in seconds, their times, and the commands."""

import json
from pathlib import Path

import pytest

from attnzoo import cli
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.tasks.speech import report
from attnzoo.training.loop import train
from tests.spoken import RATE, TONES, tone, write_recordings, write_wave

SOURCES = {
    "bahdanau": "kind: sound_conv, recurrent: 1",
    "luong": "kind: sound_pyramid, halvings: 1",
    "transformer": "kind: sound_conv",
}
HEADS = "{kind: multi_head, num_heads: 2}"
MODELS = {
    "bahdanau": "attention: {kind: location_aware, kernel: 15}, hidden: 32, embedding: 8, "
    "maxout: 16, initial_state: zero",
    "luong": "attention: additive, hidden: 24, embedding: 8, layers: 1",
    "transformer": f"attention: {HEADS}, cross_attention: {HEADS}, dim: 32, hidden: 32, "
    "encoder_layers: 1, decoder_layers: 1, max_length: 64",
}


def experiment(home: Path, model: str, steps: int, guided: float = 0.0) -> ExperimentConfig:
    write_recordings(home / "recordings")
    lines = [
        "name: tones",
        f"task: {{kind: speech, guided: {guided}}}",
        f"data: {{kind: spliced, recordings: {home / 'recordings'}, held_out: 1, min_words: 2, "
        "max_words: 3, test_words: [2, 3], train: 150, validation: 12, test: 12}",
        f"model: {{kind: {model}, {MODELS[model]}, source: {{{SOURCES[model]}, rate: {RATE}, "
        "mels: 16, dim: 32}}",
        f"training: {{steps: {steps}, batch_size: 25, learning_rate: 0.006, "
        f"evaluate_every: {steps}, "
        "tensorboard: false, figures_every: 1}",
        "decoding: {beam: 1, max_length: 7}",
        f"directory: {home / 'run'}",
    ]
    (home / "tones.yaml").write_text("\n".join(lines))
    return load(ExperimentConfig, home / "tones.yaml")


def test_tones_are_learnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Words and their times, by every command; a broken sound is named and loses no other."""
    run = tmp_path / "run"
    train(experiment(tmp_path, "bahdanau", 190, guided=1.0))
    assert list(run.rglob("*alignment*.png"))
    assert cli.main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    scores = json.loads((run / "test.scores.json").read_text())
    assert scores["wer"] <= 0.05, said
    assert scores["cer"] <= 0.05, said
    assert scores["boundaries_within_50_ms"] >= 0.9, said
    assert "word error rate" in said
    assert "boundaries of words" in said
    assert len((run / "test.hypotheses.txt").read_text().splitlines()) == 12

    import numpy as np

    parts = [tone(TONES[word], 0.15) for word in ("high", "low", "mid")]
    good = write_wave(tmp_path / "good.wav", np.concatenate(parts))
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"")
    short = write_wave(tmp_path / "short.wav", parts[0][:5])
    figures = tmp_path / "figures"
    inputs = [str(path) for path in (good, bad, short, good)]
    assert cli.main(["predict", str(run), *inputs, "--json", "--figures", str(figures)]) == 1
    said, told = capsys.readouterr()
    rows = [json.loads(line) for line in said.splitlines()]
    assert [row.get("text") for row in rows] == ["high low mid", None, None, "high low mid"]
    assert f"warning: {bad}: an empty file" in told
    assert f"{short}: shorter than" in told
    assert [word["word"] for word in rows[0]["words"]] == ["high", "low", "mid"]
    for number, word in enumerate(rows[0]["words"]):
        assert abs(word["start"] - 0.15 * number) <= 0.05
        assert abs(word["end"] - 0.15 * (number + 1)) <= 0.05
    assert {path.name for path in figures.iterdir()} == {"good.png", "good-2.png"}


@pytest.mark.parametrize("model", ["luong", "transformer"])
def test_every_architecture_hears(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An untrained model is wrong about nearly every word."""
    config = experiment(tmp_path, model, 100)
    train(config)
    assert cli.main(["evaluate", str(config.run_directory), "--split", "validation"]) == 0
    scores = json.loads((config.run_directory / "validation.scores.json").read_text())
    assert scores["wer"] <= 0.6, capsys.readouterr().out


def test_scores_by_hand() -> None:
    """Two texts with 2 errors in 10 words, and cuts around a silence from 1 to 1.1 s."""
    cuts = [(at, 1.0, 1.1) for at in (0.9, 0.96, 1.09, 1.14)]
    found = report(["a b", "a b c d e f g h"], ["a  b c", "a b c d e f g"], cuts)
    assert found.scores["wer"] == 0.2
    assert found.scores["sentence_error"] == 1
    assert found.scores["cer"] == 4 / 18
    assert found.scores["boundaries_within_50_ms"] == 3 / 4
    assert found.scores["boundaries_within_50_ms_of_middle"] == 1 / 4
    assert found.scores["boundary_median_ms"] == pytest.approx(90)
    assert [(row["words"], row["wer"]) for row in found.scores["by_length"]] == [
        ("1-7", 0.5),
        ("8-15", 0.125),
    ]

"""A trained word aligner behind the interface of aligners: it learns, and answers every line."""

from pathlib import Path

import numpy as np
import pytest

from attnzoo import cli
from attnzoo.alignment.hmm import HmmAligner
from attnzoo.alignment.vote import VoteAligner
from attnzoo.config.alignment import LearnedConfig, VoteConfig
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.data.corpus import load_part
from attnzoo.tasks import align_words
from attnzoo.training.aligners import build_aligner
from attnzoo.training.loop import train

CONFIG = """
name: learned-run
directory: DIRECTORY
task: {kind: word_alignment, teacher: corpus}
data: {kind: synthetic, task: reverse, train: 200, validation: 20, test: 20, max_length: 7}
tokenizer: word
model: {kind: word_aligner, attention: {kind: multi_head, num_heads: 2}, dim: 16, hidden: 16,
  layers: 1, dropout: 0.0}
training: {steps: 120, batch_size: 32, max_length: 15, buckets: [9], learning_rate: 1e-2,
  evaluate_every: 120, tensorboard: false}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned to reverse."""
    home = tmp_path_factory.mktemp("learned")
    (home / "run.yaml").write_text(CONFIG.replace("DIRECTORY", str(home / "run")))
    train(load(ExperimentConfig, home / "run.yaml"))
    return home / "run"


def test_it_has_learned_to_reverse(run: Path) -> None:
    config = load(ExperimentConfig, run / "config.yaml")
    corpus = load_part(config.data, "test")
    sides = [[line.split() for line in side] for side in (corpus.source, corpus.target)]
    found = list(build_aligner(LearnedConfig(run=run)).align(*sides))
    right = [
        set(pair.links) == {(len(pair.source) - 1 - j, j) for j in range(len(pair.target))}
        for pair in found
    ]
    assert np.mean(right) > 0.7
    for pair in found:
        assert pair.forward is not None
        assert pair.backward is not None
        assert (pair.forward.sum(axis=1) < 1 + 1e-5).all()
        assert pair.backward.shape == pair.forward.T.shape


def test_every_pair_has_its_place(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of all lengths, empty and unknown words, in windows: as each of them alone."""
    aligner = build_aligner(LearnedConfig(run=run, rule="forward"))
    random = np.random.default_rng(0)
    words = lambda: [str(n) for n in random.integers(0, 9, random.integers(0, 9))]  # noqa: E731
    sources, targets = [words() for _ in range(7)], [words() for _ in range(7)]
    sources += [[], ["1", "never", "2"], ["1"] * 600]
    targets += [["1"], ["2", "1"], ["1"]]
    monkeypatch.setattr(align_words, "WINDOW", 4)
    together = list(aligner.align(sources, targets))
    assert [pair.source for pair in together] == sources
    for pair in together:
        (alone,) = aligner.align([pair.source], [pair.target])
        assert pair.forward is not None
        assert pair.forward.shape == (len(pair.target), len(pair.source))
        np.testing.assert_allclose(pair.forward, alone.forward, atol=1e-5)
        np.testing.assert_allclose(pair.backward, alone.backward, atol=1e-5)
    assert not together[7].links
    assert [pair.unread is not None for pair in together] == [False] * 9 + [True]
    vote = VoteAligner(VoteConfig(), [HmmAligner(), aligner])
    voted = list(vote.align(sources, targets))[9]  # too long for either
    assert voted.unread is not None


def test_align_of_a_run_says_which_aligner_it_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["align", str(run)]) == 2
    assert f"wanted --aligner learned run={run} --pairs FILE" in capsys.readouterr().err

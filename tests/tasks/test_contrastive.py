"""The contrastive task: losses and recalls by hand, and the commands on a run."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import attnzoo
from attnzoo import cli
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.data.scenes import load_scenes
from attnzoo.errors import UserError
from attnzoo.tasks.contrastive import ContrastiveTask, at_random, recalls
from attnzoo.training.loop import train

HEADS = "{kind: multi_head, num_heads: 2}"
LINES = [
    "name: towers",
    "task: {kind: contrastive, loss: softmax}",
    "data: {kind: scenes, side: 4, cell: 4, train: 400, validation: 40, test: 40, decoys: 0, "
    "noise: 0}",
    f"model: {{kind: two_towers, dim: 16, image: {{attention: {HEADS}, image_size: 16, patch: 4, "
    f"dim: 32, hidden: 32, layers: 1}}, text: {{attention: {HEADS}, dim: 32, hidden: 32, "
    "layers: 1, max_length: 16}}",
    "training: {steps: 150, batch_size: 20, evaluate_every: 150, max_length: 14, buckets: [14], "
    "learning_rate: 5e-3, tensorboard: false}",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on small scenes without noise."""
    home = tmp_path_factory.mktemp("contrastive")
    (home / "towers.yaml").write_text("\n".join([*LINES, f"directory: {home / 'run'}"]))
    train(load(ExperimentConfig, home / "towers.yaml"))
    return home / "run"


def test_recalls_by_hand() -> None:
    own = np.asarray([[1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 1, 1, 0]], bool)
    cosines = np.asarray([[0.1, 0.9, 0.2, 0.3, 0, 0, 0], [0.5, 0.4, 0.5, 0, 0, 0.6, 0.1]])
    assert recalls(cosines, own) == {"recall1": 0.5, "recall5": 1.0}
    assert recalls(np.zeros_like(cosines), own) == {"recall1": 0.0, "recall5": 0.5}
    orders = [set(order[:5]) for order in itertools.permutations(range(7))]
    hit = [np.mean([bool(set(np.flatnonzero(row)) & order) for order in orders]) for row in own]
    np.testing.assert_allclose(at_random(own), [5 / 14, np.mean(hit)])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_losses_by_hand(loss: str, tmp_path: Path) -> None:
    """A padding row counts nothing, and two captions of one picture are no negatives."""
    lines = [line.replace("loss: softmax", f"loss: {loss}") for line in LINES]
    lines[3] = lines[3].replace("dim: 16,", "dim: 16, logit_bias: -2,", 1)
    config = load(ExperimentConfig, None, [line.replace(": ", "=", 1) for line in lines])
    task = ContrastiveTask.create(config, tmp_path, resume=False)
    model: Any = task.build_model()
    batch = dict(task.inputs(task.train.batch(0)))
    batch = {name: x[:5].copy() for name, x in batch.items()}
    batch["source"][3], batch["picture"][3] = batch["source"][1], batch["picture"][1]
    batch["source"][4] = batch["target"][4] = 0
    value, sums = nnx.jit(lambda m: task.loss(m, batch))(model)
    target = batch["target"]
    logits = model(task.source(batch), jnp.asarray(target), valid=jnp.asarray(target != 0))
    z = np.asarray(logits, np.float64)[:4, :4]
    same = np.zeros((4, 4), bool)
    same[1, 3] = same[3, 1] = True
    if loss == "sigmoid":
        signs = 2 * np.eye(4) - 1
        wanted = np.where(same, 0, np.log1p(np.exp(-signs * z))).sum() / 4
    else:
        e = np.where(same, 0, np.exp(z))
        wanted = -np.log(np.diag(e) ** 2 / (e.sum(0) * e.sum(1))).mean() / 2
    np.testing.assert_allclose(value, wanted, rtol=2e-5)
    assert sums["count"] == 4
    np.testing.assert_allclose(sums["nll"], 4 * wanted, rtol=2e-5)


def test_settings_that_do_not_go_together_are_one_line(tmp_path: Path) -> None:
    lines = [line.replace(": ", "=", 1) for line in LINES]
    for change, name in (
        ("task.loss=sigmoid", "logit_bias is null"),
        ("training.max_length=15", "text.max_length=16"),
    ):
        config = load(ExperimentConfig, None, [*lines, change])
        task = ContrastiveTask.create(config, tmp_path, resume=False)
        with pytest.raises(UserError, match=f"^model: {name}") as error:
            task.build_model()
        assert "\n" not in str(error.value)


def test_it_learns_and_evaluate_writes_recalls(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    assert "recall of 40 captions by 40 pictures: at 1" in said
    assert "(at random 2.5% and 12.5%)" in said
    scores = json.loads((run / "test.scores.json").read_text())
    assert scores["to_text"]["recall5"] > 0.3
    assert scores["to_image"]["recall5"] > 0.3


@pytest.fixture
def picture(run: Path, tmp_path: Path) -> tuple[Path, str]:
    scene = load_scenes(load(ExperimentConfig, run / "config.yaml").data).test
    Image.fromarray(scene.images[0]).save(tmp_path / "scene.png")
    return tmp_path / "scene.png", scene.captions[0][0]


def test_predict_compares_a_picture_with_texts(
    run: Path, picture: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, caption = picture
    labels = [caption, "a small red circle above a small red cross"]
    assert cli.main(["predict", str(run), str(path), "--json", "--labels", *labels]) == 0
    found = json.loads(capsys.readouterr().out)
    opened: Any = attnzoo.open(run)
    task, model = opened.task, opened.model
    tokens = np.asarray([[*ids, 0, 0, 0][:14] for ids in task.encode(labels)], np.int32)
    pixels = task.source({"source": np.asarray(Image.open(path))[None]})
    logits = model(pixels, jnp.asarray(tokens), valid=jnp.asarray(tokens != 0))
    wanted = np.exp(logits[0]) / np.exp(logits[0]).sum()
    np.testing.assert_allclose(list(found["probabilities"].values()), wanted, atol=2e-4)


def test_explain_shows_where_a_text_is_seen(
    run: Path, picture: tuple[Path, str], tmp_path: Path
) -> None:
    path, caption = picture
    labels = ["--labels", caption, "a large blue square", "--target", caption]
    asked = ["--methods", "attention_mean", "cdam", "--num-samples", "1", "--out", str(tmp_path)]
    assert cli.main(["explain", str(run), str(path), *labels, *asked]) == 0
    assert list(tmp_path.glob("scene*.html"))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([], "wanted --labels TEXT TEXT"),
        (["--labels", "a cat"], "labels: 1 different; wanted two or more"),
        (["--labels", "a cat", "a cat"], "labels: 1 different"),
        (["--labels", "a cat", " "], "labels: one is an empty text"),
        (["--labels", "a cat", "a " * 20], "label 'a a a"),
    ],
)
def test_labels_that_cannot_be_compared_are_one_line(
    run: Path,
    picture: tuple[Path, str],
    labels: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["predict", str(run), str(picture[0]), *labels]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line

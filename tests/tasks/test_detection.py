"""The set loss is that of the paper, and a trained detector finds planted shapes in files."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from attnzoo.cli import evaluate, predict
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.tasks import DetectionConfig
from attnzoo.data.boxes import BoxPlan
from attnzoo.errors import UserError
from attnzoo.tasks.detection import DetectionTask
from attnzoo.tasks.prediction import PredictSettings
from attnzoo.tasks.set_loss import set_loss, weighted
from attnzoo.training.loop import train

RANDOM = np.random.default_rng(4)
Q, M, K = 5, 3, 2


def problem(softmax: bool) -> dict[str, Any]:
    """Two sets of predictions for two pictures; the second has one object, the third is padding."""
    centres = RANDOM.uniform(0.2, 0.8, (2, 3, Q, 2))
    sizes = RANDOM.uniform(0.05, 0.4, (2, 3, Q, 2))
    first = RANDOM.uniform(0, 0.6, (3, M, 2))
    corners = np.concatenate([first, first + RANDOM.uniform(0.1, 0.4, (3, M, 2))], axis=2)
    counted = np.asarray([[True, True, True], [False, True, False], [False] * 3])
    return {
        "logits": RANDOM.normal(0, 2, (2, 3, Q, K + softmax)),
        "boxes": np.concatenate([centres, sizes], axis=3),
        "corners": corners,
        "labels": np.where(counted, RANDOM.integers(0, K, (3, M)), -1),
        "counted": counted,
        "real": np.asarray([True, True, False]),
    }


def distances(box: np.ndarray, corners: np.ndarray) -> tuple[float, float]:
    """L1 distance and GIoU of a box by centre and size and one by corners."""
    x, y, w, h = box
    a, b = np.asarray([x - w / 2, y - h / 2, x + w / 2, y + h / 2]), corners
    other = np.asarray([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]])
    common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    union = w * h + other[2] * other[3] - common
    around = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return float(np.abs(box - other).sum()), float(common / union - (around - union) / around)


def by_hand(given: dict[str, Any], softmax: bool, settings: Any) -> dict[str, float]:
    """The same sums in float64, with every assignment tried."""
    sums = dict.fromkeys(("class", "class_weight", "l1", "giou", "boxes"), 0.0)
    for layer, picture in itertools.product(range(2), range(3)):
        if not given["real"][picture]:
            continue
        logits, boxes = given["logits"][layer, picture], given["boxes"][layer, picture]
        own = np.flatnonzero(given["counted"][picture])
        labels, corners = given["labels"][picture][own], given["corners"][picture][own]
        chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        positive = 1 / (1 + np.exp(-logits))
        yes = -0.25 * (1 - positive) ** 2 * np.log(positive)
        no = -0.75 * positive**2 * np.log(1 - positive)

        costs = yes - no if not softmax else -chance
        pairs = {
            (q, i): (costs[q, labels[i]], *distances(boxes[q], corners[i]))
            for q, i in itertools.product(range(Q), range(len(own)))
        }
        weights = settings.class_weight, settings.box_weight, -settings.giou_weight
        price = {place: float(np.dot(weights, pair)) for place, pair in pairs.items()}
        tried = itertools.permutations(range(Q), len(own))
        _, best = min((sum(price[q, i] for i, q in enumerate(qs)), qs) for qs in tried)
        classes = np.full(Q, K)
        classes[list(best)] = labels
        for q in range(Q):
            if softmax:
                weight = settings.no_object if classes[q] == K else 1.0
                sums["class"] -= weight * np.log(chance[q, classes[q]])
                sums["class_weight"] += weight
            else:
                sums["class"] += sum(yes[q, k] if classes[q] == k else no[q, k] for k in range(K))
        for i, q in enumerate(best):
            _, l1, giou = pairs[q, i]
            sums["l1"] += l1
            sums["giou"] += 1 - giou
            sums["boxes"] += 1
            sums["class_weight"] += not softmax
    return sums


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("matching", ["device", "host"])
def test_the_loss_is_that_of_every_assignment_tried(softmax: bool, matching: Any) -> None:
    settings = DetectionConfig(matching=matching, class_weight=1.5)
    given = problem(softmax)
    arrays = {n: jnp.asarray(x.astype(np.float32) if x.dtype.kind == "f" else x.astype(
        bool if x.dtype.kind == "b" else np.int32)) for n, x in given.items()}  # fmt: skip
    run = jax.jit(lambda arrays: set_loss(**arrays, settings=settings, softmax=softmax))
    sums, found = run(arrays)
    wanted = by_hand(given, softmax, settings)
    assert set(sums) == set(wanted)
    for name, value in wanted.items():
        assert float(sums[name]) == pytest.approx(value, rel=2e-5), name
    assert (np.asarray(found) >= 0).sum() == 2 * 4
    # Sets: in another order of predictions and of objects the loss is the same.
    turned = {n: x[:, :, ::-1] for n, x in arrays.items() if n in ("logits", "boxes")}
    turned |= {n: x[:, ::-1] for n, x in arrays.items() if n in ("corners", "labels", "counted")}
    other, _ = run(arrays | turned)
    assert float(weighted(other, settings)) == pytest.approx(
        float(weighted(sums, settings)), rel=1e-5
    )


LINES = """
name: shapes
task: {kind: detection, class_weight: 2, repeats: 2, threshold: 0.3}
data: {kind: boxes, source: {kind: shapes, train: 400, validation: 24, test: 24, most: 3},
  size: [32, 40], augmentation: {flip: true}}
model: {kind: detr, attention: {kind: multi_head, num_heads: 2},
  cross_attention: {kind: multi_head, num_heads: 2}, width: 12, stages: 1, blocks: 1, dim: 24,
  hidden: 32, encoder_layers: 1, decoder_layers: 1, num_queries: 8, queries: proposals,
  prior: gaussian, scores: sigmoid, norm: pre, dropout: 0.0}
training: {steps: 360, batch_size: 16, optimizer: {kind: adamw}, learning_rate: 5.0e-3,
  schedule: {kind: cosine, warmup: 10}, evaluate_every: 360, tensorboard: false}
"""


def experiment(home: Path, *overrides: str) -> ExperimentConfig:
    (home / "a.yaml").write_text(LINES)
    return load(ExperimentConfig, home / "a.yaml", [f"directory={home / 'run'}", *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 360 steps."""
    home = tmp_path_factory.mktemp("detection")
    assert train(experiment(home)).exit_code == 0
    return home / "run"


def test_shapes_are_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(run)]) == 0
    said = capsys.readouterr().out
    scores = json.loads((run / "test.scores.json").read_text())
    # Guesses find next to nothing; the model of configs/shapes-detr.yaml reaches .99.
    assert scores["AP50"] > 0.3, said
    assert f"AP50 {scores['AP50']:.3f}" in said
    assert set(scores["classes"]) == {"circle", "square", "triangle"}
    assert scores["f1"] > 0.3


def test_files_become_boxes_and_a_broken_one_a_warning(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(ExperimentConfig, run / "config.yaml")
    data = DetectionTask.read(config).test
    paths = []
    for row in range(3):
        # Twice as large, with a margin to the right: boxes are in pixels of this picture.
        pixels = np.kron(data.pixels(row), np.ones((2, 2, 1), np.uint8))
        paths.append(str(tmp_path / f"{row}.png"))
        Image.fromarray(pixels).save(paths[-1])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    paths.insert(1, str(broken))
    arguments = [str(run), *paths, "--figures", str(tmp_path / "figures"), "--batch-size", "2"]
    assert predict.main([*arguments, "--json"]) == 1
    said = capsys.readouterr()
    records = [json.loads(line) for line in said.out.splitlines()]
    assert [record["input"] for record in records] == paths
    assert said.err.startswith(f"warning: {broken}: not an image")
    assert records[1]["problem"].startswith("not an image")
    found = [thing for i in (0, 2, 3) for thing in records[i]["objects"]]
    assert found
    assert {thing["class"] for thing in found} <= {"circle", "square", "triangle"}
    assert records[0]["width"], records[0]["height"] == (80, 64)
    near = 0
    for record, row in zip((records[0], *records[2:]), range(3)):
        for left, top, right, bottom in 2 * data.boxes[data.of(row)]:
            middle = (left + right) / 2, (top + bottom) / 2
            near += any(
                one["box"][0] < middle[0] < one["box"][2]
                and one["box"][1] < middle[1] < one["box"][3]
                for one in record["objects"]
            )
    assert near >= len(data.boxes[: data.starts[3]]) / 2
    assert len(list((tmp_path / "figures").iterdir())) == 3
    assert predict.main([str(run), paths[0]]) == 0
    line = capsys.readouterr().out
    first = records[0]["objects"][0]
    assert line.startswith(f"{first['class']} {first['score']:.2f} ")


def test_a_picture_alone_and_among_others_has_the_same_boxes(run: Path) -> None:
    config = load(ExperimentConfig, run / "config.yaml")
    task: Any = DetectionTask.open(config, run)
    model = task.build_model()
    data = DetectionTask.read(config).test
    plan = BoxPlan(data, 5, data.most(), shuffle=False)
    scores = task.evaluate(model, "test", plan, PredictSettings()).scores
    other = task.evaluate(model, "test", BoxPlan(data, 7, 9, shuffle=False), PredictSettings())
    for name in ("AP", "AR100"):
        assert scores[name] == pytest.approx(other.scores[name], abs=1e-6)


def test_more_boxes_than_queries_and_more_queries_than_cells(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"shapes train \d+: 3 boxes, more than model.num_queries=2"
    ):
        train(experiment(tmp_path, "model.num_queries=2"))
    message = r"num_queries=81: pictures of data.size=\[32, 40\] have 8 x 10 cells"
    with pytest.raises(UserError, match=message):
        train(experiment(tmp_path, "model.num_queries=81", f"directory={tmp_path / 'other'}"))


def test_weights_of_the_loss_are_the_settings() -> None:
    sums = {"class": 6.0, "class_weight": 3.0, "l1": 2.0, "giou": 8.0, "boxes": 4.0}
    given = {name: jnp.float32(value) for name, value in sums.items()}
    assert float(weighted(given, DetectionConfig())) == pytest.approx(2 + 5 * 0.5 + 2 * 2)
    task = dataclasses.replace(DetectionConfig(), class_weight=3.0, box_weight=0.0)
    assert float(weighted(given, task)) == pytest.approx(6 + 4)
    sums |= {f"right@{n / 20}": 1.0 for n in range(1, 20)} | {"objects": 4.0}
    sums |= {f"found@{n / 20}": float(20 - n) for n in range(1, 20)}
    scores = DetectionTask.scores(SimpleNamespace(settings=DetectionConfig()), sums)  # ty: ignore
    assert scores["nll"] == pytest.approx(8.5)
    assert scores["f1"] == pytest.approx(2 / (1 + 4))

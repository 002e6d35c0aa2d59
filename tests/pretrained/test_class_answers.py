"""Answers of folders of classifiers: their problem_type, and classes of one name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_folders import tiny_folder

import attnzoo
from attnzoo import cli
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.data.pictures import decode, open_picture
from attnzoo.errors import UserError
from attnzoo.tasks.class_answers import PROBLEM_TYPES, class_answer
from attnzoo.tasks.image_classification import ImageClassificationTask
from attnzoo.tasks.run_file import ImageLabels

NAMES = ("cat", "dog", "cat")
KINDS = [
    (kind, {"architectures": [name]})
    for kind, name in (
        ("bert", "BertForSequenceClassification"),
        ("roberta", "RobertaForSequenceClassification"),
        ("xlm-roberta", "XLMRobertaForSequenceClassification"),
        ("distilbert", "DistilBertForSequenceClassification"),
        ("albert", "AlbertForSequenceClassification"),
        ("vit", "ViTForImageClassification"),
        ("dinov2", "Dinov2ForImageClassification"),
    )
]


def folder_of(kind: str, home: Path, names: tuple[str, ...] = NAMES, **values: Any) -> Path:
    values = dict(KINDS)[kind] | {"id2label": {str(i): n for i, n in enumerate(names)}} | values
    return tiny_folder(kind, home, **values)


def answers(folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """The answer to one input, as JSON and in plain text."""
    home.mkdir(exist_ok=True)
    path = home / ("a.png" if (folder / "preprocessor_config.json").exists() else "texts")
    if path.suffix:
        pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    else:
        path.write_text("a cat sat .\n")
    capsys.readouterr()
    assert cli.main(["predict", str(folder), str(path), "--json"]) == 0
    assert cli.main(["predict", str(folder), str(path)]) == 0
    record, text = capsys.readouterr().out.splitlines()
    return json.loads(record), text.rpartition("\t")[2]


@pytest.mark.parametrize("kind", dict(KINDS))
def test_each_folder_of_a_classifier_has_its_problem_type(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    one = folder_of(kind, tmp_path / "one", ("score",))
    assert attnzoo.open(one).task.problem_type == "multi_label_classification"
    for given in (None, *PROBLEM_TYPES):
        (folder / "config.json").write_text(json.dumps(config | {"problem_type": given}))
        assert attnzoo.open(folder).task.problem_type == (given or PROBLEM_TYPES[0])
    for odd in ("x", 1, ["regression"]):
        (folder / "config.json").write_text(json.dumps(config | {"problem_type": odd}))
        with pytest.raises(UserError, match=r"problem_type=.* is not supported; wanted single"):
            attnzoo.open(folder)


@pytest.mark.parametrize("kind", ["roberta", "vit"])
def test_predict_answers_as_the_problem_type_says(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Softmax, sigmoids and logits of one input agree; two classes of one name are kept apart."""
    found = {}
    for number, problem in enumerate(PROBLEM_TYPES):
        folder = folder_of(kind, tmp_path / str(number), problem_type=problem)
        found[problem] = answers(folder, tmp_path / "inputs", capsys)
    single, several, numbers = (found[problem] for problem in PROBLEM_TYPES)
    values = np.asarray(list(numbers[0]["values"].values()))
    keys = ["cat (0)", "dog", "cat (2)"]
    assert [list(one[0].get("probabilities", numbers[0]["values"])) for one in found.values()] == [
        keys
    ] * 3
    shares = np.exp(values) / np.exp(values).sum()
    sigmoids = 1 / (1 + np.exp(-values))
    np.testing.assert_allclose(list(single[0]["probabilities"].values()), shares, atol=1e-4)
    np.testing.assert_allclose(list(several[0]["probabilities"].values()), sigmoids, atol=1e-4)
    assert single[1] == single[0]["class"] == keys[int(values.argmax())]
    chosen = [keys[i] for i in np.argsort(-values) if values[i] > 0]
    assert several[0]["classes"] == chosen
    assert several[1] == ", ".join(chosen)
    np.testing.assert_allclose([float(one) for one in numbers[1].split()], values, rtol=1e-5)


def test_names_stay_apart_whatever_they_are() -> None:
    for names in (NAMES, ("cat", "cat", "cat (0)"), ("", ""), ("a", "b")):
        shares = np.arange(len(names), dtype=np.float32) / 10
        _, record = class_answer(names, shares, "single_label_classification")
        np.testing.assert_allclose(list(record["probabilities"].values()), shares, atol=1e-6)
        assert record["class"] == list(record["probabilities"])[-1]


@pytest.mark.parametrize(("size", "resize"), [(8, None), (8, 11), (16, 16)])
def test_a_run_reads_pictures_as_its_shards_were_read(
    size: int, resize: int | None, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (13, 22, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = f"{{kind: shards, train: ['{tmp_path}/*.tar'], resize: {resize or 'null'}}}"
    lines = ["name=x", "task=image_classification", "training.steps=1", f"data.size={size}"]
    lines += ["data.kind=images", f"data.source={source}", "model={kind: vit, channels: 3}"]
    config = load(ExperimentConfig, None, lines)
    task = ImageClassificationTask(config, ImageLabels(NAMES, np.zeros(3), np.ones(3)))
    data = (tmp_path / "a.png").read_bytes()
    wanted = decode(data, "a.png", size=size, resize=resize, channels=3)
    np.testing.assert_array_equal(task.pixels(open_picture(data, "a.png", 3)), wanted)

"""explain over a small run on planted images: figures, pages, the table, and bad arguments."""

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attnzoo
from attnzoo import cli

CONFIG = """
name: planted
task: image_classification
data: {kind: images, source: {kind: planted, side: 2, classes: 2, decoys: 1, train: 60,
       validation: 8, test: 5}, size: 8}
model: {kind: vit, attention: {kind: multi_head, num_heads: 2}, image_size: 12, patch: 4,
        channels: 1, dim: 6, hidden: 5, layers: 2}
training: {steps: 3, batch_size: 20, learning_rate: 1e-2, tensorboard: false}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    (home / "planted.yaml").write_text(CONFIG)
    with contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["train", str(home / "planted.yaml"), "--run-dir", str(home / "run")]) == 0
    return home / "run"


def test_a_figure_an_image_and_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--images", "4", "1", "--count", "3", "--num-samples", "2", "--flow"]
    assert cli.main(["explain", str(run), *asked]) == 0
    printed = capsys.readouterr().out
    assert "3 images of test" in printed
    table = json.loads((run / "explain" / "faithfulness.json").read_text())
    assert {"cdam", "relevance", "rollout", "flow", "leave_one_out", "random"} < set(table)
    for name, line in table.items():
        assert f"  {name} " in printed
        assert set(line) == {"hit", "deletion", "insertion"}
        for mean, low, high in line.values():
            assert 0 <= low <= mean <= high <= 1
    figures = sorted(p.name for p in (run / "explain").glob("*.png"))
    assert figures == ["test-1-heads.png", "test-1.png", "test-4-heads.png", "test-4.png"]
    assert len(list((run / "explain").glob("*.svg"))) == 4
    page = (run / "explain" / "test-4.html").read_text()
    assert "test image 4, class" in page
    assert "encoder/1/self" in page


def test_an_image_file_is_scaled_to_the_runs_size(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (20, 31, 3), np.uint8)).save(tmp_path / "photo.png")
    page = tmp_path / "new" / "page.html"
    asked = ["--num-samples", "2", "--out", str(tmp_path / "out"), "--html", str(page)]
    assert cli.main(["explain", str(run), str(tmp_path / "photo.png"), *asked]) == 0
    printed = capsys.readouterr().out
    said = re.search(r"^photo.png, says ([01]) \((0\.\d\d)\)$", printed, re.MULTILINE)
    assert said is not None
    assert float(said[2]) >= 0.5  # the likelier of two
    rows = re.findall(r"^  (\w+) +(\d\.\d{3}) \d\.\d{3}$", printed, re.MULTILINE)
    assert {"relevance", "random"} < {name for name, _ in rows}
    assert [area for _, area in rows] == sorted(area for _, area in rows)
    assert (tmp_path / "out" / "photo.png").exists()
    assert "photo.png, says" in page.read_text()
    # No image of the data was asked for.
    assert "images of test" not in printed


def test_a_converted_run_reads_pictures_as_the_run_does(run: Path, tmp_path: Path) -> None:
    assert cli.main(["convert", str(run), str(tmp_path / "vit")]) == 0
    ours, theirs = attnzoo.open(run), attnzoo.open(tmp_path / "vit")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (20, 40), np.uint8))
    assert ours.picture(image).shape == (8, 8, 1)  # as in training, not image_size
    # A folder of transformers takes pictures of image_size alone.
    ours.task.data = dataclasses.replace(ours.task.data, size=12)
    np.testing.assert_array_equal(ours.picture(image), theirs.picture(image))
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(ours.task, name), getattr(theirs.task, name), rtol=1e-6)
    assert ours.task.names == theirs.task.names


def test_two_pictures_of_one_name_have_two_figures(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = [tmp_path / folder / "0.png" for folder in ("cat", "dog")]
    for file in files:
        file.parent.mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    asked = ["--methods", "rollout", "--out", str(tmp_path / "out")]
    assert cli.main(["explain", str(run), *map(str, files), *asked]) == 0
    assert "dog/0.png, says" in capsys.readouterr().out
    assert {"0.png", "0-2.png", "0.html", "0-2.html"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "5"], "--images 5: test has the images 0 to 4"),
        (["--target", "2"], "--target 2: there are 2 classes, 0 to 1 (0, 1)"),
        (["--target", "dog"], "--target dog: there are 2 classes, 0 to 1 (0, 1)"),
        (["--count", "0"], "--count 0: wanted at least 1"),
        (["--fill", "mask"], "--fill mask: wanted mean or blur for patches"),
        (["--layer", "0"], "--layer is not for images"),
        (["nowhere.png"], "nowhere.png: no such image file"),
        (["TEXT"], "not an image"),
        (["--html", "page.html"], "--html is for one INPUT; 0 were given"),
    ],
)
def test_bad_arguments(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(run / "config.yaml")
    arguments = [config if argument == "TEXT" else argument for argument in arguments]
    assert cli.main(["explain", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err

"""Captioning: pointing and scores by hand, neighbours, and the commands on a run."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from attnzoo import cli, plotting
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.data.scenes import load_scenes
from attnzoo.plotting import to_rgb
from attnzoo.tasks.caption_scores import nearest, score_captions
from attnzoo.tasks.captioning import _pixel_features, _pointed
from attnzoo.training.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on small scenes."""
    home = tmp_path_factory.mktemp("captioning")
    lines = [
        "name: scenes",
        "task: captioning",
        "data: {kind: scenes, side: 4, cell: 4, train: 20, validation: 6, test: 6, decoys: 0}",
        "model: {kind: show_attend_tell, source: {kind: image_conv, widths: [4, 8]}, hidden: 7, "
        "embedding: 5}",
        "training: {steps: 2, batch_size: 4, evaluate_every: 1, figures_every: 1, max_length: 12, "
        "tensorboard: false}",
        "decoding: {max_length: 9, beam: 2}",
        f"directory: {home / 'run'}",
    ]
    (home / "scenes.yaml").write_text("\n".join(lines))
    train(load(ExperimentConfig, home / "scenes.yaml"))
    return home / "run"


def scores_of(run: Path) -> dict[str, Any]:
    assert cli.main(["evaluate", str(run)]) == 0
    return json.loads((run / "test.scores.json").read_text())


def test_pointing_by_hand() -> None:
    cells = np.zeros((1, 4, 9), bool)
    cells[0, 0, 4] = cells[0, 1, [0, 1]] = cells[0, 2, 8] = True
    weights = np.zeros((1, 4, 9), np.float32)
    weights[0, np.arange(4), [4, 1, 7, 3]] = 0.9
    right, known = _pointed(jnp.asarray(weights), jnp.asarray(cells), (3, 3))
    assert (right & known).tolist() == [[True, True, False, False]]
    assert known.tolist() == [[True, True, True, False]]
    # A model whose places are finer: (1, 5) of 6 x 6 lies in (0, 2) of 3 x 3.
    fine = np.zeros((1, 1, 36), np.float32)
    fine[0, 0, 6 + 5] = 1
    corner = np.zeros((1, 1, 9), bool)
    corner[0, 0, 2] = True
    assert _pointed(jnp.asarray(fine), jnp.asarray(corner), (6, 6))[0].all()


def test_scores_against_several_references() -> None:
    references = [["A dog runs .", "the dog is running"], ["two cats sleep on a bed", "cats"]]
    scores = score_captions(["the dog is running", "a cat"], references)
    assert scores["exact"] == 0.5
    # Unigrams: all four of the first, none of the second ("cats" is another word), except "a".
    # 5 of 6 in references, 6 words against the closest lengths 4 and 1.
    assert scores["bleu1"] == pytest.approx(100 * 5 / 6)
    assert score_captions(["a Dog runs", "Cats!"], references)["exact"] == 1.0
    best = score_captions([texts[0] for texts in references], references)
    assert best["bleu4"] == pytest.approx(100)
    assert set(best) >= {"bleu1", "bleu2", "bleu3", "chrf", "cider", "chrf_signature"}


def test_a_neighbour_is_the_nearest() -> None:
    random = np.random.default_rng(0)
    keys, queries = random.normal(size=(300, 5)), random.normal(size=(301, 5))
    apart = np.linalg.norm(queries[:, None] - keys[None], axis=2)
    np.testing.assert_array_equal(nearest(queries, keys), apart.argmin(1))
    images = random.integers(0, 255, (7, 10, 10, 3)).astype(np.uint8)
    noisy = np.clip(images + random.integers(-9, 9, images.shape), 0, 255).astype(np.uint8)
    rows = nearest(_pixel_features(noisy), _pixel_features(images))
    np.testing.assert_array_equal(rows, np.arange(7))


def test_evaluate_writes_scores_and_captions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = scores_of(run)
    assert scores["pictures"] == 6
    assert 0 <= scores["pointing"] <= 1
    for baseline in ("neighbour_pixels", "neighbour_features"):
        assert scores[baseline]["cider"] > 0
    lines = (run / "test.captions.tsv").read_text().splitlines()
    assert [line.partition("\t")[0] for line in lines] == [f"test {n}" for n in range(6)]
    shown = capsys.readouterr().out
    assert "nearest training picture by pixels: BLEU-1 to 4" in shown
    assert (run / "figures").is_dir()


def test_predict_captions_pictures_and_draws(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_scenes(load(ExperimentConfig, run / "config.yaml").data).test
    for name, image in zip(("one.png", "two.png"), data.images, strict=False):
        Image.fromarray(image).resize((32, 32)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no")
    files = [str(tmp_path / name) for name in ("one.png", "broken.jpg", "two.png")]
    figures = tmp_path / "figures"
    assert cli.main(["predict", str(run), *files, "--json", "--figures", str(figures)]) == 1
    shown = capsys.readouterr()
    records = [json.loads(line) for line in shown.out.splitlines()]
    assert [record["input"] for record in records] == files
    assert "damaged" in records[1]["problem"]
    assert f"warning: {files[1]}: not an image" in shown.err
    first = records[0]
    if first["words"]:
        assert np.shape(first["attention"]) == (len(first["words"]), 4, 4)
        assert {path.name for path in figures.iterdir()} <= {"one.png", "two.png"}


def test_a_figure_is_dark_where_a_word_does_not_look() -> None:
    image = np.full((12, 12, 1), 0.9, np.float32)
    maps = np.zeros((2, 3, 3), np.float32)
    maps[0, 0, 0], maps[1, 2, 2] = 0.8, 0.3
    figure = plotting.caption_attention(image, ["up", "down"], maps, title="a title")
    assert isinstance(figure, Figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["", "up  0.80", "down  0.30"]
    pixels = to_rgb(figure).mean(axis=2)
    for axes, light, dark in ((1, (0.1, 0.9), (0.9, 0.1)), (2, (0.9, 0.1), (0.1, 0.9))):
        box = figure.axes[axes].get_position()
        height, width = pixels.shape

        def at(x: float, y: float, box: Any = box, h: int = height, w: int = width) -> float:
            column, row = box.x0 + x * box.width, 1 - (box.y0 + y * box.height)
            return float(pixels[int(row * h), int(column * w)])

        assert at(*light) > at(*dark) + 60
    with pytest.raises(ValueError, match="1 words and 2 maps"):
        plotting.caption_attention(image, ["up"], maps)

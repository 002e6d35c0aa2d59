"""explain over a small run on planted images: figures, the table, and bad arguments."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from attnzoo import cli

CONFIG = """
name: planted
task: image_classification
data: {kind: images, source: {kind: planted, side: 2, classes: 2, decoys: 1, train: 60,
       validation: 8, test: 5}}
model: {kind: vit, attention: {kind: multi_head, num_heads: 2}, image_size: 8, patch: 4,
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
    asked = ["--images", "4", "1", "--count", "3", "--draws", "2", "--flow"]
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
    assert figures == ["test-1.png", "test-4.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "5"], "--images 5: test has the images 0 to 4"),
        (["--target", "2"], "--target 2: there are 2 classes, 0 to 1 (0, 1)"),
        (["--count", "0"], "--count 0: wanted at least 1"),
    ],
)
def test_bad_arguments(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err

"""sensitivity over a small run on planted images: what knows the class, and what cannot."""

import contextlib
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sensitivity
from attnzoo import cli
from tests.cli.test_explain import CONFIG


def trained(home: Path, text: str) -> Path:
    (home / "config.yaml").write_text(text)
    with contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["train", str(home / "config.yaml"), "--run-dir", str(home / "run")]) == 0
    return home / "run"


def test_raw_maps_agree_for_both_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, CONFIG)
    assert sensitivity.main([str(run), "--count", "3", "--draw", "1", "--num-samples", "2"]) == 0
    printed = capsys.readouterr().out
    table = json.loads((run / "explain" / "sensitivity.json").read_text())
    for name in ("rollout", "attention_mean", "rollout_discarded"):
        assert table[name]["correlation"] == pytest.approx([1, 1, 1])
        # The same map for both points at one of the two at most, so half of the time.
        assert table[name]["hit"] == table[name]["other"]
        assert f"  {name} " in printed
    # With two classes and so little training the other class's gradient is the same, turned round.
    assert table["cdam"]["correlation"][0] < 0.999
    assert [p.name for p in (run / "explain").glob("*.png")] == ["two-classes-0.png"]


def test_correlation_by_hand() -> None:
    a, b = (
        np.asarray([[1.0, 2, 3], [1, 2, 3], [1, 1, 1]]),
        np.asarray([[2.0, 4, 6], [3, 2, 1], [1, 2, 3]]),
    )
    np.testing.assert_allclose(sensitivity._correlation(a, b), [1, -1, np.nan])


def test_other_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, number in itertools.product(("bright", "dark"), range(12)):
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), 200 if name == "bright" else number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    text = re.sub(
        r"source: \{[^}]*\}",
        f"source: {{kind: folder, path: {tmp_path / 'images'}, channels: 1}}, test_share: 0.2",
        CONFIG,
    ).replace("batch_size: 20", "batch_size: 4")
    assert sensitivity.main([str(trained(tmp_path, text))]) == 2
    assert "wanted a ViT with data.source.kind=planted" in capsys.readouterr().err

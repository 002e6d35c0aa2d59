"""adversarial over a small run: a line for each layer, with numbers that can be."""

import contextlib
import io
import json
import math
from pathlib import Path

import pytest

import adversarial
from attnzoo import cli
from tests.cli.test_explain import CONFIG


def test_a_line_a_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "planted.yaml").write_text(CONFIG)
    run = tmp_path / "run"
    with contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["train", str(tmp_path / "planted.yaml"), "--run-dir", str(run)]) == 0
    asked = ["--count", "3", "--steps", "5", "--restarts", "2", "--epsilon", "1"]
    asked += ["--seeds", str(run), "--strengths", "0", "1"]
    assert adversarial.main([str(run), *asked]) == 0
    printed = capsys.readouterr().out
    table = json.loads((run / "explain" / "adversarial.json").read_text())
    curve = table.pop("curve")
    assert [point["strength"] for point in curve] == [0, 1]
    assert all(0 <= point["divergence"] <= math.log(2) for point in curve)
    assert list(table) == ["encoder/0/self", "encoder/1/self"]
    for name, line in table.items():
        assert f"  {name} " in printed
        # Where any change is allowed random weights are far from nearly even ones.
        assert 0.05 < line["divergence"][0] <= math.log(2)
        assert 0 <= line["even"][0] <= 1
        assert line["seeds"] == pytest.approx([0, 0, 0], abs=1e-6)  # the run beside itself
    assert adversarial.main([str(run), "--steps", "0"]) == 2
    assert "--steps 0: wanted at least 1" in capsys.readouterr().err

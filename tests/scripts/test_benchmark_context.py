"""The sweep over lengths: what is measured, what is planned, and the memory of a device."""

import json
from types import SimpleNamespace

import pytest

from attnzoo.errors import UserError
from benchmarks import context
from benchmarks.main import parse


def test_what_would_take_too_long_is_planned(tmp_path, capsys, monkeypatch):
    found = tmp_path / "points.json"
    arguments = parse(
        ["context", "--lengths", "64", "128", "256", "--ways", "full", "retnet", "--width", "4",
         "--limit", "1", "--json", str(found), "--figure", str(tmp_path / "sweep.png")]
    )  # fmt: skip
    # As if every call took three quarters of a second.
    clock = iter(range(1000))
    watch = SimpleNamespace(perf_counter=lambda: 0.75 * next(clock))
    monkeypatch.setattr(context, "time", watch)
    assert context.measure(arguments) == 0
    points = json.loads(found.read_text())
    seen = {(p["way"], p["length"]): (p["planned"], p["seconds"]) for p in points}
    assert seen["full", 64] == (False, 0.75)
    assert seen["full", 128] == (True, 3.0)  # four times as long
    assert seen["full", 256] == (True, 12.0)
    assert seen["retnet", 128] == (True, 1.5)  # twice
    memory = {way: [p["device_bytes"] for p in points if p["way"] == way] for way in ("full",)}
    assert memory["full"][2] < 2.5 * memory["full"][1]  # no 256 x 256 weights
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    assert "| full | 128 | 3 (planned)" in capsys.readouterr().out


def test_an_unknown_way():
    with pytest.raises(UserError, match="--ways sparse: wanted some of full, ring, window"):
        context.measure(parse(["context", "--ways", "sparse"]))

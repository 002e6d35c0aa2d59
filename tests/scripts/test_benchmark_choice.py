"""`benchmark attention --check-choice` and `--tune`: what they time, and when they complain."""

import time

import numpy as np
import pytest

from benchmarks import choice as benchmark
from benchmarks.choice import Shape
from benchmarks.main import main, parse


@pytest.fixture(autouse=True)
def one_shape(monkeypatch):
    monkeypatch.setattr(benchmark, "grid", lambda quick: [Shape(5, 7, B=1, N=2, K=1, H=4)])
    monkeypatch.setattr(benchmark, "_pin", lambda cores: None)


@pytest.mark.parametrize(("milliseconds", "code"), [(1.05, 0), (1.2, 1)])
def test_exit_code(milliseconds, code, monkeypatch, capsys):
    rounds = []

    def medians(calls, count, clock):
        assert list(calls) == ["chosen", "reference", "blockwise", "xla"]
        assert clock is time.process_time
        rounds.append(count)
        return {"chosen": milliseconds / 1e3, "reference": 2e-3, "blockwise": 1e-3, "xla": 2e-3}

    monkeypatch.setattr(benchmark, "_medians", medians)
    assert main(["attention", "--check-choice", "--rounds", "3"]) == code
    # What seems too slow is timed again, longer.
    assert rounds == ([3, 9] * 2 if code else [3] * 2)
    printed = capsys.readouterr().out
    assert "5 x 7, B 1, N 2/1, H 4, full" in printed
    assert f"{2 * code} choices are more than 10 % slower" in printed
    assert ("1.20 x" in printed) == bool(code)


def test_what_is_timed_is_the_attention(monkeypatch):
    """Every contender computes one thing, and times are those of a call."""
    found = []

    def medians(calls, count, clock):
        found.append([call() for call in calls.values()])
        return dict.fromkeys(calls, 1.0)

    monkeypatch.setattr(benchmark, "_medians", medians)
    benchmark.check(parse(["attention", "--check-choice"]), [])
    (forward, both) = found
    for out in forward[1:]:
        np.testing.assert_allclose(out, forward[0], atol=1e-6)
    for out, (dq, _, _) in both:
        np.testing.assert_allclose(out, forward[0], atol=1e-6)
        np.testing.assert_allclose(dq, both[0][1][0], atol=1e-6)


def test_medians_are_seconds_of_one_call():
    calls = []

    def work():
        calls.append(sum(range(20_000)))

    (seconds,) = benchmark._medians({"work": work}, 3, benchmark._clock(2)).values()
    assert 1e-5 < seconds < 0.1
    assert len(calls) > 5  # short calls are repeated


def test_tune_writes_the_cache(tmp_path, monkeypatch, capsys):
    from attnzoo.ops.kernels import tiles

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(tiles.CANDIDATES, "blockwise", (tiles.Tiles(16, 32), tiles.Tiles(32, 16)))
    arguments = ["attention", "--tune", "--lengths", "300", "20", "--masks", "causal"]
    assert main([*arguments, "--heads", "1", "--head-size", "4", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "implementation='reference' has no tiles" in printed
    assert "16 x 32: " in printed
    assert str(tiles.cache_path()) in printed
    assert tiles.tiles_for("blockwise", tiles.device_kind(), "float32", 4, 300, 300)[:2] in (
        (16, 32),
        (32, 16),
    )

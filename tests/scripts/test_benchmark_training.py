"""Of `benchmark training`: what each peer is given, and that different gradients are not timed."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.main import parse
from benchmarks.training import WORKLOADS, difference


def test_models_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["training"]).models == ["vit", "gpt2", "t5"]
    assert parse(["training", "--models", "vit", "--rounds", "9"]).rounds == 9
    with pytest.raises(SystemExit):
        parse(["training", "--models", "resnet"])
    assert "invalid choice: 'resnet'" in capsys.readouterr().err


def test_a_gradient_of_rounding_is_measured_by_the_whole(tmp_path: Path) -> None:
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    whole = {"loss": np.float32(9), "kernel": np.float32([30, 40])}
    np.savez(first, **whole, bias=np.float32([0, 1e-6]))
    np.savez(second, **whole, bias=np.float32([0, -1e-6]))
    found, where = difference(first, second)
    assert where == "bias"
    assert found == pytest.approx(2e-6 / 0.05, rel=1e-4)
    np.savez(second, loss=np.float32(9), kernel=np.float32([30, 41]), bias=np.float32([0, 1e-6]))
    assert difference(second, first)[0] == pytest.approx(1 / 50)
    np.savez(second, loss=np.float32(9), kernel=np.float32([30, np.nan]), bias=np.float32([0, 0]))
    assert difference(second, first) == (float("inf"), "kernel")
    np.savez(second, **whole)
    assert difference(second, first) == (float("inf"), "bias")


def test_both_peers_read_the_same_batch() -> None:
    for workload in WORKLOADS.values():
        batch = workload.batch(np.random.default_rng(0))
        assert all(array.dtype in (np.float32, np.int32) for array in batch.values())
    vit = WORKLOADS["vit"]
    batch = vit.batch(np.random.default_rng(0))
    theirs = vit.their_inputs(batch)["pixel_values"]
    assert theirs.shape == (16, 3, 64, 64)
    assert theirs[2, 1, 5, 7] == batch["images"][2, 5, 7, 1]
    pairs = WORKLOADS["t5"].batch(np.random.default_rng(0))
    assert np.all(pairs["target"][:, 0] == 0)
    assert np.all(pairs["target"][:, 1:] > 1)
    np.testing.assert_array_equal(
        WORKLOADS["t5"].their_inputs(pairs)["labels"], pairs["target"][:, 1:]
    )

"""What `benchmark attention` compares: every contender computes what the float64 formulas say."""

import numpy as np
import pytest

from benchmarks import attention as benchmark
from benchmarks.main import parse


@pytest.mark.parametrize("mask", benchmark.MASKS)
def test_contenders_agree_with_float64(mask, monkeypatch):
    monkeypatch.setattr(benchmark, "WINDOW", 5)
    monkeypatch.setattr(benchmark, "SOFTCAP", 1.0)
    contenders = ["reference", "jax.nn"]  # tiles have tests of their own
    settings = {"dtype": "float32", "shape": [1, 2, 8], "contenders": contenders}
    given = benchmark.inputs(mask, 24, settings)
    wanted = benchmark.exact(mask, given)
    made, refused, to_numpy = benchmark.jax_contenders(mask, 24, given, settings)
    assert set(made) | set(refused) == {"attnzoo reference", "jax.nn"}
    for _, both, memory in made.values():
        got = dict(zip(("out", "q", "k", "v"), map(to_numpy, both())))
        assert memory > 0
        for name, x in got.items():
            assert benchmark.relative_error(x, wanted[name]) < 2e-6, name


def test_masks_are_what_their_names_say(monkeypatch):
    monkeypatch.setattr(benchmark, "WINDOW", 2)
    ids = np.array([0, 0, 1, 1], np.int32)
    window = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    document = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert benchmark.visible("window", ids).astype(int).tolist() == window
    assert benchmark.visible("document", ids).astype(int).tolist() == document
    assert benchmark.visible("causal", ids).sum() == 10
    assert benchmark.visible("full", ids).all()


def test_rounding_to_bfloat16():
    import jax.numpy as jnp

    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    wanted = np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))
    assert np.array_equal(benchmark._round_to_bfloat16(x), wanted)


def test_command_line():
    arguments = parse(["attention", "--lengths", "64", "128", "--masks", "causal"])
    assert arguments.lengths == [64, 128]
    assert arguments.masks == ["causal"]
    with pytest.raises(SystemExit):
        parse(["attention", "--masks", "diagonal"])

"""Logits of transformers beside ours, without torch (``scripts/pretrained_fixtures.py``)."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from flax import nnx

import pretrained_fixtures
from attnzoo import pretrained

HOME, NAMES = pretrained_fixtures.HOME, list(pretrained_fixtures.FIXTURES)


def close(found: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    """To 1e-5 of the largest logit of the real tokens; nobody reads what padding says."""
    wanted = arrays["logits"]
    every = np.ones(wanted.shape[:2], bool)
    rows = arrays.get("valid", every) if wanted.ndim == 3 else every
    largest = np.abs(wanted[rows]).max()
    np.testing.assert_allclose(found[rows], wanted[rows], rtol=0, atol=1e-5 * largest)


@nnx.jit
def logits(model: Any, first: Any, second: Any, more: Any) -> Any:
    return model(first, **more) if second is None else model(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str) -> None:
    arrays = dict(np.load(HOME / name / "expected.npz"))
    model = pretrained.load(HOME / name)
    more = {key: arrays[key] for key in ("valid", "positions", "segments") if key in arrays}
    first = arrays["tokens" if "tokens" in arrays else "source"]
    close(np.asarray(logits(model, first, arrays.get("target"), more)), arrays)
    # Equal logits everywhere would agree whatever the settings.
    assert len(np.unique(arrays["logits"].round(3))) > arrays["logits"].size // 3


def test_sizes_and_names() -> None:
    assert sorted(path.name for path in HOME.iterdir()) == sorted(NAMES)
    sizes = [path.stat().st_size for path in HOME.rglob("*.*") if path.is_file()]
    assert sum(sizes) < 300_000


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="no transformers")
@pytest.mark.parametrize("name", NAMES)
def test_the_fixtures_are_those_of_the_installed_transformers(name: str) -> None:
    _, arrays = pretrained_fixtures.expected(name)
    stored = dict(np.load(HOME / name / "expected.npz"))
    for key in set(arrays) - {"version", "logits"}:
        np.testing.assert_array_equal(arrays[key], stored[key])
    close(arrays["logits"], stored)

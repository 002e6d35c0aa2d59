"""Folders of every family in bfloat16 and int8: near what transformers computes in float32."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_folders
from flax import nnx
from PIL import Image
from test_fixtures import FAMILY, FAST, INPUTS, stored

from attnzoo import cli, pretrained
from attnzoo.training.inference_weights import with_weights
from pretrained_fixtures import HOME

NEAR = {"bfloat16": 0.04, "int8": 0.12}
"""Largest root mean square of the differences, in that of the logits: matrices of 12 columns are
rounded more coarsely than those of a trained model; a wrong scale or axis gives 1."""
ONE_OF_EACH = list(dict(zip(FAMILY.values(), FAMILY, strict=True)).values())


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def run(graph: Any, state: Any, given: Any, inputs: Any) -> Any:
    model: Any = nnx.merge(graph, state)
    return model(*given, **inputs)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_logits_in_fewer_bits_are_near_those_of_transformers(name: str) -> None:
    arrays, model = stored(name), pretrained.load(HOME / name)
    inputs = {key: arrays[key] for key in INPUTS if key in arrays}
    given = [inputs.pop(key) for key in ("images", "tokens", "source", "target") if key in inputs]
    for weights, near in NEAR.items():
        found = run(*nnx.split(with_weights(model, weights)), given, inputs)
        logits = np.asarray(found, np.float64)
        wanted = arrays["logits"]
        if "valid" in arrays and wanted.shape[:2] == arrays["valid"].shape and wanted.ndim > 2:
            logits, wanted = logits[arrays["valid"]], wanted[arrays["valid"]]
        error = np.sqrt(np.mean((logits - wanted) ** 2) / np.mean(wanted**2))
        assert 1e-4 < error < near, weights  # and something was rounded


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("clip", "int8"), ("siglip", "bfloat16"), ("whisper", "int8"), ("vit", "bfloat16")],
)
def test_predict_takes_weights_in_fewer_bits(
    kind: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_folders.tiny_folder(kind, tmp_path / kind)
    path = tmp_path / ("sound.wav" if kind == "whisper" else "photograph.png")
    pixels = np.random.default_rng(0).integers(0, 255, (13, 17, 3)).astype(np.uint8)
    if kind == "whisper":
        path.write_bytes(tiny_folders.sound())
    else:
        Image.fromarray(pixels).save(path)
    labels = ["--labels", "a cat", "the dog sat"] if kind in tiny_folders.TOWERS else []
    assert cli.main(["predict", str(folder), str(path), "--weights", weights, *labels]) == 0
    assert capsys.readouterr().out.strip()

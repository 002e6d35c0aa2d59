"""ViT, DeiT and DINOv2 beside transformers': weights through the files, states layer by layer."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import pretrained
from attnzoo.config.loader import load
from attnzoo.config.vit import ViTConfig
from attnzoo.errors import UserError
from attnzoo.models.vit import ViT

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

SIZES = {
    "hidden_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "image_size": 15,
    "patch_size": 3,
    "num_channels": 2,
    "num_labels": 7,
}
MODELS = {
    "ViTForImageClassification": {"intermediate_size": 11, "hidden_act": "gelu_new"},
    "ViTModel": {"intermediate_size": 11, "qkv_bias": False},
    "DeiTForImageClassification": {"intermediate_size": 11},
    "DeiTForImageClassificationWithTeacher": {"intermediate_size": 11},
    "Dinov2Model": {"mlp_ratio": 2},
    "Dinov2ForImageClassification": {"mlp_ratio": 2, "layerscale_value": 0.3},
    "Dinov2WithRegistersForImageClassification": {"num_register_tokens": 3, "mlp_ratio": 3},
    "Dinov2WithRegistersModel": {"num_register_tokens": 2, "use_swiglu_ffn": True},
}


@pytest.fixture(params=MODELS)
def theirs(request: pytest.FixtureRequest):
    cls = getattr(transformers, request.param)
    torch.manual_seed(0)
    model = cls(cls.config_class(**SIZES, **MODELS[request.param])).eval()
    # Norms start at 1, biases and tokens at 0, which would hide a missing one.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@nnx.jit
def states_and_logits(model: ViT, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """What enters the first block, what leaves each; and the result of a whole call."""
    found = [model.embed(x)]
    for block in model.encoder.blocks:
        found.append(block(found[-1])[0])
    return found, model(x)


@pytest.mark.parametrize("size", [(15, 15), (9, 24), (12, 12)])
def test_states_and_logits(theirs, size: tuple[int, int], tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    model = pretrained.load(tmp_path)
    x = images(2, *size, 2)
    given = {"pixel_values": torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()}
    if "Dinov2" not in type(theirs).__name__:
        given["interpolate_pos_encoding"] = size != (15, 15)
    with torch.no_grad():
        out = theirs(**given, output_hidden_states=True)
    found, logits = states_and_logits(model, jnp.asarray(x))
    for ours, other in zip(found, out.hidden_states[: len(found)], strict=True):
        np.testing.assert_allclose(ours, other.numpy(), rtol=1e-5, atol=1e-5)
    wanted = out.pooler_output if "logits" not in out else out.logits
    np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_every_tensor_comes_back_as_it_was(theirs, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "theirs")
    pretrained.save(pretrained.load(tmp_path / "theirs"), tmp_path / "ours")
    before, after = (
        safetensors.load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours")
    )
    assert set(after) == set(before)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].tobytes() == tensor.tobytes(), name
    again = type(theirs).from_pretrained(tmp_path / "ours")
    # transformers writes some defaults and not others; what makes the model is the same.
    keys = {**SIZES, **MODELS[type(theirs).__name__]}
    if type(theirs).__name__.endswith("Model"):
        del keys["num_labels"]
    for key in keys:
        assert getattr(again.config, key) == getattr(theirs.config, key), key


@pytest.mark.parametrize(
    "line",
    [
        "pooling=mean",
        "positions=sinusoidal",
        "attention=linear",
        "registers=1",
        "branch_rate=0.1",
        "gated=true",
    ],
)
def test_what_transformers_does_not_have(line: str, tmp_path: Path) -> None:
    sizes = ["image_size=6", "patch=3", "dim=20", "hidden=11", "layers=1"]
    heads = [] if line == "attention=linear" else ["attention.num_heads=5"]
    model = ViT(load(ViTConfig, None, [*sizes, *heads, line]), 3, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="transformers has no"):
        pretrained.save(model, tmp_path)
    pretrained.save_own(model, tmp_path)
    again = pretrained.load(tmp_path)
    assert again.config == model.config
    x = jnp.asarray(images(1, 6, 6, 3))
    np.testing.assert_array_equal(again.features(x), model.features(x))

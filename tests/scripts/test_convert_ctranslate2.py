"""A model.bin of CTranslate2, written here from a fixture, gives the fixture's tensors back."""

import struct
from collections.abc import Mapping

import numpy as np
import pytest
from safetensors.numpy import load_file

from attnzoo.errors import UserError
from convert_ctranslate2_whisper import DTYPES, tensors, variables
from pretrained_fixtures import HOME

PLACES = {"self_attn": "self_attention", "encoder_attn": "attention"}


def binary(found: Mapping[str, np.ndarray], spec: str = "WhisperSpec") -> bytes:
    """The format that CTranslate2's ``model_spec.py`` writes."""

    def named(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    parts = [struct.pack("<I", 6), named(spec), struct.pack("<II", 3, len(found))]
    for name, value in found.items():
        kind = DTYPES.index(value.dtype.str.replace("|", "<"))
        form = f"<B{value.ndim}IBI"
        parts += [named(name), struct.pack(form, value.ndim, *value.shape, kind, value.nbytes)]
        parts.append(value.tobytes())
    return b"".join([*parts, struct.pack("<I", 0)])


def as_ctranslate2(given: Mapping[str, np.ndarray], layers: Mapping[str, int]) -> dict:
    """The tensors of transformers by CTranslate2's names, with joined projections."""
    found: dict[str, np.ndarray] = {}

    def norm(name: str, theirs: str) -> None:
        found[f"{name}/gamma"], found[f"{name}/beta"] = (
            given[f"{theirs}.weight"],
            given[f"{theirs}.bias"],
        )

    def joined(name: str, *theirs: str) -> None:
        weights = [given[f"{one}.weight"] for one in theirs]
        empty = np.zeros(len(weights[0]), np.float32)
        found[f"{name}/weight"] = np.concatenate(weights)
        found[f"{name}/bias"] = np.concatenate([given.get(f"{one}.bias", empty) for one in theirs])

    for side, depth in layers.items():
        model = f"model.{side}"
        found[f"{side}/position_encodings/encodings"] = given[f"{model}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{model}.layer_norm")
        for i in range(depth):
            ours, theirs = f"{side}/layer_{i}", f"{model}.layers.{i}"
            norm(f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
            joined(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            joined(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
            for name in ("self_attn", "encoder_attn")[: 1 + (side == "decoder")]:
                place, one = f"{ours}/{PLACES[name]}", f"{theirs}.{name}"
                norm(f"{place}/layer_norm", f"{one}_layer_norm")
                q, k, v, out = (f"{one}.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj"))
                groups = [(q, k, v), (out,)] if name == "self_attn" else [(q,), (k, v), (out,)]
                for number, group in enumerate(groups):
                    joined(f"{place}/linear_{number}", *group)
    for i, part in ((i, part) for i in (1, 2) for part in ("weight", "bias")):
        found[f"encoder/conv{i}/{part}"] = given[f"model.encoder.conv{i}.{part}"]
    found["decoder/embeddings/weight"] = given["model.decoder.embed_tokens.weight"]
    return found | {f"{side}/num_heads": np.int16(3) for side in layers}


def test_the_tensors_of_transformers_come_back() -> None:
    given = load_file(HOME / "whisper" / "model.safetensors")
    read = variables(binary(as_ctranslate2(given, {"encoder": 1, "decoder": 2})))
    assert int(read["encoder/num_heads"]) == 3
    found = dict(tensors(read))
    assert found.keys() == given.keys()
    assert all(found[name].tobytes() == given[name].tobytes() for name in given)


def test_what_is_no_whisper_or_quantised_is_one_line() -> None:
    with pytest.raises(UserError, match=r"version 6 of a TransformerSpec; wanted 6, WhisperSpec"):
        variables(binary({}, "TransformerSpec"))
    with pytest.raises(UserError, match=r"x is of type 1; wanted float32 or float16"):
        variables(binary({"x": np.zeros((2, 3), np.int8)}))
    bias = {"decoder/layer_0/self_attention/linear_0/bias": np.ones(6, np.float32)}
    with pytest.raises(UserError, match="has a bias of keys"):
        dict(tensors(bias))

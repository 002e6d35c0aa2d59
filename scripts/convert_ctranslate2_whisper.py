"""`convert_ctranslate2_whisper.py FROM TO MODEL.BIN ...`: from CTranslate2 to transformers.

FROM is the folder of a Whisper with config.json (alignment heads, suppressed tokens, languages) and
tokenizer.json, as ct2-transformers-converter writes it; the model.bin may be in several parts,
given in their order.
TO gets float32 weights, config.json, generation_config.json, preprocessor_config.json and the
tokenizer: `predict` and transformers open it.
"""

import argparse
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from attnzoo.cli.common import run
from attnzoo.errors import UserError
from attnzoo.files import read_json
from attnzoo.pretrained.files import write_json

VERSION = 6
DTYPES = ["<f4", "<i1", "<i2", "<i4", "<f2"]
"""Types of variables by their number; bfloat16 is not read."""
NORM = {"gamma": "weight", "beta": "bias"}
PARTS = {
    "self_attention/linear_0": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": "encoder_attn.k_proj encoder_attn.v_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}
PLAIN = {
    "position_encodings/encodings": "embed_positions.weight",
    "embeddings/weight": "embed_tokens.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
    **{f"conv{i}/{part}": f"conv{i}.{part}" for i in (1, 2) for part in ("weight", "bias")},
}


def variables(data: bytes) -> dict[str, np.ndarray]:
    """Return the variables of a model.bin by name.

    Raises:
      UserError: no Whisper, another version, or quantised weights.
    """
    at = 0

    def take(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(form)
        return value

    def string() -> str:
        return take(f"{take('H')}s").rstrip(b"\0").decode()

    version, spec = take("I"), string()
    if version != VERSION or spec != "WhisperSpec":
        raise UserError(f"model.bin: version {version} of a {spec}; wanted {VERSION}, WhisperSpec")
    take("I")
    found = {}
    for _ in range(take("I")):
        name = string()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = take("B"), take("I")
        if kind >= len(DTYPES) or (kind == 1 and len(shape) > 1):
            raise UserError(f"model.bin: {name} is of type {kind}; wanted float32 or float16")
        found[name] = np.frombuffer(data, DTYPES[kind], size // np.dtype(DTYPES[kind]).itemsize, at)
        found[name] = found[name].reshape(shape)
        at += size
    return found


def tensors(found: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of transformers; projections that are one matrix here are several there."""
    for name, value in found.items():
        side, _, rest = name.partition("/")
        if value.ndim == 0:
            continue
        if rest in PLAIN:
            yield f"model.{side}.{PLAIN[rest]}", value
            continue
        layer, _, rest = rest.partition("/")
        place = f"model.{side}.layers.{layer.removeprefix('layer_')}"
        part, _, kind = rest.rpartition("/")
        targets = PARTS[part].split()
        for target, piece in zip(targets, np.split(value, len(targets)), strict=True):
            if not (target.endswith("k_proj") and kind == "bias"):
                yield f"{place}.{target}.{NORM.get(kind, kind)}", piece
            elif np.any(piece):
                raise UserError(f"model.bin: {name} has a bias of keys; Whisper has none")


def settings(folder: Path, found: dict[str, np.ndarray]) -> tuple[dict[str, Any], ...]:
    """Return config.json, generation_config.json and preprocessor_config.json."""
    given = read_json(folder / "config.json")
    added = {
        one["content"]: one["id"] for one in read_json(folder / "tokenizer.json")["added_tokens"]
    }
    names = {token: name for name, token in added.items()}
    vocabulary, dim = found["decoder/embeddings/weight"].shape
    sides = ("encoder", "decoder")
    last = "layer_{}/ffn/layer_norm/beta".format
    depth = {side: sum(f"{side}/{last(i)}" in found for i in range(999)) for side in sides}
    end = added["<|endoftext|>"]
    ids = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end}
    ids["decoder_start_token_id"] = added["<|startoftranscript|>"]
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "vocab_size": vocabulary,
        "d_model": dim,
        "num_mel_bins": found["encoder/conv1/weight"].shape[1],
        "max_source_positions": len(found["encoder/position_encodings/encodings"]),
        "max_target_positions": len(found["decoder/position_encodings/encodings"]),
        **{f"{side}_layers": count for side, count in depth.items()},
        **{f"{side}_attention_heads": int(found[f"{side}/num_heads"]) for side in depth},
        **{f"{side}_ffn_dim": len(found[f"{side}/layer_0/ffn/linear_0/bias"]) for side in depth},
        **ids,
    }
    generation = {
        **ids,
        "max_length": config["max_target_positions"],
        "alignment_heads": given["alignment_heads"],
        "suppress_tokens": given["suppress_ids"],
        "begin_suppress_tokens": given["suppress_ids_begin"],
        "is_multilingual": "<|fr|>" in added,
        "lang_to_id": {names[token]: token for token in given["lang_ids"]},
        "task_to_id": {name: added[f"<|{name}|>"] for name in ("transcribe", "translate")},
        "no_timestamps_token_id": added["<|notimestamps|>"],
    }
    if generation["is_multilingual"]:  # without a task after the language the model rambles
        generation["task"] = "transcribe"
    frames = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16_000}
    frames |= {"feature_size": config["num_mel_bins"], "chunk_length": 30}
    return config, generation, frames


def main() -> int:
    """Convert a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FROM")
    parser.add_argument("target", type=Path, metavar="TO")
    parser.add_argument("parts", type=Path, nargs="+", metavar="MODEL.BIN")
    arguments = parser.parse_args()
    found = variables(b"".join(part.read_bytes() for part in arguments.parts))
    written = {k: np.ascontiguousarray(v.astype(np.float32)) for k, v in tensors(found)}
    home = arguments.target
    home.mkdir(parents=True, exist_ok=True)
    save_file(written, home / "model.safetensors", metadata={"format": "pt"})
    files = ("config.json", "generation_config.json", "preprocessor_config.json")
    for name, values in zip(files, settings(arguments.folder, found), strict=True):
        write_json(home / name, values)
    shutil.copyfile(arguments.folder / "tokenizer.json", home / "tokenizer.json")
    print(f"{sum(v.size for v in written.values()):,} parameters -> {home}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))

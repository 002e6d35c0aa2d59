"""Run an exported model; needs only jax, flatbuffers, numpy and safetensors.

    from load import Exported

    model = Exported("folder")
    print(model)  # its programs, their inputs and outputs
    outputs = model("logits", tokens=tokens)  # numpy arrays by name

Errors are ``ValueError``: a file of another version, a damaged file, a platform that the model was
not exported for, an input that does not match export.json.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

FORMAT = "attnzoo.export"
VERSION = 2
"""Version 1 had digests of the programs and weights alone."""
DESCRIPTION = "export.json"


class Exported:
    """Programs of an exported folder, and their weights, read once and kept on the device."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about: dict[str, Any] = _read(self.folder / DESCRIPTION)
        here = export.default_export_platform()
        if here not in self.about["platforms"]:
            raise ValueError(
                f"{self.folder}: exported for {', '.join(self.about['platforms'])}, but jax runs "
                f"on {here}; export it again with --platforms {here}"
            )
        for file, digest in self.about["sha256"].items():
            if _sha256(self.folder / file) != digest:
                raise ValueError(
                    f"{self.folder / file}: damaged, its digest is another; export the run again"
                )
        tensors: dict[str, np.ndarray] = {}
        for file in self.about["weights"]:
            tensors |= load_file(self.folder / file)
        self._weights = jax.device_put(tensors)
        self._calls: dict[str, Any] = {}

    def __call__(self, program: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Return the outputs of a program by name; compiled once for each shape of the inputs."""
        if program not in self.about["programs"]:
            wanted = ", ".join(self.about["programs"])
            raise ValueError(f"program={program!r} is none of this model; wanted {wanted}")
        about = self.about["programs"][program]
        if set(inputs) != set(about["inputs"]):
            raise ValueError(f"{program}: got {sorted(inputs)}; wanted {sorted(about['inputs'])}")
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            wanted = about["inputs"][name]
            shape = wanted["shape"]
            if str(array.dtype) != wanted["dtype"] or not _fits(array.shape, shape, sizes):
                raise ValueError(
                    f"{program}: {name} is {array.dtype}{list(array.shape)}; wanted "
                    f"{wanted['dtype']}[{', '.join(map(str, shape))}]"
                )
        for limit in about["limits"]:
            size, sign, bound = limit.split()
            if (sizes[size] > int(bound)) if sign == "<=" else (sizes[size] < int(bound)):
                raise ValueError(f"{program}: {size} is {sizes[size]}; wanted {limit}")
        if program not in self._calls:
            exported = export.deserialize(bytearray((self.folder / about["file"]).read_bytes()))
            self._calls[program] = jax.jit(exported.call)
        return jax.tree.map(np.asarray, self._calls[program](self._weights, arrays))

    def __str__(self) -> str:
        lines = [f"{self.about['name']} (step {self.about['step']})"]
        for name, about in self.about["programs"].items():
            lines.append(f"{name}: {about['meaning']}")
            for way in ("inputs", "outputs"):
                for one, array in about[way].items():
                    shape = ", ".join(map(str, array["shape"]))
                    lines.append(f"  {way[:-1]:<6}  {one}: {array['dtype']}[{shape}]")
            lines += [f"  limit   {limit}" for limit in about["limits"]]
        return "\n".join(lines)


def _fits(shape: tuple[int, ...], wanted: list[Any], sizes: dict[str, int]) -> bool:
    """Return whether a shape matches [3, "B", "4*H"]; a letter has one size in all inputs."""
    if len(shape) != len(wanted):
        return False
    for size, one in zip(shape, wanted, strict=True):
        *factor, letter = str(one).split("*")
        many = int(factor[0]) if factor else 1
        fixed = int(letter) if letter.isdecimal() else sizes.setdefault(letter, size // many)
        if size != many * fixed:
            return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; wanted a folder that export wrote") from None
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path}: no export: its 'format' is not {FORMAT!r}")
    if about.get("version") not in (1, VERSION):
        raise ValueError(
            f"{path}: an export of version {about.get('version')}; this load.py reads {VERSION}"
        )
    if about["version"] > 1 and about.get("digest") != digest_of(about):
        raise ValueError(f"{path}: damaged, its digest is another; export the run again")
    return about


def digest_of(about: dict[str, Any]) -> str:
    """Return the sha256 of the content of export.json, without its entry ``digest``."""
    rest = {name: value for name, value in about.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


if __name__ == "__main__":
    print(Exported(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))

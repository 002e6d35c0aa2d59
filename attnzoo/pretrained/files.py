"""Model folders in the format of transformers: config.json and safetensors, whole or in shards."""

import contextlib
import json
import re
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from attnzoo.errors import UserError
from attnzoo.files import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5")
BESIDE = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*vocab.*", "merges.txt",
    "*.model", "*.spm", "preprocessor_config.json", "processor_config.json", "chat_template*",
)  # fmt: skip
"""Names of files that belong to a model and are copied as they are."""
FETCHED = (
    CONFIG, "config.yaml", "transformers.json", "generation_config.json",
    WEIGHTS, INDEX, "model-*.safetensors", *BESIDE,
)  # fmt: skip
"""Names of files that are downloaded from the hub: all that a folder's readers open."""
MAX_FILE_BYTES = 5 * 2**30
"""Largest file of weights in bytes; larger weights are split, since one shard is held twice."""


def resolve(name: str | Path) -> Path:
    """Return the model folder of this name, downloaded from the Hugging Face hub if necessary.

    Raises:
      UserError: no such folder, and the hub has no such model or cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{name}: a file; wanted the folder that holds {CONFIG} and {WEIGHTS}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(name)):
        raise UserError(f"{name}: no such folder, and no name of a model on the hub")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name}: no such folder; to fetch it from the hub: pip install huggingface_hub"
        ) from None
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(FETCHED)))
    except Exception as error:  # the hub, its client and its transport raise different types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{name}: no such folder or run, and not to be had from the hub: {reason[0]}"
        ) from None


class Tensors:
    """Tensors of a folder by name, each read on request from the file that has it."""

    def __init__(self, folder: Path, open_files: Mapping[Path, Any], home: Mapping[str, Path]):
        self.folder, self._open, self._home = folder, open_files, home

    @property
    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._home)

    def file(self, name: str) -> Path:
        """Return the file of a tensor, for messages."""
        return self._home[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return tuple(self._open[self._home[name]].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return the safetensors dtype of a tensor, such as "F32" or "BF16", without reading it."""
        return self._open[self._home[name]].get_slice(name).get_dtype()

    def read(self, name: str) -> np.ndarray:
        """Return the tensor, copied into memory."""
        return self._open[self._home[name]].get_tensor(name)


@contextlib.contextmanager
def open_tensors(folder: Path) -> Generator[Tensors]:
    """Open the safetensors of a folder: one file, or the shards of an index.

    Raises:
      UserError: there are none, one is damaged, or the index and the files disagree.
    """
    listed: dict[str, str] | None = None
    if (folder / WEIGHTS).exists():
        paths = [folder / WEIGHTS]
    elif (folder / INDEX).exists():
        listed = read_json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(v, str) for v in listed.values()):
            raise UserError(f"{folder / INDEX}: weight_map is not from names to files")
        paths = [_inside(folder, name) for name in sorted(set(listed.values()))]
    else:
        pickles = [name for name in PICKLES if (folder / name).exists()]
        hint = f"; {pickles[0]} can run code when it is read, and is not" if pickles else ""
        raise UserError(f"{folder}: no {WEIGHTS}{hint}")
    with contextlib.ExitStack() as stack:
        opened, home = {}, {}
        for path in paths:
            try:
                opened[path] = stack.enter_context(safe_open(path, framework="numpy"))
            except OSError as error:
                raise UserError(f"{path}: {error.strerror or 'no such file'}") from None
            except SafetensorError as error:
                raise UserError(f"{path}: damaged: {error}") from None
            home |= dict.fromkeys(opened[path].keys(), path)
        for name, file in (listed or {}).items():
            if home.get(name) != folder / file:
                raise UserError(f"{folder / file}: no tensor {name}, which {INDEX} says is there")
        yield Tensors(folder, opened, home)


def _inside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise UserError(f"{folder / INDEX}: {name!r} is no file of this folder")
    return folder / name


def copy_beside(folder: Path, target: Path) -> None:
    """Copy tokenizers and the preparation of pictures from one folder to another."""
    for path in {path for pattern in BESIDE for path in folder.glob(pattern)}:
        shutil.copyfile(path, target / path.name)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as transformers does: sorted and indented."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tensors(
    folder: Path,
    sizes: Sequence[tuple[str, int]],
    tensors: Iterable[tuple[str, np.ndarray]],
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write model.safetensors, or shards with an index, and then replace the old files.

    ``sizes`` has the name and bytes of each of ``tensors``, in the same order. Tensors are taken
    from the iterator as they are written.
    """
    files: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes:
        if files[-1] and filled + size > max_file_bytes:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += size
    stream, total = iter(tensors), len(files)
    where: dict[str, str] = {}
    written: dict[Path, Path] = {}
    for i, names in enumerate(files, 1):
        file = WEIGHTS if total == 1 else f"model-{i:05d}-of-{total:05d}.safetensors"
        # Which makes a vector of a scalar.
        found = {
            name: np.ascontiguousarray(array).reshape(np.shape(array))
            for name, array in islice(stream, len(names))
        }
        temporary = folder / f".{file}.tmp"
        # transformers rejects a file without the format.
        save_file(found, temporary, metadata={"format": "pt"})
        written[temporary] = folder / file
        where |= dict.fromkeys(names, file)
    for old in (folder / WEIGHTS, folder / INDEX, *folder.glob("model-*-of-*.safetensors")):
        old.unlink(missing_ok=True)
    for temporary, path in written.items():
        temporary.replace(path)
    if total > 1:
        meta = {"total_size": sum(size for _, size in sizes)}
        write_json(folder / INDEX, {"metadata": meta, "weight_map": where})

"""Names of the files of a folder: what is read of it is fetched from the hub, and copied."""

import ast
import re
from pathlib import Path

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

import attnzoo
from attnzoo.errors import UserError
from attnzoo.pretrained import files

NAME = re.compile(r"[\w.]+\.(json|txt|model|spm|safetensors|yaml)")
READERS = (
    "pretrained", "data/library_tokenizers.py", "data/pretrained_tokenizers.py",
    "data/picture_preparation.py", "training/folder.py", "training/folder_settings.py",
    "training/generation_settings.py", "training/hearing.py",
)  # fmt: skip
"""Modules that read folders of transformers."""
HOME = Path(attnzoo.__file__).parent


def names_of(reader: str) -> set[str]:
    """Return the names of files among the strings of a module, or of the modules of a package."""
    path = HOME / reader
    texts = [one.read_text("utf-8") for one in (path.rglob("*.py") if path.is_dir() else [path])]
    found = (node for text in texts for node in ast.walk(ast.parse(text)))
    strings = (node.value for node in found if isinstance(node, ast.Constant))
    return {one for one in strings if isinstance(one, str) and NAME.fullmatch(one)}


def test_every_file_that_is_read_is_fetched() -> None:
    asked = set().union(*map(names_of, READERS)) - set(files.PICKLES)
    assert asked >= {"source.spm", "vocab.txt", "processor_config.json", files.TOKENIZER}
    assert set(filter_repo_objects(asked, allow_patterns=list(files.FETCHED))) == asked


def test_every_file_of_tokenizers_and_pictures_is_copied() -> None:
    asked = set().union(*(names_of(one) for one in READERS if one.startswith("data/")))
    asked -= {files.CONFIG, "generation_config.json"}
    assert set(filter_repo_objects(asked, allow_patterns=list(files.BESIDE))) == asked


def test_a_download_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str]) -> None:
        asked.append((name, tuple(allow_patterns)))
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match="not to be had from the hub: offline"):
        files.resolve("some/model")
    assert asked == [("some/model", files.FETCHED)]

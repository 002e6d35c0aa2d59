"""Every command on a folder of every family: what docs/models.md says of each cell is run."""

import contextlib
import io
import json
import os
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_folders
from PIL import Image

from attnzoo import pretrained
from attnzoo.cli import (
    align,
    convert,
    evaluate,
    explain,
    export,
    generate,
    plan,
    predict,
    translate,
)
from attnzoo.explain.capture import map_shapes
from attnzoo.models.model import TranslationModel
from attnzoo.models.two_towers import TwoTowers
from attnzoo.models.vit import ViT

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TEXT, IMAGE = "a cat sat .", "a photograph of any size"
COMMANDS: dict[str, Callable[[Path, Path], int]] = {
    "translate": lambda model, out: translate.main(
        [str(model), str(out / "bad"), "-o", str(out / "o"), "--alignment", str(out / "links"),
         "--max-length", "5", "--batch-size", "2", *languages(model, translate)]
    ),
    "align": lambda model, out: align.main(
        [str(model), "--source", str(out / "source"), "--target", str(out / "bad"),
         "-o", str(out / "links"), *languages(model, align)]
    ),
    "evaluate": lambda model, out: evaluate.main(
        [str(model), "--source", str(out / "source"), "--target", str(out / "target"),
         "--batch-size", "2", *languages(model, evaluate)]
    ),
    "explain": lambda model, out: explain.main(
        [str(model), *asked(model, out), "--methods", "attention_mean", "--num-samples", "1",
         *languages(model, explain), *labels(model)]
    ),
    "generate": lambda model, out: generate.main([str(model), "--max-new-tokens", "3"]),
    "export": lambda model, out: export.main(
        [str(model), "--out", str(out / "exported"), "--platforms", "cpu", "--max-new-tokens", "3",
         *languages(model, export)]
    ),
    "convert": lambda model, out: convert.main([str(model), str(out / "ours")]),
    "plan": lambda model, out: plan.main([str(model)]),
    "predict": lambda model, out: predict.main(
        [str(model), *read(model, out), "--json", *labels(model), "--figures",
         str(out / "figures")]
    ),
}  # fmt: skip


def languages(model: Path, command: object) -> list[str]:
    """The options that a family of several languages wants."""
    if model.name not in tiny_folders.LANGUAGES:
        return []
    return ["--source-language", "en", "--target-language", "ro"]


def labels(model: Path) -> list[str]:
    """The classes of pictures of a family that compares them with texts."""
    return ["--labels", "a cat", "the dog sat"] if model.name in tiny_folders.TOWERS else []


def asked(model: Path, out: Path) -> list[str]:
    """What explain is asked of a family, and something that it cannot read."""
    if model.name != "whisper" and (model / "preprocessor_config.json").exists():
        return [str(out / "photograph.png"), str(out / "bad")]
    if model.name in ("bert", "albert"):
        return ["", "a [MASK] sat ."]
    if (model / "tokenizer.json").exists() and model.name not in TRANSLATE:
        return ["", TEXT]
    return [f"{TEXT} ||| the dog sat", "the dog |||"]


def read(model: Path, out: Path) -> list[str]:
    """The files that predict reads, and one that it cannot."""
    if model.name == "whisper":
        return [str(out / "sound.wav"), str(out / "bad")]
    if (model / "preprocessor_config.json").exists():
        return [str(out / "bad"), str(out / "photograph.png")]
    return [str(out / "bad")]


def cells() -> dict[tuple[str, str], bool]:
    """The table of the page: whether a command takes a family."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    start = next(i for i, line in enumerate(lines) if line.startswith("| `model_type` | translate"))
    head = [one.strip(" `") for one in lines[start].strip("|").split("|")][1:]
    found = {}
    for line in lines[start + 1 :]:
        names, *values = [one.strip() for one in line.strip("|").split("|")]
        if len(values) != len(head) or not re.search("`.+`", names):
            continue
        for kind in re.findall("`(.+?)`", names):
            found |= {(kind, command): v != "-" for command, v in zip(head, values, strict=True)}
    return found


CELLS = cells()
EVERY = os.environ.get("ATTNZOO_EVERY_CELL")
SEVERAL = {"translate", "explain", "generate", "predict"}
"""Commands that take several inputs."""
SLOW = {"align", "evaluate", "explain", "export", "predict"}
FIRST = {"marian", "gpt2", "bert", "vit", "whisper"}
"""Families that compile every command; the others compile theirs alone, unless all are wanted."""
TRANSLATE = {kind for (kind, command), does in CELLS.items() if command == "translate" and does}


def test_the_table_has_every_family_and_command() -> None:
    kinds = {kind for kind, _ in CELLS}
    assert kinds == set(pretrained.FAMILIES)
    assert {command for _, command in CELLS} >= set(COMMANDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}
    home = tmp_path_factory.mktemp("families")

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_folders.tiny_folder(kind, home / kind)
        return made[kind]

    return folder


RUN = [
    (kind, command)
    for kind in pretrained.FAMILIES
    for command in COMMANDS
    if EVERY or kind in FIRST or command not in SLOW or not CELLS.get((kind, command))
]


@pytest.mark.parametrize(("kind", "command"), RUN)
def test_cell(
    kind: str,
    command: str,
    folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(folders(kind).rglob("*"))
    (tmp_path / "source").write_text(f"{TEXT}\nthe dog on a mat\n")
    (tmp_path / "target").write_text("the dog sat\na mat on a mat .\n")
    (tmp_path / "bad").write_bytes(b"the dog sat\n\xff\n")
    stdin = types.SimpleNamespace(buffer=io.BytesIO((tmp_path / "bad").read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    pixels = np.random.default_rng(0).integers(0, 255, (13, 17, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    (tmp_path / "sound.wav").write_bytes(tiny_folders.sound())
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        status = COMMANDS[command](folders(kind), tmp_path)
    assert sorted(folders(kind).rglob("*")) == before  # it is not ours to write into
    if CELLS[kind, command]:
        assert status == (command in SEVERAL), told.getvalue()
        if command in SEVERAL:  # one of two inputs cannot be read
            *lines, count = told.getvalue().splitlines()
            assert any(re.match("warning: .+: .+", line) for line in lines)
            assert count == "1 of 2 inputs have no answer"
        return
    assert status == 2, told.getvalue()
    (line,) = told.getvalue().splitlines()
    assert "wanted" in line
    assert str(folders(kind)) in line


@pytest.mark.parametrize("kind", tiny_folders.TOWERS)
def test_pictures_are_compared_with_texts(
    kind: str, folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the model itself compares them, with the folder's tokenizer and preparation."""
    folder, path = folders(kind), tmp_path / "photograph.png"
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    assert predict.main([str(folder), str(path), "--json", *labels(folder)]) == 0
    found = json.loads(capsys.readouterr().out)["probabilities"]
    model: Any = pretrained.load(folder)
    known = tiny_folders.tokens_of(kind)
    words = (text.split() for text in labels(folder)[1:])
    texts = [[0, *(known.index(f"\u2581{word}") for word in some), 2] for some in words]
    length = model.max_length if kind == "siglip" else 5
    tokens = np.full((2, length), model.config.text.pad_id, np.int32)
    for row, ids in enumerate(texts):
        tokens[row, : len(ids)] = ids
    read = jnp.asarray((pixels[None] / 255 - 0.5) / 0.5, jnp.float32)
    logits = np.asarray(model(read, jnp.asarray(tokens)))[0].astype(np.float64)
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(list(found.values()), wanted, atol=2e-4)


@pytest.mark.parametrize("kind", pretrained.FAMILIES)
def test_weights_of_every_attention_are_there(kind: str, folders: Callable[[str], Path]) -> None:
    """Cross-attention included, with the kernel that the model would take without being asked."""
    model: Any = pretrained.load(folders(kind))
    tokens = np.ones((2, 5), np.int32)
    pictures = np.ones((2, 8, 8, 3), np.float32)
    if isinstance(model, ViT):
        inputs: tuple[Any, ...] = (pictures,)
    elif isinstance(model, TwoTowers):
        inputs = (pictures, tokens)
    elif kind == "whisper":
        inputs = (np.ones((2, 16_000), np.float32), tokens)
    else:
        inputs = (tokens, tokens) if isinstance(model, TranslationModel) else (tokens,)
    _, maps = map_shapes(model, inputs, {})
    assert sorted(maps) == sorted(model.attentions())
    assert all(m.ndim == 4 and m.shape[:2] == (2, 2) for m in maps.values())
    crossed = [name for name in maps if name.endswith("/cross")]
    assert len(crossed) == (2 if isinstance(model, TranslationModel) else 0)

"""The notebooks run, in their quick form, and what they show is of the code that they have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))


def kinds(notebook: dict[str, Any]) -> list[list[str]]:
    """What each code cell puts out: a text, a picture."""
    return [
        [
            output.get("name") or ("picture" if "image/png" in output["data"] else "value")
            for output in cell["outputs"]
        ]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNZOO_QUICK", "1")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kinds(notebooks.execute(path)) == kinds(kept)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_a_notebook_shows_is_not_stale(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    again = f"python scripts/notebooks.py {path.stem}"
    assert notebook["metadata"].get("attnzoo") == {"code": notebooks.digest(notebook)}, again


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_links_of_a_notebook_exist(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join(
        line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"]
    )
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    assert [link for link in links if not (path.parent / link).is_file()] == []


def test_a_cell_keeps_what_it_prints_and_draws() -> None:
    assert notebooks.run_cell("a = 2", {}, "x") == []
    printed, value = notebooks.run_cell("print(1)\n[2]", {}, "x")
    assert printed["text"] == ["1\n"]
    assert value["data"]["text/plain"] == ["[2]"]
    changed = {"cells": [{"cell_type": "code", "source": ["b"]}]}
    assert notebooks.digest(changed) != notebooks.digest({"cells": []})

"""The site's pages: nothing that is exported is left out of them, and no page of the navigation."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
api = importlib.import_module("api")
sys.path.pop(0)


@pytest.mark.parametrize("package", api.packages())
def test_every_exported_name_has_an_entry(package: str) -> None:
    module, page = importlib.import_module(package), api.page(package)
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.ismodule(value):
            assert f".. automodule:: {value.__name__}\n" in page, name
            entries = api.defined(value)
            assert entries, name
        else:
            entries = [name] if api.ours(value) else []
        for entry in entries:
            assert re.search(rf"^\.\. auto\w+:: {entry}$", page, re.M), entry
    assert ".. auto" in page.replace(".. automodule", ""), f"{package} has no entry at all"


def test_every_package_has_a_page() -> None:
    folders = {path.parent.name for path in (ROOT / "attnzoo").glob("*/__init__.py")}
    assert {f"attnzoo.{name}" for name in folders - api.NOT_LIBRARY} | {"attnzoo"} == set(
        api.packages()
    )


def test_every_page_is_in_the_navigation() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"^([\w/]+)$", "".join(re.findall(r"```{toctree}(.*?)```", index, re.S)), re.M)
    )
    pages = {
        path.relative_to(DOCS).with_suffix("").as_posix()
        for suffix in ("md", "ipynb")
        for path in DOCS.rglob(f"*.{suffix}")
        if not path.is_relative_to(DOCS / "_build")
    }
    assert pages - {"index"} == {name for name in named if not name.startswith("api/")}


def test_docstrings_are_mended() -> None:
    lines = ["|F∩B| of ``a|b``, train-*.tar, or *.txt"]
    api.mend(None, "function", "x", None, None, lines)
    assert lines == [r"\|F∩B\| of ``a|b``, train-\*.tar, or \*.txt"]
    field = ["Pairs; null: all."]
    api.protect(None, "attribute", "x", None, None, field)
    assert ":" not in field[0]
    api.mend(None, "attribute", "x", None, None, field)
    assert field == ["Pairs; null: all."]
    said = (dict.__doc__ or "").split("\n")
    api.mend(None, "data", "X", {}, None, said)
    assert said == []

#!/usr/bin/env python
"""Run the notebooks of docs/notebooks and keep what their cells print and draw in them.

A cell is Python alone, without magics, so that no Jupyter is needed. ``--quick`` sets
ATTNZOO_QUICK=1, by which the notebooks train less, and writes nothing: the tests run them so.
"""

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo.errors import UserError
from attnzoo.plotting.style import save

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"


def code_of(notebook: dict[str, Any]) -> list[str]:
    """Return the sources of the code cells, in order."""
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def digest(notebook: dict[str, Any]) -> str:
    """Return the digest of the code, which a notebook keeps of the code that made its outputs."""
    return hashlib.sha256("\0".join(code_of(notebook)).encode()).hexdigest()[:16]


def run_cell(source: str, names: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Run one cell and return its outputs: what it prints, and its last line's value."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        lines = text.splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None:
        data: dict[str, Any] = {"text/plain": [type(value).__name__]}
        if hasattr(value, "savefig"):
            data["image/png"] = picture(value)
        else:
            data["text/plain"] = [repr(value)]
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return outputs


def picture(figure: Any) -> str:
    """Return a figure as the base64 text of a PNG."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = save(figure, Path(folder) / "figure.png", palette=128)
        return base64.b64encode(path.read_bytes()).decode() + "\n"


def execute(path: Path) -> dict[str, Any]:
    """Return a notebook with the outputs of all of its cells, run in one namespace."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell["outputs"] = run_cell("".join(cell["source"]), names, f"{path.name}[{number}]")
            cell["execution_count"] = number
    notebook["metadata"]["attnzoo"] = {"code": digest(notebook)}
    return notebook


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named notebooks, or all."""
    parser = argparse.ArgumentParser(prog="notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", help="such as vision; default: all")
    parser.add_argument("--quick", action="store_true", help="train less, and write nothing")
    arguments = parser.parse_args(argv)
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    for name in arguments.names or known:
        if name not in known:
            raise UserError(f"{name}: no such notebook; there are {', '.join(known)}")
        os.environ["ATTNZOO_QUICK"] = "1" if arguments.quick else ""
        notebook = execute(known[name])
        if not arguments.quick:
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            known[name].write_text(text, encoding="utf-8")
        print(name)
    return 0


if __name__ == "__main__":
    from attnzoo.cli.common import run

    sys.exit(run(main))

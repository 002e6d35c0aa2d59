"""Imports run one way, and what is slow or dangerous to import stays where it belongs."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnzoo.cli import COMMANDS, SCRIPTS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "attnzoo"
# Beside the package in the repository, and not in the wheel.
PROGRAMS = {path.stem for path in (ROOT / "scripts").iterdir()} - {"__pycache__"}

PLAIN = {"config", "errors", "files", "special_tokens", "alignment.links"}
BELOW_MODELS = PLAIN | {"module", "ops", "attention", "layers"}
BELOW_TASKS = BELOW_MODELS | {"models", "decoding", "data", "alignment"}

# What each part may import, besides itself: ops -> attention -> layers -> models -> decoding,
# tasks -> training -> cli; data, alignment and plotting know plain helpers alone.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "module": set(),
    "special_tokens": set(),
    "alignment.links": {"errors"},
    "config": {"errors", "files"},
    "alignment": PLAIN,
    "data": PLAIN,
    "plotting": PLAIN,
    "ops": PLAIN - {"config"},
    "testing": {"ops", "errors"},
    "attention": PLAIN | {"module", "ops"},
    "layers": PLAIN | {"module", "ops", "attention"},
    "models": BELOW_MODELS,
    "decoding": BELOW_MODELS | {"models"},
    "explain": BELOW_MODELS | {"models", "plotting"},
    "pretrained": BELOW_MODELS | {"models"},
    "tasks": BELOW_TASKS | {"plotting"},
    "training": BELOW_TASKS | {"tasks", "plotting", "pretrained"},
    "export": BELOW_TASKS | {"tasks", "training", "pretrained"},
    "planning": BELOW_TASKS | {"tasks", "training"},
    "cli": BELOW_TASKS
    | {"tasks", "plotting", "training", "planning", "explain", "pretrained", "export"},
}

# A library that only some parts may import at all.
ONLY_IN: dict[str, set[str]] = {
    "matplotlib": {"plotting"},
    "flax": {"module", "attention", "layers", "models", "decoding", "tasks", "training", "explain",
             "pretrained", "export", "planning", "cli"},
    "yaml": {"config"},
    "pydantic": {"config"},
    "grain": set(),
    "pickle": set(),
}  # fmt: skip

# Seconds each: to be imported inside the function that needs them.
LAZY = {"datasets", "transformers", "torch", "pydantic", "sklearn", "nltk"}

# `config` is read, checked and explained before jax is there.
LIGHT = {"config": {"jax", "flax", "numpy"}, "alignment.links": {"jax", "flax"}}


def imports(tree: ast.Module) -> Iterator[tuple[str, str | None, bool]]:
    """(module, name, at the top) of every import, those for type checkers alone left out."""

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, str | None, bool]]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                    continue
                case ast.Import(names=names):
                    yield from ((alias.name, None, top) for alias in names)
                case ast.ImportFrom(module=str(module), names=names):
                    yield from ((module, alias.name, top) for alias in names)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    yield from walk(child, False)
                case _:
                    yield from walk(child, top)

    return walk(tree, True)


def part_of(dotted: str) -> str | None:
    """The part of the project that a module belongs to: the longest rule that names it."""
    names = dotted.split(".")[1:]
    candidates = (".".join(names[:end]) for end in range(len(names), 0, -1))
    return next((name for name in candidates if name in ALLOWED), None)


def violations(dotted: str, source: str) -> list[str]:
    """What is wrong with the imports of one module of ours."""
    part = part_of(dotted)
    if part is None:
        return [f"{dotted} belongs to no part: give it a rule in ALLOWED"]
    found = []
    for module, name, top in imports(ast.parse(source)):
        library = module.partition(".")[0]
        if library == "attnzoo":
            other = part_of(f"{module}.{name}" if name else module)
            # `from attnzoo import __version__` is free to all.
            if other is not None and other not in ALLOWED[part] | {part}:
                found.append(f"{dotted} ({part}) imports {module} ({other})")
            continue
        if library in PROGRAMS | {"scripts"}:
            found.append(f"{dotted} imports {module} of scripts/, which the wheel does not have")
        if part not in ONLY_IN.get(library, {part}):
            found.append(f"{dotted} ({part}) imports {library}")
        if top and library in LAZY:
            found.append(f"{dotted} imports {library} at the top: do it where it is needed")
        if library in LIGHT.get(part, set()):
            found.append(f"{dotted} ({part}) imports {library}")
    return found


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(names).removesuffix(".__init__")] = path
    return found


def test_imports_run_one_way() -> None:
    listed = modules()
    assert len(listed) > 10
    wrong = [
        line
        for dotted, path in listed.items()
        if dotted != "attnzoo"
        for line in violations(dotted, path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_the_wheel_holds_the_library_alone() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["packages"] == [PACKAGE.name]
    packed = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    assert "cli/train.py" in packed
    programs = re.compile("benchmark|torture|fault_injection|gallery")
    assert [path for path in packed if programs.search(path)] == []
    assert {f"cli/{name}.py" for name in COMMANDS} <= set(packed)
    assert {f"cli/{name}.py" for name in SCRIPTS}.isdisjoint(packed)


def test_the_package_itself_imports_nothing() -> None:
    found = imports(ast.parse((PACKAGE / "__init__.py").read_text()))
    assert [module for module, _, top in found if top] == ["__future__"]


@pytest.mark.parametrize(
    ("dotted", "source"),
    [
        ("attnzoo.ops.softmax", "from attnzoo.attention import AdditiveAttention"),
        ("attnzoo.ops.softmax", "from attnzoo import attention"),
        ("attnzoo.ops.softmax", "def f():\n    import attnzoo.models.rnn_seq2seq"),
        ("attnzoo.ops.softmax", "from flax import nnx"),
        ("attnzoo.layers.recurrent", "import attnzoo.models"),
        ("attnzoo.models.t5", "from attnzoo.training.loop import train"),
        ("attnzoo.data.files", "from attnzoo.alignment.scores import aer"),
        ("attnzoo.data.hub", "import datasets"),
        ("attnzoo.training.logging", "import matplotlib.pyplot as plt"),
        ("attnzoo.config.model", "import jax.numpy as jnp"),
        ("attnzoo.config.model", "class A:\n    from attnzoo.ops import softmax"),
        ("attnzoo.training.checkpoint", "import pickle"),
        ("attnzoo.cli.train", "from benchmarks.main import main"),
        ("attnzoo.cli.train", "def f():\n    import child_process"),
        ("attnzoo.utils", "import math"),
    ],
)
def test_a_violation_is_seen(dotted: str, source: str) -> None:
    assert len(violations(dotted, source)) == 1


@pytest.mark.parametrize(
    ("dotted", "source"),
    [
        ("attnzoo.attention.additive", "from attnzoo.ops.softmax import masked_softmax"),
        ("attnzoo.data.files", "from attnzoo.alignment.links import Links"),
        ("attnzoo.data.hub", "def f():\n    import datasets"),
        ("attnzoo.data.hub", "from attnzoo import __version__"),
        ("attnzoo.cli.train", "from attnzoo.training.loop import train\nimport flax"),
        ("attnzoo.training.logging", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
    ],
)
def test_what_is_right_passes(dotted: str, source: str) -> None:
    assert violations(dotted, source) == []


@pytest.mark.parametrize(
    "module", ["attnzoo", "attnzoo.config.experiment", "attnzoo.config.loader", "attnzoo.errors"]
)
def test_light_modules_do_not_load_jax(module: str) -> None:
    program = f"import sys, {module}; print([x for x in ('jax', 'flax') if x in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert ran.stdout == "[]\n", ran.stderr


def test_the_modules_of_data_import_each_other_one_way() -> None:
    """No module reaches itself, imports within functions included."""
    known = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (PACKAGE / "data").rglob("*.py")
    }
    edges = {
        module: {
            found
            for name, item, _ in imports(ast.parse(path.read_text(encoding="utf-8")))
            for found in (name, f"{name}.{item}")
            if found in known and found != module
        }
        for module, path in known.items()
    }
    assert sum(map(len, edges.values())) > len(edges)
    for module in edges:
        reached, waiting = set(), [module]
        while waiting:
            new = edges[waiting.pop()] - reached
            reached |= new
            waiting += new
        assert module not in reached


def test_a_long_file_begins_with_the_reason() -> None:
    wrong = []
    for path in (
        p for part in ("attnzoo", "scripts", "tests") for p in (ROOT / part).rglob("*.py")
    ):
        lines = path.read_text().splitlines()
        if (len(lines) > 400) != bool(lines and lines[0].startswith("# Over 400 lines: ")):
            wrong.append(f"{path.relative_to(ROOT)}: {len(lines)} lines")
    assert not wrong, f"split these, or begin them with '# Over 400 lines: WHY': {wrong}"

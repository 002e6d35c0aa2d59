"""Pages of the API reference: one a package, with everything that the package exports."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import attnzoo

NOT_LIBRARY = {"cli"}
"""Packages that are commands: docs/guides/start.md and ``--help`` describe them."""


def packages() -> list[str]:
    """Return the packages that have a page, the root first."""
    found = [module.name for module in pkgutil.iter_modules(attnzoo.__path__) if module.ispkg]
    return ["attnzoo", *(f"attnzoo.{name}" for name in found if name not in NOT_LIBRARY)]


def defined(module: ModuleType) -> list[str]:
    """Return the public names of a module: its ``__all__``, or else what it defines itself."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def modules(package: str) -> list[str]:
    """Return the modules whose names a package's page lists: itself, or its parts.

    A package with an ``__all__`` is listed by it; one without is listed module by module.
    """
    module = importlib.import_module(package)
    if hasattr(module, "__all__"):
        parts = [getattr(module, name) for name in module.__all__]
        return [package, *(part.__name__ for part in parts if inspect.ismodule(part))]
    return [f"{package}.{part.name}" for part in pkgutil.iter_modules(module.__path__)]


def ours(value: object) -> bool:
    """Return whether an object is defined in this package, not passed on from another one."""
    return getattr(value, "__module__", "attnzoo").split(".")[0] in (
        "attnzoo",
        "builtins",
        "typing",
    )


def entry(module: ModuleType, name: str) -> str:
    """Return the reStructuredText of one exported object; empty for a module."""
    value = getattr(module, name)
    if inspect.ismodule(value) or not ours(value):
        return ""
    if inspect.isclass(value):
        return f".. autoclass:: {name}\n   :members:\n\n"
    return f".. auto{'function' if inspect.isfunction(value) else 'data'}:: {name}\n\n"


def page(package: str) -> str:
    """Return the reStructuredText of a package's page."""
    lines = [package, "=" * len(package), "", ""]
    lines[2:2] = ["", f".. automodule:: {package}", "   :no-index:", ""]
    for name in modules(package):
        module = importlib.import_module(name)
        entries = "".join(entry(module, each) for each in defined(module))
        if not entries:
            continue
        if name != package:
            lines += [name, "-" * len(name), "", f".. automodule:: {name}", "   :no-index:", ""]
        lines += [f".. currentmodule:: {name}", "", entries]
    return "\n".join(lines)


COLON = "\x1f"
SPECIAL = re.compile(r"(\||\*(?=\.)|(?<=[-/])\*)")


def protect(app, what, name, value, options, lines: list[str]) -> None:
    """Hide colons of a field's docstring from napoleon, which reads the text before as a type."""
    if what == "attribute":
        lines[:] = [line.replace(":", COLON) for line in lines]


def mend(app, what, name, value, options, lines: list[str]) -> None:
    """Escape bars of absolute values and stars of patterns; drop the docstring of a type.

    A constant without a docstring would otherwise have that of ``dict`` or ``tuple``.
    """
    if what == "data" and lines and lines[0].strip() == (type(value).__doc__ or "").split("\n")[0]:
        lines.clear()
    for at, line in enumerate(lines):
        parts = re.split(r"(``[^`]*``)", line.replace(COLON, ":"))
        parts[::2] = [SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
        lines[at] = "".join(parts)


def name_arrays(app, what, name, value, options, signature: str | None, result: str | None):
    """Name jax's arrays as a reader knows them."""
    short = ((text or "").replace("jaxlib._jax.Array", "Array") for text in (signature, result))
    return tuple(text or None for text in short)


def write(folder: Path) -> None:
    """Write the pages into a folder; a page that would not change is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages():
        target, text = folder / f"{package}.rst", page(package)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")

"""Classes and functions show their own arguments, to ``help`` and to editors."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from flax import nnx

import attnzoo
from attnzoo import attention, models, tasks
from attnzoo.attention import ATTENTIONS, MultiHeadAttention

PARTS = (
    *("attention", "ops", "layers", "models", "decoding", "explain", "data", "tasks"),
    *(
        "training",
        "planning",
        "config",
        "pretrained",
        "export",
        "plotting",
        "alignment",
        "testing",
        "module",
        "files",
    ),
)


def public_names(part: str) -> Iterator[tuple[str, Any]]:
    """Public classes, functions and methods that modules of one part define."""
    top = importlib.import_module(f"attnzoo.{part}")
    below = pkgutil.walk_packages(getattr(top, "__path__", ()), f"{top.__name__}.")
    for module in (top, *(importlib.import_module(found.name) for found in below)):
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if not callable(value):
                continue
            yield f"{module.__name__}.{name}", value
            for method in vars(value) if inspect.isclass(value) else ():
                found = getattr(value, method)
                public = not method.startswith("_") or method == "__call__"
                if public and callable(found) and inspect.isroutine(found):
                    yield f"{module.__name__}.{name}.{method}", found


def hides_arguments(value: Any) -> bool:
    """Whether anything may be passed as far as the signature says."""
    kinds = [parameter.kind for parameter in inspect.signature(value).parameters.values()]
    return set(kinds) == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _is_free(value: object) -> bool:
    exception = isinstance(value, type) and issubclass(value, BaseException)
    return exception or getattr(value, "_is_protocol", False)


@pytest.mark.parametrize("part", PARTS)
def test_every_public_name_shows_its_arguments(part: str) -> None:
    names = dict(public_names(part))
    assert names
    # Nobody makes a protocol, and an exception takes any arguments.
    called = {name: value for name, value in names.items() if not _is_free(value)}
    assert [name for name, value in called.items() if hides_arguments(value)] == []


def test_parts_are_all() -> None:
    found = {module.name for module in pkgutil.iter_modules(attnzoo.__path__)}
    assert found - set(PARTS) == {"cli", "errors", "special_tokens"}


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_an_attention_shows_its_init_and_an_instance_its_call(kind: str) -> None:
    cls = ATTENTIONS[kind]
    shown = inspect.signature(cls)
    init = cls.__init__
    wanted = [] if init is object.__init__ else list(inspect.signature(init).parameters)[1:]
    assert list(shown.parameters) == wanted
    call = inspect.signature(object.__new__(cls))
    assert call == inspect.signature(cls.__call__.__get__(object(), cls))


def test_a_module_of_a_users_own_shows_its_arguments_too() -> None:
    class Mine(MultiHeadAttention):
        def __init__(self, heads: int, *, rngs: nnx.Rngs):
            super().__init__(8, num_heads=heads, rngs=rngs)

    assert list(inspect.signature(Mine).parameters) == ["heads", "rngs"]


@pytest.mark.parametrize("package", [attention, models, tasks])
def test_what_registries_hold_is_exported(package: ModuleType) -> None:
    """Type checkers let users import from a package what its ``__all__`` names, and no more."""
    registries = [
        value for name, value in vars(package).items() if name.isupper() and isinstance(value, dict)
    ]
    classes = {cls.__name__ for one in registries for cls in one.values()}
    assert classes
    assert classes <= set(package.__all__)

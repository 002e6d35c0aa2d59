"""Users' own classes, named in a config as ``package.module:Class``.

This is the only place that imports a class by name. Such a class has an attribute ``config_class``,
a dataclass made with ``@config`` from the base of its part (``AttentionConfig``, ``ModelConfig``,
``TaskConfig``), whose field ``kind`` is ``Literal["package.module:Class"]``::

    @config
    class CosineConfig(AttentionConfig):
        kind: Literal["mine:Cosine"] = "mine:Cosine"
        num_heads: Annotated[int, Positive] = 4

    class Cosine(Attention):
        config_class = CosineConfig
"""

import contextlib
import contextvars
import importlib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from attnzoo.errors import UserError

_trusted = contextvars.ContextVar("trusted", default=True)
_trusted_runs = contextvars.ContextVar("trusted_runs", default=False)
_admitted: dict[str, type] = {}
"""Config classes named so far, by name; pydantic types and ``--help`` include them."""


@contextlib.contextmanager
def trusting(trust_code: bool) -> Generator[None]:
    """Allow or refuse, within a ``with`` block, configs that name code outside of this package."""
    token = _trusted.set(trust_code)
    try:
        yield
    finally:
        _trusted.reset(token)


def trust_runs() -> None:
    """Trust code named by run directories and folders from now on (``--trust-code``)."""
    _trusted_runs.set(True)


def runs_are_trusted() -> bool:
    """Return True if code named by a run directory or folder may be run."""
    return _trusted_runs.get()


def is_external(kind: Any) -> bool:
    """Return True if a kind names a user's own class."""
    return isinstance(kind, str) and ":" in kind


def import_class(name: str, base: type = object) -> Any:
    """Import the class ``package.module:Class``; the working directory is on the import path.

    Raises:
      UserError: code is not trusted here, there is no such class, or it does not derive from
        ``base``.
    """
    if not _trusted.get():
        raise UserError(
            f"kind {name!r} is code from outside of attnzoo, which reading this would run; pass "
            "--trust-code if you know where it comes from"
        )
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise _refused(name, error) from error
    if not (base is object or (isinstance(found, type) and issubclass(found, base))):
        raise UserError(f"kind {name!r}: {found!r} is no class from {base.__name__}")
    return found


def _refused(name: str, error: BaseException) -> UserError:
    """Return an error that names the kind and what its code raised, in one line."""
    return UserError(f"kind {name!r}: {type(error).__name__}: {' '.join(str(error).split())}")


def register_kind(name: str, base: type) -> type:
    """Return the config class of a user's class, and register it as a kind for configs.

    Raises:
      UserError: there is no such class, or it has no valid config class.
    """
    cls = import_class(name)
    found = getattr(cls, "config_class", None)
    decorated = isinstance(found, type) and "__dataclass_fields__" in vars(found)
    if not (decorated and issubclass(found, base)):
        raise UserError(
            f"kind {name!r}: {getattr(cls, '__name__', cls)}.config_class is {found!r}; wanted a "
            f"dataclass made with @config from {base.__name__}"
        )
    if _admitted.get(name) is not found:
        _check(name, found)
        _admitted[name] = found
    return found


def _check(name: str, found: type) -> None:
    """Raise a UserError for an invalid config class, which would break the types of all configs."""
    from pydantic import TypeAdapter

    try:
        TypeAdapter(found)
        kind = get_type_hints(found).get("kind")
    except Exception as error:  # annotations that cannot be resolved, or have no form in YAML
        raise _refused(name, error) from error
    if get_args(kind) != (name,) or getattr(found, "kind", None) != name:
        raise UserError(
            f"kind {name!r}: {found.__name__}.kind is {getattr(found, 'kind', None)!r} of type "
            f'{kind}; wanted kind: Literal["{name}"] = "{name}"'
        )


def registered_kinds(base: type) -> tuple[type, ...]:
    """Return the config classes registered so far that derive from ``base``."""
    return tuple(cls for cls in _admitted.values() if issubclass(cls, base))

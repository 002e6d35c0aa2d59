"""Classes of a user's own, named in a config as ``package.module:Class``.

The one place where a name becomes an import. Such a class has an attribute ``config_class``, a
dataclass made with ``@config`` from the base of its part (``AttentionConfig``, ``ModelConfig``,
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
"""The config classes that were named so far: what pydantic and ``--help`` see is built of them."""


@contextlib.contextmanager
def trusting(trust_code: bool) -> Generator[None]:
    """Let configs that are read meanwhile name code outside of this package, or refuse them."""
    token = _trusted.set(trust_code)
    try:
        yield
    finally:
        _trusted.reset(token)


def trust_runs() -> None:
    """Trust the code that run directories and folders name, from now on: ``--trust-code``."""
    _trusted_runs.set(True)


def runs_are_trusted() -> bool:
    """Whether code that a run directory or folder names may be run."""
    return _trusted_runs.get()


def is_external(kind: Any) -> bool:
    """Whether a kind names a class of a user's own."""
    return isinstance(kind, str) and ":" in kind


def imported(name: str, base: type = object) -> Any:
    """Import the class that ``package.module:Class`` names; the working directory counts.

    Raises:
      UserError: code is not trusted here, or there is no such class, or none from ``base``.
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
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise _refused(name, error) from error
    if not (base is object or (isinstance(found, type) and issubclass(found, base))):
        raise UserError(f"kind {name!r}: {found!r} is no class from {base.__name__}")
    return found


def _refused(name: str, error: BaseException) -> UserError:
    """Return the error that names a kind and says in one line what its code raised."""
    return UserError(f"kind {name!r}: {type(error).__name__}: {' '.join(str(error).split())}")


def admit(name: str, base: type) -> type:
    """Return the config class of the class that ``name`` names, and let configs hold it.

    Raises:
      UserError: no such class, or one without a fitting config class.
    """
    cls = imported(name)
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
    """Refuse a config class that no config could hold, before it spoils those of all others."""
    from pydantic import TypeAdapter

    try:
        TypeAdapter(found)
        kind = get_type_hints(found).get("kind")
    except Exception as error:  # annotations that cannot be resolved, or that YAML cannot hold
        raise _refused(name, error) from error
    if get_args(kind) != (name,) or getattr(found, "kind", None) != name:
        raise UserError(
            f"kind {name!r}: {found.__name__}.kind is {getattr(found, 'kind', None)!r} of type "
            f'{kind}; wanted kind: Literal["{name}"] = "{name}"'
        )


def admitted(base: type) -> tuple[type, ...]:
    """The config classes of users, as far as they were named, that come from ``base``."""
    return tuple(cls for cls in _admitted.values() if issubclass(cls, base))

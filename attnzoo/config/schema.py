"""Fields of config classes with their types in words, meanings and kinds."""

import ast
import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, Lt, MinLen

from attnzoo.config.external import register_kind, registered_kinds
from attnzoo.config.fields import ByKind

WORDS = {int: "int", float: "float", str: "string", bool: "true or false", Path: "path"}


@dataclass(frozen=True)
class Field:
    """Field of a config class; ``classes`` lists the config classes that a value may have."""

    name: str
    annotation: Any
    default: Any
    meaning: str
    classes: tuple[type, ...]
    base: type | None = None
    """Base class of a user's own class for this field; None: the field accepts none."""

    @property
    def kinds(self) -> dict[str, type]:
        """Choices of the field: config classes by their ``kind``; empty without a choice."""
        return {kind_of(cls): cls for cls in self.classes} if len(self.classes) > 1 else {}

    @property
    def required(self) -> bool:
        return self.default is MISSING


@cache
def kind_of(cls: type) -> str:
    """Return the ``kind`` of a config class, by which a config names it."""
    return get_args(get_type_hints(cls)["kind"])[0]


@cache
def fields_of(cls: type) -> dict[str, Field]:
    """Return the fields of a config class by name, in the order of the class."""
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cast(Any, cls)):
        annotation = hints[field.name]
        base = _base(annotation)
        own = () if base is None else registered_kinds(base)
        found[field.name] = Field(
            name=field.name,
            annotation=annotation,
            default=field.default,
            meaning=_meaning(cls, field.name),
            classes=(*(p for p in _parts(annotation) if dataclasses.is_dataclass(p)), *own),
            base=base,
        )
    return found


def admit_kind(field: Field, kind: str) -> type | None:
    """Import a user's own class for a field, ``module:Class``; None if the field accepts none.

    Raises:
      UserError: the class cannot be imported, or code is not trusted.
    """
    if field.base is None:
        return None
    found = register_kind(kind, field.base)
    fields_of.cache_clear()
    return found


def plain(value: Any) -> Any:
    """A config, or a value within one, as dicts, lists and what YAML and JSON know."""
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def dotted_names(cls: type, prefix: str = "") -> Iterator[str]:
    """Every key that a config of this class may have, with dots; those of all kinds."""
    for field in fields_of(cls).values():
        yield prefix + field.name
        for part in field.classes:
            yield from dotted_names(part, f"{prefix}{field.name}.")


def type_in_words(annotation: Any) -> str:
    """``Annotated[int, Gt(0)] | None`` as ``int > 0 or null``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_in_words(arguments[0]) + " and".join(_bounds(arguments[1:]))
    if origin in (Union, types.UnionType):
        if all(dataclasses.is_dataclass(part) for part in arguments):
            return " | ".join(kind_of(part) for part in arguments)
        return " or ".join(type_in_words(part) for part in arguments)
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin is tuple:
        return f"list of {type_in_words(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {type_in_words(arguments[1])}"
    if annotation is type(None):
        return "null"
    return "a mapping" if dataclasses.is_dataclass(annotation) else WORDS[annotation]


def item_type(annotation: Any) -> Any:
    """The type of the items of a list or of the values of a mapping; None for anything else."""
    for part in _parts(annotation):
        if get_origin(part) is tuple:
            return get_args(part)[0]
        if get_origin(part) is dict:
            return get_args(part)[1]
    return None


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, or the type itself, without their metadata."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _base(annotation: Any) -> type | None:
    """The base of users' own classes, by the mark of a union somewhere in the annotation."""
    if get_origin(annotation) is Annotated:
        marks = [mark.base for mark in get_args(annotation)[1:] if isinstance(mark, ByKind)]
        return next((base for base in marks if base is not None), None)
    if get_origin(annotation) in (Union, types.UnionType):
        return next((b for part in get_args(annotation) if (b := _base(part)) is not None), None)
    return None


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    for item in metadata:
        if isinstance(item, GroupedMetadata):
            yield from _bounds(tuple(item))
        elif isinstance(item, BaseMetadata):
            match item:
                case Gt(gt=bound):
                    yield f" > {bound}"
                case Ge(ge=bound):
                    yield f" >= {bound}"
                case Lt(lt=bound):
                    yield f" < {bound}"
                case Le(le=bound):
                    yield f" <= {bound}"
                case MinLen():
                    yield " that is not empty"


@cache
def _meanings(module: str) -> dict[tuple[str, str], str]:
    """The string under each field of each class of a module: only the source has it."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found = {}
    for cls in ast.walk(tree):
        if not isinstance(cls, ast.ClassDef):
            continue
        for field, below in zip(cls.body, cls.body[1:]):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[cls.name, name] = " ".join(text.split())
    return found


def _meaning(cls: type, name: str) -> str:
    owners = (_meanings(owner.__module__).get((owner.__name__, name)) for owner in cls.__mro__[:-1])
    return next((text for text in owners if text is not None), "")

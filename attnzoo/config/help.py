"""Help for a config: an index of its sections, one part at a time, or every field.

A part is a dotted path as on the command line, where a kind may follow its field: ``training``,
``model.attention``, ``model.attention.multi_head``, ``model.attention.multi_head.num_heads``.
Without the kind of a model, ``model.attention`` is that of all models that have one.
"""

import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from attnzoo.config.schema import Field, fields_of, item_type, plain, type_in_words
from attnzoo.errors import UserError

WIDTH = 100

Owned = list[tuple[str, Field]]
"""Fields of one name, each with the kind that has it; the kind is "" where there is no choice."""
Classes = dict[type, str]
"""Config classes, each with its kind."""


def index(cls: type) -> str:
    """Return the top-level fields of a config, an entry each: meaning, kinds, default."""
    lines: list[str] = []
    for name, field in _fields(cls).items():
        kinds = f" One of {', '.join(field.kinds)}{_default(field)}." if field.kinds else ""
        lines += _entry(name, field.meaning + kinds)
    return "\n".join(lines) + "\n"


def part(cls: type, path: str) -> str:
    """Return the help for one part of a config; ``all`` is every field of every kind.

    Raises:
      UserError: there is no such part; similar ones are named.
    """
    if path == "all":
        return help_text(cls)
    *above, last = names = path.replace("=", ".").split(".")
    fields, kinds = _resolve(cls, names, path)
    lines: list[str] = []
    for one in kinds:
        of = ".".join(above)
        lines += [f"{of}={last}", *_wrapped(_summary(one), "    ")]
        lines += _field_lines(one, f"{of}.", "  ")
    if fields:
        lines += _part_lines(".".join(names), fields)
    return "\n".join(lines) + "\n"


def help_text(cls: type) -> str:
    """Return every field with its type, default and meaning; the fields of a class appear once."""
    lines = list(_field_lines(cls, "", ""))
    shown: dict[type, str] = {}
    for path in dict.fromkeys(_paths(cls)):
        found, _ = _resolve(cls, path.split("."), path)
        kinds = _kinds(found)
        if not kinds:
            continue
        lines += ["", *_heading(path, found)]
        for one, kind in kinds.items():
            lines.append(f"  {path}={kind}")
            if one in shown:
                lines.append(f"      As {shown[one]}.")
                continue
            shown[one] = f"{path}={kind}"
            lines += _wrapped(_summary(one), "      ")
            lines += _field_lines(one, f"{path}.", "    ")
    return "\n".join(lines) + "\n"


def _resolve(cls: type, names: list[str], path: str) -> tuple[Owned, Classes]:
    """The fields that a path names, and the classes of the kind that it names: one may be both."""
    fields: Owned = []
    kinds: Classes = {}
    inside: Classes = {cls: ""}
    for position, name in enumerate(names):
        choice = _kinds(fields)
        kinds = {one: kind for one, kind in choice.items() if kind == name}
        known = [*choice.values(), *(other for one in inside for other in _fields(one))]
        having = {one: kind for one, kind in inside.items() if name in _fields(one)}
        fields = [(kind, _fields(one)[name]) for one, kind in having.items()]
        if not fields and not kinds:
            raise UserError(_unknown(cls, names, position, path, known))
        # Behind a kind there is no choice left, so that nothing has to be said of it.
        inside = dict.fromkeys(kinds, "")
        inside |= {one: kind for _, field in fields for one, kind in _held(field).items()}
    return fields, kinds


def _unknown(cls: type, names: list[str], position: int, path: str, known: list[str]) -> str:
    above, name = names[:position], names[position]
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=3)
    meant = [".".join([*above, other]) for other in near]
    if not meant:  # a name that stands somewhere else in the config
        lasts: dict[str, list[str]] = {}
        for other in dict.fromkeys(_paths(cls, kinds=True)):
            lasts.setdefault(other.rpartition(".")[2], []).append(other)
        near = difflib.get_close_matches(names[-1], lasts, n=3, cutoff=0.7)
        meant = [other for last in near for other in lasts[last]]
    hint = f"did you mean {' or '.join(meant[:3])}?" if meant else "--help lists the sections"
    return f"--help {path}: no such part of a config ({hint})"


def _paths(cls: type, prefix: str = "", kinds: bool = False) -> Iterator[str]:
    """Every path to a field; with ``kinds`` also those to the kinds of a field."""
    for name, field in _fields(cls).items():
        yield prefix + name
        if kinds:
            yield from (f"{prefix}{name}.{kind}" for kind in field.kinds)
        for one in _held(field):
            yield from _paths(one, f"{prefix}{name}.", kinds)


def _fields(cls: type) -> dict[str, Field]:
    return {name: field for name, field in fields_of(cls).items() if name != "kind"}


def _held(field: Field) -> Classes:
    """The classes in a field, itself or as the items of a list or mapping, with their kinds."""
    if field.kinds:
        return {one: kind for kind, one in field.kinds.items()}
    item = item_type(field.annotation)
    items = (item,) if isinstance(item, type) and dataclasses.is_dataclass(item) else ()
    return dict.fromkeys((*field.classes, *items), "")


def _kinds(found: Owned) -> Classes:
    return {one: kind for _, field in found for kind, one in field.kinds.items()}


def _part_lines(path: str, found: Owned) -> Iterator[str]:
    yield from _heading(path, found)
    kinds = _kinds(found)
    for one, kind in kinds.items():
        yield from _entry(kind, _summary(one))
    if kinds:
        yield ""
        yield from _wrapped(f"--help {path}.KIND shows the fields of a kind.", "")
    else:
        for one in {one: None for _, field in found for one in _held(field)}:
            yield from _field_lines(one, f"{path}.", "  ")


def _heading(path: str, found: Owned) -> Iterator[str]:
    """Type, default and meaning of a field; where they differ, with the kinds that have them."""
    variants: dict[tuple[str, str], list[str]] = {}
    for kind, field in found:
        words = "one of the kinds below" if field.kinds else type_in_words(field.annotation)
        line = f"{path}: {words}{_default(field)}"
        variants.setdefault((line, field.meaning), []).append(kind)
    for (line, meaning), kinds in variants.items():
        owner = path.rpartition(".")[0]
        yield line + (f", for {owner}={' | '.join(kinds)}" if any(kinds) else "")
        yield from _wrapped(meaning, "    ")


def _field_lines(cls: type, prefix: str, indent: str) -> Iterator[str]:
    """The fields of a class and of the sections in it; the kinds of a choice by name alone."""
    for name, field in _fields(cls).items():
        key = prefix + name
        yield f"{indent}{key}: {type_in_words(field.annotation)}{_default(field)}"
        yield from _wrapped(field.meaning, f"{indent}    ")
        if not field.kinds:
            for one in _held(field):
                yield from _field_lines(one, f"{key}.", f"{indent}  ")


def _entry(name: str, text: str) -> list[str]:
    """A name and its text in two columns."""
    first, *more = _wrapped(text, " " * 24)
    label = f"  {name:<20}  "
    return [label + first.strip(), *more] if len(label) == 24 else [label.rstrip(), first, *more]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        max(WIDTH, len(indent) + 40),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(cls: type) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def _default(field: Field) -> str:
    if field.required:
        # A mapping may be left out when nothing within it is required.
        return "" if len(field.classes) == 1 else " (required)"
    if dataclasses.is_dataclass(field.default):
        default: Any = field.default
        return f" (default: {default.kind})" if field.kinds else ""
    shown = {None: "null", True: "true", False: "false", "": '""'}
    default = plain(field.default)
    known = default is None or isinstance(default, bool | str)
    return f" (default: {shown.get(default, default) if known else default})"

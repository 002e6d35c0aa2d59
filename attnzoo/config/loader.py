"""Configs from YAML files and the command line, checked; every error is one line with its place.

::

    experiment = load(Experiment, Path("configs/demo.yaml"), ["training.seed=7", "model=luong"])

A file may name another in ``base:`` (relative to itself); its own keys go over those of the base.
Where a field takes one of several classes, ``attention: dot`` is short for
``attention: {kind: dot}``, and a change of the kind drops what belonged to the former one.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from attnzoo.config import tree
from attnzoo.config.explain import explain
from attnzoo.config.external import is_external, registered_kinds, trusting
from attnzoo.config.fields import config
from attnzoo.config.schema import Field, admit_kind, fields_of, plain
from attnzoo.config.tree import Node
from attnzoo.errors import UserError

__all__ = ["config", "dump", "load"]

COMMAND_LINE = "command line"

Class = TypeVar("Class")


def load(
    cls: type[Class],
    path: Path | str | None,
    overrides: Sequence[str] = (),
    *,
    trust_code: bool = True,
) -> Class:
    """The config in a YAML file, with ``dotted.key=value`` overrides, as an instance of ``cls``.

    Without a path only defaults and overrides count. Values must have the type of their field:
    a number in quotes is no number. Without ``trust_code`` a kind that names a class outside of
    this package, ``package.module:Class``, is refused. Raises UserError with one line for each
    thing that is wrong.
    """
    with trusting(trust_code):
        return _load(cls, path, overrides)


def _load(cls: type[Class], path: Path | str | None, overrides: Sequence[str]) -> Class:
    name = str(path) if path is not None else COMMAND_LINE
    node = _read_with_bases(cls, Path(path)) if path is not None else Node({}, name)
    node = _overlay(node, _overrides(overrides), _top(cls))
    return _validate(cls, _complete(node, cls), name)


def dump(value: Any) -> str:
    """A config as YAML with every field written out; ``load`` gives an equal one back."""
    return yaml.dump(
        plain(value), Dumper=tree.Yaml12Dumper, sort_keys=False, allow_unicode=True, width=100
    )


def check(value: Any, name: str) -> None:
    """Raise UserError, with ``name`` as the place, if a field of a config is out of range.

    Direct construction of a config does not check the types and bounds of single fields.
    """
    _validate(type(value), tree.from_plain(plain(value), name), name)


def _validate(cls: type[Class], node: Node, name: str) -> Class:
    from pydantic import ValidationError

    try:
        # The strict mode of JSON: no number is read from a string, yet lists become tuples.
        return _adapter(cls).validate_json(json.dumps(node.plain()), strict=True)
    except ValidationError as error:
        found, most = error.errors(), 2 * tree.SHOWN
        lines = [explain(cls, node, name, cast(Any, problem)) for problem in found[:most]]
        listed = sorted(dict.fromkeys(lines), key=_by_place)
        raise tree.refusal(listed, max(0, len(found) - most)) from None


def _adapter(cls: type) -> Any:
    return _adapter_with(cls, registered_kinds(object))


@cache
def _adapter_with(cls: type, own: tuple[type, ...]) -> Any:
    # Half a second of import, which `--help` does not need.
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _by_place(line: str) -> tuple[str, int, int]:
    """Errors in the order of the file."""
    found = re.match(r"(.*?):(\d+):(\d+): ", line)
    return (found[1], int(found[2]), int(found[3])) if found else ("", 0, 0)


def _read_with_bases(cls: type, path: Path, readers: tuple[Path, ...] = ()) -> Node:
    """The tree of a file laid over those of its bases."""
    node = tree.read(_existing(path, f"{path}: "))
    if node.value is None and not readers:
        node = Node({}, str(path))
    if not isinstance(node.value, dict):
        raise UserError(f"{node.place}: a mapping of keys to values is wanted at the top")
    if "base" not in node.value:
        return node
    base = node.value.pop("base")
    if not isinstance(base.value, str):
        raise UserError(f"{base.place}: base: the path of another config is wanted")
    base_path = _existing(path.parent / base.value, f"{base.place}: base: {base.value}: ")
    readers = (*readers, path)
    if any(base_path.samefile(reader) for reader in readers):
        circle = " -> ".join(str(reader) for reader in (*readers, base_path))
        raise UserError(f"{base.place}: base: a circle, {circle}")
    if len(readers) > tree.DEEPEST:
        raise UserError(f"{base.place}: base: more than {tree.DEEPEST} configs, one over another")
    return _overlay(_read_with_bases(cls, base_path, readers), node, _top(cls))


def _existing(path: Path, before: str) -> Path:
    """The path, or a UserError that names the config that was probably meant."""
    try:
        if path.is_dir():
            raise UserError(f"{before}is a directory")
        if path.exists():
            return path
    except OSError as error:  # too long a name, or a folder that may not be read
        raise UserError(f"{before}{error.strerror}") from None
    near = {
        str(other): other.name
        for folder in dict.fromkeys((path.parent, Path("configs")))
        if folder.is_dir()
        for other in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
    }
    found = difflib.get_close_matches(path.name, near.values(), n=1, cutoff=0.5)
    meant = [other for other, name in near.items() if name in found]
    raise UserError(f"{before}no such file" + (f" (did you mean {meant[0]}?)" if meant else ""))


def _overrides(overrides: Sequence[str]) -> Node:
    """One tree of all overrides, so that their order does not matter except for one same key."""
    root = Node({}, COMMAND_LINE)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(key.isprintable() and key for key in keys):
            raise UserError(f"{COMMAND_LINE}: {override!r} is not of the form key=value")
        if len(keys) > tree.DEEPEST:
            raise UserError(f"{COMMAND_LINE}: {keys[0]}...: nested too deeply")
        value = tree.parse(text, f"{COMMAND_LINE}: {dotted}", places=False)
        node = root
        for key in keys[:-1]:
            node = _mapping(node).setdefault(key, Node({}, COMMAND_LINE, COMMAND_LINE))
        value = tree.from_plain(value.plain(), COMMAND_LINE, COMMAND_LINE)
        before = _mapping(node).get(keys[-1])
        if isinstance(value.value, str) and before and isinstance(before.value, dict):
            # `attention.window=5 attention=local_m` in either order.
            before.value["kind"] = value
        else:
            _mapping(node)[keys[-1]] = value
    return root


def _mapping(node: Node) -> dict[str, Node]:
    """The mapping in a node; what stands there for a kind becomes one."""
    if not isinstance(node.value, dict):
        named = isinstance(node.value, str)
        node.value = {"kind": Node(node.value, node.place, node.key_place)} if named else {}
    return node.value


def _kind(node: Node) -> Any:
    kind = node.value.get("kind") if isinstance(node.value, dict) else None
    return kind.value if kind is not None else None


def _long_form(node: Node, field: Field | None) -> Node:
    """``dot`` as ``{kind: dot}`` where one of several classes is wanted."""
    if field is not None and field.kinds and isinstance(node.value, str):
        kind = Node(node.value, node.place, node.place)
        return Node({"kind": kind}, node.place, node.key_place)
    return node


def _top(cls: type) -> Field:
    return Field(name="", annotation=cls, default=MISSING, meaning="", classes=(cls,))


def _chosen(field: Field, kind: Any, place: str) -> type | None:
    """The class that a mapping of this kind is in this field."""
    if is_external(kind):
        try:
            return admit_kind(field, kind)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
    if field.kinds:
        return field.kinds.get(kind) if isinstance(kind, str) else None
    return field.classes[0] if field.classes else None


def _overlay(below: Node, above: Node, field: Field | None) -> Node:
    """One tree over another, both values of ``field`` (None: of unknown meaning)."""
    below, above = _long_form(below, field), _long_form(above, field)
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    within: dict[str, Field] = {}
    if field is not None:
        former = _kind(below) or getattr(field.default, "kind", None)
        kind = _kind(above) or former
        if field.kinds and kind != former:
            return above
        cls = _chosen(field, kind, above.place)
        within = fields_of(cls) if cls is not None else {}
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = _overlay(merged[key], node, within.get(key)) if key in merged else node
    return Node(merged, above.place, above.key_place or below.key_place)


def _complete(node: Node, cls: type) -> Node:
    """Nested configs laid over the defaults of their fields, short forms made long."""
    if not isinstance(node.value, dict):
        return node
    values = dict(node.value)
    for field in fields_of(cls).values():
        if not field.classes or field.name not in values:
            continue
        value = _long_form(values[field.name], field)
        if dataclasses.is_dataclass(field.default):
            place = value.key_place or value.place
            value = _overlay(tree.from_plain(plain(field.default), place, place), value, field)
        chosen = _chosen(field, _kind(value), value.place)
        values[field.name] = _complete(value, chosen) if chosen is not None else value
    return Node(values, node.place, node.key_place)

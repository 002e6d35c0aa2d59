"""Validation errors of configs in plain words, with place, dotted key and expected value."""

import difflib
from typing import Any

from attnzoo.config.schema import Field, dotted_names, fields_of, item_type, type_in_words
from attnzoo.config.tree import Node


def explain(cls: type, root: Node, name: str, problem: dict[str, Any]) -> str:
    """Return a one-line message for a pydantic error found in ``root`` while reading a ``cls``."""
    node: Node | None = root
    owner: type | None = cls
    field: Field | None = None
    annotation: Any = None
    choosing = False
    place, key_place, path = root.key_place or name, root.key_place or name, ""
    for step in problem["loc"]:
        if choosing and field is not None:
            # pydantic adds the name of the kind here, which is not a key of the file.
            owner, choosing = field.kinds.get(str(step)), False
            continue
        field = fields_of(owner).get(str(step)) if owner is not None else None
        annotation = field.annotation if field is not None else item_type(annotation)
        classes = field.classes if field is not None else ()
        owner, choosing = (classes[0] if classes else None), len(classes) > 1
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}".lstrip(".")
        values = node.value if node is not None else None
        if isinstance(values, dict):
            node = values.get(str(step))
        elif isinstance(values, list) and isinstance(step, int) and step < len(values):
            node = values[step]
        else:
            node = None
        if node is not None:
            place, key_place = node.place, node.key_place or node.place

    kind = problem["type"]
    if kind == "unexpected_keyword_argument":
        above = path.rpartition(".")[0]
        return f"{key_place}: {path}: unknown key{_hint(cls, root, path, above)}"
    if kind == "missing":
        meaning = field.meaning.rstrip(".") if field is not None else ""
        wanted = f" ({type_in_words(annotation)}: {meaning})" if annotation else ""
        return f"{key_place}: {path}: missing{wanted}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _about_kind(node, key_place, f"{path}.kind".lstrip("."), field)
    if kind == "value_error":
        message = str(problem["ctx"]["error"])
        values = node.value if node is not None else None
        # Such messages begin with `field=value` if one field is at fault.
        blamed = values.get(message.partition("=")[0]) if isinstance(values, dict) else None
        at = blamed.place if blamed is not None else key_place
        return f"{at}: {path}: {message}" if path else f"{at}: {message}"
    got = _in_words(problem["input"])
    if annotation is None:
        return f"{place}: {path or 'top'}: {problem['msg'].lower()}, got {got}"
    hint = ""
    if kind == "literal_error" and isinstance(problem["input"], str):
        hint = _did_you_mean(problem["input"], type_in_words(annotation).split(" | "))
    elif kind == "string_type" and isinstance(problem["input"], int | float):
        hint = ' (in quotes it is one: "...")'
    return f"{place}: {path}: expected {type_in_words(annotation)}, got {got}{hint}"


def _hint(cls: type, root: Node, path: str, above: str) -> str:
    """Return a hint: the kind that has the unknown key, or the nearest key, or all keys."""
    owner: type | None = cls
    node: Node | None = root
    field: Field | None = None
    kind: Any = None
    for key in above.split(".") if above else ():
        field = fields_of(owner).get(key) if owner is not None else None
        node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
        if field is None or node is None or not isinstance(node.value, dict):
            return ""
        kind = node.value["kind"].value if "kind" in node.value else None
        owner = field.kinds.get(kind) if field.kinds else field.classes[0]
    key = path.rpartition(".")[2]
    if owner is None:
        return ""
    others = field.kinds.items() if field is not None else ()
    having = [other for other, part in others if key in fields_of(part)]
    if having:
        return f" for kind '{kind}' (it belongs to {', '.join(having)})"
    beside = list(fields_of(owner))
    near = _did_you_mean(key, beside)
    if near:
        return near
    elsewhere = [name for name in dotted_names(cls) if name.rpartition(".")[2] == key]
    elsewhere = [name for name in dict.fromkeys(elsewhere) if name != path]
    elsewhere.sort(key=lambda name: name.count("."))
    if elsewhere:
        return " (did you mean " + " or ".join(f"'{name}'" for name in elsewhere[:3]) + "?)"
    return f" (known: {', '.join(beside)})"


def _about_kind(node: Node | None, place: str, path: str, field: Field | None) -> str:
    kinds = list(field.kinds) if field is not None else []
    kind = node.value.get("kind") if node is not None and isinstance(node.value, dict) else None
    if kind is None:
        if node is not None and not isinstance(node.value, dict):
            path, got = path.removesuffix(".kind"), _in_words(node.value)
            return f"{node.place}: {path}: expected {' | '.join(kinds)}, got {got}"
        return f"{place}: {path}: missing (one of {', '.join(kinds)})"
    got = f" {kind.value!r}" if isinstance(kind.value, str) else f", {_in_words(kind.value)}"
    hint = _did_you_mean(str(kind.value), kinds) or f" (known: {', '.join(kinds)})"
    return f"{kind.place}: {path}: unknown kind{got}{hint}"


def _did_you_mean(word: str, known: list[str]) -> str:
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1)
    return f" (did you mean '{lower[near[0]]}'?)" if near else ""


def _in_words(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the string {value!r}"
        case int() | float():
            return f"the number {value}"
        case dict():
            return "a mapping"
        case _:
            return "a list"

"""YAML as a tree that remembers where each key and value stands.

Numbers and booleans are those of YAML 1.2: ``1e-4`` is a number; ``on``, ``yes``, ``no``, ``12:30``
and ``2015-09-08`` are strings. A key that stands twice in one mapping is an error.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from attnzoo.errors import UserError
from attnzoo.files import read_text

LARGEST = 2**20
"""Bytes of the largest config."""
MOST = 10_000
"""Values of the largest config, those of an alias counted wherever it stands."""
DEEPEST = 50
"""Levels of the deepest config."""
SHOWN = 20
"""Problems that one error lists before it counts the rest."""
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")


@dataclass
class Node:
    """A value with its place (``file:line:column``), and that of its key if it has one."""

    value: "dict[str, Node] | list[Node] | str | int | float | bool | None"
    place: str
    key_place: str | None = None

    def plain(self) -> Any:
        """The value alone."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def from_plain(value: Any, place: str, key_place: str | None = None) -> Node:
    """Return the tree of plain values, with the same place (for messages) at every node."""
    if isinstance(value, dict):
        value = {key: from_plain(item, place, place) for key, item in value.items()}
    elif isinstance(value, list):
        value = [from_plain(item, place) for item in value]
    return Node(value, place, key_place)


def read(path: Path) -> Node:
    """Return the tree of a YAML file; UserError if it is not readable or not valid."""
    return parse(read_text(path, LARGEST), str(path))


def refusal(problems: list[str], unlisted: int = 0) -> UserError:
    """Return one error for several problems, one line each; only the first ones are listed."""
    more = max(0, len(problems) - SHOWN) + unlisted
    rest = [f"... and {more:,} more"] if more else []
    return UserError("\n".join([*problems[:SHOWN], *rest]))


def parse(text: str, name: str, *, places: bool = True) -> Node:
    """Return the tree of a YAML text; its nodes know their line and column if ``places``."""

    def place(mark: Any) -> str:
        return f"{name}:{mark.line + 1}:{mark.column + 1}" if places else name

    try:
        root = yaml.compose(text, Loader=Yaml12Loader)
    except yaml.MarkedYAMLError as error:
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{place(error.problem_mark or error.context_mark)}: {what}") from None
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        where = f"{name}:{line}" if places else name
        raise UserError(f"{where}: character #x{error.character:04x} is not allowed") from None
    except (ArithmeticError, LookupError, ValueError) as error:  # escapes and versions out of range
        raise UserError(f"{name}: not YAML: {error}") from None
    problems: list[str] = []
    built = itertools.count(1)

    def build(node: yaml.Node, path: str, key_place: str | None, within: tuple[int, ...]) -> Node:
        at = place(node.start_mark)
        if next(built) > MOST:
            raise UserError(f"{at}: more than {MOST:,} values, those of aliases counted each time")
        if id(node) in within:
            problems.append(f"{at}: {path}: an alias of what it stands in")
            return Node(None, at, key_place)
        within = (*within, id(node))
        if isinstance(node, yaml.ScalarNode):
            return Node(scalar(node, path, at), at, key_place)
        if isinstance(node, yaml.SequenceNode):
            items = [build(item, f"{path}[{i}]", None, within) for i, item in enumerate(node.value)]
            return Node(items, at, key_place)
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key_at = place(key_node.start_mark)
            key = scalar(key_node, path, key_at) if isinstance(key_node, yaml.ScalarNode) else None
            if isinstance(key, str) and not key.isprintable():
                problems.append(f"{key_at}: {path or 'top'}: key {key!r} is not printable")
                continue
            if not isinstance(key, str):
                shown = getattr(key_node, "value", "")
                shown = shown if isinstance(shown, str) else "a collection"
                problems.append(f"{key_at}: {path or 'top'}: key {_shown(shown)} is not a string")
                continue
            below = f"{path}.{key}" if path else key
            if key in found:
                problems.append(
                    f"{key_at}: {below}: duplicate key (first at {found[key].key_place})"
                )
                continue
            found[key] = build(value_node, below, key_at, within)
        return Node(found, at, key_place)

    def scalar(node: yaml.ScalarNode, path: str, at: str) -> str | int | float | bool | None:
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str" if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value):
                what = "holds a null character or half a surrogate pair"
            case "str":
                return node.value
            case "null":
                return None
            case "bool" if node.value.lower() in ("true", "false"):
                return node.value.lower() == "true"
            case "int" if len(node.value) > 100:
                what = f"has {len(node.value)} digits"
            case "int" if INT.fullmatch(node.value):
                return int(node.value.replace("_", ""))
            case "float" if FLOAT.fullmatch(node.value):
                return float(
                    node.value.replace("_", "")
                    .lower()
                    .replace(".inf", "inf")
                    .replace(".nan", "nan")
                )
            case _:
                what = f"tag {_shown(node.tag)} cannot be used for {node.value!r}"
        problems.append(f"{at}: {path}: {what}" if path else f"{at}: {what}")
        return None

    tree = Node(None, name) if root is None else build(root, "", None, ())
    if problems:
        raise refusal(problems)
    return tree


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)


class Yaml12Loader(yaml.SafeLoader):
    """Composes nodes within bounds; which plain scalars are numbers is YAML 1.2's core schema."""

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._count = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node, unless it is one too many or too deep."""
        self._count, self._depth = self._count + 1, self._depth + 1
        if self._count > MOST or self._depth > DEEPEST:
            what = "nested too deeply" if self._depth > DEEPEST else f"more than {MOST:,} values"
            raise yaml.MarkedYAMLError(None, None, what, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class Yaml12Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 (its parent) or YAML 1.2 would read as something else than a string."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(resolvers)
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def _resolve(tag: str, pattern: str, first: str) -> None:
    Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))
    Yaml12Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


_resolve("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_resolve("int", rf"^(?:{INT.pattern})$", "-+0123456789")
_resolve("float", rf"^(?=.*[.eEnN])(?:{FLOAT.pattern})$", "-+0123456789.")
Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)

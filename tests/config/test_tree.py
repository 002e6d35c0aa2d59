"""Which plain YAML scalars are numbers, and where everything stands."""

import pytest

from attnzoo.config.tree import Node, parse
from attnzoo.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("7.", 7.0),
        ("+3", 3),
        ("30_000", 30000),
        ("0", 0),
        (".inf", float("inf")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        # YAML 1.1 reads all of these as something else than a string.
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("12:30", "12:30"),
        ("2015-09-08", "2015-09-08"),
        ("0x10", "0x10"),
        ("007", "007"),
        ("0b1", "0b1"),
        ("=", "="),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("e4", "e4"),
        ("_1", "_1"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    read = parse(text, "x").value
    assert (read, type(read)) == (value, type(value))


def test_places_of_keys_and_values() -> None:
    tree = parse("a: 1\nb:\n  - x\n  - {c: d}\n", "f")
    assert tree == Node(
        {
            "a": Node(1, "f:1:4", "f:1:1"),
            "b": Node(
                [Node("x", "f:3:5"), Node({"c": Node("d", "f:4:9", "f:4:6")}, "f:4:5")],
                "f:3:3",
                "f:2:1",
            ),
        },
        "f:1:1",
    )


def test_an_alias_is_a_copy() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n", "f").plain() == {"a": {"b": 1}, "c": {"b": 1}}


def test_all_duplicate_keys_are_listed() -> None:
    with pytest.raises(UserError) as caught:
        parse("a: 1\nb: {c: 2, c: 3}\na: 4\n", "f")
    assert str(caught.value).splitlines() == [
        "f:2:11: b.c: duplicate key (first at f:2:5)",
        "f:3:1: a: duplicate key (first at f:1:1)",
    ]

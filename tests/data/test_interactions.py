"""Histories of items: what is read of a table, and what the batches of its parts are."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attnzoo.config.interactions import InteractionsConfig
from attnzoo.data.interactions import (
    Histories,
    HistoryPlan,
    Items,
    absent,
    known_items,
    load_interactions,
    names_in,
)
from attnzoo.errors import UserError

# User, item, time; a's times are not in order, and two of b's are equal.
ROWS = [("a", "x", 5), ("b", "y", 2), ("a", "z", 1), ("b", "x", 2), ("c", "x", 1), ("a", "y", 9),
        ("b", "z", 1), ("c", "y", 0)]  # fmt: skip
ALL = {"a": ["z", "x", "y"], "b": ["z", "y", "x"]}
NAMES = ("user_id", "item_id", "timestamp")


def table(path: Path, separator: str, names: tuple[str, ...], rows: list[Any] = ROWS) -> None:
    lines = [names, *rows] if names else rows
    path.write_text("\n".join(separator.join(map(str, row)) for row in lines) + "\n")


def parquet(path: Path) -> None:
    user, item, time = zip(*ROWS, strict=True)
    dates = [datetime.fromtimestamp(seconds, UTC) for seconds in time]
    pq.write_table(pa.table(dict(zip(NAMES, (user, item, dates), strict=True))), path)


def jsonl(path: Path) -> None:
    rows = [dict(zip(NAMES, (u, i, f"1970-01-01T00:00:0{t}Z"), strict=True)) for u, i, t in ROWS]
    path.write_text("\n".join(map(json.dumps, rows)))


ATOMIC = ("user_id:token", "item_id:token", "timestamp:float")
FORMS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "tsv": (lambda path: table(path, "\t", NAMES), {}),
    "inter": (lambda path: table(path, "\t", ATOMIC), {}),
    "csv": (lambda path: table(path, ",", NAMES), {"format": "csv"}),
    "no header": (
        lambda path: table(path, "\t", ()),
        {"header": False, "user_column": "0", "item_column": "1", "time_column": "2"},
    ),
    "dates": (jsonl, {"format": "jsonl"}),
    "parquet": (parquet, {"format": "parquet"}),
}


def named(part: Histories) -> list[list[str]]:
    return [[part.items.names[i] for i in part.of(user)] for user in range(len(part))]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_histories(form: str, tmp_path: Path) -> None:
    write, settings = FORMS[form]
    write(tmp_path / "table")
    splits = load_interactions(InteractionsConfig(files=(tmp_path / "table",), **settings))
    whole = list(ALL.values())
    assert named(splits.test) == whole
    assert named(splits.validation) == [one[:-1] for one in whole]
    assert named(splits.train) == [one[:-2] for one in whole]
    rows, users = splits.reports
    assert (rows.read, rows.kept, users.read, users.kept) == (8, 8, 3, 2)
    assert users.lines()[1].endswith("skipped 1: fewer than 3 interactions (user c)")
    np.testing.assert_array_equal(splits.train.used(), [0, 0, 2])  # x, y, z as they came
    assert known_items(splits.train).names == ("z",)


def test_rows_that_cannot_be_used_are_counted_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "table"
    table(
        path,
        "\t",
        NAMES,
        [*ROWS, ("", "x", 3), ("a", " ", 3), ("a", "x", "soon"), ("a", "q", "nan")],
    )
    config = InteractionsConfig(files=(path,), max_skipped=0.5)
    splits = load_interactions(config)
    assert named(splits.test) == list(ALL.values())
    assert splits.reports[0].places == {
        "no user": [f"{path}:10"],
        "no item": [f"{path}:11"],
        "timestamp is neither a number nor a date": [f"{path}:12", f"{path}:13"],
    }


@pytest.mark.parametrize(
    ("names", "rows", "settings", "said"),
    [
        (NAMES, [*ROWS, ("", "x", 3)], {}, "1 of 9 interactions cannot be used, more than"),
        (("user", "item", "at"), ROWS, {}, ":2: no column 'user_id'; it has user, item, at"),
        (NAMES, ROWS, {"min_history": 4}, "no user has 4 interactions"),
        (NAMES, [("a", "", 1)], {"max_skipped": 1.0}, "no usable interaction in 1 rows"),
        (NAMES, [("a", "x")], {}, ":2: 2 columns, the first line has 3"),
    ],
)
def test_a_table_that_will_not_do_is_one_line(
    names: Any, rows: Any, settings: Any, said: str, tmp_path: Path
) -> None:
    table(tmp_path / "table", "\t", names, rows)
    with pytest.raises(UserError, match="table") as error:
        load_interactions(InteractionsConfig(files=(tmp_path / "table",), **settings))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_titles_go_with_the_items_into_the_run(tmp_path: Path) -> None:
    table(tmp_path / "table", "\t", NAMES, [(u, i, 0) for u in "ab" for i in "xyzxyz"])
    table(
        tmp_path / "titles", "\t", ("item_id:token", "title:token_seq"), [("y", "Why"), ("q", "Q")]
    )
    config = InteractionsConfig(files=(tmp_path / "table",), titles=tmp_path / "titles")
    items = known_items(load_interactions(config).train)
    items.write(tmp_path / "items.json")
    kept = Items.read(tmp_path / "items.json")
    assert kept == items
    assert [kept.title(i) for i in range(3)] == ["x", "Why", "z"]
    assert kept.numbers(["z", "w", "y"]).tolist() == [2, -1, 1]
    (tmp_path / "items.json").write_text('{"items": ["a", "b"], "titles": ["A"]}')
    with pytest.raises(UserError, match=r"items.json: 1 titles of 2 items"):
        Items.read(tmp_path / "items.json")


def test_a_line_of_names() -> None:
    assert names_in(" a  b\n") == ["a", "b"]
    assert names_in("The Rock\tFargo ") == ["The Rock", "Fargo"]
    assert names_in("\n") == []


def histories(*lengths: int, items: int = 40) -> Histories:
    """Users with the items 0, 1, ... of these numbers."""
    ends = np.cumsum(lengths)
    ids = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    return Histories(Items(tuple(map(str, range(items)))), ids, ends - np.asarray(lengths), ends)


def test_windows_predict_each_item_once() -> None:
    made = histories(2, 6, 7, 12, 1)
    windows, users = made.windows(5)
    assert users.tolist() == [0, 1, 2, 2, 3, 3, 3, 4]
    found = [windows.of(i).tolist() for i in range(len(windows))]
    assert found[:4] == [[0, 1], [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], [0, 1]]
    for user, length in enumerate([2, 6, 7, 12, 1]):
        predicted = [i for window, one in zip(found, users, strict=True) if one == user
                     for i in window[1:]]  # fmt: skip
        assert sorted(predicted) == list(range(1, length))


def test_drawn_items_are_absent_and_uniform() -> None:
    present = np.int32([3, 0, 3, 6, -1])
    drawn = absent(present, 8, 30_000, 1, 2)
    counts = np.bincount(drawn, minlength=8)
    assert counts[[0, 3, 6]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(counts[[1, 2, 4, 5, 7]], 6000, rtol=0.05)
    np.testing.assert_array_equal(drawn, absent(present, 8, 30_000, 1, 2))
    assert (absent(present, 8, 30, 1, 3) != drawn[:30]).any()
    assert absent(np.arange(8, dtype=np.int32), 8, 3, 1).tolist() == [-1, -1, -1]


def test_batches_are_padded_on_the_left() -> None:
    plan = HistoryPlan(histories(3, 9), 3, 5, negatives=0, last_only=False)
    batch = plan.batch(0)
    row = {int(user): i for i, user in enumerate(batch["rows"])}
    assert sorted(row) == [-1, 0, 1]
    assert batch["tokens"][row[0]].tolist() == [0, 0, 0, 0, 1]
    assert batch["targets"][row[0]].tolist() == [0, 0, 0, 1, 2]
    assert batch["valid"][row[0]].tolist() == [False, False, False, True, True]
    assert batch["tokens"][row[1]].tolist() == [3, 4, 5, 6, 7]
    assert batch["targets"][row[1]].tolist() == [4, 5, 6, 7, 8]
    assert not batch["valid"][row[-1]].any()
    np.testing.assert_array_equal(batch["valid"], batch["counted"])


def test_the_last_item_is_to_be_found() -> None:
    made = histories(3, 9)
    unknown = np.where(made.ids == 4, -1, made.ids).astype(np.int32)  # in the longer history
    plan = HistoryPlan(
        Histories(made.items, unknown, made.starts, made.ends), 3, 5, negatives=30, last_only=True
    )
    batch = plan.batch(0)
    assert batch["rows"].tolist() == [0, 1, -1]
    assert batch["targets"].tolist() == [2, 8, -1]
    assert batch["tokens"][1].tolist() == [2, 3, 5, 6, 7]
    assert sorted(batch["history"][1].tolist()) == [-1, 0, 1, 2, 3, 5, 6, 7]
    for row in (0, 1):
        assert set(batch["negatives"][row]).isdisjoint(unknown[made.starts[row] : made.ends[row]])
    # Another batch size does not change what a user is ranked among.
    other = HistoryPlan(plan.histories, 1, 5, negatives=30, last_only=True).batch(1)
    np.testing.assert_array_equal(other["negatives"][0], batch["negatives"][1])


def test_a_drawn_item_is_not_in_any_window_of_the_user() -> None:
    made = histories(30, 4, items=33)
    plan = HistoryPlan(made, 4, 5, negatives=2, last_only=False, windows=True)
    assert plan.steps_per_epoch == 2
    owner = made.windows(5)[1]
    batches = list(plan.batches())
    assert [b["negatives"].shape for b in batches] == [(4, 5, 2)] * 2
    for batch in batches:
        for row, window in enumerate(batch["rows"]):
            user = made.of(int(owner[window])) if window >= 0 else np.int32([])
            assert set(batch["negatives"][row].ravel()).isdisjoint(user)
    again = plan.batch(plan.steps_per_epoch)["negatives"]
    assert (again != batches[0]["negatives"]).any()  # drawn anew in every epoch

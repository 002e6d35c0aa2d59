"""The workload `linear`: a table for what agrees, an error for what is unknown or does not."""

import pytest

from attnzoo.errors import UserError
from benchmarks import linear
from benchmarks.main import parse

SMALL = ["linear", "--lengths", "24", "48", "--heads", "1", "--width", "3", "--chunk", "8"]


def test_a_row_for_each_length(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse([*SMALL, "--rounds", "1", "--mechanisms", "retnet"])
    assert linear.measure(arguments, cores=[]) == 0  # no cores: pytest is not pinned
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert [[cell.strip() for cell in row[:2]] for row in rows[2:]] == [
        ["retnet", "24"],
        ["retnet", "48"],
    ]
    assert all(float(cell) >= 0 for row in rows[2:] for cell in row[2:])


def test_an_unknown_mechanism_is_named() -> None:
    with pytest.raises(UserError, match="--mechanisms gru: wanted some of sum_rule, delta_rule"):
        linear.measure(parse([*SMALL, "--mechanisms", "gru"]), cores=[])


def test_forms_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = linear.mechanisms()["retnet"]

    def wrong(*arrays, form, **keywords):
        return right(*arrays, form=form, **keywords) * (1.01 if form == "chunked" else 1)

    monkeypatch.setattr(linear, "mechanisms", lambda: {"retnet": wrong})
    with pytest.raises(UserError, match=r"retnet, length 24: the forms differ by (1\.0|9\.9)e-0"):
        linear.measure(parse([*SMALL, "--rounds", "1"]), cores=[])

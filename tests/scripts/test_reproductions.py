"""Claims of papers: every one is whole, its record, page and figure agree, and the programs run."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from attnzoo.errors import UserError
from reproductions import report, store
from reproductions.claim import (
    Check,
    Claim,
    Measured,
    Results,
    Setting,
    above,
    ahead,
    below,
    certain,
    close,
    headline,
    positive,
)
from reproductions.claims import claims
from reproductions.main import main

CLAIMS = claims()
MEASURED = [name for name, claim in CLAIMS.items() if store.read(claim).seeds]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_says_what_is_needed_to_judge_it(name: str) -> None:
    claim = CLAIMS[name]
    for text in (claim.title, claim.source, claim.claimed, claim.setup, claim.meaning):
        assert text.strip() == text
        assert text
    assert claim.claimed.endswith(".")
    assert claim.meaning.endswith(".")
    assert claim.setup.endswith(".")
    assert claim.criterion
    assert claim.minutes > 0
    counted = [check for check in claim.criterion if not check.certain]
    assert any(check.headline for check in counted or claim.criterion)
    told = "random" in (claim.measure.__doc__ or "") or "one seed" in claim.setup
    assert claim.seeds >= 3 or claim.minutes > 40 or told


@pytest.mark.parametrize("name", MEASURED)
def test_the_record_has_every_published_number_and_its_figure_draws(name: str) -> None:
    claim = CLAIMS[name]
    results = store.read(claim).results
    assert set(claim.published) <= set(results.names)
    assert claim.came(results).endswith(".")
    assert claim.verdict(results) in report.VERDICTS
    if claim.verdict(results) in ("partly", "not reproduced"):
        assert claim.otherwise.endswith(".")
    figure = report.draw(claim, results)
    figure.draw_without_rendering()
    ticks = [tick.get_text() for axes in figure.axes for tick in axes.get_xticklabels()]
    ticks += [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    assert ticks
    assert not any("$" in tick for tick in ticks)


def test_the_page_and_its_figures_agree_with_the_records() -> None:
    assert report.stale(CLAIMS) == []


def test_a_record_without_a_claim_is_named() -> None:
    others = dict(CLAIMS)
    del others[MEASURED[0]]
    assert f"{store.RESULTS / MEASURED[0]}.json: a record without a claim" in report.stale(others)


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.in_tests])
def test_a_quick_form_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", name, "--quick", "--runs", str(tmp_path)]) == 0
    assert f"{name}: seed 0" in capsys.readouterr().out
    record = json.loads((tmp_path / "quick" / f"{name}.json").read_text())
    values = record["seeds"]["0"]["values"]
    if name in MEASURED:
        assert list(values) == store.read(CLAIMS[name]).results.names
    assert {"python", "jax", "processor"} <= set(record["seeds"]["0"]["machine"])


def made(measure: dict[int, dict[str, Measured]], *criterion: Check) -> tuple[Claim, Results]:
    """A claim with these results."""
    one = next(iter(CLAIMS.values()))
    claim = dataclasses.replace(
        one, name="made", criterion=criterion, published={}, figure=None, needs=()
    )
    return claim, Results(measure)


def test_intervals_are_those_of_student() -> None:
    # scipy.stats.t.interval(0.95, 2, loc=2, scale=1/3**0.5): 2 -+ 2.4841...
    _, results = made({0: {"a": 1.0}, 1: {"a": 2.0}, 2: {"a": 3.0}})
    assert results.interval("a") == pytest.approx((-0.4841, 4.4841), abs=1e-3)
    _, results = made({0: {"a": (1.0, 0.5, 1.7), "b": (0.0, -0.4, 0.3)}})
    assert results.interval("a") == (0.5, 1.7)
    # Ends of a difference: the square root of the squares of both distances.
    assert results.difference("a", "b") == pytest.approx((1, 1 - 0.34**0.5, 1 + 0.65**0.5))


# Means 2 and 1, with intervals of 2.48 to either side; the difference is 1 with 0.00025.
@pytest.mark.parametrize(
    ("check", "outcome"),
    [
        (above("a", 2), "holds"),
        (above("a", 2.1), "undecided"),
        (above("a", 4.5), "contradicted"),
        (below("b", 1.1), "holds"),
        (below("b", 0.9), "undecided"),
        (below("b", -1.5), "contradicted"),
        (positive("a", "in words"), "undecided"),
        (ahead("a", "b"), "holds"),
        (ahead("a", "b", by=0.9), "holds"),
        (ahead("a", "b", by=1.0), "undecided"),
        (ahead("a", "b", by=1.1), "contradicted"),
        (ahead("b", "a"), "contradicted"),
        (close("a", "b", 1.01), "holds"),
        (close("a", "b", 0.9999), "undecided"),
        (close("a", "b", 0.9), "contradicted"),
        (close("b", "a", 0.9), "contradicted"),
    ],
)
def test_checks_hold_when_they_say(check: Check, outcome: str) -> None:
    _, results = made({s: {"a": 2.0 + s, "b": 1.0 + s * 1.0001} for s in (-1, 0, 1)})
    assert check.outcome(results) == outcome
    assert check.holds(results) is (outcome == "holds")


def test_a_difference_counts_the_second_as_often_as_said() -> None:
    _, results = made({0: {"a": (3.0, 2.0, 5.0), "b": (1.0, 0.5, 1.5)}})
    assert results.difference("a", "b", 2) == pytest.approx((1, 1 - 2**0.5, 1 + 5**0.5))
    _, results = made({s: {"a": 2.0 * s, "b": 1.0 * s} for s in range(3)})
    assert results.difference("a", "b", 2) == (0, 0, 0)


def test_a_difference_without_an_interval_shows_nothing() -> None:
    _, results = made({0: {"a": 2.0, "b": 1.0}})
    assert ahead("a", "b").outcome(results) == "undecided"
    assert math.isnan(results.interval("a")[0])


def test_verdicts() -> None:
    three = {seed: {"a": 1.0} for seed in range(3)}
    title = headline(above("a", 1))
    for criterion, verdict in (
        ((title, below("a", 1)), "reproduced"),
        ((title, above("a", 2)), "partly"),
        ((title, headline(above("a", 2))), "partly"),
        ((above("a", 1), headline(above("a", 2))), "not reproduced"),
        ((above("a", 2),), "not reproduced"),
        ((certain(above("a", 1), "it is 1"), above("a", 2)), "not reproduced"),
        ((certain(above("a", 2), "it is 2"), above("a", 1)), "not reproduced"),
        ((certain(above("a", 1), "it is 1"), above("a", 1)), "reproduced"),
        ((certain(above("a", 1), "it is 1"),), "checked"),
    ):
        claim, results = made(three, *criterion)
        claim = dataclasses.replace(claim, seeds=3)
        assert claim.verdict(results) == verdict
        assert claim.verdict(Results({0: {"a": 1.0}})) == "unfinished"
        assert not claim.undecided(results)
        other_seeds = Results({seed: {"a": 1.0} for seed in (0, 7, 99)})
        assert claim.verdict(other_seeds) == "unfinished"


@pytest.mark.parametrize(("bound", "told"), [(2.1, "undecided"), (4.5, "contradicted")])
def test_a_claim_that_is_not_contradicted_says_so(bound: float, told: str) -> None:
    measured: dict[int, dict[str, Measured]] = {s: {"a": 1.0 + s} for s in range(3)}
    claim, results = made(measured, below("a", 9), headline(above("a", bound)))
    claim = dataclasses.replace(claim, seeds=3, came=lambda results: "It came.")
    machine = {"cpu_seconds": 1, "machine": {"processor": "one"}}
    section = report._section(claim, results, dict.fromkeys(range(3), machine))
    assert claim.undecided(results) is (told == "undecided")
    text = "\n".join(section)
    assert ("**Not reproduced, undecided.**" in text) is (told == "undecided")
    assert f"- *title*: a ≥ {bound}: **does not hold, {told}** (2, from -0.484 to 4.48)" in text


def test_a_bound_is_shown_with_what_it_bounds_before_rounding() -> None:
    # The mean 0.898 is 0.90 with as many digits as its interval asks for, and misses 0.9.
    measured: dict[int, dict[str, Measured]] = {s: {"a": 0.898 + (s - 1) * 0.1} for s in range(3)}
    claim, results = made(measured, above("a", 0.9), certain(below("a", 1), "it is a share"))
    assert report.shown(results, "a") == "0.90 ± 0.25"
    claim = dataclasses.replace(claim, seeds=3, came=lambda results: "It came.")
    machine = {"cpu_seconds": 1, "machine": {"processor": "one"}}
    section = report._section(claim, results, dict.fromkeys(range(3), machine))
    assert "- a ≥ 0.9: **does not hold, undecided** (0.898, from 0.65 to 1.15)" in section
    assert (
        "- a ≤ 1: holds (0.898, from 0.65 to 1.15); a check, not evidence: it is a share" in section
    )


def test_numbers_of_another_criterion_are_refused(tmp_path: Path) -> None:
    claim, _ = made({}, above("a", 1))
    record = store.Record([above("a", 1).text], {0: {"values": {"a": 2}, "cpu_seconds": 1}})
    store.write(claim, record, tmp_path)
    assert store.read(claim, tmp_path).results.mean("a") == 2
    later = dataclasses.replace(claim, criterion=(above("a", 0),))
    with pytest.raises(UserError, match=r"made\.json: measured under another criterion"):
        store.read(later, tmp_path)
    (tmp_path / "made.json").write_text("{")
    with pytest.raises(UserError, match=r"made\.json: not a record of a claim"):
        store.read(claim, tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "seed 1: 'a' is not in the numbers of every seed"),
        ({"a": 1, "b": 1}, "seed 1: 'b' is not in the numbers of every seed"),
        ({"a": math.nan}, "seed 1: a = nan; wanted a number"),
        ({"a": "abc"}, "seed 1: a = 'abc'; wanted a number"),
        ({"a": [1, 2]}, r"seed 1: a = \[1, 2\]; wanted a number"),
        (None, "not a record of a claim"),
    ],
)
def test_odd_numbers_in_a_record_are_refused(tmp_path: Path, values: Any, message: str) -> None:
    claim, _ = made({}, above("a", 1))
    seeds = {"0": {"values": {"a": 2}}, "1": {"values": values}}
    stored = {"claim": "made", "criterion": [above("a", 1).text], "seeds": seeds}
    (tmp_path / "made.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=message):
        store.read(claim, tmp_path)


def test_another_picture_in_the_place_of_a_figure_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = MEASURED[0]
    monkeypatch.setattr(report, "FIGURES", tmp_path)
    path = report.save_figure(CLAIMS[name], store.read(CLAIMS[name]).results, tmp_path)
    some = {name: CLAIMS[name]}
    assert not [line for line in report.stale(some) if path.name in line]
    with Image.open(path) as picture:
        texts = PngImagePlugin.PngInfo()
        for key, text in picture.info.items():
            if isinstance(text, str):
                texts.add_text(key, text)
        Image.new("RGB", picture.size, "white").save(path, pnginfo=texts)
    assert [line for line in report.stale(some) if "another picture" in line]


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def measure(setting: Setting) -> dict[str, Measured]:
        seen.append(setting.seed)
        if setting.seed == 2 and len(seen) == 3:
            raise UserError("stopped")
        return {"a": float(setting.seed)}

    claim, _ = made({}, above("a", 1))
    claim = dataclasses.replace(claim, measure=measure, seeds=3, came=lambda results: "It came.")
    monkeypatch.setattr("reproductions.claims.claims", lambda: {"made": claim})
    monkeypatch.setattr("reproductions.main.RESULTS", tmp_path)
    arguments = ["run", "made", "--runs", str(tmp_path)]
    assert main(arguments) == 2
    assert main(arguments) == 0
    assert seen == [0, 1, 2, 2]
    assert "made: reproduced. It came." in capsys.readouterr().out
    assert main([*arguments, "--again"]) == 0
    assert seen == [0, 1, 2, 2, 0, 1, 2]


def test_unknown_names_and_missing_data_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "nothing"]) == 2
    assert "error: nothing: no such claim; there are" in capsys.readouterr().err
    needy = next(name for name, claim in CLAIMS.items() if claim.needs)
    assert main(["run", needy, "--quick", "--data", str(tmp_path)]) == 2
    assert f"{needy}: left out" in capsys.readouterr().err
    assert main(["run", needy, "--quick", "--seeds", "2"]) == 2
    assert "--seeds with --quick" in capsys.readouterr().err

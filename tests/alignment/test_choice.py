"""Choosing a layer and head: rates and agreement that can be counted on fingers."""

import math

from attnzoo.alignment.choice import agreement, by_agreement, by_error_rate
from attnzoo.alignment.links import Links

GOOD = [{(0, 0), (1, 1)}, {(0, 0)}]
HALF = [{(0, 0), (0, 1)}, {(0, 0)}]
BAD = [{(1, 0), (0, 1)}, {(1, 0)}]


def test_agreement_is_one_for_the_same_links_and_symmetric() -> None:
    assert agreement(GOOD, GOOD) == 1
    assert agreement(GOOD, BAD) == agreement(BAD, GOOD) == 0
    assert agreement(GOOD, HALF) == 2 * 2 / (3 + 3)
    # More links on one side: 2 * 1 / (3 + 1).
    assert agreement(GOOD, [{(0, 0)}, set()]) == agreement([{(0, 0)}, set()], GOOD) == 0.5
    assert math.isnan(agreement([set()], [set()]))


def test_the_lowest_error_rate_comes_first() -> None:
    references = [Links.of(links) for links in GOOD]
    rates = by_error_rate({"0/0": BAD, "0/1": HALF, "1/0": GOOD, "1/1": GOOD}, references)
    assert list(rates) == ["1/0", "1/1", "0/1", "0/0"]
    assert list(rates.values()) == [0, 0, 1 - 4 / 6, 1]


def test_restricted_rates_leave_out_words_without_a_link() -> None:
    references = [Links.of({(0, 0)})]
    assert by_error_rate({0: [{(0, 0), (1, 1)}]}, references)[0] == 1 - 2 / 3
    assert by_error_rate({0: [{(0, 0), (1, 1)}]}, references, restrict=True)[0] == 0


def test_the_places_that_agree_come_first() -> None:
    best, *rest = by_agreement({"a": BAD, "b": HALF}, {"c": GOOD, "d": HALF})
    assert best == ("b", "d", 1.0)
    assert rest[0] == ("b", "c", 2 / 3)
    # By hand: (1, 0) and (0, 1) of BAD; HALF has (0, 1) too, so 2 / 6.
    assert rest[1][:2] == ("a", "d")
    assert math.isclose(rest[1].agreement, 1 / 3)
    assert rest[2] == ("a", "c", 0)

"""Links keep sure within possible; Pharaoh lines round-trip; errors name the token."""

import pytest

from attnzoo.alignment.links import Links, format_pharaoh, parse_pharaoh


def test_pharaoh_reads_sure_and_both_spellings_of_possible():
    links = parse_pharaoh("0-0 3?1 2p4  10-7\n")
    assert links.sure == {(0, 0), (10, 7)}
    assert links.possible == {(0, 0), (10, 7), (3, 1), (2, 4)}


def test_pharaoh_one_based_shifts_both_sides():
    assert parse_pharaoh("1-3 2?1", one_based=True) == Links.of({(0, 2)}, {(1, 0)})


def test_sure_wins_over_possible():
    assert parse_pharaoh("0?0 0-0") == Links.of({(0, 0)})


def test_empty_line_has_no_links():
    assert parse_pharaoh("") == Links(frozenset(), frozenset())


@pytest.mark.parametrize("bad", ["0-", "a-b", "1--2", "-1-2", "1-2-3", "1_2", "1-2:0.5", "٣-١"])
def test_malformed_token_is_named(bad):
    with pytest.raises(ValueError, match="link 2 is") as error:
        parse_pharaoh(f"0-0 {bad}")
    assert repr(bad) in str(error.value)


def test_zero_in_a_one_based_line_is_refused():
    with pytest.raises(ValueError, match="count from 1"):
        parse_pharaoh("0-1", one_based=True)


def test_format_sorts_numerically_and_round_trips():
    links = Links.of({(10, 0), (2, 1)}, {(2, 0)})
    assert format_pharaoh(links) == "2?0 2-1 10-0"
    assert format_pharaoh(links, one_based=True) == "3?1 3-2 11-1"
    assert parse_pharaoh(format_pharaoh(links)) == links


def test_sure_outside_possible_is_refused():
    with pytest.raises(ValueError, match="not among the possible"):
        Links(frozenset({(0, 0)}), frozenset())


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="negative"):
        Links.of({(0, -1)})


def test_inverse_swaps_sides():
    assert Links.of({(0, 2)}, {(1, 0)}).inverse() == Links.of({(2, 0)}, {(0, 1)})


def test_check_names_the_link_and_the_lengths():
    links = Links.of({(0, 0), (2, 4)})
    assert links.check(3, 5) is links
    with pytest.raises(ValueError, match="2-4 is outside a pair of 3 source words and 4 target"):
        links.check(3, 4)
    with pytest.raises(ValueError, match="2-4 is outside"):
        links.check(2, 5)

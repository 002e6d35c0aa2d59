"""Symmetrisation by hand: each case separates two heuristics."""

import pytest

from attnzoo.alignment.symmetrize import HEURISTICS, symmetrize

# METHODS section 4.7.
FORWARD = {(0, 0), (1, 1), (2, 1), (4, 4)}
REVERSE = {(0, 0), (1, 1), (1, 2), (5, 3)}
CORE = {(0, 0), (1, 1)}


@pytest.mark.parametrize(
    ("heuristic", "expected"),
    [
        ("intersection", CORE),
        ("union", FORWARD | REVERSE),
        ("grow-diag", CORE | {(1, 2), (2, 1)}),
        # 4-4 and 5-3 touch nothing that was grown, and have both words free.
        ("grow-diag-final", FORWARD | REVERSE),
        ("grow-diag-final-and", FORWARD | REVERSE),
        ("strict-grow-diag", CORE),
        ("strict-grow-diag-final", CORE | {(4, 4), (5, 3)}),
    ],
)
def test_golden_example(heuristic, expected):
    assert symmetrize(FORWARD, REVERSE, heuristic) == expected


def test_final_needs_one_free_word_and_final_and_two():
    # 3-0 is no neighbour of 0-0; its source word is free, its target word is not.
    forward, reverse = {(0, 0)}, {(0, 0), (3, 0)}
    assert symmetrize(forward, reverse, "grow-diag") == {(0, 0)}
    assert symmetrize(forward, reverse, "grow-diag-final") == {(0, 0), (3, 0)}
    assert symmetrize(forward, reverse, "grow-diag-final-and") == {(0, 0)}


def test_final_takes_forward_links_first():
    # Both links want source word 0: the one that is tried first covers it.
    forward, reverse = {(0, 0)}, {(0, 1)}
    assert symmetrize(forward, reverse, "grow-diag-final-and") == {(0, 0)}
    assert symmetrize(reverse, forward, "grow-diag-final-and") == {(0, 1)}


def test_growth_chains_along_a_diagonal_within_the_union():
    forward, reverse = {(0, 0), (1, 1), (2, 2), (3, 3)}, {(3, 3)}
    assert symmetrize(forward, reverse, "grow-diag") == forward
    assert symmetrize(forward, reverse, "strict-grow-diag") == forward


def test_a_link_between_two_covered_words_never_joins():
    forward, reverse = {(0, 0), (1, 1), (0, 1)}, {(0, 0), (1, 1)}
    assert symmetrize(forward, reverse, "grow-diag-final") == {(0, 0), (1, 1)}


def test_scan_order_is_by_target_then_source():
    # Around 1-1 the union has 0-0, 0-1 and 0-2 (source-target). Under Moses' rule each brings a
    # free word. Under the strict rule 0-1 never joins (target 1 is covered), and of 0-0 and 0-2,
    # which both want source 0, the one with the lower target is visited first.
    forward, reverse = {(1, 1), (0, 1), (0, 0)}, {(1, 1), (0, 2)}
    assert symmetrize(forward, reverse, "grow-diag") == forward | reverse
    assert symmetrize(forward, reverse, "strict-grow-diag") == {(1, 1), (0, 0)}


def test_a_link_added_earlier_in_the_scan_waits_for_the_next_pass():
    # Core 2-2 and 0-3 (written source-target). In the first pass 2-2 adds 1-1, which lies before
    # it; only a second pass goes on from there to 0-0, by its free target.
    forward = {(2, 2), (0, 3), (1, 1), (0, 0)}
    reverse = {(2, 2), (0, 3)}
    assert symmetrize(forward, reverse, "grow-diag") == forward


@pytest.mark.parametrize("heuristic", list(HEURISTICS))
def test_empty_sides_and_inputs_left_alone(heuristic):
    assert symmetrize(set(), set(), heuristic) == set()
    forward, reverse = frozenset(FORWARD), frozenset(REVERSE)
    result = symmetrize(forward, reverse, heuristic)
    assert forward == FORWARD
    assert reverse == REVERSE
    assert CORE <= result <= FORWARD | REVERSE


def test_unknown_heuristic_names_the_known_ones():
    with pytest.raises(ValueError, match="grow-diag-final-and"):
        symmetrize(FORWARD, REVERSE, "grow")

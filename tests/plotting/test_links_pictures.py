"""Pictures of links: each link has the kind that its reference gives it."""

import pytest

from attnzoo.alignment.links import Links
from attnzoo.plotting import beads, link_matrix
from attnzoo.plotting.links import STYLES, kinds_of

SIDES = ["a", "b", "c"], ["x", "y"]
REFERENCE = Links.of([(0, 0), (1, 1)], [(0, 1)])
FOUND = {(0, 0), (0, 1), (1, 0), (2, 1)}


def test_kinds_by_hand() -> None:
    wanted = {"hit": {(0, 0), (0, 1)}, "miss": {(1, 1)}, "false": {(1, 0), (2, 1)}}
    assert kinds_of(SIDES, FOUND, REFERENCE) == wanted | {"unjudged": set()}
    restricted = {**wanted, "false": {(1, 0)}, "unjudged": {(2, 1)}}
    assert kinds_of(SIDES, FOUND, REFERENCE, restrict=True) == restricted
    assert kinds_of(SIDES, FOUND, None) == {"hit": FOUND}


def test_beads_have_a_line_for_each_link_in_its_colour() -> None:
    figure = beads(*SIDES, FOUND, REFERENCE, restrict=True)
    (axes,) = figure.axes
    assert sorted(line.get_color() for line in axes.lines) == sorted(
        STYLES[kind][0]
        for kind, some in kinds_of(SIDES, FOUND, REFERENCE, True).items()
        for _ in some
    )
    assert [text.get_text() for text in axes.texts] == [*SIDES[0], *SIDES[1]]
    (axes,) = link_matrix(*SIDES, FOUND, REFERENCE).axes
    assert sum(len(marks.get_offsets()) for marks in axes.collections) == len(FOUND) + 1


@pytest.mark.parametrize("draw", [beads, link_matrix])
def test_what_cannot_be_drawn_is_refused(draw) -> None:
    with pytest.raises(ValueError, match="a side has no words"):
        draw([], ["x"], set(), Links.of([]))
    with pytest.raises(ValueError, match="link 3-0 is outside"):
        draw(*SIDES, {(3, 0)}, REFERENCE)

"""Figures of explanations: where colour falls, what is named, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from attnzoo import explain, plotting
from attnzoo.plotting import (
    Overlay,
    TokenRow,
    map_grid,
    overlays,
    patch_grid,
    token_rows,
    visible,
)
from attnzoo.plotting.explanations import AGAINST, FOR, KEY, WEIGHT

ROOT = Path(explain.__file__).parent
IMAGE = np.full((4, 6, 1), 0.5)
SCORES = np.asarray([[1.0, 0.0, 0.0], [0.0, 0.0, -0.5]])


def test_scores_are_laid_over_their_patches() -> None:
    figure = overlays(IMAGE, [Overlay("cdam", SCORES, "del 0.1")], title="image 3", marked=(1, 2),
                      marking="the planted patch")  # fmt: skip
    plain, overlay, key = figure.axes
    _, laid = overlay.images
    color = np.asarray(laid.get_array())
    assert color.shape == (4, 6, 4)
    # Orange and nearly opaque where it speaks for the class, half of that and violet against.
    np.testing.assert_allclose(color[:2, :2, 3], np.full((2, 2), 0.85))
    np.testing.assert_allclose(color[2:, 4:, 3], np.full((2, 2), 0.425))
    assert color[0, 0, 0] > color[0, 0, 2]
    assert color[3, 5, 2] > color[3, 5, 0]
    assert (color[:2, 2:, 3] == 0).all()
    for axes in (plain, overlay):
        (frame,) = axes.patches
        assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (3.5, 1.5, 2, 2)
    assert overlay.get_title() == "cdam"
    assert overlay.get_xlabel() == "del 0.1"
    said = [text.get_text() for text in figure.texts]
    assert {"against", "for", KEY, "the planted patch"} < set(said)
    # The key has the colours of the panels.
    bar = key.images[0]
    assert bar.get_alpha() == 0.85
    for share, named in ((0.0, AGAINST), (1.0, FOR)):
        assert to_hex(bar.get_cmap()(share)).upper() == named
    assert plotting.to_rgb(figure).shape[2] == 3


@pytest.mark.parametrize(("panels", "columns"), [(5, 6), (6, 4), (13, 5)])
def test_lines_of_overlays_are_about_equally_long(panels: int, columns: int) -> None:
    figure = overlays(IMAGE, [Overlay(str(n), SCORES) for n in range(panels)])
    *maps, _key = figure.axes
    assert len(maps) == panels + 1
    assert len({round(axes.get_position().x0, 6) for axes in maps}) == columns


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="scores of 3 x 2 do not divide 4 x 6"):
        overlays(IMAGE, [Overlay("x", SCORES.T)])
    with pytest.raises(ValueError, match="panels is empty"):
        overlays(IMAGE, [])


def test_tokens_are_coloured_by_their_share_of_the_largest_score() -> None:
    rows = [
        TokenRow("gradient_x_input", np.asarray([1.0, -0.5, np.nan]), "0.12"),
        TokenRow("random", np.zeros(3), "0.50"),
    ]
    figure = token_rows(["good", " ", "$5_a"], rows, title="class A", notes="area", marked=1)
    axes, _ = figure.axes
    said = [text.get_text() for text in axes.texts]
    assert "the token whose answer is explained" in {text.get_text() for text in figure.texts}
    assert said.count("good") == said.count("␣") == said.count("$5_a") == 2
    assert {"class A", "area", "gradient x input", "random", "0.12", "0.50"} < set(said)
    colors = [cell.get_facecolor() for cell in axes.patches]
    assert [round(color[3], 3) for color in colors] == [0.85, 0.425, 0, 0, 0, 0]
    assert colors[0][0] > colors[0][2]  # orange
    assert colors[1][2] > colors[1][0]  # violet
    # Cells of a token stand above one another; rows go down.
    assert axes.patches[0].get_x() == axes.patches[3].get_x()
    assert axes.patches[0].get_y() < axes.patches[3].get_y()
    framed = [cell.get_edgecolor()[3] > 0 for cell in axes.patches]
    assert framed == [False, True, False] * 2


def test_a_long_text_is_broken_and_every_token_drawn_once_a_row() -> None:
    tokens = [f"word{i}" for i in range(40)]
    figure = token_rows(tokens, [TokenRow("x", np.arange(40.0))], width=5.0)
    axes, _ = figure.axes
    assert [text.get_text() for text in axes.texts if text.get_text().startswith("word")] == tokens
    assert figure.get_size_inches()[0] <= 5.3
    lines = {round(cell.get_y(), 3) for cell in axes.patches}
    assert len(lines) > 2
    right = max(cell.get_x() + cell.get_width() for cell in axes.patches)
    assert right <= figure.get_size_inches()[0]


def test_maps_have_a_line_a_layer_and_names_at_the_edge() -> None:
    weights = np.asarray([[0.25, 0.0, 0.75], [1.0, 0.0, 0.0]])
    maps = {f"layer {n}": {f"head {h}": weights for h in range(2)} for n in range(3)}
    figure = map_grid(maps, ["x", "y"], ["a", "b", "c"], title="heads", note="deletion 0.1")
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_xlabel() for axes in panels] == ["head 0", "head 1"] * 3
    named = [[label.get_text() for label in axes.get_xticklabels()] for axes in panels]
    assert named[:2] == [["a", "b", "c"]] * 2
    assert named[2:] == [[]] * 4
    named = [[label.get_text() for label in axes.get_yticklabels()] for axes in panels]
    assert named == [["x", "y"], []] * 3
    # White 0 is grey, that is no weight at all; the scale ends at 1.
    (image,) = panels[0].images
    drawn = np.ma.asarray(image.get_array())
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), weights == 0)
    assert image.get_clim() == (0, 1)
    said = {text.get_text() for text in figure.texts}
    assert {"heads", "deletion 0.1", "layer 0", "layer 2"} == said - {"layer 1"}
    # Without room for names there are none.
    many = map_grid({"": {str(h): np.eye(97) for h in range(12)}}, ["t"] * 97, ["s"] * 97)
    assert all(not axes.get_xticklabels() for axes in many.axes if axes.images)
    assert many.get_size_inches()[0] < 16


def test_patches_are_laid_over_the_image_with_their_largest_weight() -> None:
    maps = {"layer 0": {"head 0": np.abs(SCORES), "head 1": 0.5 * np.abs(SCORES)}}
    figure = patch_grid(IMAGE, maps, title="image", note="deletion")
    assert [axes.get_xlabel() for axes in figure.axes] == ["head 0: 1.00", "head 1: 0.50", ""]
    first, second = (np.asarray(axes.images[1].get_array()) for axes in figure.axes[:2])
    np.testing.assert_allclose(second[..., 3], first[..., 3] / 2)  # one scale
    np.testing.assert_allclose(first[:2, :2, 3], np.full((2, 2), 0.85))
    np.testing.assert_allclose(first[0, 0, :3], to_rgb(WEIGHT))
    assert "1.00, in all panels" in [text.get_text() for text in figure.texts]
    with pytest.raises(ValueError, match="layer 0, x: weights of 3 x 2 do not divide 4 x 6"):
        patch_grid(IMAGE, {"layer 0": {"x": SCORES.T}})


def test_signs_for_what_cannot_be_seen() -> None:
    assert [visible(token) for token in (" ", "\n", "Ġday", "", "x y")] == [
        "␣", "↵", "␣day", "∅", "x␣y"
    ]  # fmt: skip


def test_tokens_and_maps_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x: scores have shape \(2,\), wanted \(3,\)"):
        token_rows(["a", "b", "c"], [TokenRow("x", np.zeros(2))])
    with pytest.raises(ValueError, match="0 rows of 1 tokens"):
        token_rows(["a"], [])
    with pytest.raises(ValueError, match=r"l, h: weights of shape \(2, 3\), wanted\s+\(3, 2\)"):
        map_grid({"l": {"h": np.zeros((2, 3))}}, ["a"] * 3, ["b"] * 2)
    with pytest.raises(ValueError, match="maps is empty"):
        map_grid({"l": {}}, ["a"], ["b"])


def test_pages_have_the_colours_of_figures() -> None:
    css = (ROOT / "viewer" / "page.css").read_text()
    light = dict(re.findall(r"--(\w+): light-dark\((#\w{6}),", css))
    assert [light[name].upper() for name in ("mark", "against", "accent")] == [FOR, AGAINST, WEIGHT]

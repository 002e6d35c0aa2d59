"""Overlays of explanations: where colour falls, and what is refused."""

import numpy as np
import pytest

from attnzoo import plotting
from attnzoo.plotting_explain import Overlay, overlays

IMAGE = np.full((4, 6, 1), 0.5)
SCORES = np.asarray([[1.0, 0.0, 0.0], [0.0, 0.0, -0.5]])


def test_scores_are_laid_over_their_patches() -> None:
    figure = overlays(IMAGE, [Overlay("cdam", SCORES, "del 0.1")], title="image 3", marked=(1, 2))
    plain, overlay = figure.axes
    _, laid = overlay.images
    color = np.asarray(laid.get_array())
    assert color.shape == (4, 6, 4)
    # Red and nearly opaque where it speaks for the class, half of that and blue where against.
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
    assert plotting.to_rgb(figure).shape[2] == 3


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="scores of 3 x 2 do not divide 4 x 6"):
        overlays(IMAGE, [Overlay("x", SCORES.T)])
    with pytest.raises(ValueError, match="panels is empty"):
        overlays(IMAGE, [])

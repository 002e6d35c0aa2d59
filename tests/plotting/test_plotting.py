"""Figures: what is drawn where, the same bytes twice, and words a plotting library trips over."""

import subprocess
import sys
import warnings
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from attnzoo import plotting
from attnzoo.alignment.links import Links
from attnzoo.plotting.style import ignore_missing_glyphs

TOY = np.array([[0.94, 0.02, 0.04], [0.11, 0.01, 0.88], [0.03, 0.95, 0.02]])
ENGLISH, FRENCH = ["I", "love", "you"], ["je", "t'", "aime"]


def toy(links: Links | None = None, title: str | None = None) -> Figure:
    return plotting.alignment_heatmap(TOY, ENGLISH, FRENCH, links, title)


def test_rows_are_target_words_and_columns_source_words():
    figure = plotting.alignment_heatmap(TOY[:2], ENGLISH, FRENCH[:2])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ENGLISH
    assert [label.get_text() for label in axes.get_yticklabels()] == FRENCH[:2]
    assert axes.xaxis.get_ticks_position() == "top"


def test_zero_is_black_and_one_is_white_at_the_right_cells():
    weights = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]])
    figure = plotting.alignment_heatmap(weights, ENGLISH, FRENCH[:2])
    pixels = plotting.to_rgb(figure)
    (axes,) = figure.axes
    for t in range(2):
        for s in range(3):
            x, y = axes.transData.transform((s, t))
            pixel = pixels[pixels.shape[0] - 1 - round(y), round(x)]
            np.testing.assert_allclose(pixel, 255 * weights[t, s], atol=1)


def test_links_are_outlined_sure_solid_and_possible_dashed():
    (axes,) = toy(Links.of({(2, 1)}, {(1, 0)})).axes
    outlines = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    drawn = {}
    for patch in outlines:
        centre = (patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2)
        drawn[tuple(round(c, 6) for c in centre)] = patch.get_linestyle() in ("-", "solid")
    assert drawn == {(2, 1): True, (1, 0): False}  # x is the source, y the target


def test_legend_names_only_the_kinds_of_links_there_are():
    def names(figure: Figure) -> list[str]:
        return [text.get_text() for legend in figure.legends for text in legend.get_texts()]

    assert names(toy()) == []
    assert names(toy(Links.of({(0, 0)}))) == ["sure"]
    assert names(toy(Links.of({(0, 0)}, {(1, 1)}))) == ["sure", "possible"]


def test_wrong_shapes_and_links_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3\), wanted a row for each of 2 target"):
        plotting.alignment_heatmap(TOY, ENGLISH, FRENCH[:2])
    with pytest.raises(ValueError, match="outside a pair of 3 source words"):
        toy(Links.of({(3, 0)}))
    with pytest.raises(ValueError, match="at least one"):
        plotting.alignment_grid([])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (40, 40), (5, 23), (211, 13)])
def test_words_fit_on_the_page_and_do_not_overlap(rows, columns):
    figure = plotting.alignment_heatmap(
        np.full((rows, columns), 0.5),
        [f"word{n}" for n in range(columns)],
        [f"internationalisation{n}" for n in range(rows)],
        title="a title",
    )
    plotting.to_rgb(figure)
    (axes,) = figure.axes
    page = figure.bbox
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
        assert all(page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_any_script_and_dollar_signs_without_a_warning(tmp_path):
    words = ["$5", "$6_a^b$", "火曜日", "السلام", "नमस्ते", "\\alpha", "é", "🙂"]
    figure = plotting.alignment_heatmap(np.eye(8), words, words)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plotting.save(figure, tmp_path / "words.png")
        plotting.save(figure, tmp_path / "words.svg")
        plotting.to_rgb(figure)
    texts = {"".join(t.itertext()).strip() for t in _svg_texts(tmp_path / "words.svg")}
    assert set(words) <= texts


def test_only_missing_glyphs_are_silenced():
    with ignore_missing_glyphs():
        warnings.warn("Glyph 26085 (\\N{CJK}) missing from font(s) DejaVu Sans.", stacklevel=1)
        with pytest.raises(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)


def test_another_process_gives_the_same_bytes_and_needs_no_pyplot(tmp_path):
    program = (
        "import sys, numpy as np; from attnzoo import plotting;"
        "from attnzoo.alignment.links import Links;"
        "figure = plotting.alignment_heatmap(np.eye(3), list('abc'), list('xyz'),"
        " Links.of({(0, 0)}, {(1, 2), (2, 1)}), 'title');"
        "[plotting.save(figure, path) for path in sys.argv[1:]];"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    names = ["a.png", "a.svg"]
    there, here = tmp_path / "there", tmp_path / "here"
    paths = [str(there / name) for name in names]
    subprocess.run([sys.executable, "-c", program, *paths], check=True)
    links = Links.of({(0, 0)}, {(1, 2), (2, 1)})
    for name in names:
        # A figure each, where the other process saved one figure twice: saving changes nothing.
        figure = plotting.alignment_heatmap(np.eye(3), list("abc"), list("xyz"), links, "title")
        plotting.save(figure, here / name)
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert b"<dc:date>" not in (here / "a.svg").read_bytes()


def test_saving_makes_the_folder_and_refuses_other_formats(tmp_path):
    path = plotting.save(toy(), tmp_path / "new" / "folder" / "toy.PNG")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"neither \.png nor \.svg"):
        plotting.save(toy(), tmp_path / "toy.pdf")


def test_a_grid_has_a_panel_each_and_lines_up_its_columns():
    pictures = [
        plotting.AlignmentPicture(TOY, ENGLISH, FRENCH, title="(a)"),
        plotting.AlignmentPicture(TOY[:1], ENGLISH, FRENCH[:1], Links.of({(0, 0)})),
        plotting.AlignmentPicture(TOY[:, :2], ENGLISH[:2], FRENCH),
    ]
    figure = plotting.alignment_grid(pictures, columns=2)
    a, b, c = (axes.get_position() for axes in figure.axes)
    assert a.y1 == pytest.approx(b.y1)
    assert a.x0 == pytest.approx(c.x0)
    assert b.x0 > a.x1
    assert c.y1 < a.y0


def test_training_curves_put_parts_together_and_skip_what_is_no_number():
    records = [
        {"step": 1, "part": "train", "seconds": 0.1, "loss": 3.0, "note": "text"},
        {"step": 2, "part": "train", "seconds": 0.2, "loss": float("nan")},
        {"step": 3, "part": "train", "seconds": 0.3, "loss": 1.0},
        {"step": 2, "part": "validation", "seconds": 0.2, "loss": 2.0, "bleu": 10.0},
    ]
    figure = plotting.training_curves(records)
    loss, bleu = figure.axes
    assert (loss.get_title(), bleu.get_title()) == ("loss", "bleu")
    lines = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in loss.lines}
    assert lines == {"train": [[1, 3], [3, 1]], "validation": [[2, 2]]}
    with pytest.raises(ValueError, match="nothing to draw"):
        plotting.training_curves([{"step": 1, "note": "text"}])


def test_bleu_by_length_draws_lines_bands_and_counts():
    figure = plotting.bleu_by_length(
        ["1-5", "6-10"],
        {"attention": [30.0, 28.0], "none": [29.0, 12.0]},
        {"attention": [(28.0, 32.0), (25.0, 31.0)]},
        counts=[1200, 34],
    )
    (axes,) = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[30, 28], [29, 12]]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (25, 32)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1-5\nn = 1,200", "6-10\nn = 34"]
    with pytest.raises(ValueError, match="attention has 1 values for 2 buckets"):
        plotting.bleu_by_length(["1-5", "6-10"], {"attention": [30.0]})


def _svg_texts(path):
    root = ET.parse(path).getroot()
    return root.iter("{http://www.w3.org/2000/svg}text")


def test_the_example_of_the_documentation_runs(root, tmp_path, monkeypatch):
    text = (root / "docs" / "alignment.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    (code,) = [block for block in blocks if "alignment.png" in block]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/alignment.md", "exec"), {})
    assert (tmp_path / "alignment.png").stat().st_size > 1000


WEIGHTS = np.array([[0.0, 1.0], [0.25, 0.75], [-0.5, 0.5]])


def test_weights_have_one_scale_and_zeros_stand_out():
    panel = plotting.WeightPanel(WEIGHTS, ["a", "b", "c"], ["x", "y"], "signed")
    figure = plotting.weight_panels([panel, panel._replace(weights=abs(WEIGHTS), title="plain")])
    first, second, bar = figure.axes
    for axes, title in ((first, "signed"), (second, "plain")):
        (image,) = axes.images
        assert image.get_clim() == (-1, 1)
        assert np.ma.getmaskarray(image.get_array()).tolist() == (WEIGHTS == 0).tolist()
        assert [t.get_text() for t in axes.get_xticklabels()] == ["x", "y"]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]
        assert title in [t.get_text() for t in axes.texts]
    assert bar.get_ylim() == (-1, 1)
    plain = plotting.weight_panels([panel._replace(weights=abs(WEIGHTS))])
    assert plain.axes[-1].get_ylim() == (0, 1)
    # Cells are squares of one size.
    width, height = figure.get_size_inches()
    box = first.get_position()
    assert box.width * width / 2 == pytest.approx(box.height * height / 3)


def test_weights_show_their_numbers_and_frame_a_row():
    panel = plotting.WeightPanel(WEIGHTS, ["a", "b", "c"], ["x", "y"], "title")
    axes = plotting.weight_panels([panel], digits=1, outlined_row=2).axes[0]
    assert [t.get_text() for t in axes.texts] == ["0", "1.0", "0.2", "0.8", "-0.5", "0.5", "title"]
    (frame,) = axes.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((-0.5, 1.5), 2, 1)


def test_a_gate_is_drawn_by_place_and_by_channel():
    places = np.full((4, 5), 1.25)
    figure = plotting.gate_panels(
        places / 2, places, np.array([1.0, 1.5]), ["red", "blue"], low=1.0
    )
    image, by_place, bar, bars = figure.axes
    assert [axes.get_title() for axes in (image, by_place)] == ["input", "weights by place"]
    assert by_place.images[0].get_clim() == (0, 2)  # white at 1, as 0 is for weights
    assert bar.get_ylim() == bars.get_xlim() == (1, 2)
    assert [patch.get_width() for patch in bars.patches] == [1.0, 1.5]


def test_grids_of_masks_and_numbers():
    tables = {"one": np.eye(3) > 0, "two": np.ones((3, 3)) > 0}
    figure = plotting.matrix_grid(tables)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    assert figure.axes[0].images[0].get_array().tolist() == np.eye(3).tolist()
    (axes,) = plotting.matrix_grid({"bias": np.array([[-2.0, 1.0]])}, numbers=True).axes
    assert axes.images[0].get_clim() == (-2, 2)
    assert axes.get_xlabel() == "-2.00 to 1.00"


def test_lines_of_a_panel_and_plain_numbers_on_its_axes():
    panel = plotting.LinePanel(
        {"a": ([1, 2], [3, 4]), "b": ([1, 2], [10, 1000])}, "d", "y", log="y"
    )
    (axes,) = plotting.line_panels([panel]).axes
    lines = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert lines == {"a": [[1, 3], [2, 4]], "b": [[1, 10], [2, 1000]]}
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert axes.yaxis.get_major_formatter()(1000.0) == "1000"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plotting.weight_panels([]), "panels is empty"),
        (
            lambda: plotting.weight_panels([plotting.WeightPanel(WEIGHTS, ["a"], ["x"], "t")]),
            r"'t' has weights of shape \(3, 2\); wanted \(1, 1\)",
        ),
        (
            lambda: plotting.gate_panels(np.ones((2, 2)), np.ones((2, 2)), np.ones(3), ["red"]),
            "channels names 1 of 3",
        ),
        (lambda: plotting.matrix_grid({}), "matrices is empty"),
        (lambda: plotting.line_panels([]), "panels is empty"),
    ],
)
def test_what_cannot_be_drawn_says_why(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_picture_of_few_colours_is_smaller(tmp_path):
    figure = plotting.matrix_grid({"mask": np.eye(5) > 0})
    full = plotting.save(figure, tmp_path / "full.png")
    few = plotting.save(figure, tmp_path / "few.png", palette=16)
    with Image.open(full) as a, Image.open(few) as b:
        assert a.size == b.size
        colors = b.convert("RGB").getcolors()
        assert colors is not None
        assert len(colors) <= 16
    assert few.stat().st_size < full.stat().st_size
    with pytest.raises(ValueError, match=r"palette=16 is for \.png"):
        plotting.save(figure, tmp_path / "few.svg", palette=16)

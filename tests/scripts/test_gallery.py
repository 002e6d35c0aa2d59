"""The gallery draws every mechanism, and the page of attentions shows each."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from attnzoo.attention import ATTENTIONS, GATES, SENTENCE_ATTENTIONS
from attnzoo.plotting import WeightPanel
from gallery_pictures import main as gallery
from gallery_pictures import mechanisms
from gallery_pictures.demonstrations import DEMONSTRATIONS
from gallery_pictures.mechanisms import SENTENCE

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES = DOCS / "figures" / "attention"
REGISTERED = [*ATTENTIONS, *SENTENCE_ATTENTIONS, *GATES]
BESIDE = ["isab", "pma", "latent_reader", "masks", "score_mods", "normalisers"]


def entries(page: str) -> dict[str, str]:
    """What stands under each heading of the third level."""
    parts = re.split(r"^### (.+)$", page, flags=re.M)
    return dict(zip(parts[1::2], (re.split(r"^## ", text, flags=re.M)[0] for text in parts[2::2])))


PAGE = (DOCS / "attention.md").read_text(encoding="utf-8")
ENTRIES = entries(PAGE)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_mechanism_has_an_entry_with_a_picture_and_a_call(name: str) -> None:
    entry = ENTRIES[name]
    assert f"(figures/attention/{name}.png)" in entry
    assert "```python\n" in entry
    if name in {**ATTENTIONS, **SENTENCE_ATTENTIONS, **GATES}:
        cls = {**ATTENTIONS, **SENTENCE_ATTENTIONS, **GATES}[name]
        assert f"zoo.{cls.__name__}(" in entry
        assert "```math\n" in entry
        assert "(https://arxiv.org/abs/" in entry
        assert "**Cost.**" in entry
        assert "**Use it**" in entry
        table = PAGE.split("## How to read an entry")[0]
        row = next(line for line in table.splitlines() if line.startswith(f"| [`{name}`](#{name})"))
        assert f"`{cls.__name__}`" in row


def test_the_page_has_an_entry_for_everything_and_no_other() -> None:
    assert set(ENTRIES) == {*REGISTERED, *BESIDE}


def test_there_is_a_picture_for_each_name_and_no_other() -> None:
    names = set(gallery.pictures())
    assert names == {*ENTRIES, *DEMONSTRATIONS}
    assert {path.stem for path in FIGURES.glob("*")} == names


def test_pages_show_pictures_that_exist_and_are_small() -> None:
    shown = set()
    for page in ("attention.md", "demonstrations.md"):
        shown |= set(re.findall(r"\]\(figures/attention/(\w+)\.png\)", (DOCS / page).read_text()))
    assert shown == {path.stem for path in FIGURES.glob("*.png")}
    for path in FIGURES.glob("*.png"):
        assert path.stat().st_size < 25_000, path
        with Image.open(path) as image:
            assert image.width < 1100, path


def test_the_sentence_has_the_structure_that_the_page_says() -> None:
    words = np.asarray(mechanisms.sentence()[0], float)
    classes, own = words[:, :8] @ words[:, :8].T / 8, words[:, 8:] @ words[:, 8:].T / 8
    kind = np.array([0, 1, 2, 3, 0, 1, 1, 2])  # the grey cat saw the small black dog
    np.testing.assert_allclose(classes, kind[:, None] == kind[None, :], atol=1e-6)
    want = np.eye(8)
    want[0, 4] = want[4, 0] = 1
    want[2, 7] = want[7, 2] = 0.6
    np.testing.assert_allclose(own, want, atol=1e-6)


def test_scaled_dot_weights_are_those_of_the_sentence() -> None:
    words = np.asarray(mechanisms.sentence()[0], float)
    exp = np.exp(words @ words.T / 4)
    soft = mechanisms.MATRICES["normalisers"]()[0]
    np.testing.assert_allclose(soft.weights, exp / exp.sum(1, keepdims=True), atol=1e-5)
    assert soft.rows == soft.columns == mechanisms.SENTENCE


@pytest.mark.parametrize("name", mechanisms.MATRICES)
def test_each_mechanism_gives_a_matrix_with_a_name_for_each_row_and_column(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, tuple[int, ...], tuple[int, int]]] = []

    def matrix(title, weights, head=0, rows=SENTENCE, columns=SENTENCE, times=1.0):
        seen.append((title, weights[0, head].shape, (len(rows), len(columns))))
        assert weights.dtype == "float32"
        return WeightPanel(np.zeros((len(rows), len(columns))), rows, columns, title)

    monkeypatch.setattr(mechanisms, "matrix", matrix)
    # Traced: to compute them all takes minutes, most of them for compiling.
    jax.eval_shape(lambda: len(mechanisms.MATRICES[name]()))
    titles, shapes, names = zip(*seen)
    assert shapes == names
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", GATES)
def test_each_gate_has_weights_for_the_channels_of_the_image(name: str) -> None:
    image = mechanisms.picture()
    assert image.shape[3] == len(mechanisms.CHANNELS)
    gate = mechanisms.build_gate(name)
    gated, weights = jax.eval_shape(lambda: gate(image, return_weights=True))
    assert gated.shape == image.shape
    places = image.shape[1] * image.shape[2]
    if weights.shape[1:] != (1, places, places):
        assert np.broadcast_shapes(weights.shape, image.shape) == image.shape


def test_a_picture_is_the_same_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        arguments = ["--only", "none", "--only", "masks", "--output", str(tmp_path / folder)]
        assert gallery.main(arguments) == 0
    assert str(tmp_path / "b" / "none.png") in capsys.readouterr().out
    for name in ("none.png", "masks.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["masks.png", "none.png"]


def test_a_wrong_name_is_told_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gallery.main(["--only", "delta-net", "--output", str(tmp_path)]) == 2
    assert "did you mean delta_net?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

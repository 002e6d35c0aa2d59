"""Pages of attention: what goes in, what is refused, and what 8 bits keep."""

import html
import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import explain
from attnzoo.errors import UserError
from attnzoo.explain import page_parts

WORDS = ["the", "cat", "sat"]
IMAGE = np.zeros((6, 4, 3), np.uint8)


def soft(*shape: int, seed: int = 0) -> np.ndarray:
    """Rows that sum to 1, some of them sharp."""
    logits = 3 * np.random.default_rng(seed).normal(size=shape)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def data_of(page: explain.Page) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.html, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize(("signed", "levels", "share"), [(False, 255, 0.004), (True, 127, 0.008)])
def test_codes_are_within_what_is_promised(signed: bool, levels: int, share: float) -> None:
    weights = soft(3, 31, 53)
    weights[0, 0] = 0
    if signed:
        weights *= np.where(np.random.default_rng(1).random(weights.shape) < 0.3, -1, 1)
    largest, codes = page_parts.encode(weights, levels)
    whole = codes.view(np.int8).astype(float) if signed else codes.astype(float)
    back = largest[..., None] * np.sign(whole) * (whole / levels) ** 2
    error = np.abs(back - weights)
    assert (error <= share * np.abs(weights).max(axis=2, keepdims=True)).all()
    # "Small ones finer": a weight of a hundredth of the largest has a tenth of the error.
    small = np.abs(weights) < largest[..., None] / 100
    assert (error <= 0.11 * share * largest[..., None])[small].all()
    assert (back[0, 0] == 0).all()


def test_codes_by_hand() -> None:
    largest, codes = page_parts.encode(np.array([[[0.5, 0.125, 0.0]]], np.float32), 255)
    assert largest.tolist() == [[0.5]]
    assert codes.tolist() == [[[255, 128, 0]]]  # sqrt(1/4) * 255 = 127.5, to even
    _, codes = page_parts.encode(np.array([[[-0.5, 0.5]]], np.float32), 127)
    assert codes.tolist() == [[[129, 127]]]  # -127 in two's complement


def test_tokens_cannot_break_out() -> None:
    words = ["</script><b>", "<!--<script>", '"', "{{style}}", "\udc80", ""]
    page = explain.text_page({"a": soft(1, 6, 6)}, words, title="</title>{{data}}<b>\udc80")
    assert data_of(page)["tokens"]["tokens"] == words
    assert page.html.count("</script>") == 2
    assert "<title>&lt;/title&gt;{{data}}&lt;b&gt;" in page.html
    page.html.encode("utf-8")


def test_nothing_of_the_page_comes_from_elsewhere() -> None:
    text = explain.image_page(IMAGE, {"a": soft(2, 7, 7)}, (3, 2)).html
    assert "default-src 'none'" in text
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)|url\(|@import|import\(""", text)
    assert addresses == ["data:,"]
    # The name of a kind of drawing, which nothing fetches.
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}


def test_a_page_shows_itself_in_a_frame_of_its_own() -> None:
    page = explain.text_page({"a": soft(1, 3, 3)}, WORDS, title='say "cat"')
    shown = page._repr_html_()
    found = re.fullmatch(
        r'<iframe srcdoc="([^"]*)" title="say &quot;cat&quot;" .*></iframe>', shown
    )
    assert found is not None
    assert html.unescape(found[1]) == page.html
    assert len(repr(page)) < 200


def test_save(tmp_path: Path) -> None:
    page = explain.text_page({"a": soft(1, 3, 3)}, ["é", "日本", "cat"])
    assert page.save(tmp_path / "page.html").read_text(encoding="utf-8") == page.html
    with pytest.raises(UserError, match=r"none/page\.html: cannot be written: No such file"):
        page.save(tmp_path / "none" / "page.html")


def test_arrays_of_jax_and_half_precision_are_taken() -> None:
    weights = jnp.asarray(soft(2, 3, 3)).astype(jnp.bfloat16)
    assert data_of(explain.text_page({"decoder/0/self": weights}, WORDS))["sets"][0]["maps"] == [
        {"name": "decoder/0/self", "heads": 2}
    ]
    image = jnp.ones((4, 6, 1), jnp.bfloat16)
    assert data_of(explain.image_page(image, {"a": soft(2, 6, 6)}, (2, 3)))["image"]["extra"] == 0


def test_sets_of_a_translation() -> None:
    maps = {
        "encoder/0/self": soft(1, 5, 5),
        "decoder/0/self": soft(1, 3, 3),
        "decoder/0/cross": soft(1, 3, 5),
    }
    page = explain.translation_page(
        maps, list("abcde"), WORDS, reverse={"attention": soft(2, 5, 3)}, links=[(4, 2), (0, 0)]
    )
    data = data_of(page)
    assert [(each["direction"], each["queries"], each["keys"]) for each in data["sets"]] == [
        ("source → target", "target", "source"),
        ("source → target", "source", "source"),
        ("source → target", "target", "target"),
        ("target → source", "source", "target"),
    ]
    assert data["links"] == [[0, 0], [4, 2]]


def test_extra_tokens_have_names() -> None:
    def names(**more: Any) -> list[str]:
        page = explain.image_page(IMAGE, {"a": soft(1, 8, 8)}, (3, 2), **more)
        return data_of(page)["tokens"]["tokens"]

    assert names()[:3] == ["CLS", "extra 1", "row 1, column 1"]
    assert names()[-1] == "row 3, column 2"
    assert names(extra=["CLS", "distillation"])[1] == "distillation"


def bad(weights: np.ndarray, value: float) -> np.ndarray:
    weights = weights.copy()
    weights[1, 2, 0] = value
    return weights


A = {"a": soft(2, 3, 3)}
REFUSED = {
    "no maps": (lambda: explain.text_page({}, WORDS), "maps is empty"),
    "no tokens": (lambda: explain.text_page(A, []), "tokens is empty"),
    "one string": (lambda: explain.text_page(A, "cat"), "'cat' is one string, wanted a list"),
    "other tokens": (
        lambda: explain.text_page(A, WORDS[:2]),
        r"a: shape \(2, 3, 3\), wanted N 2 2 for 2 tokens",
    ),
    "a batch": (
        lambda: explain.text_page({"a": soft(1, 2, 3, 3)}, WORDS),
        r"a: shape \(1, 2, 3, 3\), wanted N T S = N 3 3; of a batch take one example",
    ),
    "no head": (lambda: explain.text_page({"a": np.zeros((0, 3, 3))}, WORDS), r"\(0, 3, 3\)"),
    "not numbers": (
        lambda: explain.text_page({"a": "weights"}, WORDS),
        "a: a str, wanted an array",
    ),
    "NaN": (
        lambda: explain.text_page({"a": bad(A["a"], np.nan)}, WORDS),
        "a: head 1, row 2, column 0 is nan",
    ),
    "infinite": (lambda: explain.text_page({"a": bad(A["a"], np.inf)}, WORDS), "column 0 is inf"),
    "scores": (
        lambda: explain.text_page(A, WORDS, scores=[1, 2]),
        r"scores: scores of shape \(2,\), wanted 3 tokens",
    ),
    "a NaN score": (
        lambda: explain.text_page(A, WORDS, scores={"cdam": ([1, np.nan, 2], "")}),
        "cdam: score 1 is nan",
    ),
    "no cross": (
        lambda: explain.translation_page({"decoder/0/self": A["a"]}, WORDS, WORDS),
        "maps has no cross-attention, only decoder/0/self",
    ),
    "turned": (
        lambda: explain.translation_page({"decoder/0/cross": soft(1, 3, 2)}, WORDS, ["je", "t'"]),
        r"decoder/0/cross: shape \(1, 3, 2\), wanted N 2 3 for 3 source words, 2 target words",
    ),
    "reverse not turned": (
        lambda: explain.translation_page(
            {"a": soft(1, 2, 3)}, WORDS, ["je", "t'"], reverse={"b": soft(1, 2, 3)}
        ),
        r"b: shape \(1, 2, 3\), wanted N 3 2",
    ),
    "a link too far": (
        lambda: explain.translation_page(A, WORDS, WORDS, links=[(0, 3)]),
        r"links has \(0, 3\), wanted \(source, target\) below \(3, 3\)",
    ),
    "no image": (
        lambda: explain.image_page(IMAGE[..., 0], A, (1, 3)),
        r"image has shape \(6, 4\), wanted H W C",
    ),
    "channels": (lambda: explain.image_page(np.zeros((3, 6, 4)), A, (1, 3)), "1 or 3 channels"),
    "normalised": (
        lambda: explain.image_page(IMAGE - 1.5, A, (1, 3)),
        "values of -1.5 to -1.5, wanted 0 to 1",
    ),
    "NaN pixels": (lambda: explain.image_page(IMAGE * np.nan, A, (1, 3)), "values of nan"),
    "integers": (lambda: explain.image_page(IMAGE.astype(int), A, (1, 3)), "int64, wanted uint8"),
    "a larger grid": (
        lambda: explain.image_page(IMAGE, A, (2, 2)),
        r"grid=\(2, 2\) has 4 patches, but a has 3 tokens",
    ),
    "a smaller grid": (
        lambda: explain.image_page(IMAGE, {"a": soft(1, 37, 37)}, (4, 4)),
        "16 patches, but a has 37 tokens; wanted the patches and at most 16",
    ),
    "an empty grid": (lambda: explain.image_page(IMAGE, A, (0, 3)), r"grid=\(0, 3\), wanted"),
    "more patches than pixels": (
        lambda: explain.image_page(IMAGE, {"a": soft(1, 10, 10)}, (1, 10)),
        "only 6 x 4 pixels",
    ),
    "other maps": (
        lambda: explain.image_page(IMAGE, A | {"b": soft(1, 4, 4)}, (1, 3)),
        r"b: shape \(1, 4, 4\), wanted N 3 3 for 3 tokens",
    ),
    "scores of tokens": (
        lambda: explain.image_page(
            IMAGE, {"a": soft(1, 3, 3)}, (1, 2), explanations={"cdam": (np.ones(3), "")}
        ),
        r"cdam: scores of shape \(3,\), wanted 1 x 2 patches",
    ),
    "extra names": (
        lambda: explain.image_page(IMAGE, A, (1, 2), extra=["CLS", "register"]),
        "extra names 2 tokens, but maps have 1 before 2 patches",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_ids_are_not_tokens() -> None:
    # The type checker of the tests looks at one token of the list, at random.
    with pytest.raises((ValueError, TypeError), match=r"tokens\[1\] is 7, wanted a str|Type-check"):
        explain.text_page(A, ["a", 7, "b"])


def test_a_page_too_large_says_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Before it is compressed, and after.
    zeros = np.broadcast_to(np.float32(0), (12, 1024, 1024))
    with pytest.raises(ValueError, match=r"4 maps of up to 12 x 1024 x 1024 .* about 67 MB"):
        explain.text_page(dict.fromkeys("abcd", zeros), ["x"] * 1024)
    monkeypatch.setattr(page_parts, "LARGEST", 100_000)
    maps = {name: soft(4, 97, 97, seed=i) for i, name in enumerate("abcd")}
    with pytest.raises(ValueError, match=r"wanted at most 0: about \d maps of these would fit"):
        explain.text_page(maps, ["x"] * 97)


def test_a_large_image_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_parts, "LARGEST", 20_000)
    noise = np.random.default_rng(0).integers(0, 256, (61, 67, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"image of 61 x 67 pixels is a PNG of 0 MB.*scale it down"
    ):
        explain.image_page(noise, A, (1, 3))


def test_every_file_of_the_viewer_is_used() -> None:
    viewer = Path(page_parts.__file__).parent / "viewer"
    names = {"page.html", "page.css", *(f"{name}.js" for name in page_parts.SCRIPTS)}
    assert {path.name for path in viewer.iterdir()} == names

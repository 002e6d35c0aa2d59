# Over 400 lines: one browser and three pages, opened once for all tests.
"""Pages of attention in headless Chromium: what is shown, and what pointer and keys do."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo import explain

selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

WORDS = ["the", "black", "cat", "sat", "on", "it", "."]
SOURCE, TARGET = ["I", "love", "you", "so", "."], ["je", "t'", "aime"]
SHARE, SIGNED_SHARE = 0.004, 0.008


def soft(*shape: int, seed: int = 0) -> np.ndarray:
    logits = 2 * np.random.default_rng(seed).normal(size=shape)
    weights = np.exp(logits)
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def close(shown: Any, given: np.ndarray, share: float = SHARE) -> bool:
    shown = np.asarray(shown)
    return bool((np.abs(shown - given) <= share * np.abs(given).max(-1, keepdims=True)).all())


class Browser:
    """A window, and short words for what a person does in it."""

    def __init__(self, driver: Any, folder: Path):
        self.driver, self.folder = driver, folder

    def open(self, page: explain.Page) -> None:
        self.driver.get(page.save(self.folder / "page.html").as_uri())
        self.ready()

    def ready(self) -> None:
        WebDriverWait(self.driver, 30).until(lambda d: d.execute_script("return !!window.attnzoo"))

    def js(self, program: str, *arguments: Any) -> Any:
        return self.driver.execute_script(program, *arguments)

    def settle(self) -> None:
        """Until what was asked for is drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done()));"
        )

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def point(self, element: Any, x: int = 0, y: int = 0) -> None:
        """At (x, y) from the middle of an element."""
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element_with_offset(element, x, y).perform()
        self.settle()

    def click(self, element: Any) -> None:
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        self.settle()

    def press(self, *keys: str, held: str | None = None) -> None:
        for key in keys:
            actions = ActionChains(self.driver)
            if held:
                actions.key_down(held)
            actions.send_keys(key)
            if held:
                actions.key_up(held)
            actions.perform()
        self.settle()

    def choose(self, name: str, label: str) -> None:
        Select(self.one(f"#{name}")).select_by_visible_text(label)
        self.settle()

    def picked(self) -> tuple[int, int | str]:
        state = self.js("return attnzoo.state()")
        return state["layer"], state["head"]

    def lines(self) -> dict[tuple[int, int], float]:
        found = self.js(
            "return [...document.querySelectorAll('svg path')].map(p => ({...p.dataset}))"
        )
        return {(int(p["query"]), int(p["key"])): float(p["weight"]) for p in found}

    def shares(self, selector: str) -> list[float]:
        """How strongly words are coloured, 0 to 1."""
        return self.js(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map((e) => Number(e.style.getPropertyValue('--weight')))",
            selector,
        )

    def readout(self) -> str:
        return self.one("#readout").text

    def alphas(self, canvas: Any) -> np.ndarray:
        """How strongly each pixel of a canvas is coloured, 0 to 255."""
        shape, pixels = self.js(
            "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            "return [[c.height, c.width], [...d.data].filter((_, i) => i % 4 === 3)]",
            canvas,
        )
        return np.asarray(pixels).reshape(shape)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in (
        "--headless=new",
        "--no-sandbox",  # root, as in a container, has none
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,1000",
        "--force-device-scale-factor=1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: Any, tmp_path: Path) -> Iterator[Browser]:
    """Afterwards: nothing was fetched and nothing was complained of."""
    driver.get("about:blank")
    driver.get_log("performance")
    driver.get_log("browser")
    yield Browser(driver, tmp_path)
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    own = ("data:", "about:", "blob:", tmp_path.as_uri())
    assert asked, "requests are not seen"
    assert [url for url in asked if not url.startswith(own)] == []
    # The tests themselves read canvases again and again.
    said = [e for e in driver.get_log("browser") if "willReadFrequently" not in e["message"]]
    assert said == []


@pytest.fixture
def text(browser: Browser) -> tuple[Browser, dict[str, np.ndarray]]:
    maps = {f"encoder/{i}/self": soft(3, 7, 7, seed=i) for i in range(2)}
    browser.open(explain.text_page(maps, WORDS, title="A cat"))
    return browser, maps


@pytest.fixture
def image(browser: Browser) -> tuple[Browser, dict[str, np.ndarray]]:
    maps = {f"encoder/{i}/self": soft(2, 7, 7, seed=i) for i in range(2)}
    scores = np.array([1.0, -0.5, 0.0, 0.25, 0.0, 0.0])
    picture = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    given = {"integrated_cdam": (scores, "deletion 0.15, random 0.63")}
    browser.open(explain.image_page(picture, maps, (2, 3), explanations=given))
    return browser, maps


@pytest.fixture
def translation(browser: Browser) -> tuple[Browser, dict[str, np.ndarray], dict[str, np.ndarray]]:
    maps = {
        "encoder/0/self": soft(2, 5, 5, seed=1),
        "decoder/0/self": soft(2, 3, 3, seed=2),
        "decoder/0/cross": soft(2, 3, 5, seed=3),
        "decoder/1/cross": soft(2, 3, 5, seed=4),
    }
    reverse = {"decoder/0/cross": soft(1, 5, 3, seed=5)}
    page = explain.translation_page(maps, SOURCE, TARGET, reverse=reverse, links=[(0, 0), (1, 2)])
    browser.open(page)
    return browser, maps, reverse


def test_the_weights_are_those_given(text: Any) -> None:
    browser, maps = text
    for name, weights in maps.items():
        for head in range(3):
            assert close(
                browser.js("return attnzoo.matrix(...arguments)", name, head), weights[head]
            )
        # The error of a mean or a maximum is that of the largest row of all heads.
        largest = SHARE * weights.max(axis=(0, 2))[:, None]
        for how, wanted in (("mean", weights.mean(axis=0)), ("max", weights.max(axis=0))):
            shown = np.asarray(browser.js("return attnzoo.matrix(...arguments)", name, how))
            assert (np.abs(shown - wanted) <= largest).all()


def test_negative_weights(browser: Browser) -> None:
    weights = soft(2, 5, 5) - 0.1
    browser.open(explain.text_page({"a": weights}, WORDS[:5]))
    assert close(browser.js("return attnzoo.matrix('a', 1)"), weights[1], SIGNED_SHARE)
    against = browser.js(
        "return [...document.querySelectorAll('path.against')].map(p => p.dataset)"
    )
    assert against
    assert all(float(path["weight"]) < 0 for path in against)
    assert "0.8 %" in browser.one("#precision").text


def test_lines_follow_the_pointer(text: Any) -> None:
    browser, maps = text
    weights = maps["encoder/0/self"][0]

    def visible(line: np.ndarray) -> set[int]:
        return {int(i) for i in np.flatnonzero(line > 0.05 * line.max())}

    assert len(browser.lines()) > 10
    queries, keys = browser.all("[data-side=query]"), browser.all("[data-side=key]")
    browser.point(queries[2])
    lines = browser.lines()
    assert {q for q, _ in lines} == {2}
    assert visible(weights[2]) <= {k for _, k in lines}
    assert close([lines.get((2, k), weights[2, k]) for k in range(7)], weights[2])
    best = int(weights[2].argmax())
    assert browser.readout().startswith(f"cat attends to: {WORDS[best]} {lines[2, best]:.3f} · ")
    assert browser.shares("[data-side=key]")[best] == 1
    assert close(browser.shares("[data-side=key]"), weights[2] / weights[2].max())

    browser.point(keys[4])
    lines = browser.lines()
    assert {k for _, k in lines} == {4}
    assert visible(weights[:, 4]) <= {q for q, _ in lines}
    assert browser.readout().startswith(f"on is attended to by: {WORDS[weights[:, 4].argmax()]}")

    browser.point(browser.one("#title"))
    assert len({q for q, _ in browser.lines()}) == 7


def test_wider_lines_are_larger_weights(text: Any) -> None:
    browser, _ = text
    browser.point(browser.all("[data-side=query]")[0])
    found = browser.js(
        "return [...document.querySelectorAll('svg path')].map(p => [+p.dataset.weight,"
        " +p.getAttribute('stroke-width'), +p.getAttribute('stroke-opacity')])"
    )
    weights, widths, opacities = np.array(sorted(found)).T
    assert len(weights) >= 3
    assert (np.diff(widths) > 0).all()
    assert (np.diff(opacities) > 0).all()


def test_layer_and_head_are_picked(text: Any) -> None:
    browser, maps = text
    browser.choose("layer", "encoder/1/self")
    browser.choose("head", "head 2")
    assert browser.picked() == (1, 2)
    browser.point(browser.all("[data-side=query]")[5])
    lines = browser.lines()
    wanted = maps["encoder/1/self"][2, 5]
    assert close([lines.get((5, k), wanted[k]) for k in range(7)], wanted)
    browser.choose("head", "mean of all")
    assert browser.picked() == (1, "mean")


def test_arrows_change_head_and_layer(text: Any) -> None:
    browser, _ = text
    browser.press(Keys.ARROW_RIGHT)
    assert browser.picked() == (0, 1)
    browser.press(Keys.ARROW_DOWN)
    assert browser.picked() == (1, 1)
    browser.press(Keys.ARROW_DOWN)
    assert browser.picked() == (1, 1)
    browser.press(Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert browser.picked() == (0, "max")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.picked() == (0, 0)
    assert browser.one("#head").get_attribute("value") == "0"
    help_line = browser.one("#help").text
    assert all(key in help_line for key in ("←", "↑", "Tab", "Shift", "Enter", "Esc"))


def test_tab_and_enter_reach_a_word_and_keep_it(text: Any) -> None:
    browser, _ = text
    browser.js("document.getElementById('theme').focus()")
    browser.press(Keys.TAB)
    assert browser.js("return document.activeElement.textContent") == "the"
    assert {q for q, _ in browser.lines()} == {0}
    browser.press(Keys.ARROW_DOWN, held=Keys.SHIFT)
    assert {q for q, _ in browser.lines()} == {1}
    browser.press(Keys.ARROW_RIGHT, held=Keys.SHIFT)
    assert {k for _, k in browser.lines()} == {1}
    browser.press(Keys.ENTER)
    browser.js("document.activeElement.blur()")
    browser.settle()
    assert {k for _, k in browser.lines()} == {1}
    browser.press(Keys.ESCAPE)
    assert len({k for _, k in browser.lines()}) > 1
    assert browser.picked() == (0, 0)


def test_a_click_keeps_a_word_and_lets_go(text: Any) -> None:
    browser, _ = text
    word = browser.all("[data-side=query]")[3]
    browser.click(word)
    browser.point(browser.all("[data-side=query]")[1])
    assert {q for q, _ in browser.lines()} == {1}
    browser.js("document.activeElement.blur()")
    browser.point(browser.one("#title"))
    assert {q for q, _ in browser.lines()} == {3}
    browser.click(word)
    browser.js("document.activeElement.blur()")
    browser.point(browser.one("#title"))
    assert len({q for q, _ in browser.lines()}) == 7


def test_thumbnails_are_all_heads_and_a_click_picks(text: Any) -> None:
    browser, maps = text
    thumbs = browser.all(".thumb")
    assert [thumb.get_attribute("aria-label") for thumb in thumbs] == [
        f"encoder/{layer}/self, head {head}" for layer in range(2) for head in range(3)
    ]
    for thumb, weights in zip(thumbs, np.concatenate(list(maps.values()))):
        shown = browser.alphas(thumb.find_element(By.TAG_NAME, "canvas"))
        assert np.abs(shown - 255 * weights / weights.max()).max() < 3
    browser.click(thumbs[4])
    assert browser.picked() == (1, 1)
    assert thumbs[4].get_attribute("aria-pressed") == "true"
    browser.js("arguments[0].focus()", thumbs[2])
    browser.press(Keys.ENTER)
    assert browser.picked() == (0, 2)


def test_a_cell_of_the_matrix(text: Any) -> None:
    browser, maps = text
    weights = maps["encoder/0/self"][0]
    canvas = browser.one("#matrix canvas")
    x, y = canvas.size["width"] // 2 - 8, canvas.size["height"] // 2 - 8
    browser.point(canvas, x - 26 * 2, y - 26 * 3)  # cells of 26 pixels, from the last one
    lines = browser.lines()
    assert set(lines) == {(3, 4)}
    assert abs(lines[3, 4] - weights[3, 4]) < SHARE
    assert browser.readout() == f"sat attends to on: {lines[3, 4]:.3f}"
    browser.point(browser.one("#title"))
    alphas = browser.alphas(canvas)[::-1, ::-1][13::26, 13::26][:7, :7][::-1, ::-1]
    assert np.abs(alphas - 255 * weights / weights.max()).max() < 4


def test_small_weights_can_be_lifted(text: Any) -> None:
    browser, maps = text
    weights = maps["encoder/0/self"][0]
    canvas = browser.one(".thumb canvas")
    browser.click(browser.one("#lift"))
    assert np.abs(browser.alphas(canvas) - 255 * np.sqrt(weights / weights.max())).max() < 3


def test_words_that_would_break_out(browser: Browser) -> None:
    words = ["</script><img src=x onerror=alert(1)>", "&amp;", '"', "שלום", "", "a\nb", " ", "Ġthe",
             "\u202eevil", "{{data}}", "\udc80", "🙂"]  # fmt: skip
    page = explain.text_page({"a": soft(1, 12, 12)}, words, title="</title><b id=b>")
    browser.open(page)
    shown = [word.text for word in browser.all("[data-side=query]")]
    assert shown == ["</script><img␣src=x␣onerror=alert(1)>", "&amp;", '"', "שלום", "∅", "a⏎b", "␣",
                     "Ġthe", "\\u202eevil", "{{data}}", "\\udc80", "🙂"]  # fmt: skip
    assert browser.driver.title == "</title><b id=b>"
    assert not browser.all("#view img, #b")


def test_a_patch_shows_what_it_attends_to(image: Any) -> None:
    browser, maps = image
    weights = maps["encoder/0/self"][0]

    def heat() -> np.ndarray:
        return browser.alphas(browser.one("#view .heat")).ravel()

    def like(line: np.ndarray) -> bool:
        return bool(np.abs(heat() - 255 * line / line.max()).max() < 3)

    assert like(weights[0, 1:])  # the class token, as long as nothing is pointed at
    patches = browser.all(".patch")
    assert [p.get_attribute("aria-label") for p in patches[2:4]] == [
        "row 1, column 3",
        "row 2, column 1",
    ]
    browser.point(patches[3])
    assert like(weights[4, 1:])
    assert browser.one(".extra").text == f"CLS {weights[4, 0]:.3f}"
    # So do the small pictures of all heads.
    thumb = browser.alphas(browser.all(".thumb canvas")[3]).ravel()
    other = maps["encoder/1/self"][1, 4, 1:]
    assert np.abs(thumb - 255 * other / other.max()).max() < 3

    browser.click(browser.one("#incoming"))
    browser.point(patches[5])
    assert like(weights[1:, 6])
    assert browser.readout().startswith("row 2, column 3 is attended to by: ")
    browser.click(browser.one(".extra"))
    browser.js("document.activeElement.blur()")
    browser.point(browser.one("#title"))
    assert like(weights[1:, 0])


def test_keys_of_an_image(image: Any) -> None:
    browser, maps = image
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert browser.picked() == (1, 1)
    browser.js("document.querySelector('.extra').focus()")
    browser.press(Keys.TAB)
    active = "return document.activeElement.getAttribute('aria-label')"
    assert browser.js(active) == "row 1, column 1"
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, held=Keys.SHIFT)
    assert browser.js(active) == "row 2, column 2"
    line = maps["encoder/1/self"][1, 5, 1:]
    shown = browser.alphas(browser.one("#view .heat")).ravel()
    assert np.abs(shown - 255 * line / line.max()).max() < 3
    browser.press(Keys.ARROW_DOWN, held=Keys.SHIFT)
    assert browser.js(active) == "row 2, column 2"


def test_an_image_without_extra_tokens(browser: Browser) -> None:
    weights = soft(1, 6, 6)
    picture = np.full((4, 6, 1), 0.5, np.float32)
    browser.open(explain.image_page(picture, {"a": weights}, (2, 3)))
    assert not browser.all(".extra")
    mean = weights[0].mean(axis=0)
    shown = browser.alphas(browser.one("#view .heat"))
    assert np.abs(shown.ravel() - 255 * mean / mean.max()).max() < 3
    assert shown.shape == (2, 3)


def test_layers_with_other_numbers_of_heads(browser: Browser) -> None:
    maps = {"layers/0": soft(3, 1, 1), "layers/1": soft(1, 1, 1)}
    browser.open(explain.text_page(maps, [""]))
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert browser.picked() == (1, 0)
    assert browser.lines() == {(0, 0): 1.0}
    assert len(browser.all(".thumb")) == 4


def test_an_explanation_is_laid_over_the_image(image: Any) -> None:
    browser, _ = image
    card = browser.one(".card")
    assert card.text == "integrated cdam\ndeletion 0.15, random 0.63"
    browser.click(card)
    heat = browser.one("#view .heat")
    assert np.abs(browser.alphas(heat).ravel() - [255, 127, 0, 64, 0, 0]).max() < 2
    red, blue = browser.js(
        "const d = arguments[0].getContext('2d').getImageData(0, 0, 2, 1).data;"
        "return [d.slice(0, 3), d.slice(4, 7)].map((c) => [...c])",
        heat,
    )
    assert red != blue  # for and against
    assert "deletion 0.15, random 0.63" in browser.one("#view .note").text
    browser.point(browser.all(".patch")[1])
    assert browser.readout().endswith("integrated cdam -0.5")
    browser.press(Keys.ESCAPE)
    assert heat.get_attribute("data-of") == "attention"


def test_both_directions_of_a_translation(translation: Any) -> None:
    browser, maps, reverse = translation
    forward, back = browser.all("#matrix canvas")

    def cells(canvas: Any) -> np.ndarray:
        return browser.alphas(canvas)[::-1, ::-1][13::26, 13::26][:3, :5][::-1, ::-1]

    to, fro = maps["decoder/0/cross"][0], reverse["decoder/0/cross"][0]
    assert np.abs(cells(forward) - 255 * to / to.max()).max() < 4
    assert np.abs(cells(back) - 255 * fro.T / fro.max()).max() < 4

    # The last cell but one of the last row: target word 2, source word 3, in both.
    for canvas in (forward, back):
        x, y = canvas.size["width"] // 2 - 8 - 26, canvas.size["height"] // 2 - 8
        browser.point(canvas, x, y)
        assert set(browser.lines()) == {(2, 3)}
    browser.click(browser.all(".caption")[1])
    assert browser.js("return attnzoo.state().set") == 3
    x, y = back.size["width"] // 2 - 8 - 26, back.size["height"] // 2 - 8
    browser.point(back, x, y)
    assert browser.readout() == f"so attends to aime: {browser.lines()[3, 2]:.3f}"
    assert close(browser.js("return attnzoo.matrix('decoder/0/cross', 0, 'target → source')"), fro)


def test_lines_of_a_translation(translation: Any) -> None:
    browser, maps, reverse = translation
    left, right = browser.all(".list")
    assert [word.text for word in left.find_elements(By.CSS_SELECTOR, ".token")] == SOURCE
    assert [word.text for word in right.find_elements(By.CSS_SELECTOR, ".token")] == TARGET
    browser.press(Keys.ARROW_DOWN)
    browser.point(browser.all("[data-side=query]")[1])
    lines, wanted = browser.lines(), maps["decoder/1/cross"][0, 1]
    assert close([lines.get((1, k), wanted[k]) for k in range(5)], wanted)
    # Each set keeps its own layer and head, and source words stay at the left.
    browser.choose("set", "target → source, cross-attention")
    assert browser.picked() == (0, 0)
    left = browser.one(".list")
    browser.point(left.find_elements(By.CSS_SELECTOR, ".token")[4])
    lines, wanted = browser.lines(), reverse["decoder/0/cross"][0, 4]
    assert close([lines.get((4, k), wanted[k]) for k in range(3)], wanted)
    browser.choose("set", "source → target, encoder")
    assert len(browser.all("#matrix canvas")) == 1
    assert len(browser.all(".token")) == 10
    browser.choose("set", "source → target, cross-attention")
    assert browser.picked() == (1, 0)


def test_scores_of_words(browser: Browser) -> None:
    scores = {"relevance": ([2.0, -1.0, 0.0], "comprehensiveness 0.3, random 0.1")}
    browser.open(explain.text_page({"a": soft(1, 3, 3)}, WORDS[:3], scores=scores))
    assert browser.shares(".scored") == [1, 0.5, 0]
    words = browser.all(".scored")
    assert ["against" in word.get_attribute("class") for word in words] == [False, True, False]
    assert "comprehensiveness 0.3, random 0.1" in browser.one(".strip").text


def test_light_and_dark(text: Any) -> None:
    browser, _ = text

    def paper() -> str:
        return browser.js("return getComputedStyle(document.body).backgroundColor")

    def ask(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.settle()

    color = "const d = arguments[0].getContext('2d').getImageData(0, 0, 1, 1).data; return [...d]"
    thumb = browser.one(".thumb canvas")
    ask("light")
    light, drawn = paper(), browser.js(color, thumb)
    ask("dark")
    assert paper() != light
    assert browser.js(color, thumb)[:3] != drawn[:3]
    browser.click(browser.one("#theme"))
    assert paper() == light
    assert browser.js(color, thumb) == drawn
    ask("light")


def test_two_pages_in_a_notebook(browser: Browser) -> None:
    pages = [explain.text_page({"a": soft(1, 3, 3, seed=n)}, WORDS[:3]) for n in range(2)]
    path = browser.folder / "notebook.html"
    frames = "".join(page._repr_html_() for page in pages)
    path.write_text(f"<!doctype html><meta charset=utf-8><title>n</title>{frames}")
    browser.driver.get(path.as_uri())
    assert browser.js("return window.attnzoo === undefined")
    for n, frame in enumerate(browser.all("iframe")):
        browser.driver.switch_to.frame(frame)
        browser.ready()
        assert close(browser.js("return attnzoo.matrix('a', 0)"), soft(1, 3, 3, seed=n)[0])
        browser.point(browser.all("[data-side=query]")[n])
        assert {q for q, _ in browser.lines()} == {n}
        browser.driver.switch_to.default_content()


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_base_model_stays_small_and_quick(browser: Browser, kind: str) -> None:
    maps = {f"encoder/{i}/self": soft(12, 197, 197, seed=i) for i in range(12)}
    make: dict[str, Callable[[], explain.Page]] = {
        "text": lambda: explain.text_page(maps, ["word"] * 197),
        "image": lambda: explain.image_page(np.zeros((224, 224, 3), np.uint8), maps, (14, 14)),
    }
    page = make[kind]()
    assert len(page.html.encode()) < 10_000_000
    start = time.monotonic()
    browser.open(page)
    assert time.monotonic() - start < 20
    assert len(browser.all(".thumb")) == 144
    units = browser.all(".token, .patch")
    assert len(units) == (197 if kind == "text" else 196)
    weights = maps["encoder/11/self"][11]
    shown = browser.js("return attnzoo.matrix('encoder/11/self', 11)")
    assert close(shown, weights)
    # From a move of the pointer to its drawing, milliseconds; a loaded machine has its share.
    took = browser.driver.execute_async_script(
        "const [units, done] = arguments, took = [];"
        "const next = (i) => {"
        "  if (i === 20) return done(took);"
        "  const start = performance.now();"
        "  units[9 * i].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));"
        "  requestAnimationFrame(() => setTimeout(() => {"
        "    took.push(performance.now() - start); next(i + 1); }));"
        "};"
        "next(0);",
        units,
    )
    print(f"{kind}: {len(page.html) / 1e6:.1f} MB, {np.median(took):.0f} ms a move")
    assert np.median(took) < 500

"""What README.md and docs/ tell people to run does run."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEMPLATES = [*(ROOT / ".github").rglob("*.*"), ROOT / ".pre-commit-config.yaml"]

FENCE = re.compile(
    r"^(?:<!-- (?P<mark>no-test|setup) -->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.M | re.S,
)
PATH = re.compile(r"(?<![\w./-])(?:scripts/[\w/-]+\.py|configs/[\w./-]+\.ya?ml)\b")


def blocks(text: str, *languages: str) -> list[tuple[int, str]]:
    """(line, text) of every code block in these languages that is not marked as untested."""
    return [
        (text[: found.start("text")].count("\n") + 1, found["text"])
        for found in FENCE.finditer(text)
        if found["language"] in languages and found["mark"] != "no-test"
    ]


def setup(page: str) -> list[tuple[int, str]]:
    """What all other snippets of a page go on from: its blocks marked as setup."""
    marked = {found.start("text") for found in FENCE.finditer(page) if found["mark"] == "setup"}
    lines = {page[:start].count("\n") + 1 for start in marked}
    return [(line, block) for line, block in blocks(page, "python") if line in lines]


def promised(page: str, line: int, block: str) -> str | None:
    """What the page says a snippet prints: the text block that follows it with nothing between."""
    rest = "\n".join(page.split("\n")[line - 1 + block.count("\n") :])
    found = re.match(r"```\n+```text\n(.*?)^```$", rest, re.M | re.S)
    return found[1] if found else None


def shell_paths(text: str) -> list[str]:
    """Scripts and configs that the commands of a page name."""
    shell = blocks(text, "sh", "bash", "shell", "console")
    return list(dict.fromkeys(path for _, block in shell for path in PATH.findall(block)))


SNIPPETS = [
    pytest.param(page, line, block, id=f"{page.relative_to(ROOT)}:{line}")
    for page in PAGES
    for line, block in blocks(page.read_text(encoding="utf-8"), "python")
]
NAMED = {
    page.relative_to(ROOT).as_posix(): shell_paths(page.read_text(encoding="utf-8"))
    for page in PAGES
}
SCRIPTS = sorted({path for paths in NAMED.values() for path in paths if path.endswith(".py")})


@pytest.mark.parametrize(("page", "line", "block"), SNIPPETS)
def test_a_snippet_runs(
    page: Path,
    line: int,
    block: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    before = [part for part in setup(text) if part[0] < line]

    def run() -> None:
        for at, part in [*before, (line, block)]:
            capsys.readouterr()
            # The empty lines put an error's line number into the page's own count.
            exec(compile("\n" * (at - 1) + part, str(page), "exec"), names)

    if before and not re.search(r"\bassert\b|\bprint\(", block):
        # Nothing looks at the numbers. Tracing runs all of the Python and checks all shapes; to
        # compute would take minutes, all of them for compiling.
        jax.eval_shape(run)
    else:
        run()
    if (wanted := promised(text, line, block)) is not None:
        assert_same(capsys.readouterr().out, wanted)


NUMBER = re.compile(r"-?\d+(?:\.(?P<decimals>\d+))?(?:e[+-]?\d+)?")


def assert_same(printed: str, wanted: str) -> None:
    """The same text, and decimal numbers as near as one unit of their last digit."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", wanted).split(), printed
    for got, want in zip(NUMBER.finditer(printed), NUMBER.finditer(wanted)):
        unit = 10.0 ** -len(want["decimals"]) if want["decimals"] else 0.0
        assert abs(float(got[0]) - float(want[0])) <= 1.01 * unit, printed


@pytest.mark.parametrize("page", NAMED)
def test_what_commands_name_exists(page: str) -> None:
    assert [path for path in NAMED[page] if not (ROOT / path).is_file()] == []


LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "runs")
# Not the beginning of a pattern such as configs/bible-*.yaml.
FILE = re.compile(
    rf"(?<![\w./-])(?>(?:{'|'.join(map(re.escape, FOLDERS))})/(?:[\w.-]+/)*[\w.-]*)(?![*{{<])"
)


def named_files(texts: list[str]) -> list[str]:
    """Paths of this repository that a page names in backticks or a template in its text."""
    found = (path.rstrip(".") for text in texts for path in FILE.findall(text))
    return list(dict.fromkeys(found))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *TEMPLATES], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_or_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path, anchor in LINK.findall(text):
        target = (page.parent / path) if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
    prose = re.findall(r"`([^`\n]+)`", text) if page.suffix == ".md" else [text]
    for path in named_files(prose):
        # A folder that git ignores is there only after a command.
        made = path.startswith((".venv", ".cache", "docs/_build"))
        assert made or (ROOT / path).exists(), path


def test_the_reader_of_files_sees_what_it_should() -> None:
    prose = [
        "attnzoo/no/such.py",
        "see docs/x.md.",
        "a/docs/y.md",
        "tests/models/",
        "configs/bible-*.yaml",
    ]
    assert named_files(prose) == ["attnzoo/no/such.py", "docs/x.md", "tests/models/"]
    found = LINK.findall("[a](b.md#c) [d](https://e) [f](#g)")
    assert found == [("b.md", "c"), ("", "g")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_explains_itself(script: str) -> None:
    if not (ROOT / script).is_file():
        pytest.fail(f"{script} does not exist")
    ran = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert "usage" in ran.stdout.lower()


def test_make_targets_in_the_pages_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    for page in PAGES:
        for _, block in blocks(page.read_text(encoding="utf-8"), "sh", "bash"):
            assert set(re.findall(r"^make ([a-z]+)", block, re.M)) <= targets, page


def test_the_reader_of_pages_sees_what_it_should() -> None:
    page = (
        "# x\n```python\na = 1\n```\n<!-- no-test -->\n```python\n1 / 0\n```\n"
        "```sh\npython scripts/no_such.py configs/a/b.yaml x.y=3\n```\n"
        "see scripts/elsewhere.py\n<!-- no-test -->\n\n```sh\npython scripts/secret.py\n```\n"
    )
    assert blocks(page, "python") == [(3, "a = 1\n")]
    assert shell_paths(page) == ["scripts/no_such.py", "configs/a/b.yaml"]


def test_the_reader_sees_setups_and_what_is_printed() -> None:
    page = (
        "<!-- setup -->\n```python\na = 1\n```\n```python\nprint(a, 0.123)\n```\n\n"
        "```text\n1 0.124\n```\n```python\nb = 2\n```\nwords\n```text\nno\n```\n"
    )
    assert setup(page) == [(3, "a = 1\n")]
    first, second, third = blocks(page, "python")
    assert promised(page, *first) is None
    assert promised(page, *second) == "1 0.124\n"
    assert promised(page, *third) is None
    assert_same("1 0.123\n", "1 0.124\n")
    for printed in ("1 0.122", "2 0.124", "1 0.124 x", "1", "1 -0.124"):
        with pytest.raises(AssertionError):
            assert_same(printed, "1 0.124\n")

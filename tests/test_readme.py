"""What README.md and docs/ tell people to run does run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"^(?P<mark><!-- no-test -->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S
)
PATH = re.compile(r"(?<![\w./-])(?:scripts/[\w/-]+\.py|configs/[\w./-]+\.ya?ml)\b")


def blocks(text: str, *languages: str) -> list[tuple[int, str]]:
    """(line, text) of every code block in these languages that is not marked as untested."""
    return [
        (text[: found.start("text")].count("\n") + 1, found["text"])
        for found in FENCE.finditer(text)
        if found["language"] in languages and not found["mark"]
    ]


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
    page: Path, line: int, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The empty lines put an error's line number into the page's own count.
    code = compile("\n" * (line - 1) + block, str(page), "exec")
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("page", NAMED)
def test_what_commands_name_exists(page: str) -> None:
    assert [path for path in NAMED[page] if not (ROOT / path).is_file()] == []


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

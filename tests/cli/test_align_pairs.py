"""`align --aligner`: any input, every line in its place, scores and pictures of its links."""

import argparse
import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from attnzoo import cli
from attnzoo.alignment.formats import READERS
from attnzoo.alignment.links import parse_pharaoh
from attnzoo.cli import align_doors as doors
from attnzoo.cli.align import argument_parser

WORDS = {"red": "rouge", "dog": "chien", "cat": "chat", "big": "grand", "old": "vieux", "a": "un"}
PAIRS = [
    (f"{a} {b}", f"{WORDS[b]} {WORDS[a]}") for a in WORDS for b in WORDS if a != b
]  # the words of a pair change places
PAIRS.insert(3, ("", "un"))
PAIRS.insert(8, ("a", ""))
PAIRS.insert(11, ("", ""))
GOLD = ["0-1 1-0" if a and b else "" for a, b in PAIRS]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pairs")
    lines = {
        "bars": [f"{a} ||| {b}" for a, b in PAIRS],
        "table": [f"{n}\t{a}\t{b}\t{g}" for n, ((a, b), g) in enumerate(zip(PAIRS, GOLD))],
        "source": [a for a, _ in PAIRS],
        "target": [b for _, b in PAIRS],
        "gold": GOLD,
        "turned": [" ".join(x[::-1] for x in g.split()) for g in GOLD],
        "naacl": [
            f"{n + 1} {i + 1} {1 - i + 1} S"
            for n, (a, b) in enumerate(PAIRS)
            for i in range(2)
            if a and b
        ],
        "tags": [" ".join(["N"] * len(b.split())) for _, b in PAIRS],
    }
    for name, some in lines.items():
        (home / name).write_text("\n".join(some) + "\n")
    for name in ("bars", "table"):
        (home / f"{name}.gz").write_bytes(gzip.compress((home / name).read_bytes()))
    return home


INPUTS = {
    "bars": ["--pairs", "{}/bars"],
    "packed": ["--pairs", "{}/bars.gz"],
    "table": ["--pairs", "{}/table", "--columns", "1,2"],
    "packed table": ["--pairs", "{}/table.gz", "--columns", "1,2,3"],
    "two files": ["--source", "{}/source", "--target", "{}/target"],
    "standard input": ["--pairs", "-"],
    "packed standard input": ["--pairs", "-"],
}


def align(home: Path, *arguments: object, status: int = 0) -> None:
    filled = [str(argument).format(home) for argument in arguments]
    assert cli.main(["align", "--aligner", "hmm", *filled]) == status


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_gives_the_same_line_for_every_line(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "bars.gz" if name == "packed standard input" else "bars"
    with io.TextIOWrapper((home / source).open("rb")) as text:
        monkeypatch.setattr("sys.stdin", text)
        align(home, *INPUTS[name], "-o", tmp_path / "links")
    found = (tmp_path / "links").read_text().splitlines()
    assert len(found) == len(PAIRS)
    assert [not line for line in found] == [not (a and b) for a, b in PAIRS]
    assert sum(line == gold for line, gold in zip(found, GOLD)) > 0.9 * len(GOLD)
    align(home, *INPUTS["bars"], "-o", tmp_path / "again")
    assert (tmp_path / "again").read_text().splitlines() == found


@pytest.mark.parametrize(
    "gold",
    [
        ["--pairs", "{}/table", "--columns", "1,2,3"],
        [*INPUTS["bars"], "--gold", "{}/gold"],
        [*INPUTS["bars"], "--gold", "{}/turned", "--target-first"],
        [*INPUTS["bars"], "--gold", "{}/naacl", "--gold-format", "naacl"],
    ],
)
def test_every_gold_gives_the_same_scores(
    gold: list[str], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ["--figures", 1, "--figure-dir", tmp_path, "--page", tmp_path / "p.html"]
    asked = ["--against", "{}/gold", "--tables", "--tags", "{}/tags", *drawn]
    align(home, *gold, "-o", tmp_path / "own", *asked)
    said = capsys.readouterr().out
    rates = dict(re.findall(r"^  (hmm|against) +(\d\.\d{3}) ", said, re.MULTILINE))
    own = [set(parse_pharaoh(line).sure) for line in (tmp_path / "own").read_text().splitlines()]
    true = [set(parse_pharaoh(line).sure) for line in GOLD]
    right = sum(len(a & b) for a, b in zip(own, true))
    wanted = 1 - 2 * right / (sum(map(len, own)) + sum(map(len, true)))
    assert float(rates["hmm"]) == pytest.approx(wanted, abs=6e-4)
    assert float(rates["against"]) == 0
    assert "(paired bootstrap)" in said
    assert "tag of the target word:\n" in said
    assert (tmp_path / "beads-1.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "p.html").read_text()
    (data,) = re.findall(r"^const pairs = (.*);$", page, re.MULTILINE)
    assert [len(pair["links"]) for pair in json.loads(data)] == [len(some) for some in own]


def test_every_output_has_the_same_links(home: Path, tmp_path: Path) -> None:
    for name in ("pharaoh", "scores", "a3", "npz"):
        align(home, *INPUTS["bars"], "--format", name, "-o", tmp_path / name)
    read = {
        name: READERS["a3" if name == "a3" else "pharaoh"](
            (tmp_path / name).read_text().splitlines(), name
        )
        for name in ("pharaoh", "scores", "a3")
    }
    assert read["pharaoh"] == read["scores"] == read["a3"]
    assert re.fullmatch(
        r"0-1:[01](\.\d+)? 1-0:[01](\.\d+)?", (tmp_path / "scores").read_text().splitlines()[0]
    )
    with np.load(tmp_path / "npz") as matrices:
        assert set(matrices) == {
            f"{side}/{n}" for side in ("forward", "backward") for n in range(len(PAIRS))
        }
        for n, (a, b) in enumerate(PAIRS):
            assert matrices[f"forward/{n}"].shape == (len(b.split()), len(a.split()))


def test_a_vote_is_tuned_and_used(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = "members=[{kind: hmm}, {kind: hmm, prefix: 1}]"
    tuned = tmp_path / "tuned.yaml"
    table = [str(x).format(home) for x in ("--pairs", "{}/table", "--columns", "1,2,3")]
    assert cli.main(["align", "--aligner", "vote", members, *table, "--tune", str(tuned)]) == 0
    assert f"config: {tuned}" in capsys.readouterr().out
    assert cli.main(["align", "--aligner", str(tuned), *table]) == 0
    assert re.search(r"^  vote +0\.0", capsys.readouterr().out, re.MULTILINE)


def test_evenly_spread_pairs_keep_their_gold(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    align(home, *INPUTS["bars"], "--gold", "{}/gold", "--limit", "11", "-o", tmp_path / "some")
    assert "11 pairs of" in capsys.readouterr().out
    assert len((tmp_path / "some").read_text().splitlines()) == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "wanted --pairs FILE, or --source FILE --target FILE"),
        (["--pairs", "{}/table"], "malformed (1 field, wanted source ||| target; a table needs"),
        (["--pairs", "{}/bars", "--columns", "0,1"], "malformed (1 field, wanted columns 0, 1"),
        (["--pairs", "{}/bars", "--columns", "0"], "--columns 0: wanted two or three numbers"),
        (["--pairs", "{}/none"], "none: no such file"),
        ([*INPUTS["bars"], "--tables"], "--tables needs reference links"),
        ([*INPUTS["bars"], "--format", "npz"], "--format npz: wanted -o FILE.npz"),
        ([*INPUTS["bars"], "--gold", "{}/tags"], "tags:1: link 1 is 'N'"),
        ([*INPUTS["bars"], "--gold", "{}/gold", "--one-based"], "gold:1: link 1 is '0-1', but"),
        ([*INPUTS["bars"], "iterations=-1"], "iterations"),
        ([*INPUTS["bars"], "-o", "{}/none/links"], "none/links: No such file"),
        ([*INPUTS["bars"], "--max-unread", "nan"], "--max-unread nan: wanted a share"),
        ([*INPUTS["bars"], "--encoding", "klingon"], "encoding 'klingon' is not known"),
        ([*INPUTS["bars"], "{}"], "--aligner takes no RUN_DIR"),
        (["--source", "{}/bars", "--target", "{}/naacl"], "has only"),
        ([*INPUTS["bars"], "--gold", "{}/gold", "--tune", "x.yaml"], "--tune goes with"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    align(home, *arguments, status=2)
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]


@pytest.mark.parametrize("name", ["bars", "table", "two files", "standard input"])
def test_every_text_may_have_another_encoding(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [("été \xe0", "summer to"), ("le \xe0", "the to"), ("été le", "summer the")]
    texts = {
        "bars": "".join(f"{a} ||| {b}\n" for a, b in pairs),
        "table": "".join(f"\t{a}\t{b}\n" for a, b in pairs),
        "source": "".join(f"{a}\n" for a, _ in pairs),
        "target": "".join(f"{b}\n" for _, b in pairs),
        "gold": "0-0 1-1\n" * 3,
    }
    found = []
    for encoding in ("utf-8", "latin-1", "utf-16-le"):
        home = tmp_path / encoding
        home.mkdir()
        for file, text in texts.items():
            (home / file).write_bytes(text.encode(encoding))
        options = ["--gold", "{}/gold", "--format", "a3", "--encoding", encoding]
        if name != "table":
            options += ["--text", "{}/bars"]
        with io.TextIOWrapper((home / "bars").open("rb")) as stream:
            monkeypatch.setattr("sys.stdin", stream)
            align(home, *INPUTS[name], *options, "-o", home / "links")
        found.append((home / "links").read_text(encoding="utf-8"))
    assert found[0] == found[1] == found[2]
    assert "été" in found[0]


@pytest.mark.parametrize("wrong", ["no bars", "a ||| b ||| c", "\udcff ||| b"])
def test_a_malformed_line_is_an_empty_line_and_counted(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["a ||| b"] * 9
    lines[3] = wrong
    text = "\n".join(lines) + "\n"
    (tmp_path / "bars").write_text(text, encoding="utf-8", errors="surrogateescape")
    for share, status in (("0.2", 0), ("0.1", 2)):
        out = tmp_path / share
        align(tmp_path, *INPUTS["bars"], "-o", out, "--max-skipped", share, status=status)
        assert out.read_text().splitlines() == ["0-0"] * 3 + [""] + ["0-0"] * 5
        said = capsys.readouterr().err.strip().splitlines()
        named = ["1 malformed (" in line and "lines 4" in line for line in said]
        assert sum(named) == (2 if status else 1)
        assert ("more than --max-skipped 0.1" in said[-1]) == bool(status)


def test_a_pair_that_was_not_read_is_told_from_one_without_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{a} ||| {b}" for a, b in PAIRS]
    lines[4] = " ".join(["so"] * 150) + " ||| " + " ".join(["long"] * 150)
    lines[6] = "red dog " * 60 + "||| " + "rouge chien " * 60  # long, of words that others have
    (tmp_path / "bars").write_text("\n".join(lines) + "\n")
    for share, status in (("0.1", 0), ("0.01", 2)):
        out = tmp_path / share
        align(tmp_path, *INPUTS["bars"], "-o", out, "--max-unread", share, status=status)
        found = out.read_text().splitlines()
        assert len(found) == len(lines)
        assert not found[4]
        assert found[6]
        said = capsys.readouterr().err.strip().splitlines()
        wanted = "1 unread (longer than max_words=100, of words not trained on): lines 5"
        assert sum(wanted in line for line in said) == (2 if status else 1)
        assert ("more than --max-unread" in said[-1]) == bool(status)


def option_actions() -> list[argparse.Action]:
    return [one for one in argument_parser()._actions if one.dest != "help"]


def test_every_option_belongs_to_one_door_or_to_both() -> None:
    for action in option_actions():
        places = [action.dest in door for door in (doors.RUN, doors.PAIRS, doors.BOTH)]
        assert sum(places) == 1, action.dest
    named = {*doors.RUN, *doors.PAIRS, *doors.BOTH}
    assert named == {action.dest for action in option_actions()}


@pytest.mark.parametrize(
    "action",
    [action for action in option_actions() if action.dest not in doors.BOTH],
    ids=lambda action: action.dest,
)
def test_an_option_of_the_other_door_is_refused(
    action: argparse.Action, capsys: pytest.CaptureFixture[str]
) -> None:
    value = [] if action.nargs == 0 else [str(next(iter(action.choices or ["1"])))]
    own = ["a-run"] if action.dest in doors.PAIRS else ["--aligner", "hmm"]
    assert cli.main(["align", *own, action.option_strings[0], *value]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert re.match(rf"error: --{action.dest.replace('_', '-')} goes with .*, not with ", said)

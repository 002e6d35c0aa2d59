"""`align --aligner`: any input, every line in its place, scores and pictures of its links."""

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
}


def align(home: Path, *arguments: object, status: int = 0) -> None:
    filled = [str(argument).format(home) for argument in arguments]
    assert cli.main(["align", "--aligner", "hmm", *filled]) == status


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_gives_the_same_line_for_every_line(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.TextIOWrapper(io.BytesIO((home / "bars").read_bytes()))
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
        (["--pairs", "{}/table"], "table:1: 1 field, wanted source ||| target; a table needs"),
        (["--pairs", "{}/bars", "--columns", "0,1"], "bars:1: 1 field, wanted columns 0, 1"),
        (["--pairs", "{}/bars", "--columns", "0"], "--columns 0: wanted two or three numbers"),
        (["--pairs", "{}/none"], "none: no such file"),
        ([*INPUTS["bars"], "--tables"], "--tables needs reference links"),
        ([*INPUTS["bars"], "--format", "npz"], "--format npz: wanted -o FILE.npz"),
        ([*INPUTS["bars"], "--gold", "{}/tags"], "tags:1: link 1 is 'N'"),
        ([*INPUTS["bars"], "--gold", "{}/gold", "--one-based"], "gold:1: link 1 is '0-1', but"),
        ([*INPUTS["bars"], "iterations=0"], "iterations"),
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

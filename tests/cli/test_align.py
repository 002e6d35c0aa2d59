"""align over a small Transformer: erasure, both directions, and a layer and head chosen."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from attnzoo import cli
from attnzoo.alignment.links import parse_pharaoh

CONFIG = """
name: reverse
data: {kind: synthetic, task: reverse, symbols: 7, min_length: 2, max_length: 4,
       train: 600, validation: 24, test: 16}
tokenizer: word
shared_vocabulary: false
model: {kind: transformer, attention: {kind: multi_head, num_heads: 2},
        cross_attention: {kind: multi_head, num_heads: 2}, dim: 12, hidden: 14,
        encoder_layers: 1, decoder_layers: 2, norm: pre, max_length: 16, tied: none, dropout: 0}
training: {steps: 60, batch_size: 32, buckets: [5], learning_rate: 1e-2, tensorboard: false}
decoding: {beam: 1, batch_size: 16, max_length: 6}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    config = home / "reverse.yaml"
    config.write_text(CONFIG)
    with contextlib.redirect_stderr(io.StringIO()) as heard:
        ended = cli.main(["train", str(config), "--run-dir", str(home / "run")])
    assert ended == 0, heard.getvalue()
    return home / "run"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["align", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def rates(text: str) -> dict[str, float]:
    """The error rates of a table, by label."""
    lines = [re.match(r"  (\S.*?) {2,}(\d\.\d{3}) {2,}\S+ - ", line) for line in text.splitlines()]
    return {found[1]: float(found[2]) for found in lines if found}


def test_both_methods_and_all_combinations_of_two_directions(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Reversing is its own inverse: the run can read the pairs from the other side.
    links: dict[str, list] = {}
    for name in ("union", "intersection"):
        file = tmp_path / name
        options = ("--by", "both", "--reverse", run, "--symmetrize", name, "-o", file)
        text = said(capsys, run, *options)
        links[name] = [set(parse_pharaoh(line).sure) for line in file.read_text().splitlines()]
    table = rates(text)
    ways = ["reverse", "intersection", "union", "grow-diag", "grow-diag-final"]
    wanted = {f"{m}, {way}" for m in ("attention", "erasure") for way in ways}
    assert wanted | {"attention", "erasure", "diagonal"} <= set(table)
    assert all(a >= b for a, b in zip(links["union"], links["intersection"], strict=True))
    assert sum(map(len, links["union"])) > sum(map(len, links["intersection"]))
    # The rate of what was written, by hand: each pair's links are those of its reversal.
    from attnzoo.training.run import load_run

    sizes = [len(text.split()) for text in load_run(run).corpus("test").source]
    for name, found in links.items():
        true = [{(size - 1 - j, j) for j in range(size)} for size in sizes]
        right = sum(len(a & b) for a, b in zip(found, true, strict=True))
        total = sum(map(len, found)) + sum(sizes)
        assert table[f"attention, {name}"] == pytest.approx(1 - 2 * right / total, abs=6e-4)
    assert re.search(r"  by erasure +\d\.\d{3} +\d\.\d{3} +\d\.\d{3} +\d\.\d{3}\n", text)


def test_the_place_that_validation_chooses_is_used_on_test(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    survey = said(capsys, run, "--survey", "--split", "validation")
    listed = re.findall(r"^  (\d)/(\d|mean) +(\d\.\d{3}) +(\d\.\d{3})$", survey, re.MULTILINE)
    assert [f"{layer}/{head}" for layer, head, *_ in listed] == [
        "0/0", "0/1", "0/mean", "1/0", "1/1", "1/mean"
    ]  # fmt: skip
    lowest = min(float(aer) for row in listed for aer in row[2:])
    text = said(capsys, run, "--choose", "aer")
    best = re.search(r"^  (\d\.\d{3})  (--layer .*)$", text, re.MULTILINE)
    assert best is not None
    assert float(best[1]) == lowest
    assert f"best: {best[2]}, AER {best[1]}" in survey
    assert rates(text) == rates(said(capsys, run, *best[2].split()))


def test_agreement_of_two_directions_chooses_without_links(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, run, "--choose", "agreement", "--reverse", run, "--choose-pairs", "9")
    assert "9 pairs of validation" in text
    listed = re.findall(r"^  (\d\.\d{3})  (--layer .*); reverse (--layer .*)$", text, re.MULTILINE)
    assert len(listed) == 3
    shares = [float(share) for share, *_ in listed]
    assert shares == sorted(shares, reverse=True)
    assert rates(text)["attention"] == rates(said(capsys, run, *listed[0][1].split()))["attention"]


def test_pictures_by_both_methods(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said(capsys, run, "--by", "both", "--figures", "1", "--figure-dir", tmp_path, "--limit", "2")
    said(capsys, run, "--by", "both", "--sentence", "0 1 2", "--figure-dir", tmp_path)
    for name in ("test-1", "sentence-1"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        drawn = (tmp_path / f"{name}.svg").read_text()
        assert ">attention<" in drawn
        assert ">erasure<" in drawn


def test_the_timing_is_chosen_on_validation_and_other_runs_are_read_alike(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {}
    for timing in ("predicted", "input", "auto"):
        capsys.readouterr()
        assert cli.main(["align", str(run), "--timing", timing, "--compare", str(run)]) == 0
        heard = capsys.readouterr()
        tables[timing] = rates(heard.out)
        assert tables[timing][run.name] == tables[timing]["attention"]
    assert tables["predicted"]["attention"] != tables["input"]["attention"]
    said = re.search(
        r"--timing (\w+) \(AER of 24 validation pairs: (\w+) (\d\.\d{3}), \w+ (\d\.\d{3})",
        heard.err,
    )
    assert said is not None
    assert said[1] == said[2]
    assert float(said[3]) <= float(said[4])
    assert tables["auto"] == tables[said[1]]


def test_words_without_a_partner_may_stay_unlinked(run: Path, tmp_path: Path) -> None:
    links = {}
    for name, options in {"all": [], "null": ["--null"]}.items():
        file = tmp_path / name
        assert cli.main(["align", str(run), "--timing", "input", *options, "-o", str(file)]) == 0
        links[name] = [set(line.split()) for line in file.read_text().splitlines()]
    assert all(some <= every for some, every in zip(links["null"], links["all"], strict=True))
    assert sum(map(len, links["null"])) < sum(map(len, links["all"]))


def test_lines_with_an_empty_side_keep_their_place(run: Path, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("0 1\n\n1 2\n0\n")
    (tmp_path / "t").write_text("1 0\n3\n2 1\n\n")
    sides = ["--source", str(tmp_path / "s"), "--target", str(tmp_path / "t")]
    assert cli.main(["align", str(run), *sides, "-o", str(tmp_path / "o")]) == 0
    written = (tmp_path / "o").read_text().splitlines()
    assert [bool(line) for line in written] == [True, False, True, False]
    config = ["attention", f"run={run}", *sides, "-o", str(tmp_path / "p")]
    assert cli.main(["align", "--aligner", *config]) == 0
    assert (tmp_path / "p").read_text().splitlines() == written


def test_the_encoder_of_a_run_gives_word_vectors(run: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("0 1 2 ||| 2 1 0\n\n3 ||| 3\n")
    options = [f"encoder={run}", "layer=0", "--pairs", str(tmp_path / "pairs")]
    assert cli.main(["align", "--aligner", "similarity", *options, "-o", str(tmp_path / "o")]) == 0
    lines = (tmp_path / "o").read_text().splitlines()
    assert [bool(line) for line in lines] == [True, False, True]


def test_pairs_are_spread_over_the_text() -> None:
    from attnzoo.cli.texts import evenly

    assert evenly(10, 3) == [0, 3, 6]
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(0, 5) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--choose", "agreement"], "wanted --reverse RUN_DIR"),
        (["--choose", "aer", "--layer", "1"], "--choose finds layer and head"),
        (["--choose", "aer", "--survey"], "wanted one of them"),
        (["--choose", "aer", "--choose-pairs", "0"], "--choose-pairs 0: wanted at least 1"),
        (["--by", "erasure", "--generated"], "--generated aligns by attention alone"),
        (["--by", "posterior"], "posterior: Transformer has no readout of one source position"),
        (["--layer", "2"], "layer=2; the decoder's layers are 0 .. 1"),
        (["--head", "2"], "head=2; the cross-attention's heads are 0 .. 1"),
    ],
)
def test_bad_arguments(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["align", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err

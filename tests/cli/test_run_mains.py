# Over 400 lines: all tests read one run that is trained once.
"""translate, evaluate and align over one small run that train made; and their bad inputs."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import sacrebleu

from attnzoo import cli
from attnzoo.alignment.links import parse_pharaoh
from tests.run_commands import commands_leave

CONFIG = """
name: reverse
data: {kind: synthetic, task: reverse, symbols: 7, min_length: 2, max_length: 5,
       train: 1500, validation: 64, test: 64}
tokenizer: word
model: {kind: bahdanau, attention: additive, hidden: 24, embedding: 12, maxout: 12,
        reads: words, initial_state: zero}
training: {steps: 350, batch_size: 32, buckets: [6], learning_rate: 1e-2,
           schedule: {kind: cosine}, tensorboard: false, evaluate_every: 175}
decoding: {beam: 2, batch_size: 16, max_length: 7}
"""


@dataclasses.dataclass
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command as `attnzoo COMMAND ...` does, in this process."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    config = home / "reverse.yaml"
    config.write_text(CONFIG)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert cli.main(["train", str(config), "--run-dir", str(home / "reverse")]) == 0
    assert "validation at step 350" in said.getvalue()
    assert "all steps done: step 350" in said.getvalue()
    return home / "reverse"


@pytest.fixture(scope="module")
def test_part(run: Path) -> tuple[list[str], list[str]]:
    from attnzoo.training.run import load_run

    corpus = load_run(run).corpus("test")
    return corpus.source, corpus.target


def one_line(ended: Ended, *parts: object) -> None:
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
    for part in parts:
        assert str(part) in ended.err


def test_evaluate_scores_what_it_wrote(
    run: Path, call: Callable[..., Ended], test_part: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    picture = tmp_path / "new" / "bleu.svg"
    ended = call("evaluate", run, "--buckets", "3,4", "--figure", picture)
    assert ended.code == 0
    scores = json.loads((run / "test.scores.json").read_text(), parse_constant=pytest.fail)
    hypotheses = (run / "test.hypotheses.txt").read_text().splitlines()
    sources, references = test_part
    assert len(hypotheses) == len(sources) == scores["sentences"] == 64
    want = sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert scores["bleu"] == pytest.approx(want)
    assert f"{want:6.2f}" in ended.out
    exact = sum(a == b for a, b in zip(hypotheses, references, strict=True)) / 64
    assert scores["exact_match"] == exact
    assert exact > 0.8  # it learned the task
    assert 1.0 < scores["perplexity_per_token"] < 1.5
    assert [row["words"] for row in scores["by_length"]] == ["1-3", "4-4", "5+"]
    assert picture.read_text().startswith("<?xml")


def test_align_scores_draws_and_writes(
    run: Path, call: Callable[..., Ended], test_part: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    links = tmp_path / "test.links"
    ended = call("align", run, "-o", links, "--figures", "2", "--figure-dir", tmp_path / "new")
    assert ended.code == 0
    rows = {line.split()[0]: line.split() for line in ended.out.splitlines() if "0." in line}
    attention, diagonal = float(rows["attention"][1]), float(rows["diagonal"][1])
    lines = links.read_text().splitlines()
    sources, _ = test_part
    assert len(lines) == 64
    wrong = total = 0
    for source, line in zip(sources, lines, strict=True):
        size = len(source.split())
        found = parse_pharaoh(line).sure
        assert len(found) <= size  # at most one source word a target word
        true = {(size - 1 - j, j) for j in range(size)}
        wrong += len(found) + size - 2 * len(found & true)
        total += len(found) + size
    assert attention == pytest.approx(wrong / total, abs=6e-4)
    assert attention < 0.3 < diagonal
    for name in ("test-1", "test-2"):
        assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "new" / f"{name}.svg").exists()


def test_commands_leave_the_files_of_a_run(run: Path, tmp_path: Path) -> None:
    commands_leave(run, tmp_path)


def test_runs_with_different_tests_are_not_compared(
    run: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("test: 64", "test: 63"))
    assert call("verify", other, "--accept", "config.yaml").code == 0
    picture = tmp_path / "bleu.svg"
    ended = call("evaluate", run, other, "--figure", picture)
    one_line(ended, "--figure: reverse and other have different test pairs (64 and 63, other words")
    assert not picture.exists()
    ended = call("evaluate", run, other)
    assert ended.code == 0
    assert ended.err.startswith("reverse and other have different test pairs")
    prints = [
        json.loads((path / "test.scores.json").read_text())["data_fingerprint"]
        for path in (run, other)
    ]
    assert prints[0] != prints[1]


def test_evaluate_files_and_an_empty_bucket_is_null(
    run: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    source, target = tmp_path / "news.a", tmp_path / "news.b"
    source.write_bytes(b"0 1 2\n\n\xff\xfe\n3 4\n")
    target.write_text("2 1 0\nx\ny\n4 3\n")
    ended = call(
        "evaluate",
        run,
        "--source",
        source,
        "--target",
        target,
        "--buckets",
        "1,9",
        "--out",
        tmp_path / "new" / "scores",
    )
    assert ended.code == 0
    assert not (run / "news.scores.json").exists()
    assert f"skipped 1: empty sentence ({source}:2)" in ended.err
    assert f"skipped 1: not UTF-8 ({source}:3)" in ended.err
    scores = json.loads(
        (tmp_path / "new/scores/news.scores.json").read_text(), parse_constant=pytest.fail
    )
    assert scores["sentences"] == 2
    assert [row["bleu"] is None for row in scores["by_length"]] == [True, False, True]
    # Line i of every output belongs to line i of the files.
    lines = (tmp_path / "new/scores/news.hypotheses.txt").read_text().split("\n")
    assert [bool(line) for line in lines] == [True, False, False, True, False]
    links = tmp_path / "links"
    assert call("align", run, "--source", source, "--target", target, "-o", links).code == 0
    assert [bool(line) for line in links.read_text().split("\n")] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_align_generated_sentences_and_both_directions(
    run: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    ended = call("align", run, "--sentence", "0 1 2", "--sentence", "3 4", "--figure-dir", tmp_path)
    assert ended.code == 0
    lines = [line.split("\t") for line in ended.out.splitlines()]
    assert [line[0] for line in lines] == ["0 1 2", "3 4"]
    assert all(Path(line[2]).exists() for line in lines)
    ended = call("align", run, "--generated", "--limit", "3", "-o", tmp_path / "links")
    assert ended.code == 0
    assert len((tmp_path / "links").read_text().splitlines()) == 3
    # Reversing is its own inverse: the run can read the pairs from the other side.
    ended = call("align", run, "--reverse", run, "--limit", "8", "--restrict")
    assert ended.code == 0
    assert "grow-diag-final-and" in ended.out
    assert "words with a reference link" in ended.out


def test_translate_keeps_one_line_a_line(
    run: Path, call: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = " ".join(["1"] * 10_000)
    data = b"0 1 2\n\n\xff\xfe 1\n" + long.encode() + b"\n3 4\r\n \t \nstrange words\n5 6"
    stdin = types.SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    links = tmp_path / "links"
    ended = call("translate", run, "--alignment", links, "--scores")
    assert ended.code == 1
    rows = [line.split("\t") for line in ended.out.split("\n")[:-1]]
    assert len(rows) == 8
    assert [bool(row[0]) for row in rows] == [True, False, False, False, True, False, True, True]
    assert all(row[0] == "" or float(row[0]) < 0 for row in rows)
    assert len(links.read_text().splitlines()) == 8
    assert ended.err == (
        "warning: standard input:3: not UTF-8; set --encoding\n"
        "warning: standard input:4: 10,000 words are too long\n"
        "2 of 8 inputs have no answer\n"
    )
    # The same from a file into a file, greedily.
    (tmp_path / "in").write_bytes(data)
    ended = call("translate", run, tmp_path / "in", "-o", tmp_path / "out", "--beam", "1")
    assert ended.code == 1
    assert ended.out == ""
    greedy = (tmp_path / "out").read_text()
    assert len(greedy.split("\n")[:-1]) == 8
    # The same text in another encoding, from either.
    (tmp_path / "in").write_bytes(data.decode("cp1252").encode("utf-16-le"))
    stdin.buffer = io.BytesIO((tmp_path / "in").read_bytes())
    for file in ([tmp_path / "in"], []):
        ended = call("translate", run, *file, "--beam", "1", "--encoding", "utf-16-le")
        assert ended.code == 1
        told = [line for i, line in enumerate(ended.out.split("\n")) if i != 2]
        assert told == [line for i, line in enumerate(greedy.split("\n")) if i != 2]
        assert "not UTF" not in ended.err


def test_a_pipe_is_answered_line_by_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (reader, writer), (output, answer) = os.pipe(), os.pipe()
    answers = []

    def ask() -> None:
        with os.fdopen(writer, "wb", buffering=0) as questions, os.fdopen(output, "rb") as read:
            for line in (b"0 1 2\n", b"3 4\n", b"\n"):
                questions.write(line)
                answers.append(read.readline())

    thread = threading.Thread(target=ask)
    thread.start()
    with os.fdopen(reader) as stdin, os.fdopen(answer, "w") as stdout:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main(["translate", str(run), "--beam", "1"]) == 0
    thread.join()
    assert [len(line.split()) > 0 for line in answers] == [True, True, False]
    assert answers[-1] == b"\n"


def test_translations_are_no_longer_than_the_config_says(
    run: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "in").write_text(" ".join(["1 2 3 4 5"] * 6) + "\n")
    assert len(call("translate", run, tmp_path / "in").out.split()) <= 7
    assert len(call("translate", run, tmp_path / "in", "--max-length", "2").out.split()) <= 2


@pytest.mark.parametrize("arguments", [["evaluate"], ["align"], ["translate"], ["verify"]])
def test_what_is_no_run_directory_is_one_line(
    call: Callable[..., Ended], tmp_path: Path, arguments: list[str]
) -> None:
    one_line(call(*arguments, tmp_path / "nowhere"), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["evaluate", "RUN", "RUN", "--out", "x"], ["--out is for one run; 2 were given"]),
        (["evaluate", "RUN", "--limit", "0"], ["--limit 0: wanted at least 1"]),
        (["evaluate", "RUN", "--beam", "0"], ["--beam 0: wanted at least 1"]),
        (["evaluate", "RUN", "--batch-size", "-1"], ["--batch-size -1"]),
        (["evaluate", "RUN", "--length-penalty", "nan"], ["--length-penalty nan"]),
        (["evaluate", "RUN", "--tokenize", "moses"], ["--tokenize moses: wanted one of"]),
        (["evaluate", "RUN", "--figure", "a.bmp"], ["--figure a.bmp", ".png or .svg"]),
        (["evaluate", "RUN", "--source", "a"], ["wanted both --source and --target, or neither"]),
        (["evaluate", "RUN", "--source", "NO", "--target", "NO"], ["no such file"]),
        (["evaluate", "RUN", "--source", "TWO", "--target", "ONE"], ["2 lines", "1 lines"]),
        (["align", "RUN", "--links", "ONE"], ["--links goes with --source and --target"]),
        (
            ["align", "RUN", "--source", "ONE", "--target", "ONE", "--links", "BAD"],
            ["BAD:1", "link 0-9 is outside"],
        ),
        (["align", "RUN", "--figures", "-1"], ["--figures -1"]),
        (["align", "RUN", "--sentence", " "], ["--sentence ' ': empty or too long"]),
        (["align", "RUN", "--reverse", "HOME"], ["not a run directory"]),
        (["align", "RUN", "--limit", "2", "-o", "HOME/none/x"], ["none/x", "No such file"]),
        (["translate", "RUN", "NO"], ["NO: no such file"]),
        (["translate", "RUN", "HOME"], ["cannot be read"]),
        (["translate", "RUN", "ONE", "-o", "HOME/none/x"], ["none/x: cannot be written"]),
        (["translate", "RUN", "ONE", "-o", "ONE"], ["ONE: named twice, as input or output"]),
        (["translate", "RUN", "ONE", "--beam", "0"], ["--beam 0"]),
        (["train", "CONFIG", "training.step=3"], ["unknown key", "did you mean"]),
        (["train", "CONFIG"], ["CONFIG: training: missing"]),
        (["train", "NO"], ["NO: no such file"]),
        (
            [
                *("train", "RUN/config.yaml", "--run-dir", "NEW"),
                "model.attention={kind: multi_head, num_heads: 5}",
            ],
            ["model: dim=24 is not divisible by num_heads=5"],
        ),
        (["train", "RUN/config.yaml", "--run-dir", "RUN"], ["holds a run already"]),
        (
            ["train", "RUN/config.yaml", "--run-dir", "NEW", "model.hidden=1000000000"],
            ["parameters; wanted at most"],
        ),
    ],
)
def test_bad_arguments_are_one_line(
    run: Path,
    call: Callable[..., Ended],
    tmp_path: Path,
    arguments: list[str],
    parts: list[str],
) -> None:
    (tmp_path / "ONE").write_text("1 2\n")
    (tmp_path / "TWO").write_text("1 2\n3\n")
    (tmp_path / "BAD").write_text("0-9\n")
    (tmp_path / "CONFIG").write_text("name: x\n")
    places = {"RUN": run, "HOME": tmp_path}
    places |= {name: tmp_path / name for name in ("ONE", "TWO", "BAD", "NO", "NEW", "CONFIG")}
    filled = []
    for argument in arguments:
        first, slash, rest = argument.partition("/")
        filled.append(f"{places[first]}{slash}{rest}" if first in places else argument)
    before = (tmp_path / "ONE").read_text()
    one_line(call(*filled), *parts)
    assert (tmp_path / "ONE").read_text() == before


def test_a_damaged_best_checkpoint_gives_way_to_the_latest(
    run: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    best = next(p for p in (copy / "best").iterdir() if p.name.isdecimal())
    file = max((p for p in best.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (copy / "in").write_text("0 1\n")
    latest = call("translate", copy, copy / "in", "--which", "latest")
    assert latest.code == 0
    without = call("translate", copy, copy / "in")
    assert without.out == latest.out
    assert "no valid checkpoint (1 damaged, 0 not completely written); the latest" in without.err
    (copy / "source.tokenizer.json").write_text("{}")
    one_line(call("translate", copy, copy / "in"), "source.tokenizer.json: changed since training")


def test_help_comes_without_jax() -> None:
    """One process asks all mains: none may import jax, and all is said within seconds."""
    code = """
import sys, time
from attnzoo import cli
for name in sys.argv[1:]:
    try:
        cli.main([name, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, name
    heavy = {"jax", "flax", "orbax", "datasets", "matplotlib"} & set(sys.modules)
    assert not heavy, f"{name} --help imports {heavy}"
print("CPU", time.process_time())
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, *cli.COMMANDS], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout.rsplit("CPU", 1)[1]) < 2.0
    for key in ("training  ", "--alignment", "--buckets", "--symmetrize"):
        assert key in ended.stdout


def test_the_scripts_are_the_commands(root: Path) -> None:
    environment = os.environ | {"PYTHONPATH": ""}
    ended = subprocess.run(
        [sys.executable, root / "scripts" / "evaluate.py", "--nonsense"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: the following arguments are required: MODEL; evaluate --help says what there is\n"
    )
    assert cli.main([]) == 0


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean train?"),
        ("benchmrk", "did you mean benchmark?"),
        ("nonsense", "wanted one of train, plan, "),
        *((name, f"repository: python scripts/{name}.py") for name in cli.SCRIPTS),
    ],
)
def test_an_unknown_command_is_answered_with_what_to_do(
    name: str, hint: str, call: Callable[..., Ended], root: Path
) -> None:
    one_line(call(name), f"error: {name!r} is no command of attnzoo; ", hint)
    if name in cli.SCRIPTS:
        assert (root / "scripts" / f"{name}.py").is_file()

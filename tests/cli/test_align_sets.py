"""Made-up sets of every reference format, by every aligner, with odd lines: a line for a line."""

import bz2
import codecs
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnzoo import cli
from attnzoo.alignment.formats import READERS
from attnzoo.alignment.links import Links, format_pharaoh
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.training.aligners import ALIGNERS
from attnzoo.training.loop import train

LONG = 130
ODD = {
    "plain": ("the red dog", "собака красная", "0-1 1-1 2-0"),
    "no source": ("", "и", ""),
    "no target": ("so", "", ""),
    "nothing": ("", "", ""),
    "no links": ("a b", "в", ""),
    "long": ("the " * LONG, "это " * LONG, f"0-0 {LONG - 1}-{LONG - 1}"),
    "long and short": ("the " * LONG, "это", f"{LONG - 1}-0"),
    "digits": ("٣ ४ ²", "三 Ⅳ", "0-0 1-1 2-1"),
    "links for words": ("0-0 1?1 |", "<s> # ||", "0-0 1-1 2-2"),
    "scripts": ("é e\u0301 שָׁלוֹם", "中文 👩‍👩‍👧 \u200bx", "0-0 1-1 2-2"),
    "spaces": ("  a   b ", " x  y  ", "0-0 1-1"),
    "other spaces": ("a\u00a0b\u3000c", "x\u2028y\u0085z", "0-0 1-1 2-2"),
    "one to many": ("a", "x y z", "0-0 0-1 0-2"),
}
LINES = [*ODD.values(), ("the red dog", "собака красная", "0-1 1-1 2-0")]
GOLD = [Links.of({tuple(map(int, x.split("-"))) for x in links.split()}) for *_, links in LINES]


def naacl(gold: list[Links]) -> list[str]:
    return [f"{n:04} {i + 1} {j + 1} S" for n, one in enumerate(gold, 1) for i, j in one.sure]


def blinker(gold: list[Links]) -> list[str]:
    found = []
    for n, one in enumerate(gold, 1):
        found += [f'<s snum="{n}">', *(f"{i + 1} {j + 1}" for i, j in one.sure), "</s>"]
    return found


def a3(gold: list[Links]) -> list[str]:
    found = []
    for n, (one, (source, target, _)) in enumerate(zip(gold, [*LINES, LINES[0]]), 1):
        words = ["NULL", *source.split()]
        partners = [
            " ".join(str(j + 1) for i, j in one.sure if i == w - 1) for w in range(len(words))
        ]
        found += [
            f"# Sentence pair ({n}) source length {len(words) - 1} target length "
            f"{len(target.split())} alignment score : 1",
            " ".join(target.split()),
            " ".join(f"{w} ({{ {p} }})" for w, p in zip(words, partners, strict=True)),
        ]
    return found


Write = Callable[[list[Links]], list[str]]
WRITTEN: dict[str, Write] = {
    "pharaoh": lambda gold: [format_pharaoh(one) for one in gold],
    "talp": lambda gold: [format_pharaoh(one, one_based=True) for one in gold],
    "naacl": naacl,
    "blinker": blinker,
    "a3": a3,
}
FILES: dict[str, Callable[[str], bytes]] = {
    "plain": lambda text: text.encode(),
    "no last newline": lambda text: text.rstrip("\n").encode(),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "bzip2": lambda text: bz2.compress(text.encode()),
}

TINY = """
name: tiny
directory: DIRECTORY
task: TASK
data: {kind: files, train: {table: TABLE}, validation: {table: TABLE}, max_skipped: 1}
tokenizer: {kind: bpe, vocab_size: 30}
shared_vocabulary: true
model: MODEL
training: {steps: 1, batch_size: 2, max_length: 15, max_skipped: 1, buckets: [15],
  learning_rate: 1e-2, figures_every: null, tensorboard: false}
"""
HEADS = "{kind: multi_head, num_heads: 2}"
RUNS = {
    "learned": (
        "{kind: word_alignment, teacher: hmm}",
        f"{{kind: word_aligner, attention: {HEADS}, dim: 8, hidden: 8, layers: 1, "
        "max_length: 128}",
    ),
    "attention": (
        "translation",
        f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
        "encoder_layers: 1, decoder_layers: 1, max_length: 64}",
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set in every format and as every kind of file."""
    home = tmp_path_factory.mktemp("sets")
    texts = {
        "bars": [f"{a} ||| {b}" for a, b, _ in LINES if "|||" not in a],
        "table": ["\t".join(line) for line in LINES],
        "source": [a for a, _, _ in LINES],
        "target": [b for _, b, _ in LINES],
        **{name: write(GOLD) for name, write in WRITTEN.items()},
    }
    for name, lines in texts.items():
        for kind, encoded in FILES.items():
            (home / f"{name}.{kind}").write_bytes(encoded("".join(f"{x}\n" for x in lines)))
    return home


@pytest.fixture(scope="module")
def runs(home: Path) -> Path:
    """Two runs of one step."""
    rows = [f"red dog {n}\tсобака {n}" for n in range(4)]
    (home / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name, (task, model) in RUNS.items():
        text = TINY.replace("DIRECTORY", str(home / name)).replace("TABLE", str(home / "train.tsv"))
        (home / f"{name}.yaml").write_text(text.replace("TASK", task).replace("MODEL", model))
        train(load(ExperimentConfig, home / f"{name}.yaml"))
    return home


def settings(kind: str, runs: Path) -> list[str]:
    """Return the settings of an aligner of the registry that needs no download."""
    if kind == "eflomal":
        pytest.importorskip("eflomal")
    return {
        "learned": [f"run={runs / 'learned'}"],
        "attention": [f"run={runs / 'attention'}"],
        "similarity": [f"encoder={runs / 'attention'}"],
        "vote": [f"members=[{{kind: hmm}}, {{kind: learned, run: '{runs / 'learned'}'}}]"],
    }.get(kind, [])


def aligned(home: Path, kind: str, *arguments: Any) -> list[str]:
    out = home / "links"
    out.unlink(missing_ok=True)
    given = [*settings(kind, home), *map(str, arguments), "--max-unread", "1", "-o", str(out)]
    assert cli.main(["align", "--aligner", kind, *given]) == 0
    return out.read_text(encoding="utf-8").split("\n")[:-1]


@pytest.mark.parametrize("kind", ALIGNERS)
def test_every_aligner_answers_every_line(
    kind: str, home: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any input gives the same lines, in their places, and links within the words."""
    inputs = {
        "table": ["--pairs", home / "table.plain", "--columns", "0,1,2"],
        "bars": ["--pairs", home / "bars.crlf"],
        "two files": ["--source", home / "source.gzip", "--target", home / "target.mark"],
    }
    found = {name: aligned(home, kind, *given) for name, given in inputs.items()}
    lines = found["table"]
    assert len(lines) == len(LINES)
    for line, (source, target, _) in zip(lines, LINES, strict=True):
        one = READERS["pharaoh"]([line], "own")[0]
        one.check(len(source.split()), len(target.split()))
        assert not line or (source.split() and target.split())
    assert lines[0]
    if kind != "eflomal":  # it has no seed
        assert lines[0] == lines[-1]
        assert found["bars"] == found["two files"] == lines
    said = capsys.readouterr()
    assert re.search(rf"^  {kind} +(\d\.\d{{3}}|nan) ", said.out, re.MULTILINE)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("kind", FILES)
def test_every_file_of_references_gives_the_same_scores(
    layout: str, kind: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The set's own links, as those of another aligner, have no error by any of its references."""
    pairs = ["--source", home / f"source.{kind}", "--target", home / f"target.{kind}"]
    gold = ["--gold", home / f"{layout}.{kind}", "--gold-format", layout]
    given = [*pairs, *gold, "--against", home / "pharaoh.plain", "--tables"]
    aligned(home, "hmm", *given)
    said = capsys.readouterr().out
    (rate,) = re.findall(r"^  against +(\S+) ", said, re.MULTILINE)
    assert float(rate) == 0


WRONG: dict[str, Callable[[Write], list[str]]] = {
    "a word": lambda write: ["x", *write(GOLD)[1:]],
    "a fraction": lambda write: ["0.5-1", *write(GOLD)[1:]],
    "a negative": lambda write: ["-1--1", *write(GOLD)[1:]],
    "links beyond the words": lambda write: write([GOLD[5], *GOLD[1:]]),
    "more pairs": lambda write: write([*GOLD, GOLD[0]]),
}


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_reference_is_one_line(
    layout: str, wrong: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "wrong"
    lines = WRONG[wrong](WRITTEN[layout])
    path.write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")
    pairs = ["--source", str(home / "source.plain"), "--target", str(home / "target.plain")]
    given = [*pairs, "--gold", str(path), "--gold-format", layout]
    assert cli.main(["align", "--aligner", "hmm", *given]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert str(path) in said[0]
    assert len(said[0]) < 300 + len(str(path))

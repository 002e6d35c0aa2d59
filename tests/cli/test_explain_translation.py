"""explain over small translators, recurrent and Transformer: figures, a page, bad arguments."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from attnzoo import cli

CONFIG = """
name: reverse
data: {kind: synthetic, task: reverse, symbols: 7, min_length: 2, max_length: 4,
       train: 400, validation: 8, test: 8}
tokenizer: word
shared_vocabulary: false
model: MODEL
training: {steps: 5, batch_size: 16, buckets: [5], learning_rate: 1e-2, tensorboard: false}
decoding: {beam: 1, batch_size: 4, max_length: 6}
"""
MODELS = {
    "transformer": """{kind: transformer, attention: {kind: multi_head, num_heads: 2},
        cross_attention: {kind: multi_head, num_heads: 2}, dim: 12, hidden: 14,
        encoder_layers: 1, decoder_layers: 2, norm: pre, max_length: 9, tied: none, dropout: 0}""",
    "recurrent": "{kind: luong, attention: general, hidden: 7, embedding: 5, layers: 1}",
    "blind": "{kind: luong, attention: none, hidden: 7, embedding: 5, layers: 1}",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    for name, model in MODELS.items():
        (home / f"{name}.yaml").write_text(CONFIG.replace("MODEL", model))
        with contextlib.redirect_stderr(io.StringIO()) as heard:
            ended = cli.main(["train", str(home / f"{name}.yaml"), "--run-dir", str(home / name)])
        assert ended == 0, heard.getvalue()
    return home


@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_a_known_translation(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    asked = ["0 1 2 ||| 2 1 0 3", "--out", tmp_path, "--num-samples", "4"]
    assert cli.main(["explain", str(runs / kind), *map(str, asked)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("0 1 2 ||| 2 1 0 3\nlog-probability -")
    for name in ("attention_mean", "leave_one_out"):
        numbers = re.search(rf"^  {name} +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)$", printed, re.M)
        assert numbers is not None
        assert all(0 <= float(number) <= 2 for number in numbers.groups())
    assert re.search(r"^  random +0\.\d{3}$", printed, re.M)
    figures = {"alignment", "heads"} | ({"encoder"} if kind == "transformer" else set())
    assert {p.name for p in tmp_path.glob("*.png")} == {f"translation-1-{f}.png" for f in figures}
    for figure in figures:
        drawn = (tmp_path / f"translation-1-{figure}.svg").read_text()
        assert re.search(r"deletion 0\.\d\d, random 0\.\d\d", drawn)
    page = (tmp_path / "translation-1.html").read_text()
    assert ("decoder/1/cross" in page) == (kind == "transformer")
    assert "0 1 2 / 2 1 0 3" in page


def test_the_runs_own_translation_and_both_directions(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--layer", "0", "--head", "1", "--out", str(tmp_path), "--num-samples", "4"]
    reverse = ["--reverse", str(runs / "recurrent")]
    pair = "0 1 ||| 1 0"
    assert cli.main(["explain", str(runs / "transformer"), pair, *options, *reverse]) == 0
    both = (tmp_path / "translation-1.html").stat().st_size
    assert cli.main(["explain", str(runs / "transformer"), pair, *options]) == 0
    assert both > (tmp_path / "translation-1.html").stat().st_size
    capsys.readouterr()


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("transformer", [], "wanted a text behind it"),
        ("transformer", [""], "an empty source"),
        ("transformer", ["||| 1"], "an empty source"),
        ("transformer", ["1 |||"], "no target behind |||"),
        ("transformer", ["1 2 3 4 5 6 1 2 3 ||| 1"], "9 tokens of source, wanted at most 8"),
        ("transformer", ["1", "--layer", "2"], "layer=2; the decoder's layers are 0 .. 1"),
        ("transformer", ["1", "--head", "2"], "head=2; the cross-attention's heads are 0 .. 1"),
        ("transformer", ["1", "--fill", "blur"], "--fill blur: wanted zero, mean, unk"),
        ("transformer", ["1", "--target", "2"], "wanted 'source ||| target'"),
        ("transformer", ["1", "--reverse", "nowhere"], "nowhere"),
        ("blind", ["1"], "wanted a run with attention"),
    ],
)
def test_bad_arguments(
    runs: Path,
    run: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["explain", str(runs / run), *arguments]) == 2
    heard = capsys.readouterr().err
    assert message in heard
    assert heard.count("\n") == 1

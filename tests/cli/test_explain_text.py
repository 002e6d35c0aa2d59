"""explain over small runs of texts: a classifier, a language model, a masked one; bad arguments."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from attnzoo import cli

TEXTS = ["good day friend", "bad rain again", "good sun again", "bad day rain"]
BERT = "{kind: bert, attention: {kind: multi_head, num_heads: 2}, dim: 8, hidden: 6, layers: 2,"
TRAINING = "{steps: 4, batch_size: 4, max_length: 7, learning_rate: 1e-2, tensorboard: false}"
CONFIGS = {
    "classifier": f"""
name: classifier
task: sequence_classification
data: {{kind: labelled_text, train: [DATA.tsv], validation: [DATA.tsv]}}
tokenizer: {{kind: wordpiece, vocab_size: 60}}
model: {BERT} max_length: 7}}
training: {TRAINING}
""",
    "recurrent": f"""
name: recurrent
task: sequence_classification
data: {{kind: labelled_text, train: [DATA.tsv], validation: [DATA.tsv]}}
tokenizer: {{kind: wordpiece, vocab_size: 60}}
model: {{kind: rnn_classifier, embedding: 6, hidden: 5, encoder: lstmn, ends: false}}
training: {TRAINING}
""",
    "language": """
name: language
task: {kind: causal_lm, context: 8}
data: {kind: text, train: [DATA.txt], validation: [DATA.txt]}
tokenizer: char
model: {kind: gpt2, attention: {kind: multi_head, num_heads: 2}, dim: 8, layers: 2, max_length: 9}
training: {steps: 4, batch_size: 4, learning_rate: 1e-2, tensorboard: false}
""",
    "masked": f"""
name: masked
task: {{kind: masked_lm, context: 8}}
data: {{kind: text, train: [DATA.txt], validation: [DATA.txt]}}
tokenizer: {{kind: wordpiece, vocab_size: 60}}
model: {BERT} max_length: 9}}
training: {{steps: 4, batch_size: 4, learning_rate: 1e-2, tensorboard: false}}
""",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    rows = [f"{text}\t{text.split()[0]}" for text in TEXTS]
    (home / "data.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    (home / "data.txt").write_text("\n".join(TEXTS * 3) + "\n")
    for name, config in CONFIGS.items():
        file = home / f"{name}.yaml"
        file.write_text(config.replace("DATA", str(home / "data")))
        with contextlib.redirect_stderr(io.StringIO()) as heard:
            ended = cli.main(["train", str(file), "--run-dir", str(home / name)])
        assert ended == 0, heard.getvalue()
    return home


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["explain", *map(str, arguments), "--num-samples", "2"]) == 0
    return capsys.readouterr().out


def test_a_class_with_figures_a_page_and_numbers(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, runs / "classifier", "good rain", "bad sun", "--target", "bad")
    assert len(re.findall(r"^class: bad, probability 0\.\d\d", text, re.MULTILINE)) == 2
    out = runs / "classifier" / "explain"
    for number in (1, 2):
        for figure in ("words", "heads", "layers"):
            name = f"text-{number}-{figure}"
            assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
            drawn = (out / f"{name}.svg").read_text()
            assert re.search(r"deletion 0\.\d\d, random 0\.\d\d", drawn)
        assert "encoder/1/self" in (out / f"text-{number}.html").read_text()
    told = json.loads((out / "text-1.json").read_text())
    assert told["tokens"][0] == "[CLS]"
    assert told["tokens"][-1] == "[SEP]"
    assert told["answer"] == "bad"
    assert set(told["deletion"]) == {*told["scores"], "random"}
    assert {"attention_mean", "rollout", "relevance", "cdam", "leave_one_out"} < set(told["scores"])
    # The most faithful first, beside random order.
    table = re.findall(r"^  (\w+) +(\d\.\d{3}) +\d\.\d{3}  ", text, re.MULTILINE)
    areas = [float(area) for _, area in table[: len(told["deletion"])]]
    assert areas == sorted(areas)
    # One token is a class's name in numbers, too; a single head is another explanation.
    other = said(capsys, runs / "classifier", "good rain", "--target", "0", "--layer", "0",
                 "--head", "1", "--fill", "zero")  # fmt: skip
    assert "class: bad" in other
    scores = json.loads((out / "text-1.json").read_text())["scores"]
    assert scores["attention_mean"] != told["scores"]["attention_mean"]
    assert scores["relevance"] == pytest.approx(told["scores"]["relevance"], rel=1e-4)


def test_words_that_an_attention_pools(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, runs / "recurrent", "good rain")
    assert re.search(r"class: \w+, probability 0\.\d\d", text)
    out = runs / "recurrent" / "explain"
    told = json.loads((out / "text-1.json").read_text())
    assert {"attention_mean", "gradient_x_input", "leave_one_out"} <= set(told["scores"])
    assert "no self-attention" in told["skipped"]["rollout"]
    shares = told["scores"]["attention_mean"]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert shares[0] == shares[-1] == 0  # CLS and SEP
    page = (out / "text-1.html").read_text()
    assert '"pooling"' in page
    assert '"self-attention"' in page  # that of LSTMN
    assert (out / "text-1-heads.png").exists()


def test_the_next_character_and_a_hidden_word(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "new" / "page.html"
    text = said(capsys, runs / "language", "good da", "--target", "y", "--html", page)
    assert re.search(r"next token after 'a': 'y', probability 0\.\d\d", text)
    assert "decoder/0/self" in page.read_text()
    text = said(capsys, runs / "language", "good da", "--at", "3", "--out", tmp_path)
    assert "next token after 'd'" in text
    told = json.loads((tmp_path / "text-1.json").read_text())
    assert told["tokens"] == list("good")  # what comes later is not read
    text = said(capsys, runs / "masked", "good [MASK] again", "--target", "sun", "--out", tmp_path)
    assert "'sun', probability" in text
    told = json.loads((tmp_path / "text-1.json").read_text())
    assert told["tokens"].count("[MASK]") + told["tokens"].count("<mask>") == 1


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("classifier", [], "wanted a text behind it"),
        ("classifier", [" "], "an empty text"),
        ("classifier", ["good", "--target", "ugly"], "there are 2 classes, 0 to 1 (bad, good)"),
        ("classifier", ["good", "--target", "2"], "there are 2 classes, 0 to 1 (bad, good)"),
        ("classifier", ["good", "--layer", "2"], "layer=2: there are 2 layers, 0 to 1"),
        ("classifier", ["good", "--head", "-1"], "head=-1: there are 2 heads, 0 to 1"),
        ("classifier", ["good", "--at", "1"], "--at: the class of a text has no place"),
        ("classifier", ["good", "--fill", "blur"], "--fill blur is for images"),
        ("classifier", ["good", "--fill", "x"], "--fill x: wanted zero, mean, mask, unk"),
        ("classifier", ["good", "--images", "1"], "--images"),
        ("classifier", ["good sun again day rain bad"], "8 tokens, the model reads at most 7"),
        ("classifier", ["a", "b", "--html", "x.html"], "--html is for one INPUT; 2 were given"),
        ("classifier", ["a", "--html", "x.pdf"], "wanted a name that ends in .html"),
        ("classifier", ["good", "--methods", "rolout"], "methods names 'rolout'; there are"),
        ("language", ["good", "--target", "da"], "wanted one token; these are 2: 'd', 'a'"),
        ("language", ["good", "--at", "4"], "--at 4: the text has the tokens 0 to 3"),
        ("masked", ["good sun"], "wanted [MASK] in it"),
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

"""`generate` from a folder: what it writes, streamed or not, and what it refuses."""

import io
import json
import os
import shutil
import threading
import types
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

import attnzoo
from attnzoo import pretrained
from attnzoo.cli.generate import _spelled, main, parse, sampling_of, spell
from attnzoo.config import gpt2
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.data import (
    ByteBpeTokenizerConfig,
    ByteTokenizerConfig,
    CharTokenizerConfig,
    FileTokenizerConfig,
    WordPieceTokenizerConfig,
)
from attnzoo.data.text_tokenizers import KINDS, build_tokenizer
from attnzoo.decoding.generate import generate
from attnzoo.decoding.sampling import Sampling
from attnzoo.models.gpt2 import GPT2

WORDS = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "<end>", "<begin>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    home = tmp_path_factory.mktemp("gpt2")
    sizes = gpt2.GPT2Config(
        attention=MultiHeadConfig(num_heads=2), dim=6, layers=1, max_length=19, tied=False
    )
    model = GPT2(sizes, len(WORDS), rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    draw = lambda x: x + random.standard_normal(x.shape, np.float32)  # noqa: E731
    nnx.update(model, jax.tree.map(draw, nnx.state(model, nnx.Param)))
    pretrained.save(model, home)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(home / "tokenizer.json"))
    ends = {"eos_token_id": [WORDS.index("<end>")], "bos_token_id": WORDS.index("<begin>")}
    (home / "generation_config.json").write_text(json.dumps(ends))
    return home


def greedy(folder: Path, prompt: str, count: int) -> list[str]:
    ids = np.int32([[WORDS.index(word) for word in prompt.split()]])
    found = generate(pretrained.load(folder), ids, max_new_tokens=count)
    words = [WORDS[i] for i in found.tokens[0, 0].tolist()]
    return words[: words.index("<end>")] if "<end>" in words else words


def test_a_prompt_goes_on_whole_or_streamed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(folder), "--prompt", "the of and", "--max-new-tokens", "11"]
    assert main([*command, "--temperature", "0"]) == 0
    written = capsys.readouterr().out
    assert written.startswith("the of and")
    assert written.removeprefix("the of and").split() == greedy(folder, "the of and", 11)
    assert main([*command, "--temperature", "0", "--stream"]) == 0
    assert capsys.readouterr().out == written


def test_lines_of_standard_input_and_samples(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.BytesIO(b"\xef\xbb\xbfto in\r\nis that for it\r\n\r\n")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=lines))
    command = [str(folder), "--max-new-tokens", "5"]
    assert main([*command, "--temperature", "0"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.removeprefix("to in").split() == greedy(folder, "to in", 5)
    assert second.removeprefix("is that for it").split() == greedy(folder, "is that for it", 5)
    assert third.split() == greedy(folder, "<begin>", 5)
    lines = io.BytesIO("to in".encode("utf-16-be"))
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=lines))
    assert main([*command, "--temperature", "0", "--encoding", "utf-16-be"]) == 0
    assert capsys.readouterr().out == f"{first}\n"
    hot = ["--prompt", "to", "--num-samples", "3", "--top-k", "9", "--seed"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*command, *hot, seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].count("---\n") == 2


def test_samples_are_the_same_however_the_lines_arrive(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together, or one by one through a pipe that is answered before it is closed."""
    lines = [b"to in it\n", *[b"as the\n"] * 16, b"is\n"]
    command = [str(folder), "--max-new-tokens", "5", "--seed", "3", "--temperature", "9"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"".join(lines))))
    assert main(command) == 0
    together = capsys.readouterr().out
    assert len(set(together.splitlines())) > 10  # other draws for each line
    (reader, writer), (output, answer) = os.pipe(), os.pipe()
    answers: list[bytes] = []

    def ask() -> None:
        with os.fdopen(writer, "wb", buffering=0) as questions, os.fdopen(output, "rb") as read:
            for line in lines:
                questions.write(line)
                answers.append(read.readline())

    thread = threading.Thread(target=ask)
    thread.start()
    with os.fdopen(reader) as stdin, os.fdopen(answer, "w") as stdout:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(command) == 0
    thread.join()
    assert b"".join(answers).decode() == together


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "to", "--max-new-tokens", "20"], "20 positions, but max_length=19"),
        (["--prompt", "to", "--top-p", "2"], "top_p=2.0; wanted 0 < top_p <= 1"),
        (["--prompt", "to", "--num-samples", "0"], "--num-samples 0: wanted at least 1"),
        (["--stream"], "--stream: one text at a time"),
        (
            ["--prompt", "to", "--max-new-tokens", "3", "--cache", "window"],
            "this attention looks back at all",
        ),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_text_ends_where_the_model_has_no_more_positions(
    stream: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--prompt", "to", "--seed", "1", *stream]) == 0
    by_default = capsys.readouterr().out
    assert (
        main([str(folder), "--prompt", "to", "--seed", "1", "--max-new-tokens", "19", *stream]) == 0
    )
    assert capsys.readouterr().out == by_default


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--prompt", "to"]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert parse(["x"]).temperature is None  # as the model has it, else 1


TEXT = "  the cat's  sat, on (the) mât. 東京!\n\nBut  the dog"


def llama_file(folder: Path) -> Path:
    """A tokenizer.json like that of Llama 2: a space is put before the text, and taken off it."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    words = sorted({f"▁{word}" for word in TEXT.split()} | set(TEXT.replace(" ", "▁")))
    scores = [("<unk>", 0.0), ("</s>", 0.0), *((word, -1.0 / len(word)) for word in words)]
    one = Tokenizer(models.Unigram(scores, 0))
    one.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    one.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    one.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_continuation_are_spelled_as_one_text(kind: str, tmp_path: Path) -> None:
    config = {
        "char": CharTokenizerConfig,
        "byte": ByteTokenizerConfig,
        "byte_bpe": lambda: ByteBpeTokenizerConfig(vocab_size=280),
        "wordpiece": lambda: WordPieceTokenizerConfig(vocab_size=70),
        "file": lambda: FileTokenizerConfig(path=llama_file(tmp_path)),
    }[kind]()
    tokenizer = build_tokenizer(config, [TEXT] * 5)
    end = tokenizer.special("eos")
    writer = SimpleNamespace(decode=tokenizer.decode, ends=(end,))
    ids = tokenizer.encode_ids(TEXT)
    whole = tokenizer.decode(ids)
    assert whole == TEXT or kind == "wordpiece"
    for cut in range(1, len(ids)):
        before, after = ids[:cut], ids[cut:]
        prompt = tokenizer.decode(before)
        assert spell(writer, prompt, before, [*after, end, *after]) == whole
        if whole.startswith(prompt):  # not within a character
            for size in (1, 3):
                pieces = (after[i : i + size] for i in range(0, len(after), size))
                assert "".join(_spelled(writer, prompt, before, pieces)) == whole


def test_lengths_of_the_folder_hold_where_no_option_is_given(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "gpt2"
    shutil.copytree(folder, home)
    ids = json.loads((home / "generation_config.json").read_text())
    command = [str(home), "--prompt", "the of and"]
    for settings, options, count in (
        ({"max_new_tokens": 4, "max_length": 5}, [], 4),
        ({"max_length": 5}, [], 2),
        ({"max_length": 5}, ["--max-new-tokens", "4"], 4),
    ):
        (home / "generation_config.json").write_text(json.dumps(ids | settings))
        assert main([*command, *options]) == 0
        written = capsys.readouterr().out.removeprefix("the of and").split()
        assert written == greedy(folder, "the of and", 4)[:count]
        assert len(written) == count
    assert main([*command[:2], "the of and to in"]) == 2
    assert "5 tokens; the folder's max_length=5 counts them too" in capsys.readouterr().err
    lines = io.BytesIO(b"the of and to in\nthe of and\n")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=lines))
    assert main(command[:1]) == 1
    out, error = capsys.readouterr()
    assert out.splitlines()[1].split()[3:] == greedy(folder, "the of and", 2)
    assert "standard input:1: 5 tokens; the folder's max_length=5" in error
    (home / "generation_config.json").write_text(json.dumps(ids))
    arguments = parse([*command, "--top-k", "0"])
    assert sampling_of(attnzoo.open(home), arguments) == Sampling(temperature=1.0)

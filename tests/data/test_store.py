"""Token stores: the same bytes however they are made, and what is said when one is damaged."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo.config.cache import CacheConfig
from attnzoo.config.data import (
    BpeTokenizerConfig,
    ByteBpeTokenizerConfig,
    CharTokenizerConfig,
    FilePartConfig,
    FilesConfig,
    TextConfig,
    WordPieceTokenizerConfig,
    WordTokenizerConfig,
)
from attnzoo.data import documents, files, packing, store
from attnzoo.data.batching import BatchPlan
from attnzoo.data.build import build_store, trained_once
from attnzoo.data.packing import PackPlan
from attnzoo.data.parallel import PairData
from attnzoo.data.store import LEDGER, Store
from attnzoo.data.text import StreamPlan
from attnzoo.data.text_data import TextData
from attnzoo.errors import UserError

WORDS = "the old house on a hill saw some 1,204 birds , and l'été was ﬁne".split()


def sentence(number: int, words: int) -> str:
    return " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(words)) + f" {number}"


def digest(folder: Path) -> dict[str, str]:
    return {path.name: store.file_digest(path) for path in sorted(folder.glob("*.bin"))}


def numbers(block: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Encode for tests: block `n` is the numbers from `10 n` on."""
    return {"n": np.arange(10 * block, 10 * block + 10, dtype=np.uint16)}, {
        "block": block,
        "bytes": 20,
    }


def first_numbers(writer: Any, pieces: list[Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    firsts = [writer.read(i, "n")[0] for i in range(len(pieces))]
    return {"pieces": pieces}, {"firsts": np.asarray(firsts, np.int32)}


def dies(block: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    if block == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers(block)


def counted() -> tuple[list[int], Any]:
    seen: list[int] = []
    return seen, lambda block: (seen.append(block), numbers(block))[1]


def refuses(block: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    if block == 3:
        raise UserError("block 3 is bad")
    return numbers(block)


def build(folder: Path, encode: Any = numbers, workers: int = 0, blocks: int = 10) -> Store:
    return build_store(
        folder, {"key": 1}, lambda: range(blocks), encode, first_numbers, workers=workers
    )


def test_any_number_of_builders_writes_the_same_bytes(tmp_path: Path) -> None:
    stores = [build(tmp_path / str(workers), workers=workers) for workers in (0, 1, 3)]
    assert stores[0].columns["n"].tolist() == list(range(100))
    assert stores[0].columns["firsts"].tolist() == list(range(0, 100, 10))
    assert [piece["block"] for piece in stores[0].about["pieces"]] == list(range(10))
    assert len({json.dumps(digest(s.folder)) for s in stores}) == 1
    for made in stores:
        made.verify()
        assert not (made.folder / "pieces").exists()


def test_a_killed_build_goes_on_after_its_last_piece(tmp_path: Path) -> None:
    """SIGKILL at piece 6 of 10, of the process and then of a worker: pieces 0 .. 5 are kept."""
    script = f"from tests.data.test_store import *; build(Path({str(tmp_path / 'a')!r}), dies)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match=r"was killed.*cache\.workers=0"):
        build(tmp_path / "b", dies, workers=1)
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / "pieces" / "00006.n.part").write_bytes(b"half a piece")
        seen, counting = counted()
        made = build(folder, counting)
        assert seen == [6, 7, 8, 9]
        assert digest(made.folder) == digest(build(tmp_path / "whole").folder)
        assert sorted(p.name for p in made.folder.iterdir()) == ["firsts.bin", LEDGER, "n.bin"]


def killed() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_tokenizer_whose_process_is_killed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: .* was killed.*cache\.workers=0"):
        trained_once(tmp_path / "tokenizer.json", killed, Path.read_text, None)
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_block_ends_the_build(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match="block 3 is bad"):
        build(tmp_path / "s", refuses, workers)
    assert not (tmp_path / "s" / LEDGER).exists()


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = store._replace, []

    def full(path: Path, content: Any) -> None:
        written.append(path)
        if len(written) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content)

    monkeypatch.setattr(store, "_replace", full)
    with pytest.raises(UserError, match=r"the disk is full \([\d.]+ GB are free\).*cache\.path"):
        build(tmp_path / "s")
    monkeypatch.setattr(store, "_replace", real)
    seen, counting = counted()
    build(tmp_path / "s", counting)
    assert seen == [4, 5, 6, 7, 8, 9]


def test_damage_names_its_file_and_the_remedy(tmp_path: Path) -> None:
    folder = build(tmp_path / "s").folder
    column = folder / "n.bin"
    whole = column.read_bytes()
    column.write_bytes(whole[:-2])
    with pytest.raises(UserError, match=r"n\.bin: 198 bytes, the ledger says 200.*remove"):
        Store.open(folder)
    column.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(UserError, match=r"n\.bin: its content is not what was written.*remove"):
        Store.open(folder).verify()
    for content, reason in (
        (b"{", "not JSON"),
        (b'{"format": "x"}', "not a token store"),
        (b'{"format": "attnzoo.store", "version": 0}', "version 0, wanted 1"),
    ):
        (folder / LEDGER).write_bytes(content)
        with pytest.raises(UserError, match=reason):
            build(folder)


def test_a_damaged_piece_is_not_joined(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="block 3"):
        build(tmp_path / "s", refuses)
    piece = tmp_path / "s" / "pieces" / "00001.n"
    piece.write_bytes(bytes([piece.read_bytes()[0] ^ 1]) + piece.read_bytes()[1:])
    with pytest.raises(UserError, match=r"00001\.n: its content is not what was written"):
        build(tmp_path / "s")


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[CacheConfig]:
    """A cache in memory, and the same one on the disk twice, with small blocks."""
    monkeypatch.setattr(files, "BLOCK_LINES", 64)
    monkeypatch.setattr(documents, "BLOCK", 5_000)
    disk = CacheConfig(path=tmp_path / "cache", memory=0, workers=0)
    return [CacheConfig(path=tmp_path / "unused"), disk, disk]


@pytest.mark.parametrize(
    ("tokenizer", "table", "limit", "workers"),
    [
        (WordTokenizerConfig(), False, None, 0),
        (WordTokenizerConfig(), True, 150, 0),
        (BpeTokenizerConfig(vocab_size=60), False, 150, 2),
        (BpeTokenizerConfig(vocab_size=60), True, None, 0),
    ],
)
def test_pairs_of_a_store_are_those_in_memory(
    tmp_path: Path,
    caches: list[CacheConfig],
    tokenizer: Any,
    table: bool,
    limit: int | None,
    workers: int,
) -> None:
    pairs = [(sentence(i, 1 + i % 9), sentence(i + 1, 1 + i % 13)) for i in range(300)]
    pairs[70] = ("", "a side without words")
    pairs[200] = (" ".join(WORDS * 3), "too many tokens")
    for side, name in enumerate(("a", "b")):
        lines = "".join(pair[side] + "\n" for pair in pairs)
        (tmp_path / name).write_text(lines, encoding="utf-8")
    rows = "".join("\t".join(pair) + "\n" for pair in pairs)
    (tmp_path / "t").write_text(rows, encoding="utf-8")
    part = (
        FilePartConfig(table=tmp_path / "t")
        if table
        else FilePartConfig(source=tmp_path / "a", target=tmp_path / "b")
    )
    config = FilesConfig(train=part, validation=part, limit=limit)
    plans, told = [], []
    known = PairData(config, caches[0]).tokenizers(tokenizer)
    fingerprints = [one.fingerprint() for one in known]
    for cache in caches:  # the store is made, then opened
        data = PairData(config, dataclasses.replace(cache, workers=workers))
        both = data.tokenizers(tokenizer)
        tokens, skipped = data.tokens("train", *both, 30)
        plans.append(BatchPlan(tokens, 16))
        told.append((sum(skipped.skipped.values()), [r.skipped for r in data.reports][:1]))
        assert [one.fingerprint() for one in both] == fingerprints
    assert data.large
    if limit is None:  # the reports of a limited part tell of all blocks that were read
        assert told[1:] == told[:1] * 2
    for plan in plans[1:]:
        assert plan.fingerprint() == plans[0].fingerprint()
        for step in (0, 5, 777):
            one, other = plan.batch(step), plans[0].batch(step)
            assert all(np.array_equal(one[name], other[name]) for name in other)


SHARES = {"validation_share": 0.2, "test_share": 0.15}


@pytest.mark.parametrize(
    ("tokenizer", "unit", "shares", "workers"),
    [
        (CharTokenizerConfig(), "files", SHARES, 0),
        (CharTokenizerConfig(), "lines", SHARES, 2),
        (CharTokenizerConfig(), "blank_lines", {}, 0),
        (CharTokenizerConfig(), "records", SHARES, 0),
        (ByteBpeTokenizerConfig(vocab_size=300), "files", {}, 0),
        (WordPieceTokenizerConfig(vocab_size=80), "files", SHARES, 0),
    ],
)
def test_text_of_a_store_is_that_in_memory(
    tmp_path: Path,
    caches: list[CacheConfig],
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Any,
    unit: Any,
    shares: dict[str, float],
    workers: int,
) -> None:
    texts = ["\n" * (i % 4 == 3) + sentence(i, 2 + i % 11) for i in range(250)]
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, part in zip(paths, (texts[:180], texts[180:]), strict=True):
        if unit == "records":
            path = path.with_suffix(".jsonl")
            part = [json.dumps({"text": text}) for text in part]
        path.write_text("\n".join(part) + "\n", encoding="utf-8")
    given = tuple(p.with_suffix(".jsonl") if unit == "records" else p for p in paths)
    held_out = () if shares else given[1:]
    config = TextConfig(train=given, validation=held_out, documents=unit, **shares)
    results = []
    for cache, opened in zip(caches, (False, False, True), strict=True):
        if opened:  # nothing is packed again
            monkeypatch.setattr(packing, "_first_fit", None)
        data = TextData(config, dataclasses.replace(cache, workers=workers))
        made = data.tokenizer(tokenizer)
        parts = [part for part in ("train", "validation", "test") if data.has(part)]
        assert parts == (["train", "validation", "test"] if shares else ["train", "validation"])
        result: list[Any] = []
        for part in parts:
            text = data.tokens(part, made, 2)
            separator = 2 if len(text) > 1 else None
            plan = StreamPlan(text.stream(separator), 4, 16)
            result += [plan.fingerprint(), text.lengths().tolist()]
            result += [plan.batch(3)["tokens"].tolist()]
            packed = PackPlan(data.tokens(part, made, None), 4, 32, begin=1, end=2)
            result += [packed.fingerprint(), packed.batch(1)["targets"].tolist()]
        results.append(result)
    assert results[1] == results[0]
    assert results[2] == results[0]


def test_limit_and_share_keep_whole_documents(tmp_path: Path, caches: list[CacheConfig]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(sentence(i, 9) for i in range(300)), encoding="utf-8")
    config = TextConfig(train=(path,), documents="lines", validation_share=0.5, limit=70)
    lengths = []
    for cache in caches[:2]:
        data = TextData(config, cache)
        made = data.tokenizer(CharTokenizerConfig())
        parts = [data.tokens(part, made, None) for part in ("train", "validation")]
        lengths.append([part.lengths().tolist() for part in parts])
    assert [len(part) for part in lengths[0]] == [70, 150]
    assert lengths[1] == lengths[0]


def test_a_builder_imports_no_jax() -> None:
    script = (
        "import sys, attnzoo.data.parallel, attnzoo.data.documents; "
        "sys.exit('jax' in sys.modules or 'datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

"""Corpora of Megatron-LM: the same batches as from the documents, and what is refused."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo.config.cache import CacheConfig
from attnzoo.config.data import ByteBpeTokenizerConfig, FileTokenizerConfig, TextConfig
from attnzoo.data.library_tokenizers import save_for_transformers
from attnzoo.data.megatron import MAGIC, open_megatron
from attnzoo.data.packing import PackPlan
from attnzoo.data.text import StreamPlan, TokenizedText
from attnzoo.data.text_data import TextData
from attnzoo.data.text_tokenizers import build_tokenizer
from attnzoo.errors import UserError

EOD = 2


def write(path: Path, documents: list[list[list[int]]], code: int = 8, **changes: Any) -> Path:
    """Write documents of sequences of ids, as `IndexedDatasetBuilder` of Megatron-LM does."""
    dtype = {4: "<i4", 8: "<u2"}[code]
    sequences = [sequence for document in documents for sequence in document]
    lengths = np.asarray([len(sequence) for sequence in sequences], "<i4")
    pointers = np.cumsum([0, *lengths[:-1]]).astype("<i8") * np.dtype(dtype).itemsize
    marks = np.cumsum([0, *map(len, documents)]).astype("<i8")
    path.write_bytes(np.asarray([i for s in sequences for i in s], dtype).tobytes())
    header = struct.pack(
        "<QBQQ", changes.get("version", 1), changes.get("stated", code), len(lengths), len(marks)
    )
    index = MAGIC + header + lengths.tobytes() + pointers.tobytes() + marks.tobytes()
    path.with_suffix(".idx").write_bytes(changes.get("index", index))
    return path


@pytest.mark.parametrize("code", [4, 8])
def test_batches_are_those_of_the_documents(tmp_path: Path, code: int) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 90, size).tolist() for size in (5, 1, 40, 17, 3)]
    cut = [[[*document[:2]], [*document[2:], EOD]] for document in documents]
    text = open_megatron(write(tmp_path / "c.bin", cut, code), 90, EOD)
    ids = np.asarray([i for document in documents for i in document], np.int32)
    ours = TokenizedText(ids, np.cumsum([0, *map(len, documents)]), 90)
    assert text.lengths().tolist() == ours.lengths().tolist()
    plans = [StreamPlan(one.stream(EOD), 2, 8) for one in (text, ours)]
    assert plans[0].fingerprint() == plans[1].fingerprint()
    assert np.array_equal(plans[0].batch(3)["tokens"], plans[1].batch(3)["tokens"])
    packed = [PackPlan(one, 2, 16, begin=1, end=EOD) for one in (text, ours)]
    assert packed[0].fingerprint() == packed[1].fingerprint()


def test_a_config_reads_it_as_it_is(tmp_path: Path) -> None:
    made = build_tokenizer(ByteBpeTokenizerConfig(vocab_size=300), ["some words, some more words"])
    save_for_transformers(made, tmp_path)
    tokenizer = FileTokenizerConfig(path=tmp_path)
    documents = [[[*made.encode_ids(text), EOD]] for text in ("some words", "more words")]
    path = write(tmp_path / "c.bin", documents)
    config = TextConfig(train=(path,), validation=(path,))
    data = TextData(config, CacheConfig(path=tmp_path / "cache"))
    assert data.has("train")
    assert not data.has("test")
    loaded = data.tokenizer(tokenizer)
    text = data.tokens("train", loaded, EOD)
    assert loaded.decode(text.stream(EOD).ids[: text.lengths()[0]]) == "some words"
    assert not (tmp_path / "cache").exists()
    with pytest.raises(UserError, match="ids; give the tokenizer"):
        data.tokenizer(ByteBpeTokenizerConfig())
    with pytest.raises(UserError, match="without shares and limit"):
        TextData(TextConfig(train=(path,), validation_share=0.5), CacheConfig())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "version 2, dtype 8"),
        ({"stated": 6}, "version 1, dtype 6"),
        ({"stated": 4}, r"c\.bin: 10 bytes, its index says 20"),
        ({"index": b"x" * 100}, "not an index of Megatron-LM"),
        ({"index": MAGIC}, "cut short, or not an index"),
        ({"index": MAGIC + struct.pack("<QBQQ", 1, 8, 2**40, 2)}, "cut short, or not an index"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, changes: Any, reason: str) -> None:
    path = write(tmp_path / "c.bin", [[[5, 6, EOD]], [[7, EOD]]], **changes)
    with pytest.raises(UserError, match=reason):
        open_megatron(path, 90, EOD)


def test_ids_and_ends_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path / "c.bin", [[[5, 6]], [[7, EOD]]])
    with pytest.raises(UserError, match="ids up to 7, but the tokenizer has 7"):
        open_megatron(path, 7, EOD)
    with pytest.raises(UserError, match="do not end with 2"):
        open_megatron(path, 90, EOD)
    with pytest.raises(UserError, match="No such file"):
        open_megatron(tmp_path / "none.bin", 90, EOD)

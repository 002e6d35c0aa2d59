"""Running text: how it is cut into documents and parts, and windows of its ids."""

import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from attnzoo.config.cache import CacheConfig
from attnzoo.config.data import (
    ByteTokenizerConfig,
    CharTokenizerConfig,
    HubSourceConfig,
    TextConfig,
)
from attnzoo.data import documents
from attnzoo.data.corpus import load_corpus
from attnzoo.data.documents import TextCorpus, load_text
from attnzoo.data.text import StreamPlan, TokenizedText, array_fingerprint
from attnzoo.data.text_data import TextData
from attnzoo.data.text_tokenizers import build_tokenizer
from attnzoo.errors import UserError

STREAM = np.arange(100, 123, dtype=np.int32)  # 23 tokens


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("files", ["a\n\nb c\nd\n"]),
        ("lines", ["a", "b c", "d"]),
        ("blank_lines", ["a", "b c\nd"]),
    ],
)
def test_what_a_document_is(tmp_path: Path, unit: str, expected: list[str]) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"a\r\n\r\nb c\r\nd\r\n"))
    splits = load_corpus(TextConfig(train=(path,), documents=unit))
    assert splits.train.documents == expected
    assert (len(splits.validation), len(splits.test)) == (0, 0)
    skipped = {"blank document": 1} if unit == "lines" else {}
    assert splits.reports[0].skipped == skipped


def test_shares_are_cut_off_the_end(tmp_path: Path) -> None:
    files = (write(tmp_path / "1", "abcdefgh"), write(tmp_path / "2", "ij"))
    splits = load_text(TextConfig(train=files, validation_share=0.3, test_share=0.1))
    parts = [splits.train.documents, splits.validation.documents, splits.test.documents]
    assert parts == [["abcdef"], ["gh", "i"], ["j"]]
    lines = write(tmp_path / "3", "\n".join("abcdefghij"))
    splits = load_text(TextConfig(train=(lines,), documents="lines", validation_share=0.2, limit=5))
    assert splits.train.documents == list("abcde")
    assert splits.validation.documents == list("ij")


def test_given_parts_are_not_cut(tmp_path: Path) -> None:
    one, other = write(tmp_path / "1", "abcd"), write(tmp_path / "2", "xy")
    splits = load_text(TextConfig(train=(one,), validation=(other,), validation_share=0.5))
    assert splits.train.documents == ["abcd"]
    assert splits.validation.documents == ["xy"]


def test_the_split_of_nanogpt(shared: Path) -> None:
    path = shared / "data" / "tinyshakespeare" / "input.txt.gz"
    splits = load_text(TextConfig(train=(path,), validation_share=0.1))
    # nanoGPT's prepare.py prints these two numbers of characters.
    assert len(splits.train.documents[0]) == 1_003_854
    assert len(splits.validation.documents[0]) == 111_540
    tokenizer = build_tokenizer(CharTokenizerConfig(), splits.train.documents)
    assert tokenizer.vocab_size == 65 + 4
    held_out = tokenizer.encode_ids(splits.validation.documents[0])
    assert len(held_out) == 111_540
    assert tokenizer.decode(held_out) == splits.validation.documents[0]


def test_a_column_of_a_data_set(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"body": ["one", None, "", "two"], "n": [1, 2, 3, 4]})
    table.to_parquet(str(tmp_path / "t.parquet"))
    hub = HubSourceConfig(
        name="parquet",
        data_files={"train": tmp_path / "t.parquet"},
        validation_split=None,
        test_split=None,
    )
    splits = load_text(TextConfig(hub=hub, field="body", validation_share=0.5), tmp_path / "cache")
    assert splits.train.documents == ["one"]
    assert splits.validation.documents == ["two"]
    assert splits.reports[0].skipped == {"blank document": 2}
    with pytest.raises(UserError, match="no field 'bodi' \\(did you mean 'body'\\?\\)"):
        load_text(TextConfig(hub=hub, field="bodi"), tmp_path / "cache")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"one\ntw\xffo\n")
    with pytest.raises(UserError, match="bad:2: not UTF-8"):
        load_text(TextConfig(train=(bad,)))
    with pytest.raises(UserError, match="none: no such file"):
        load_text(TextConfig(train=(tmp_path / "none",)))
    with pytest.raises(UserError, match="there is no text in it"):
        load_text(TextConfig(train=(write(tmp_path / "blank", " \n\n"),)))
    with pytest.raises(ValueError, match="either files"):
        TextConfig()
    with pytest.raises(ValueError, match="leave nothing to train on"):
        TextConfig(train=(bad,), validation_share=0.5, test_share=0.5)


def test_documents_as_one_stream() -> None:
    tokenizer = build_tokenizer(ByteTokenizerConfig(), ())
    text = TokenizedText.from_documents(["ab", "", "c"], tokenizer)
    assert text.lengths().tolist() == [2, 0, 1]
    a = tokenizer.encode_ids("a")[0]
    assert text.stream().ids.tolist() == [a, a + 1, a + 2]
    assert text.stream(2).ids.tolist() == [a, a + 1, 2, 2, a + 2, 2]
    with pytest.raises(ValueError, match="ids contains 1 to 9, wanted 0 to 8"):
        TokenizedText(np.array([1, 9], np.int32), np.array([0, 2]), 9)


def test_windows_begin_anywhere_and_depend_on_seed_and_step_alone() -> None:
    plan = StreamPlan(STREAM, batch_size=7, length=5, seed=3)
    starts = []
    for step in range(60):
        batch = plan.batch(step)
        assert (batch["tokens"] == 100 + batch["rows"][:, None] + np.arange(5)).all()
        assert (batch["targets"] == batch["tokens"] + 1).all()
        assert batch["counted"].all()
        starts += batch["rows"].tolist()
    assert set(starts) == set(range(18))  # 23 - 5: the last window has its target at the end
    counts = np.bincount(starts)
    # 420 draws of 18: 23.3 each, standard deviation 4.7.
    assert counts.min() > 23.3 - 4 * 4.7
    assert counts.max() < 23.3 + 4 * 4.7
    again = StreamPlan(STREAM, batch_size=7, length=5, seed=3)
    assert np.array_equal(again.batch(41)["rows"], starts[41 * 7 : 42 * 7])
    other = StreamPlan(STREAM, batch_size=7, length=5, seed=4)
    assert not np.array_equal(other.batch(41)["rows"], again.batch(41)["rows"])
    assert again.fingerprint() == plan.fingerprint() != other.fingerprint()


def test_windows_side_by_side_predict_every_token_once() -> None:
    plan = StreamPlan(STREAM, batch_size=3, length=5, shuffle=False, pad_id=9)
    batches = list(plan.batches())
    assert len(batches) == plan.steps_per_epoch == 2
    told = np.concatenate([b["targets"][b["counted"]] for b in batches])
    assert told.tolist() == list(range(101, 123))
    last = batches[-1]
    assert last["rows"].tolist() == [15, 20, -1]
    assert last["tokens"][1].tolist() == [120, 121, 122, 9, 9]
    assert last["counted"].tolist()[1:] == [[True, True, False, False, False], [False] * 5]
    assert np.array_equal(plan.batch(3)["tokens"], last["tokens"])  # the second epoch


def test_a_text_too_short() -> None:
    with pytest.raises(UserError, match="the text has 5 tokens"):
        StreamPlan(STREAM[:5], batch_size=2, length=5)
    assert StreamPlan(STREAM[:6], batch_size=2, length=5).batch(0)["rows"].tolist() == [0, 0]
    with pytest.raises(UserError, match="the text has 1 tokens"):
        StreamPlan(STREAM[:1], batch_size=2, length=5, shuffle=False)


def test_fingerprints() -> None:
    assert TextCorpus(["ab", "c"]).fingerprint() != TextCorpus(["a", "bc"]).fingerprint()
    array = np.arange(6, dtype=np.int32)
    assert array_fingerprint(array) == array_fingerprint(array.astype(">i4"))
    assert array_fingerprint(array) != array_fingerprint(array.reshape(2, 3))
    assert array_fingerprint(np.empty(0, np.int32)) != array_fingerprint(array)


def test_a_large_hub_text_goes_through_a_token_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "HUB_ROWS", 7)
    path = tmp_path / "rows.jsonl"
    rows = [None if i == 9 else f"row {i}" for i in range(40)]
    path.write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    source = HubSourceConfig(
        name="json", data_files={"train": path}, validation_split=None, test_split=None
    )
    config = TextConfig(hub=source, field="body", validation_share=0.5)
    found = []
    for memory in (10**6, 0):
        data = TextData(config, CacheConfig(path=tmp_path / "store", memory=memory, workers=0))
        assert data.large == (memory == 0)
        tokenizer = data.tokenizer(CharTokenizerConfig())
        texts = [data.tokens(part, tokenizer, 2) for part in ("train", "validation")]
        found.append([StreamPlan(text.stream(2), 2, 5).fingerprint() for text in texts])
        assert [report.skipped for report in data.reports] == [{"blank document": 1}]
    assert found[0] == found[1]

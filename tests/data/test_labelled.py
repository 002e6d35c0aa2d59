"""Labelled and tagged text: every format, real question classes and entailment pairs, batches."""

import gzip
import json
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny_folders
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import RobertaProcessing

from attnzoo import pretrained
from attnzoo.config.bert import BertConfig
from attnzoo.config.data import (
    ByteTokenizerConfig,
    FileTokenizerConfig,
    HubSourceConfig,
    LabelledTextConfig,
    TaggedTextConfig,
    WordPieceTokenizerConfig,
)
from attnzoo.data.corpus import load_corpus
from attnzoo.data.labelled import LabelledCorpus, LabelledPlan, load_labelled
from attnzoo.data.questions import Question, QuestionPlan, Questions
from attnzoo.data.tagged import TaggedPlan, load_tagged
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer
from attnzoo.errors import UserError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def examples(corpus: LabelledCorpus) -> list[tuple]:
    second = corpus.second or [None] * len(corpus)
    return list(zip(corpus.first, second, [corpus.names[label] for label in corpus.labels]))


def test_lines_are_of_the_class_that_their_file_is_named_after(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "films.pos", "A b\n\nc\n"), write(tmp_path / "films.neg", "d\n")
    splits = load_corpus(LabelledTextConfig(train=(good, bad), format="lines"))
    wanted = [("A b", None, "films.pos"), ("c", None, "films.pos"), ("d", None, "films.neg")]
    assert examples(splits.train) == wanted


@pytest.fixture(scope="module")
def pieces() -> TextTokenizer:
    lines = ["who was the first man on the moon ?", "where is the moon ?"] * 3
    return build_tokenizer(WordPieceTokenizerConfig(vocab_size=80), lines)


@pytest.mark.parametrize(
    ("file_format", "text"),
    [
        ("tsv", 'label\ttext\tother\nno\tA "quoted, b\tx\nyes\tc\ty\n'),
        ("csv", 'other,label,text\nx,no,"A ""quoted, b"\ny,yes,c\n'),
        (
            "jsonl",
            json.dumps({"text": 'A "quoted, b', "label": "no", "other": "x"})
            + "\n\n"
            + json.dumps({"other": "y", "label": "yes", "text": "c"}),
        ),
    ],
)
def test_tables(tmp_path: Path, file_format: str, text: str) -> None:
    path = tmp_path / "table.gz"
    path.write_bytes(gzip.compress(text.encode()))
    config = LabelledTextConfig(train=(path,), format=file_format, second_column="other")
    splits = load_corpus(config)
    assert examples(splits.train) == [('A "quoted, b', "x", "no"), ("c", "y", "yes")]
    single = load_corpus(LabelledTextConfig(train=(path,), format=file_format))
    assert single.train.second is None
    assert single.fingerprint() != splits.fingerprint()


def test_columns_without_a_header_and_classes_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "t", "10\tone\n9\ttwo\n\n10\t \n")
    base = {"header": False, "text_column": "1", "label_column": "0", "max_skipped": 0.5}
    splits = load_labelled(LabelledTextConfig(train=(path,), **base))
    assert splits.train.names == ("9", "10")  # numbers by their value
    assert splits.train.labels.tolist() == [1, 0]
    assert splits.reports[0].skipped == {"blank text": 1}
    assert splits.reports[0].lines()[0].endswith("2 of 3 examples")
    splits = load_labelled(LabelledTextConfig(train=(path,), labels=("10", "9"), **base))
    assert splits.train.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="train: class '9' is none of 10"):
        load_labelled(LabelledTextConfig(train=(path,), labels=("10",), **base))


@pytest.mark.parametrize(
    ("file_format", "text", "message"),
    [
        ("tsv", "text\tlabel\na\tb\tc\n", "table:2: 3 columns, the first line has 2"),
        ("tsv", "text\tclass\na\tb\n", "table:2: no column 'label'; it has text, class"),
        ("csv", 'text,label\n"a,b\n', "table:2: not CSV"),
        ("jsonl", '{"text": 1}\n[]', "table:1: no column 'label'"),
        ("jsonl", "[]", "table:1: a list, wanted an object"),
        ("jsonl", "{", "table:1: not JSON"),
        ("trec", "HUM:ind Who ?\nWho ?\n", "table:2: 'Who .', wanted 'CLASS:fine the question'"),
        ("rte", "<pair>", "table:1: not XML"),
        ("tsv", "text\tlabel\n", "table: no usable example in 0"),
    ],
)
def test_what_is_not_in_the_format(
    tmp_path: Path, file_format: str, text: str, message: str
) -> None:
    path = write(tmp_path / "table", text)
    with pytest.raises(UserError, match=message) as caught:
        load_labelled(LabelledTextConfig(train=(path,), format=file_format))
    assert "\n" not in str(caught.value)


def test_a_part_is_drawn_and_the_rest_keeps_its_order(tmp_path: Path) -> None:
    path = write(tmp_path / "t", "text\tlabel\n" + "".join(f"t{i}\t{i % 2}\n" for i in range(40)))
    config = LabelledTextConfig(train=(path,), validation_share=0.25, test_share=0.1)
    splits = load_labelled(config)
    parts = [splits.train.first, splits.validation.first, splits.test.first]
    assert [len(part) for part in parts] == [26, 10, 4]
    assert sorted([*parts[0], *parts[1], *parts[2]]) == sorted(f"t{i}" for i in range(40))
    for part in parts:
        assert part == sorted(part, key=lambda text: int(text[1:]))
    assert load_labelled(config).validation.first == parts[1]
    other = LabelledTextConfig(train=(path,), validation_share=0.25, split_seed=1)
    assert load_labelled(other).validation.first != parts[1]


def test_question_classes(shared: Path) -> None:
    folder = shared / "data" / "text" / "qc.zip" / "qc"
    config = LabelledTextConfig(
        train=(folder / "train.txt",), test=(folder / "test.txt",), format="trec"
    )
    with pytest.raises(UserError, match=r"train.txt:\d+: not UTF-8"):
        load_labelled(config)
    splits = load_labelled(
        LabelledTextConfig(
            train=config.train,
            test=config.test,
            format="trec",
            encoding="latin-1",
            validation_share=0.1,
        )
    )
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
    assert sizes == [4907, 545, 500]
    assert splits.train.names == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    # Li and Roth 2002: the test part has 138 descriptions and 9 abbreviations.
    assert np.bincount(splits.test.labels).tolist() == [9, 138, 94, 65, 81, 113]
    tokenizer = build_tokenizer(WordPieceTokenizerConfig(vocab_size=1_500), splits.train.first)
    plan = LabelledPlan(splits.train, tokenizer, 32, 40)
    rows = np.concatenate([batch["rows"] for batch in plan.batches()])
    assert sorted(rows[rows >= 0].tolist()) == list(range(4907))
    padding = 1 - np.mean([batch["valid"].mean() for batch in plan.batches()])
    assert padding < 0.13
    fine = LabelledTextConfig(
        train=config.train, format="trec", encoding="latin-1", label_column="fine"
    )
    assert len(load_labelled(fine).train.names) == 50


def test_entailment_pairs(shared: Path) -> None:
    folder = shared / "data" / "text" / "rte.zip" / "rte"
    config = LabelledTextConfig(
        train=(folder / "rte1_dev.xml", folder / "rte3_dev.xml"),
        test=(folder / "rte3_test.xml",),
        format="rte",
        second_column="hypothesis",
    )
    splits = load_labelled(config)
    assert (len(splits.train), len(splits.test)) == (567 + 800, 800)
    assert splits.train.names == ("NO", "YES")
    assert examples(splits.test)[0][2] == "YES"


def test_files_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner/t.tsv", "text\tlabel\na\tb\n")
    splits = load_labelled(LabelledTextConfig(train=(path / "inner" / "t.tsv",)))
    assert examples(splits.train) == [("a", None, "b")]
    with pytest.raises(UserError, match="inner/none: no such file"):
        load_labelled(LabelledTextConfig(train=(path / "inner" / "none",)))
    path.write_bytes(b"PK broken")
    with pytest.raises(UserError, match="cannot be read: File is not a zip file"):
        load_labelled(LabelledTextConfig(train=(path / "inner" / "t.tsv",)))


def parquet(path: Path, columns: dict, **features) -> HubSourceConfig:
    table = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        table = table.cast_column(name, feature)
    table.to_parquet(str(path))
    return HubSourceConfig(
        name="parquet", data_files={"train": path}, validation_split=None, test_split="train[1:]"
    )


def test_a_data_set_with_named_classes(tmp_path: Path) -> None:
    hub = parquet(
        tmp_path / "t.parquet",
        {"text": ["good", "bad", None], "label": [1, 0, 1]},
        label=datasets.ClassLabel(names=["neg", "pos"]),
    )
    splits = load_labelled(LabelledTextConfig(hub=hub, max_skipped=0.5), tmp_path / "cache")
    assert examples(splits.train) == [("good", None, "pos"), ("bad", None, "neg")]
    assert examples(splits.test) == [("bad", None, "neg")]


def test_batches_by_hand(pieces: TextTokenizer) -> None:
    cls, sep = pieces.special("cls"), pieces.special("sep")
    corpus = LabelledCorpus(
        ["the moon", "the", "the the the the"],
        ["moon ?", "the the the the", "moon"],
        np.array([2, 1, 1], np.int32),
        ("a", "b", "c"),
    )
    (the,), (moon,), (mark,) = (pieces.encode_ids(word) for word in ("the", "moon", "?"))
    plan = LabelledPlan(corpus, pieces, 2, max_length=7, shuffle=False)
    batches = list(plan.batches())
    rows = {
        row: (batch["tokens"][i], batch["segments"][i], batch["labels"][i], batch["valid"][i])
        for batch in batches
        for i, row in enumerate(batch["rows"].tolist())
    }
    assert set(rows) == {0, 1, 2, -1}
    assert rows[0][0].tolist() == [cls, the, moon, sep, moon, mark, sep]
    assert rows[0][1].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert rows[1][0].tolist() == [cls, the, sep, the, the, the, sep]  # the longer text is cut
    assert rows[2][0].tolist() == [cls, the, the, the, sep, moon, sep]
    assert [int(rows[i][2]) for i in range(3)] == [2, 1, 1]
    assert not rows[-1][3].any()
    assert rows[-1][1].tolist() == [0] * 7
    assert plan.cut == 2
    with pytest.raises(ValueError, match="max_length=3"):
        LabelledPlan(corpus, pieces, 2, max_length=3)


ENCODERS = [kind for kind, family in pretrained.FAMILIES.items() if family.config is BertConfig]


@pytest.mark.parametrize("kind", [*ENCODERS, "roberta-merges"])
def test_pairs_are_those_of_the_folders_tokenizer(kind: str, tmp_path: Path) -> None:
    """Labelled pairs, and questions on documents, against the tokenizers library's own pairs."""
    if kind == "roberta-merges":
        vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", *"acdt"])}
        write(tmp_path / "vocab.json", json.dumps(vocabulary))
        write(tmp_path / "merges.txt", "#version: 0.2\n")
        write(tmp_path / "config.json", json.dumps({"model_type": "roberta"}))
        around = RobertaProcessing(("</s>", 2), ("<s>", 0))
        library = ByteLevelBPETokenizer.from_file(
            str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
        )
        library.post_processor = around
    else:
        tiny_folders.write_tokenizer(kind, tmp_path, False)
        library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer = build_tokenizer(FileTokenizerConfig(path=tmp_path), [])
    wanted = library.encode("cat", "dad cat").ids
    assert len(wanted) == len(tokenizer.encode_ids("cat") + tokenizer.encode_ids("dad cat")) + (
        4 if "roberta" in kind else 3
    )
    corpus = LabelledCorpus(["cat"], ["dad cat"], np.array([0], np.int32), ("x",))
    for length, cut in ((len(wanted), 0), (len(wanted) - 1, 1)):
        plan = LabelledPlan(corpus, tokenizer, 1, length)
        (batch,) = plan.batches()
        assert (plan.cut, batch["tokens"].shape) == (cut, (1, length))
    (batch,) = LabelledPlan(corpus, tokenizer, 1, 40, [40]).batches()
    assert batch["tokens"][0, batch["valid"][0]].tolist() == wanted
    behind = 1 + len(tokenizer.encode_ids("dad cat"))
    assert np.flatnonzero(batch["segments"][0]).tolist() == [
        *range(len(wanted) - behind, len(wanted))
    ]
    asked = Questions([Question("q", "cat", "dad cat", ())])
    (window,) = QuestionPlan(asked, tokenizer, 1, len(wanted), 4, 9).windows
    assert window.ids.tolist() == wanted
    assert window.border == len(wanted) - behind


def test_batches_of_a_step(pieces: TextTokenizer) -> None:
    texts = ["moon " * (1 + i % 7) for i in range(53)]
    labels = np.arange(53, dtype=np.int32) % 3
    corpus = LabelledCorpus(texts, None, labels, ("a", "b", "c"))
    plan = LabelledPlan(corpus, pieces, 5, 20, seed=4)
    epochs = [list(plan.batches(epoch)) for epoch in (0, 1)]
    for batches in epochs:
        rows = np.concatenate([batch["rows"] for batch in batches])
        assert sorted(rows.tolist()) == [-1, -1, *range(53)]
        for batch in batches:
            real = batch["rows"] >= 0
            assert (batch["labels"][real] == batch["rows"][real] % 3).all()
            assert (batch["valid"].sum(axis=1)[real] == 3 + batch["rows"][real] % 7).all()
    again = LabelledPlan(corpus, pieces, 5, 20, seed=4)
    assert np.array_equal(again.batch(14)["tokens"], epochs[1][3]["tokens"])
    assert again.fingerprint() == plan.fingerprint()
    relabelled = LabelledCorpus(texts, None, (labels + 1) % 3, ("a", "b", "c"))
    assert LabelledPlan(relabelled, pieces, 5, 20, seed=4).fingerprint() != plan.fingerprint()


CONLL = """-DOCSTART- -X- O

Neil NNP B-PER
Armstrong NNP I-PER
sleeps VBZ O

moon NN O
"""


def test_conll_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t", CONLL)
    splits = load_corpus(TaggedTextConfig(train=(path,)))
    assert splits.train.words == [["Neil", "Armstrong", "sleeps"], ["moon"]]
    assert splits.train.names == ("B-PER", "I-PER", "O")
    assert splits.train.tags == [[0, 1, 2], [2]]
    parts = load_tagged(TaggedTextConfig(train=(path,), tag_column=1)).train
    assert [parts.names[tag] for tag in parts.tags[0]] == ["NNP", "NNP", "VBZ"]
    with pytest.raises(UserError, match=r"t:3: 3 columns, wanted word_column=0 and tag_column=3"):
        load_tagged(TaggedTextConfig(train=(path,), tag_column=3))
    with pytest.raises(UserError, match="there is no sentence in it"):
        load_tagged(TaggedTextConfig(train=(write(tmp_path / "e", "\n"),)))
    other = write(tmp_path / "o", "moon X\n")
    with pytest.raises(UserError, match="test: class 'X' is none of B-PER, I-PER, O"):
        load_tagged(TaggedTextConfig(train=(path,), test=(other,)))


def test_tags_of_a_data_set(tmp_path: Path) -> None:
    hub = parquet(
        tmp_path / "t.parquet",
        {"tokens": [["a", "b"], ["c"]], "tags": [[1, 0], [1]]},
        tags=datasets.List(datasets.ClassLabel(names=["O", "B-LOC"])),
    )
    splits = load_tagged(TaggedTextConfig(hub=hub), tmp_path / "cache")
    assert splits.train.words == [["a", "b"], ["c"]]
    assert [[splits.train.names[t] for t in row] for row in splits.train.tags] == [
        ["B-LOC", "O"],
        ["B-LOC"],
    ]


def test_the_first_token_of_a_word_bears_its_tag(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(ByteTokenizerConfig(), ())
    splits = load_tagged(TaggedTextConfig(train=(write(tmp_path / "t", "ab X\nc Y\n\nd X\n"),)))
    plan = TaggedPlan(splits.train, tokenizer, 3, max_length=9, shuffle=False)
    (batch,) = plan.batches()
    assert batch["rows"].tolist() == [1, 0, -1]
    bos, eos = tokenizer.special("cls"), tokenizer.special("sep")
    long = [bos, *tokenizer.encode_ids(" ab c"), eos]
    assert batch["tokens"][1].tolist() == long
    assert batch["labels"].tolist()[1] == [0, 0, 0, 0, 1, 0, 0]
    assert np.argwhere(batch["counted"]).tolist() == [[0, 1], [1, 1], [1, 4]]
    assert not batch["valid"][2].any()
    cut = TaggedPlan(splits.train, tokenizer, 3, max_length=5, shuffle=False)
    (batch,) = cut.batches()
    assert batch["tokens"][1].tolist() == [*long[:4], eos]
    assert cut.cut == 1
    assert cut.fingerprint() != plan.fingerprint()

"""Temporary ids of the words of a source, and pairs in JSON lines."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from attnzoo.config.cache import CacheConfig
from attnzoo.config.data import FilePartConfig, FilesConfig
from attnzoo.config.reports import ReportsConfig
from attnzoo.data.batching import BatchPlan
from attnzoo.data.copying import CopyingTokenizer
from attnzoo.data.corpus import Corpus, load_corpus
from attnzoo.data.files import cut_words
from attnzoo.data.pairs import TokenizedPairs
from attnzoo.data.parallel import PairData
from attnzoo.data.tokenizers import train_subword_tokenizer, train_word_tokenizer
from attnzoo.errors import UserError
from attnzoo.special_tokens import UNK

KNOWN = ["the man said that he saw a dog ."]


@pytest.mark.parametrize("split", ["whitespace", "punctuation"])
def test_unknown_words_of_a_source_are_numbered_and_come_back(split: str) -> None:
    base = train_word_tokenizer(KNOWN, split=split)
    tokenizer = pickle.loads(pickle.dumps(CopyingTokenizer(base, 2)))
    V = base.vocab_size
    assert tokenizer.vocab_size == len(tokenizer.tokens) == V + 2
    source = tokenizer.encode("the man Kofi saw Annan . Kofi and Kim")
    assert [i for i in source.ids if i >= V or i == UNK] == [V, V + 1, V, UNK, UNK]
    about = tokenizer.beside(source)
    text = about.encode("Annan saw Kofi and Zed .")
    assert text.ids[0] == V + 1
    assert text.ids[2] == V
    assert about.decode(text.ids) == "Annan saw Kofi <unk> <unk> ."
    assert about.decode_words(text.ids).words == "Annan saw Kofi <unk> <unk> .".split()
    # Without its source a temporary id has no word, and ids above all are an error.
    assert tokenizer.decode([V + 1]) == "<word 2>"
    with pytest.raises(ValueError, match=f"wanted 0 to {V + 1}"):
        about.decode([V + 2])
    assert tokenizer.fingerprint() != CopyingTokenizer(base, 3).fingerprint()


def test_pairs_share_the_ids_of_their_source() -> None:
    base = train_word_tokenizer(KNOWN)
    both = CopyingTokenizer(base, 3), CopyingTokenizer(base, 3)
    corpus = Corpus(["Kofi saw Kim", "Zed saw Kofi"], ["Kim saw", "Kofi Kofi Kim"])
    pairs, _ = TokenizedPairs.from_corpus(corpus, *both)
    V = base.vocab_size
    assert pairs.target_ids[[0, 2, 3, 4]].tolist() == [V + 1, V + 1, V + 1, UNK]
    assert pairs.source_ids[[0, 2, 3, 5]].tolist() == [V, V + 1, V, V + 1]


def test_subwords_have_no_unknown_words() -> None:
    base = train_subword_tokenizer("bpe", KNOWN * 3, vocab_size=40)
    tokenizer = CopyingTokenizer(base, 3)
    source = tokenizer.encode("the dog said Ω")
    assert source == base.encode("the dog said Ω")
    assert tokenizer.beside(source).decode(source.ids) == base.decode(source.ids)


RECORDS = [
    {"source": ["Kofi met", "Kim in\nRome ."], "target": ["Kofi met Kim", "they met"]},
    {"source": "one two three four", "target": "one"},
]
BROKEN = [
    ('["no"]', "no JSON object"),
    ('{"source": "a"}', "no field 'target'"),
    ('{"source": 3, "target": "a"}', "no text in field 'source'"),
    ('{"source": "a", "target": []}', "empty sentence"),
    ('{"source": " ", "target": "a"}', "empty sentence"),
    ("{", "no JSON object"),
]


def config_of(path: Path, **more: object) -> FilesConfig:
    return FilesConfig(train=FilePartConfig(records=path), **more)  # ty: ignore


@pytest.mark.parametrize("memory", [10**6, 0])
def test_records_with_several_references_are_several_pairs(tmp_path: Path, memory: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)) + "\n")
    config = config_of(path, source_words=3)
    corpus = load_corpus(config).train
    assert corpus.source == ["Kofi met\nKim"] * 2 + ["one two three"]
    assert corpus.target == ["Kofi met Kim", "they met", "one"]
    data = PairData(config, CacheConfig(path=tmp_path, memory=memory, workers=1))
    tokenizer = train_word_tokenizer(["Kofi met they one two"])
    pairs, _ = data.tokens("train", tokenizer, tokenizer, 9)
    assert data.large == (memory == 0)
    assert np.diff(pairs.source_offsets).tolist() == [3, 3, 3]
    assert np.diff(pairs.target_offsets).tolist() == [3, 2, 1]


def test_broken_records_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(RECORDS[0]), *(line for line, _ in BROKEN)]
    path.write_text("\n".join(lines) + "\n")
    splits = load_corpus(config_of(path, max_skipped=1.0))
    assert len(splits.train) == 2
    told = " ".join(splits.reports[0].lines())
    for number, (_, reason) in enumerate(BROKEN, start=2):
        assert reason in told
        assert f"{path}:{number}" in told
    with pytest.raises(UserError, match=f"5 of 7|{len(BROKEN)} of"):
        load_corpus(config_of(path))


def test_words_are_cut_with_their_spacing() -> None:
    assert cut_words(" a b\nc  d ", 3) == " a b\nc"
    assert cut_words(" a b ", 3) == cut_words(" a b ", 2) + "" == " a b"
    assert cut_words(" a b ", None) == " a b "


def test_reports_have_names_of_their_own_and_true_links() -> None:
    config = ReportsConfig(train=50, validation=9, test=9)
    splits = load_corpus(config)
    parts = splits.train, splits.validation, splits.test
    names = [
        {word for text in part.source for word in text.split() if word[0].isupper()}
        for part in parts
    ]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    written = set()
    for part in parts:
        assert part.links is not None
        for source, target, links in zip(part.source, part.target, part.links, strict=True):
            assert len(links.sure) == len(target.split())
            for i, j in links.sure:
                same = source.split()[i] == target.split()[j]
                written |= set() if same else {target.split()[j]}
    assert written == {"wins", "sells", "finds", "builds", "loses", "buys"}
    assert load_corpus(config).fingerprint() == splits.fingerprint()


def test_targets_are_padded_to_lengths_of_their_own() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(30, 60, 200), random.integers(3, 9, 200)
    lengths[1][7] = 40
    words = train_word_tokenizer(["a"])
    corpus = Corpus(*(["a " * n for n in side] for side in lengths))
    pairs, _ = TokenizedPairs.from_corpus(corpus, words, words)
    together, separate = (
        BatchPlan(pairs, 16, max_buckets=2, separate=separate) for separate in (False, True)
    )
    assert separate.target_buckets[-1] == 41
    assert len(separate.target_buckets) == 2
    widths = {batch["target"].shape[1] - 1 for batch in separate.batches()}
    assert widths == set(separate.target_buckets)
    assert min(widths) <= 9
    rows = np.concatenate([batch["rows"] for batch in separate.batches()])
    assert sorted(rows[rows >= 0]) == list(range(200))
    assert separate.padding_share() < together.padding_share() - 0.2
    assert "target_buckets" not in together.fingerprint()

"""Tokenizers: every token knows its word, every text comes back, nothing is decided by chance."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attnzoo.config.data import BpeTokenizerConfig, UnigramTokenizerConfig, WordTokenizerConfig
from attnzoo.data.splitting import group_pieces, join_pieces, split_token
from attnzoo.data.tokenizers import (
    BOS,
    EOS,
    PAD,
    UNK,
    Encoding,
    Tokenizer,
    train_subword_tokenizer,
    train_tokenizer,
    train_word_tokenizer,
)
from attnzoo.errors import UserError

LINES = [
    "Est-ce que l'eau, à 3.5 km, est froide ?",
    'Il a dit : "Non !" (et puis oui).',
    "L'enfant qu'il a vu ne m'aime pas... pas du tout !",
    "« Ça va ? » — oui, ça va ; l'eau est à 5,5 € le litre.",
    "wawawa wawa wa wawawa",
] * 3

KINDS: dict[str, Callable[[list[str], str], Tokenizer]] = {
    "word": lambda lines, split: train_word_tokenizer(lines, split=split),
    "bpe": lambda lines, split: train_subword_tokenizer("bpe", lines, vocab_size=97, split=split),
    "unigram": lambda lines, split: train_subword_tokenizer(
        "unigram", lines, vocab_size=97, split=split
    ),
}


@pytest.fixture(
    scope="module", params=[(k, s) for k in KINDS for s in ("whitespace", "punctuation")]
)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    kind, split = request.param
    return KINDS[kind](LINES, split)


def test_spacing_is_written_into_the_pieces() -> None:
    pieces = split_token("(l'eau),", split="punctuation", lowercase=False)
    assert pieces == ["▁(￭", "▁l", "'￭", "▁eau", ")", ","]
    assert join_pieces(pieces) == "(l'eau),"
    assert split_token("-5€", split="punctuation", lowercase=False) == ["▁-￭", "▁5", "€"]
    assert split_token("L'EAU", split="whitespace", lowercase=True) == ["▁l'eau"]


def test_combining_marks_stay_with_their_letter() -> None:
    # A vowel sign and a virama are no letters to `str.isalpha`, and cutting there ruins Hindi.
    assert split_token("हिन्दी।", split="punctuation", lowercase=False) == ["▁हिन्दी", "।"]
    assert split_token("e\u0301", split="punctuation", lowercase=False) == ["▁é"]


def test_marks_of_ours_in_a_text_do_not_change_its_words() -> None:
    for split in ("whitespace", "punctuation"):
        assert join_pieces(split_token("a▁b￭", split=split, lowercase=False)) == "a_b■"


def test_words_are_found_again_from_parts_of_pieces() -> None:
    parts = ["▁l", "'￭", "▁e", "au", ")", ",", "▁", "(￭", "▁ou", "i", "▁"]
    assert join_pieces(parts) == "l'eau), (oui"
    assert group_pieces(parts) == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert group_pieces(["▁l", "'eau", ")", "▁", "ok"]) == [0, 0, 0, 1, 1]
    assert group_pieces(["no", "▁start"]) == [0, 1]
    assert group_pieces([]) == []


def test_generated_words_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    draw = np.random.default_rng(3)
    for _ in range(200):
        ids = draw.integers(0, tokenizer.vocab_size, 9)
        decoded = tokenizer.decode_words(ids)
        assert [word for word in decoded.words if word] == tokenizer.decode(ids).split()


def test_word_ids_index_the_words_of_the_text() -> None:
    # Four special tokens, the characters ▁ a b c, and four merges, which lead to ab, ▁cab and ▁ab.
    bpe = train_subword_tokenizer("bpe", ["ab cab cab"], vocab_size=12, split="whitespace")
    encoding = bpe.encode(" ab  abab\tb ")
    assert encoding.words == ["ab", "abab", "b"]
    assert [bpe.tokens[i] for i in encoding.ids] == ["▁ab", "▁ab", "ab", "▁", "b"]
    assert encoding.word_ids == [0, 1, 1, 2, 2]


def test_a_text_comes_back_with_its_words(tokenizer: Tokenizer) -> None:
    for line in LINES[:5]:
        encoding = tokenizer.encode(line)
        assert len(encoding.ids) == len(encoding.word_ids)
        assert UNK not in encoding.ids
        assert sorted(set(encoding.word_ids)) == list(range(len(encoding.words)))
        assert encoding.word_ids == sorted(encoding.word_ids)
        assert encoding.words == line.split()
        parts = tokenizer.parts(encoding)
        assert len(parts) == len(encoding.ids)
        if tokenizer.kind == "word":
            assert "".join(parts) == "".join(encoding.words)
        assert tokenizer.encode_ids(line) == encoding.ids
        assert tokenizer.decode(encoding.ids) == line
        assert tokenizer.decode_words(encoding.ids) == encoding


def test_special_tokens_are_no_text(tokenizer: Tokenizer) -> None:
    for text in ("< pad >", "<pad> </s> < eos >", "[PAD]"):
        assert not {PAD, BOS, EOS} & set(tokenizer.encode(text).ids)
    ids = tokenizer.encode(LINES[4]).ids
    framed = [BOS, *ids, EOS, PAD, *ids]
    assert tokenizer.decode(framed) == LINES[4]
    assert tokenizer.decode(np.asarray(framed, np.int32)) == LINES[4]
    assert tokenizer.decode_words(framed).ids == ids
    assert tokenizer.decode([]) == tokenizer.decode([BOS, EOS]) == ""
    assert tokenizer.encode("") == tokenizer.encode(" \t\u00a0 ") == Encoding([], [], [])


def test_unknown_text_is_the_unknown_id(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode("wa 東京 wa")
    assert encoding.words == ["wa", "東京", "wa"]
    assert encoding.ids.count(UNK) == 1
    assert tokenizer.decode(encoding.ids, unknown="??") == "wa ?? wa"
    decoded = tokenizer.decode_words(encoding.ids, unknown="??")
    assert (decoded.words, decoded.word_ids) == (["wa", "??", "wa"], encoding.word_ids)


def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    for bad in (-1, size, 10**9):
        with pytest.raises(ValueError, match=f"ids contains {bad}, wanted 0 to {size - 1}"):
            tokenizer.decode([4, bad])
        with pytest.raises(ValueError, match=f"ids contains {bad}"):
            tokenizer.decode_words([bad])


def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.tokens == tokenizer.tokens
    for line in (*LINES[:5], "neu und unbekannt: 東京"):
        assert loaded.encode(line) == tokenizer.encode(line)


def test_training_twice_in_other_processes_is_training_once(
    printed_elsewhere: Callable[..., set[str]],
) -> None:
    program = (
        "import test_tokenizers as t\n"
        "print(*[t.KINDS[k](t.LINES, 'punctuation').fingerprint() for k in t.KINDS])"
    )
    here = " ".join(make(LINES, "punctuation").fingerprint() for make in KINDS.values())
    assert printed_elsewhere(program, Path(__file__).parent) == {here + "\n"}


def test_shortlist_takes_the_most_frequent_words() -> None:
    lines = ["b b b a a c c d", "d e"]  # b 3; a, c, d 2; e 1
    assert train_word_tokenizer(lines, max_size=3).tokens[4:] == ["▁b", "▁a", "▁c"]
    assert train_word_tokenizer(lines, min_count=2).tokens[4:] == ["▁b", "▁a", "▁c", "▁d"]
    short = train_word_tokenizer(lines, max_size=2)
    assert short.vocab_size == 6
    assert short.encode("a e b").ids == [5, UNK, 4]
    assert short.decode([5, UNK, 4]) == "a <unk> b"


def test_a_mark_with_another_spacing_is_still_that_mark() -> None:
    tokenizer = train_word_tokenizer(["oui , non"], split="punctuation")
    assert tokenizer.encode("oui, non").ids == tokenizer.encode("oui , non").ids


def test_lowercase() -> None:
    tokenizer = train_word_tokenizer(["Der Hund"], lowercase=True)
    assert tokenizer.encode("DER hund").words == ["DER", "hund"]  # the user's
    assert tokenizer.decode(tokenizer.encode("DER hUNd").ids) == "der hund"


def test_unigram_keeps_a_frequent_word_that_no_other_word_contains() -> None:
    lines = ["zwölf mal eins ist zwölf", "so viel ist zwölf", "mal so mal anders"] * 7
    tokenizer = train_subword_tokenizer("unigram", lines, vocab_size=41)
    assert "▁zwölf" in tokenizer.tokens
    assert tokenizer.vocab_size <= 41


def test_subword_vocabulary_is_as_large_as_asked() -> None:
    lines = [f"wort{i} satz{i * 7 % 101} teil" for i in range(500)]
    for size in (53, 101):
        assert train_subword_tokenizer("bpe", lines, vocab_size=size).vocab_size == size
        assert train_subword_tokenizer("unigram", lines, vocab_size=size).vocab_size <= size


def test_nothing_to_train_on() -> None:
    with pytest.raises(ValueError, match="no word"):
        train_word_tokenizer([])
    with pytest.raises(ValueError, match="min_count=2"):
        train_word_tokenizer(["a b c"], min_count=2)
    for kind in ("bpe", "unigram"):
        with pytest.raises(ValueError, match="no word"):
            train_subword_tokenizer(kind, ["", "  "], vocab_size=17)
        with pytest.raises(ValueError, match="vocab_size=5, wanted at least"):
            train_subword_tokenizer(kind, ["a"], vocab_size=5)


def test_configs() -> None:
    configs = (
        WordTokenizerConfig(split="punctuation", max_size=5),
        BpeTokenizerConfig(vocab_size=61, lowercase=True),
        UnigramTokenizerConfig(vocab_size=61, split="whitespace"),
    )
    for config in configs:
        tokenizer = train_tokenizer(config, LINES)
        assert (tokenizer.kind, tokenizer.split) == (config.kind, config.split)
        assert tokenizer.lowercase == config.lowercase
    assert train_tokenizer(configs[0], LINES).vocab_size == 9
    with pytest.raises(UserError, match="tokenizer: vocab_size=3, wanted at least 6"):
        train_tokenizer(BpeTokenizerConfig(vocab_size=3), LINES)
    with pytest.raises(UserError, match="no word that occurs min_count=99 times"):
        train_tokenizer(WordTokenizerConfig(min_count=99), LINES)


def test_a_generator_of_lines_serves_as_well_as_a_list() -> None:
    for kind, make in KINDS.items():
        again = make((line for line in LINES), "punctuation")  # ty: ignore[invalid-argument-type]
        assert again.fingerprint() == make(LINES, "punctuation").fingerprint(), kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{cut", "not JSON"),
        ("[]", "wanted an object, got a list"),
        ("{}", "its 'format' is not 'attnzoo.tokenizer'"),
        ({"format": "other"}, "its 'format' is not"),
        ({"version": 99}, "tokenizer of version 99, wanted 1"),
        ({"kind": "char"}, "kind 'char' is none of word, bpe, unigram"),
        ({"model": ["▁a"]}, "a damaged tokenizer"),
        ({"model": None}, "a damaged tokenizer"),
        ({"kind": "bpe"}, "a damaged tokenizer"),
    ],
)
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    if isinstance(content, dict):
        train_word_tokenizer(["a b"]).save(path)
        content = json.dumps(json.loads(path.read_text()) | content)
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(str(content))
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)

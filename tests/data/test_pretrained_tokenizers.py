"""Tokenizers of pretrained translators: pieces by hand, words between whitespace, languages."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_folders

from attnzoo.data.pretrained_tokenizers import FolderTokenizers, PretrainedTokenizer
from attnzoo.data.sentencepiece_files import read_sentencepiece, sentencepiece_tokenizer
from attnzoo.data.tokenizers import Frame
from attnzoo.errors import UserError

UNIGRAM, BPE = 1, 2
PIECES = [
    ("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("\u2581un", -1.0, 1), ("believ", -2.0, 1),
    ("able", -2.5, 1), ("\u2581", -4.0, 1), ("b", -5.0, 1), ("le", -4.5, 1), ("a", -5.0, 1),
    ("<sep>", 0.0, 4), ("\u2581never", -1.0, 5),
]  # fmt: skip


def library(kind: int, pieces: Any, folder: Path) -> Any:
    path = folder / "one.model"
    path.write_bytes(tiny_folders.sentencepiece(pieces, kind))
    return sentencepiece_tokenizer(read_sentencepiece(path))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("unbelievable", ["\u2581un", "believ", "able"]),  # -5.5; with a, b, le it is -17.5
        ("  un   able ", ["\u2581un", "\u2581", "able"]),
        ("a<sep>b", ["\u2581", "a", "<sep>", "\u2581", "b"]),
        ("<unk>", ["\u2581", "<unk>"]),  # a text that spells the unknown token
        ("never", ["\u2581", "never"]),  # the unused piece is none: letters that are unknown
    ],
)
def test_unigram_pieces(text: str, wanted: list[str], tmp_path: Path) -> None:
    one = library(UNIGRAM, PIECES, tmp_path)
    assert one.encode(text, add_special_tokens=False).tokens == wanted


def test_bpe_merges_in_the_order_of_scores(tmp_path: Path) -> None:
    """ "abc": bc goes before ab, and so the end is a, bc, though ab is a piece."""
    pieces = [("<unk>", 0.0, 2), ("bc", -1.0, 1), ("ab", -2.0, 1), ("\u2581a", -3.0, 1),
              ("\u2581", -4.0, 1), ("a", -5.0, 1), ("b", -6.0, 1), ("c", -7.0, 1)]  # fmt: skip
    one = library(BPE, pieces, tmp_path)
    assert one.encode("abc", add_special_tokens=False).tokens == ["\u2581a", "bc"]


@pytest.mark.parametrize("data", [b"", b"\x00", b"text", b"\x0a\xff\xff", bytes(99)])
def test_a_file_that_is_no_model_is_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.spm").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.spm: .* SentencePiece model") as error:
        read_sentencepiece(tmp_path / "x.spm")
    assert ("empty" in str(error.value)) == (not data)
    with pytest.raises(UserError, match=r"y\.spm: no such file"):
        read_sentencepiece(tmp_path / "y.spm")


def side(kind: str, name: str, tmp_path: Path) -> PretrainedTokenizer:
    write = tiny_folders.write_marian if kind == "marian" else None
    if write is not None:
        write(tmp_path)
    else:
        tiny_folders.write_tokenizer(kind, tmp_path, True)
    return FolderTokenizers(tmp_path).side(name, Frame((0,), (2,)), 1)


@pytest.mark.parametrize("kind", ["marian", "bart", "t5", "mbart"])
def test_words_are_those_between_whitespace(kind: str, tmp_path: Path) -> None:
    one = side(kind, "source", tmp_path)
    names = tiny_folders.tokens_of(kind)
    assert one.encode(" a\tcats\u00a0 mats ").words == ["a", "cats", "mats"]
    found = one.encode("a cats sat. mats")
    assert found.words == ["a", "cats", "sat.", "mats"]
    pieces = ["\u2581a", "\u2581cat", "s", "\u2581sat"]
    assert [names[i] for i in found.ids[:4]] == pieces
    assert found.word_ids[:4] == [0, 1, 1, 2]
    assert found.word_ids == sorted(found.word_ids)
    assert set(found.word_ids) == {0, 1, 2, 3}
    assert one.encode(" \t ").ids == []
    assert one.unk_id == 3
    unknown = one.encode("xyz a")
    assert 3 in unknown.ids
    assert unknown.word_ids[-1] == 1


@pytest.mark.parametrize("kind", ["marian", "bart", "t5", "mbart"])
def test_decoded_words_are_those_of_the_text(kind: str, tmp_path: Path) -> None:
    one = side(kind, "target", tmp_path)
    names = tiny_folders.tokens_of(kind)
    said = ["<s>", "\u2581cat", "s", "\u2581", "t", "<unk>", "\u2581the", "</s>", "\u2581dog"]
    ids = [names.index(name) for name in said]
    found = one.decode_words(ids)
    assert found.ids == ids[1:7]  # neither special tokens nor what is behind the end
    assert found.words == one.decode(ids).split() == ["cats", "t", "<unk>", "the"]
    assert found.word_ids == [0, 0, 1, 1, 2, 3]
    assert one.decode([]) == ""
    assert one.decode_words([0, 2]).words == []


@pytest.mark.parametrize("lost", [("source",), ("target",), ("source", "target")])
def test_a_folder_without_its_model_names_it(lost: tuple[str, ...], tmp_path: Path) -> None:
    tiny_folders.write_marian(tmp_path)
    for side in lost:
        (tmp_path / f"{side}.spm").unlink()
    with pytest.raises(UserError) as error:
        FolderTokenizers(tmp_path)
    assert all(f"{side}.spm" in str(error.value) for side in lost)


def test_languages(tmp_path: Path) -> None:
    tiny_folders.write_tokenizer("mbart", tmp_path, True)
    one = FolderTokenizers(tmp_path)
    assert sorted(one.languages) == ["en_XX", "ro_RO"]
    ro = tiny_folders.tokens_of("mbart").index("ro_RO")
    assert one.language("ro") == one.language("ro_RO") == ro
    assert one.code_of(ro) == "ro_RO"
    with pytest.raises(UserError, match=re.escape("language 'xx': no language of this model")):
        one.language("xx")


def test_m2m100_numbers_languages_behind_its_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(tiny_folders.sentencepiece(PIECES))
    names = ["<s>", "<pad>", "</s>", "<unk>", "\u2581un", "a"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    more = {"additional_special_tokens": ["__af__", "__am__"], "unk_token": "<unk>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(more))
    one = FolderTokenizers(tmp_path)
    assert [one.language(code) for code in ("af", "am", "__am__")] == [6, 7, 7]
    source = one.side("source", Frame((6,), (2,)), 1)
    assert source.encode("un a").ids == [4, 3, 5]
    assert 6 in source.hidden


@pytest.mark.parametrize("lower", [True, False])
def test_the_pieces_of_siglip_alone(lower: bool, tmp_path: Path) -> None:
    """Without punctuation and further spaces; in lower case unless the file says otherwise."""
    pieces = [("</s>", 0.0, 3), ("\u2581cat", -1.0, 1), ("\u2581Cat", -1.0, 1), *PIECES]
    (tmp_path / "spiece.model").write_bytes(tiny_folders.sentencepiece(pieces))
    named = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": lower, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    tokens = FolderTokenizers(tmp_path)
    one: Any = tokens.side("target", Frame((), (0,)), 0)
    ids = one.encode_ids(' Un-able...\t"Cat!" ')
    names = [one._names[i] for i in ids]
    assert names == (
        ["\u2581un", "able", "\u2581cat"] if lower else ["\u2581", "<unk>", "able", "\u2581Cat"]
    )
    assert tokens.token("eos") == 0

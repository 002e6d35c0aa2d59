"""Scores of translations, by hand and against sacreBLEU called in its own way."""

import math

import pytest
import sacrebleu

from attnzoo.errors import UserError
from attnzoo.tasks.scores import check_tokenize, score_translations, tokenizer_of

SOURCES = ["one two", "three four five six", "a b c d e f g", "one two"]
REFERENCES = [
    "the cat sat on the mat",
    "there is a dog here .",
    "it rains all day long today",
    "a cat was on the mat",
]
HYPOTHESES = [
    "the cat sat on the mat",
    "there is the dog here .",
    "it rains the whole day",
    "the cat sat on the mat",
]


def test_scores_are_sacrebleus_and_exact_match_counts_lines() -> None:
    scores = score_translations(HYPOTHESES, SOURCES, REFERENCES, [3, 5])
    want = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    assert scores["bleu"] == pytest.approx(want.score, abs=1e-9)
    want = sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES])
    assert scores["chrf"] == pytest.approx(want.score, abs=1e-9)
    assert scores["exact_match"] == 1 / 4
    assert "tok:13a" in scores["bleu_signature"]
    assert "nrefs:1" in scores["bleu_signature"]
    assert "nc:6" in scores["chrf_signature"]


def test_a_bleu_by_hand() -> None:
    """5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; as long as the reference."""
    scores = score_translations(["a b c d x f"], ["s"], ["a b c d e f"], [5], tokenize="none")
    want = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert scores["bleu"] == pytest.approx(want)
    assert "tok:none" in scores["bleu_signature"]
    perfect = score_translations(["a b c d"], ["s"], [" a  b c d "], [5])
    assert perfect["bleu"] == pytest.approx(100)
    assert perfect["exact_match"] == 1


def test_buckets_are_of_source_words_and_miss_none() -> None:
    table = score_translations(HYPOTHESES, SOURCES, REFERENCES, [5, 3, 5])["by_length"]
    assert [row["words"] for row in table] == ["1-3", "4-5", "6+"]
    assert [row["sentences"] for row in table] == [2, 1, 1]
    want = sacrebleu.corpus_bleu([HYPOTHESES[1]], [[REFERENCES[1]]]).score
    assert table[1]["bleu"] == pytest.approx(want)
    table = score_translations(HYPOTHESES, SOURCES, REFERENCES, [1, 9])["by_length"]
    assert [row["sentences"] for row in table] == [0, 4, 0]
    assert math.isnan(table[0]["bleu"])


def test_repeated_sources_are_several_references() -> None:
    scores = score_translations(HYPOTHESES, SOURCES, REFERENCES, [5])
    assert scores["sources"] == 3
    references = [
        [REFERENCES[0], REFERENCES[1], REFERENCES[2]],
        [REFERENCES[3], None, None],
    ]
    want = sacrebleu.corpus_bleu(HYPOTHESES[:3], references).score
    assert scores["bleu_all_references"] == pytest.approx(want)
    once = score_translations(HYPOTHESES[:3], SOURCES[:3], REFERENCES[:3], [5])
    assert "bleu_all_references" not in once


def test_a_tokenizer_that_lower_cases_is_scored_without_case() -> None:
    texts = ["The Cat sat on the mat"], ["x"], ["the cat sat on The mat"]
    scores = score_translations(*texts, [5], lowercase=True)
    assert scores["bleu"] == pytest.approx(100)
    assert scores["exact_match"] == 1
    assert scores["by_length"][0]["bleu"] == pytest.approx(100)
    assert "case:lc" in scores["bleu_signature"]
    assert "case:lc" in scores["chrf_signature"]
    assert score_translations(*texts, [5])["bleu"] < 50


@pytest.mark.parametrize(
    ("language", "wanted"),
    [("ja", "ja-mecab"), ("ko_KR", "ko-mecab"), ("zh-Hant", "zh"), ("fr", "13a"), ("", "13a")],
)
def test_the_language_chooses_the_tokenizer(language: str, wanted: str) -> None:
    tokenize, note = tokenizer_of(language)
    if note:  # its package is not installed
        assert tokenize == "char"
        assert f"{wanted} is not installed (pip install sacrebleu[" in note
    else:
        assert tokenize == wanted
    scores = score_translations(["a b c d"], ["x"], ["a b c d"], [5], tokenize=tokenize)
    assert f"tok:{tokenize}" in scores["bleu_signature"]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="0 hypotheses, 0 sources and 0 references"):
        score_translations([], [], [], [5])
    with pytest.raises(ValueError, match="1 hypotheses, 2 sources"):
        score_translations(["a"], ["a", "b"], ["a", "b"], [5])
    with pytest.raises(UserError, match=r"--tokenize moses: wanted one of .*13a.*none"):
        check_tokenize("moses")
    check_tokenize("none")

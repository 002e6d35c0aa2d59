"""Questions on documents: files of SQuAD's format, windows, spans of tokens; made ones."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo.config import tokenizers
from attnzoo.config.question_answering import MadeQuestionsConfig, QuestionsConfig
from attnzoo.data.made_questions import NAMES, load_made_questions
from attnzoo.data.questions import (
    Question,
    QuestionPlan,
    Questions,
    load_questions,
    read_predictions,
    read_questions,
)
from attnzoo.data.text_tokenizers import build_tokenizer
from attnzoo.errors import UserError

DOCUMENT = "Tōkyō wurde 1868 zur Hauptstadt, naïve Cafés (3½ Stück) kamen später. 東京は日本の首都"
ANSWERS = ["Tōkyō", "1868", "Hauptstadt", "naïve Cafés", "3½", "3½ Stück", "später", "日本の首都"]
TOKENIZERS = {
    "char": tokenizers.CharTokenizerConfig(),
    "byte": tokenizers.ByteTokenizerConfig(),
    "byte_bpe": tokenizers.ByteBpeTokenizerConfig(vocab_size=300),
    "wordpiece": tokenizers.WordPieceTokenizerConfig(vocab_size=90, lowercase=True),
}


def squad(*paragraphs: tuple[str, list[dict[str, Any]]], version: str = "1.1") -> dict[str, Any]:
    articles = [{"title": "t", "paragraphs": [{"context": c, "qas": q}]} for c, q in paragraphs]
    return {"version": version, "data": articles}


def asked(name: str, answer: str, start: int, **more: Any) -> dict[str, Any]:
    answers = [{"text": answer, "answer_start": start}]
    return {"id": name, "question": f"{name}?", "answers": answers} | more


def good(count: int, first: int = 0) -> tuple[str, list[dict[str, Any]]]:
    return "the cat sat", [asked(f"q{first + i}", "cat", 4) for i in range(count)]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_span_of_tokens_gives_the_answer_back(kind: str) -> None:
    """In every window that holds it, at every length of the windows; or a little more than it."""
    tokenizer = build_tokenizer(TOKENIZERS[kind], [DOCUMENT] * 3)
    items = [Question(a, "Wo?", DOCUMENT, ((a, DOCUMENT.index(a)),)) for a in ANSWERS]
    assert tokenizer.encode_offsets(DOCUMENT)[0].tolist() == tokenizer.encode_ids(DOCUMENT)
    for max_length, stride in ((400, 128), (37, 11), (37, 100)):
        plan = QuestionPlan(Questions(items), tokenizer, 3, max_length, stride, 9, shuffle=False)
        found, widened = {}, 0
        for number, window in enumerate(plan.windows):
            batch = plan.collate(np.asarray([number]))
            length = len(window.ids)
            assert length <= max_length
            assert batch["document"][0].sum() == length - window.border - 1 + 1
            if window.end:
                text, place = plan.text_of(window, window.start, window.end)
                assert DOCUMENT[place : place + len(text)] == text
                found[window.question] = text
        for number, answer in enumerate(ANSWERS):
            if number in found:
                assert answer in found[number]
                widened += answer != found[number]
        assert len(ANSWERS) - len(found) == plan.lost
        assert plan.lost == 0 or stride > 30
        if not plan.lost:
            assert plan.widened == widened
        if kind == "char":
            assert plan.widened == 0


def test_windows_begin_every_stride_and_the_last_ends_the_document() -> None:
    tokenizer = build_tokenizer(tokenizers.CharTokenizerConfig(), ["abcdefghijklm?"])
    one = Question("x", "a?", "abcdefghijklm", (("hi", 7),))
    plan = QuestionPlan(Questions([one]), tokenizer, 2, 11, 4, 9, shuffle=False)
    # 11 - 2 - 3 = 6 tokens of the document in a window.
    assert [(w.first, len(w.ids) - w.border - 1) for w in plan.windows] == [(0, 6), (4, 6), (8, 5)]
    assert [(w.start, w.end) for w in plan.windows] == [(0, 0), (7, 8), (0, 0)]
    batch = plan.collate(np.asarray([0]))
    assert batch["segments"][0].tolist() == [0] * 4 + [1] * 7
    assert batch["document"][0].tolist() == [True, False, False, False, *[True] * 6, False]
    with pytest.raises(UserError, match=r"max_length=5 leaves no room .* question of 2 tokens"):
        QuestionPlan(Questions([one]), tokenizer, 2, 5, 4, 9)


def test_what_cannot_be_used_is_counted_by_file_and_place(tmp_path: Path) -> None:
    bad = [
        asked("moved", "cat", 5),
        asked("blank", "", 0),
        {"id": "deaf", "question": " ", "answers": []},
        asked("q1", "cat", 4),
        "no object",
        {"id": "open", "question": "who?", "answers": [], "is_impossible": True},
        asked("some", "sat", 8) | {"answers": [{"text": "dog", "answer_start": 0},
                                               {"text": "sat", "answer_start": 8}]},
    ]  # fmt: skip
    path = tmp_path / "a.json"
    path.write_text(json.dumps(squad(good(90), ("the cat sat", bad), (" ", good(1, 500)[1]))))
    with pytest.raises(UserError, match=r"6 of 98 questions cannot be used.*max_skipped=0.01"):
        load_questions(QuestionsConfig(train=(path,)))
    parts = load_questions(QuestionsConfig(train=(path,), max_skipped=0.1, test_share=0.5))
    report = parts.reports[0]
    assert report.skipped == {
        "an answer that is not in the document at its place": 2,
        "no question": 2,
        "an id that occurred before": 1,
        "an empty document": 1,
    }
    named = report.places["an answer that is not in the document at its place"]
    assert named[0] == f"{path}: article 2, paragraph 1, question 1"
    # Articles stay whole.
    assert sorted((len(parts.train), len(parts.test))) in ([2, 90], [0, 92])
    items = [*parts.train.items, *parts.test.items]
    some = next(one for one in items if one.id == "some")
    assert some.answers == (("dog", -1), ("sat", 8))
    assert some.located == ("sat", 8)
    assert next(one for one in items if one.id == "open").answers == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a.json: not JSON"),
        ("[1]", "a.json: wanted SQuAD's JSON"),
        ('{"data": []}', "a.json: no usable question in 0"),
        ('{"data": [3, {"paragraphs": {}}]}', "a.json: no usable question in 0"),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_questions(QuestionsConfig(train=(tmp_path / "a.json",)))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_files_within_an_archive_are_chosen_by_a_pattern(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    with tarfile.open(path, f"w:{suffix.partition('.')[2]}") as archive:
        for number, name in enumerate(["b/train_2.json", "b/train_1.json", "b/dev.json", "note"]):
            data = json.dumps(squad(good(2, 10 * number))).encode()
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    config = QuestionsConfig(train=(path / "b" / "train_*.json",), test=(path / "b" / "dev.json",))
    parts = load_questions(config)
    assert [one.id for one in parts.train.items] == ["q10", "q11", "q0", "q1"]
    assert [one.id for one in parts.test.items] == ["q20", "q21"]
    assert sum(1 for _ in read_questions(path)) == 3
    with pytest.raises(UserError, match=r"the archive has no file c\*"):
        load_questions(QuestionsConfig(train=(path / "c*",)))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read"):
        load_questions(QuestionsConfig(train=(path,)))


def test_predictions_are_texts_by_id(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"a": "b"}')
    assert read_predictions(path) == {"a": "b"}
    for wrong in ('{"a": 1}', "[]", "{"):
        path.write_text(wrong)
        with pytest.raises(UserError, match=r"p\.json: "):
            read_predictions(path)


def test_made_answers_are_where_they_are_said_to_be() -> None:
    config = MadeQuestionsConfig(facts=5, unanswerable=0.3, train=200, validation=20, test=20)
    parts = load_made_questions(config)
    again = load_made_questions(config)
    assert parts.fingerprint() == again.fingerprint()
    assert not {q.document for q in parts.train.items} & {q.document for q in parts.test.items}
    none = 0
    for one in parts.train.items:
        assert one.document.count(" .") == 5
        none += not one.answers
        for text, start in one.answers:
            assert one.document[start:].startswith(text)
            name = next(word for word in one.text.split() if word in NAMES)
            sentence = one.document[: start + len(text)].rpartition(" . ")[2]
            assert name in (sentence + one.document[start:].partition(" . ")[0]).split()
    assert 30 < none < 90

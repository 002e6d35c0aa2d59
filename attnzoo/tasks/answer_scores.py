"""Exact match and F1 of answers, with the numbers of SQuAD's scripts.

Rajpurkar et al. 2016 (arXiv 1606.05250), section 6.1, for version 1.1; Rajpurkar et al. 2018 (arXiv
1806.03822) for version 2.0, in which a question may have no answer.
"""

import collections
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attnzoo.data.questions import Question

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation of ASCII, articles and extra white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(predicted: str, answer: str) -> float:
    """Return 1 if both texts are the same when normalised, else 0."""
    return float(normalised(predicted) == normalised(answer))


def word_f1(predicted: str, answer: str) -> float:
    """Return the harmonic mean of precision and recall of the words; 1 if both have none."""
    return _f1(normalised(predicted).split(), normalised(answer).split())


def character_f1(predicted: str, answer: str) -> float:
    """Return the F1 of characters but spaces, for languages that do not write spaces.

    So et al. 2022 (arXiv 2202.01764) score JaQuAD by it.
    """
    return _f1(_characters(predicted), _characters(answer))


def _characters(text: str) -> Sequence[str]:
    return normalised(unicodedata.normalize("NFKC", text)).replace(" ", "")


def _f1(predicted: Sequence[str], answer: Sequence[str]) -> float:
    if not predicted or not answer:
        return float(predicted == answer)
    same = (collections.Counter(predicted) & collections.Counter(answer)).total()
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(answer)
    return 2 * precision * recall / (precision + recall)


def golden(question: Question) -> list[str]:
    """Return the known answers that are not empty when normalised; one empty text if none is."""
    return [text for text, _ in question.answers if normalised(text)] or [""]


def best_of(score: Callable[[str, str], float], predicted: str, answers: Iterable[str]) -> float:
    """Return the highest score that a prediction has with one of the known answers."""
    return max(score(predicted, answer) for answer in answers)


def score_predictions(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    odds: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """Return the scores of SQuAD's scripts, in percent, and the number of questions.

    A question without a prediction counts as wrong, as in version 1.1 (the script of version 2.0
    leaves it out of the means of its kind). Questions of which some have no answer give the scores
    of both kinds too, "has_answer_..." and "no_answer_...". Texts with Chinese characters or kana
    give ``character_f1`` too.

    Args:
      predictions: the text for each question's id; empty where there is no answer.
      odds: for each id, how much the model believes that there is no answer: where it is above
        ``threshold``, the prediction counts as empty. Adds "best_exact" and "best_f1", with the
        thresholds that give them.
    """
    measures = {"exact": exact_match, "f1": word_f1}
    if any(_is_spaceless(question.document) for question in questions):
        measures["character_f1"] = character_f1
    kinds: dict[str, list[int]] = {"": list(range(len(questions)))}
    if any(not question.answers for question in questions):
        kinds["has_answer_"] = [i for i in kinds[""] if questions[i].answers]
        kinds["no_answer_"] = [i for i in kinds[""] if not questions[i].answers]
    scores: dict[str, float] = {}
    for name, measure in measures.items():
        raw, kept = [], []
        for one in questions:
            text = predictions.get(one.id)
            score = 0.0 if text is None else best_of(measure, text, golden(one))
            empty = (odds or {}).get(one.id, threshold) > threshold
            raw.append(score)
            kept.append(float(not one.answers) if empty else score)
        for kind, rows in kinds.items():
            scores[f"{kind}{name}"] = 100 * sum(kept[i] for i in rows) / max(len(rows), 1)
        if odds is not None and name != "character_f1":
            best, at = _best_threshold(questions, predictions, raw, odds)
            scores |= {f"best_{name}": best, f"best_{name}_threshold": at}
    return scores | {f"{kind}total": float(len(rows)) for kind, rows in kinds.items()}


def _best_threshold(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    raw: Sequence[float],
    odds: Mapping[str, float],
) -> tuple[float, float]:
    """Return the highest mean score in percent that a threshold gives, and that threshold.

    Thresholds are tried from below all odds, where every prediction counts as empty, upwards.
    """
    now = best = float(sum(not one.answers for one in questions))
    at = 0.0
    order = sorted(range(len(questions)), key=lambda i: odds.get(questions[i].id, 0.0))
    for i in order:
        one = questions[i]
        now += raw[i] if one.answers else -float(bool(predictions.get(one.id)))
        if now > best:
            best, at = now, odds.get(one.id, 0.0)
    return 100 * best / max(len(questions), 1), at


def _is_spaceless(text: str) -> bool:
    return any("\u3040" <= c <= "\u30ff" or "\u4e00" <= c <= "\u9fff" for c in text[:200])


def told(scores: Mapping[str, float]) -> str:
    """Describe the scores of :func:`score_predictions` in one line."""
    parts = [f"exact {scores['exact']:.2f}", f"F1 {scores['f1']:.2f}"]
    if "character_f1" in scores:
        parts.append(f"F1 of characters {scores['character_f1']:.2f}")
    if "no_answer_exact" in scores:
        parts.append(
            f"with an answer exact {scores['has_answer_exact']:.2f}, F1 "
            f"{scores['has_answer_f1']:.2f}; without {scores['no_answer_exact']:.2f}"
        )
    if "best_exact" in scores:
        parts.append(
            f"best threshold {scores['best_f1_threshold']:.3f}: exact {scores['best_exact']:.2f}, "
            f"F1 {scores['best_f1']:.2f}"
        )
    return ", ".join(parts)


def by_group(
    asked: Sequence[Question], predictions: Mapping[str, str], key: Callable[[Question], str]
) -> dict[str, dict[str, Any]]:
    """Return exact match and F1 of groups of questions, of the twelve largest groups."""
    groups: dict[str, list[Question]] = collections.defaultdict(list)
    for one in asked:
        groups[key(one)].append(one)
    rows = {}
    for name, some in sorted(groups.items(), key=lambda pair: -len(pair[1]))[:12]:
        scores = score_predictions(some, predictions)
        rows[name] = {"questions": len(some), "exact": scores["exact"], "f1": scores["f1"]}
    return rows


WORDS = {
    "en": "how what when where which who whom whose why".split(),
    "de": "wann warum was welche welchem welchen welcher welches wem wen wer wie wieso wo".split(),
    "ja": ["何", "誰", "いつ", "どこ", "どの", "どんな", "なぜ", "いくつ", "いくら"],
    "zh": ["什么", "谁", "多少", "哪", "何时", "为什么", "怎么"],
}


def question_word(one: Question) -> str:
    """Return the first word that asks, in English, German, Japanese or Chinese; "other"."""
    words = one.text.lower().replace("?", " ").split()
    for word in words:
        if word in WORDS["en"] or word in WORDS["de"]:
            return word
    found = [(one.text.find(w), w) for w in (*WORDS["zh"], *WORDS["ja"]) if w in one.text]
    return min(found)[1] if found else "other"


def answer_length(one: Question) -> str:
    """Return the range of the first answer's length, in words, or characters without spaces."""
    if not one.answers:
        return "no answer"
    text = one.answers[0][0]
    spaceless = any("\u3040" <= c <= "\u9fff" for c in text)
    count, unit = (len(text), "characters") if spaceless else (len(text.split()), "words")
    limits = (1, 2, 4, 8, 16)
    low = max((n for n in limits if n <= count), default=1)
    high = next((n - 1 for n in limits if n > count), None)
    span = str(low) if high == low else f"{low}-{high}" if high else f"{low}+"
    return f"{span} {unit}"

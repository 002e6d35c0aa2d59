"""Scores of summaries: ROUGE by ``rouge-score``, repetition, and shares of copied words."""

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from attnzoo.errors import UserError

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
LENGTHS = (1, 2, 3)
"""Lengths of the n-grams that are counted as repeated and as copied."""

Counts = dict[str, float]


class RougeScorer:
    """F-measures of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum (Lin 2004), as percentages.

    English text is cut and stemmed as ROUGE-1.5.5 does, which knows only Latin letters and digits.
    Texts of another ``language`` are cut into words of Unicode letters, and Chinese and Japanese
    into characters, without stemming.
    """

    def __init__(self, language: str = "en"):
        try:
            from rouge_score import rouge_scorer, tokenizers
        except ImportError:
            raise UserError(
                "ROUGE is not installed; wanted pip install 'attnzoo[summarisation]'"
            ) from None
        english = re.split("[-_]", language.lower())[0] in ("", "en")
        cut = tokenizers.DefaultTokenizer(use_stemmer=True).tokenize if english else words_of
        version = metadata.version("rouge-score")
        self.signature = f"rouge-score:{version}|tok:{'en.stem' if english else 'unicode'}"
        self._scorer = rouge_scorer.RougeScorer(list(TYPES), tokenizer=_Cached(cut))

    def __call__(self, summary: str, references: Sequence[str]) -> Counts:
        """Score one summary; of several references the best counts, for each type by itself."""
        on_lines = ["\n".join(sentences_of(reference)) for reference in references]
        found = self._scorer.score_multi(on_lines, "\n".join(sentences_of(summary)))
        return {name: 100 * score.fmeasure for name, score in found.items()}


class _Cached:
    """A tokenizer of ``rouge_score`` that cuts every text once."""

    def __init__(self, cut: Any):
        self.tokenize = functools.lru_cache(maxsize=2**15)(cut)


def score_summaries(
    summaries: Sequence[str],
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    language: str = "en",
) -> dict[str, Any]:
    """Return the mean scores of summaries of one source each, and of what they are compared with.

    Values are percentages, but for ``words``, ``novelty`` and ``density``:

    - ``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``: F-measures, the best over the references;
    - ``repeated_n``: n-grams of a summary that it has said before, of all its n-grams;
    - ``copied_n``: n-grams of a summary that stand in its source;
    - ``coverage``, ``density``: share of words in fragments of the source, and mean of the squared
      fragment length per word (Grusky et al. 2018, section 4.1);
    - ``words``: length of a summary.

    ``baselines`` holds the same ROUGE of the first sentence of the source (lead), of a sentence at
    random (the mean of all), and of the sentence with the best sum of ROUGE-1, 2 and L (oracle).

    Raises:
      UserError: the package rouge-score is not installed.
    """
    if not len(summaries) == len(sources) == len(references) or not len(summaries):
        raise ValueError(
            f"{len(summaries)} summaries, {len(sources)} sources and {len(references)} lists of "
            "references: equally many are wanted, and at least one"
        )
    rouge = RougeScorer(language)
    found = [
        rouge(summary, known) | copying(summary, source)
        for summary, source, known in zip(summaries, sources, references, strict=True)
    ]
    baselines: dict[str, list[Counts]] = {"lead": [], "random": [], "oracle": []}
    for source, known in zip(sources, references, strict=True):
        each = [rouge(sentence, known) for sentence in sentences_of(source) or [""]]
        baselines["lead"].append(each[0])
        baselines["random"].append(_mean(each))
        baselines["oracle"].append(max(each, key=lambda s: s["rouge1"] + s["rouge2"] + s["rougeL"]))
    return {
        **_mean(found),
        "summaries": len(summaries),
        "rouge_signature": rouge.signature,
        "baselines": {name: _mean(rows) for name, rows in baselines.items()},
    }


def copying(summary: str, source: str) -> Counts:
    """Return the shares of repeated and copied n-grams of a summary, and its fragments.

    They are the scores of ``score_summaries``; 0 for a summary without such n-grams.
    """
    words, known = words_of(summary), words_of(source)
    scores: Counts = {}
    for n in LENGTHS:
        grams, there = _ngrams(words, n), set(_ngrams(known, n))
        count = max(len(grams), 1)
        scores[f"repeated_{n}"] = 100 * (len(grams) - len(set(grams))) / count
        scores[f"copied_{n}"] = 100 * sum(gram in there for gram in grams) / count
    lengths = [len(fragment) for fragment in fragments(words, known)]
    scores["coverage"] = 100 * sum(lengths) / max(len(words), 1)
    scores["density"] = sum(length**2 for length in lengths) / max(len(words), 1)
    return scores | {"words": float(len(words))}


def fragments(summary: Sequence[str], source: Sequence[str]) -> list[Sequence[str]]:
    """Return the longest fragments shared with a source, from left to right (Grusky et al. 2018).

    At each word of the summary the longest fragment that the source has is taken, and the search
    goes on behind it (figure 3 of arXiv 1804.11283).
    """
    places: dict[str, list[int]] = {}
    for place, word in enumerate(source):
        places.setdefault(word, []).append(place)
    found, start = [], 0
    while start < len(summary):
        longest = 0
        for place in places.get(summary[start], ()):
            length = 0
            while (
                start + length < len(summary)
                and place + length < len(source)
                and summary[start + length] == source[place + length]
            ):
                length += 1
            longest = max(longest, length)
        if longest:
            found.append(summary[start : start + longest])
        start += max(longest, 1)
    return found


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text: its lines, or without line breaks what ends in a mark."""
    if "\n" in text:
        parts = text.splitlines()
    else:
        parts = re.split(r"(?<=[.!?])\s+(?=[^\W\d_a-z]|[\"'(\[\d])|(?<=[。！？])", text)
    return [part.strip() for part in parts if part.strip()]


def words_of(text: str) -> list[str]:
    """Return the lower-case words of a text without punctuation; characters of Chinese, Japanese.

    These languages do not mark words.
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())
    return [part for word in words for part in re.findall(f"[{IDEOGRAPHS}]|[^{IDEOGRAPHS}]+", word)]


IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"
"""Kana and Chinese characters, as a range of a regular expression."""


def describe(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the lines of a table of ``score_summaries``."""
    rows = {"model": scores, **scores["baselines"]}
    names = {"lead": "lead sentence", "random": "any sentence", "oracle": "best sentence"}
    lines = [f"{scores['summaries']:,} summaries, {scores['rouge_signature']}", ""]
    lines.append(f"{'':14}" + "".join(f"{name:>11}" for name in TYPES))
    for name, row in rows.items():
        values = "".join(f"{row[kind]:11.2f}" for kind in TYPES)
        lines.append(f"{names.get(name, name):14}{values}")
    lines.append("")
    for what in ("repeated", "copied"):
        shares = ", ".join(f"{scores[f'{what}_{n}']:.1f} %" for n in LENGTHS)
        lines.append(f"{what} 1-, 2- and 3-grams: {shares}")
    lines.append(
        f"copied fragments: coverage {scores['coverage']:.1f} %, density {scores['density']:.2f}; "
        f"{scores['words']:.1f} words a summary"
    )
    return tuple(lines)


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _mean(rows: Sequence[Counts]) -> Counts:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

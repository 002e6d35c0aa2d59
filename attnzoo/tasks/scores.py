"""Scores of whole translations, by sacreBLEU."""

import re
from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from attnzoo.errors import UserError

# Tokenizers of languages that are written without spaces between words.
OF_LANGUAGE = {"ja": "ja-mecab", "ko": "ko-mecab", "zh": "zh"}


def score_translations(
    hypotheses: Sequence[str],
    sources: Sequence[str],
    references: Sequence[str],
    buckets: Sequence[int],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> dict[str, Any]:
    """Return BLEU and chrF with their signatures, exact match, and BLEU by source length in words.

    If sources repeat (several references of one sentence), ``bleu_all_references`` scores each
    distinct source once against all its references; the hypothesis is that of its first occurrence.
    With ``lowercase`` case does not count, and the signatures say so.
    """
    if not len(hypotheses) == len(sources) == len(references) or not hypotheses:
        raise ValueError(
            f"{len(hypotheses)} hypotheses, {len(sources)} sources and {len(references)} "
            "references: equally many are wanted, and at least one"
        )
    bleu, chrf = _bleu(tokenize, lowercase), CHRF(lowercase=lowercase)
    scores = {
        "bleu": bleu.corpus_score(hypotheses, [references]).score,
        "bleu_signature": str(bleu.get_signature()),
        "chrf": chrf.corpus_score(hypotheses, [references]).score,
        "chrf_signature": str(chrf.get_signature()),
        "exact_match": _exact_match(hypotheses, references, lowercase),
        "by_length": _by_length(hypotheses, sources, references, buckets, bleu),
    }
    groups: dict[str, list[int]] = {}
    for row, source in enumerate(sources):
        groups.setdefault(source, []).append(row)
    if len(groups) < len(sources):
        most = max(len(rows) for rows in groups.values())
        # sacreBLEU takes None where a sentence has fewer references than others.
        columns: Any = [
            [references[rows[n]] if n < len(rows) else None for rows in groups.values()]
            for n in range(most)
        ]
        first = [hypotheses[rows[0]] for rows in groups.values()]
        scores["sources"] = len(groups)
        scores["bleu_all_references"] = bleu.corpus_score(first, columns).score
    return scores


def tokenizer_of(language: str) -> tuple[str, str]:
    """Return sacreBLEU's tokenizer for a language, and a note if it is a substitute.

    Languages are codes such as ``ja`` or ``zh-CN``. If the package of a tokenizer is missing, text
    is scored by characters.
    """
    tokenize = OF_LANGUAGE.get(re.split("[-_]", language.lower())[0], "13a")
    try:
        check_tokenize(tokenize)
    except UserError:
        package = f"pip install sacrebleu[{tokenize[:2]}]"
        return "char", f"BLEU by characters (tok:char): {tokenize} is not installed ({package})"
    return tokenize, ""


def check_tokenize(tokenize: str) -> None:
    """Raise UserError if sacreBLEU has no tokenizer of this name or lacks its packages."""
    if tokenize not in BLEU.TOKENIZERS:
        raise UserError(
            f"--tokenize {tokenize}: wanted one of {', '.join(sorted(BLEU.TOKENIZERS))}"
        )
    try:
        _bleu(tokenize)
    except (ImportError, RuntimeError, OSError) as error:  # extra packages, models to download
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--tokenize {tokenize}: cannot be used here: {reason}") from None


def _bleu(tokenize: str, lowercase: bool = False) -> BLEU:
    # `force` silences the warning about tokenised text when it is intended.
    return BLEU(tokenize=tokenize, lowercase=lowercase, force=tokenize == "none")


def _exact_match(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool) -> float:
    words = (lambda text: text.lower().split()) if lowercase else str.split
    same = sum(words(a) == words(b) for a, b in zip(hypotheses, references, strict=True))
    return same / len(hypotheses)


def _by_length(
    hypotheses: Sequence[str],
    sources: Sequence[str],
    references: Sequence[str],
    buckets: Sequence[int],
    bleu: BLEU,
) -> list[dict[str, Any]]:
    ends = sorted(set(buckets))
    rows: list[list[int]] = [[] for _ in range(len(ends) + 1)]
    for row, source in enumerate(sources):
        words = len(source.split())
        rows[sum(words > end for end in ends)].append(row)
    starts = [1, *(end + 1 for end in ends)]
    names = [f"{a}-{b}" for a, b in zip(starts, ends)] + [f"{starts[-1]}+"]
    table = []
    for name, chosen in zip(names, rows, strict=True):
        score = float("nan")
        if chosen:
            part = [hypotheses[row] for row in chosen], [[references[row] for row in chosen]]
            score = bleu.corpus_score(*part).score
        table.append({"words": name, "sentences": len(chosen), "bleu": score})
    return table

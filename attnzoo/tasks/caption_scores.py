"""Scores of captions against several references, and nearest neighbours as a baseline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from sacrebleu.metrics import BLEU, CHRF

from attnzoo.tasks.cider import caption_words, cider
from attnzoo.tasks.scores import tokenizer_of

BLOCK = 256
"""Number of pictures whose distances are in memory at once."""


def score_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]], language: str = "en"
) -> dict[str, Any]:
    """Return BLEU-1 to 4, chrF, CIDEr-D, the share of exact captions, and perhaps a note.

    Each caption is scored against all references of its picture. BLEU, CIDEr-D and exact matches
    are of words in lower case without punctuation (``caption_words``), as in COCO's evaluation;
    text of languages without spaces is cut by sacreBLEU's tokenizer before. An exact caption is
    equal to one of the references. chrF is of the texts in lower case.
    """
    tokenize, note = tokenizer_of(language)
    cut = BLEU(tokenize=tokenize).tokenizer

    def words(text: str) -> str:
        return " ".join(caption_words(text if tokenize == "13a" else cut(text)))

    said, known = list(map(words, captions)), [list(map(words, texts)) for texts in references]
    scores: dict[str, Any] = {"pictures": len(captions)}
    for n in (1, 2, 3, 4):
        bleu = BLEU(tokenize="none", force=True, max_ngram_order=n)
        scores[f"bleu{n}"] = bleu.corpus_score(said, _columns(known)).score
    scores["bleu_signature"] = str(bleu.get_signature())
    chrf = CHRF(lowercase=True)
    scores["chrf"] = chrf.corpus_score(list(captions), _columns(references)).score
    scores["chrf_signature"] = str(chrf.get_signature())
    scores["cider"] = cider(said, known)[0]
    same = [text in texts for text, texts in zip(said, known, strict=True)]
    scores["exact"] = sum(same) / len(same)
    return scores | ({"note": note} if note else {})


def _columns(references: Sequence[Sequence[str]]) -> Any:
    """Return the n-th reference of every text, for each n; None where a text has fewer."""
    most = max(map(len, references))
    return [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]


def nearest(
    queries: Float[np.ndarray, "n D"], keys: Float[np.ndarray, "m D"]
) -> Int64[np.ndarray, " n"]:
    """Return the row of the key with the smallest Euclidean distance from each query."""
    squares = np.sum(keys**2, axis=1)
    rows = [
        np.argmin(squares - 2 * queries[first : first + BLOCK] @ keys.T, axis=1)
        for first in range(0, len(queries), BLOCK)
    ]
    return np.concatenate(rows)

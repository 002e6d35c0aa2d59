"""CIDEr-D: agreement of captions with several references (Vedantam et al., CVPR 2015)."""

import math
import re
from collections import Counter
from collections.abc import Sequence

LONGEST = 4
"""Longest n-gram."""
SIGMA = 6.0
"""Standard deviation of the length penalty, in words."""
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*|['’][^\W_]+")

Counts = Counter[tuple[str, ...]]


def caption_words(text: str) -> list[str]:
    """Return the words of a caption in lower case, without punctuation.

    Words keep inner hyphens, and a clitic is a word of its own ("dog's" is "dog", "'s"), as the
    tokenizer of COCO's evaluation has it. Text without spaces between words has to be cut before.
    """
    return _WORD.findall(text.lower())


def cider(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, list[float]]:
    """Return the CIDEr-D of a corpus of captions, and that of each caption; 10 is the largest.

    n-grams of 1 to 4 words are weighted by count x log(pictures / pictures whose references have
    it), where the pictures are those of this corpus, so that scores of other sets of pictures
    cannot be compared. Words are those of ``caption_words``.

    Raises:
        ValueError: not as many captions as lists of references, or a picture without one.
    """
    if len(captions) != len(references) or not all(references) or not captions:
        raise ValueError(
            f"{len(captions)} captions and {len(references)} lists of references: equally many are "
            "wanted, and no list is empty"
        )
    known = [[_counts(caption_words(text)) for text in texts] for texts in references]
    pictures = Counter(gram for texts in known for gram in {g for one in texts for g in one})
    everything = math.log(len(captions))
    rarity = {gram: everything - math.log(count) for gram, count in pictures.items()}
    scores = []
    for caption, texts in zip(captions, known, strict=True):
        one = _Weighted(_counts(caption_words(caption)), rarity, everything)
        others = (_Weighted(counts, rarity, everything) for counts in texts)
        agreements = [one.agreement(other) for other in others]
        scores.append(10 * sum(agreements) / len(agreements))
    return sum(scores) / len(scores), scores


def _counts(words: Sequence[str]) -> Counts:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, LONGEST + 1)
        for start in range(len(words) - n + 1)
    )


class _Weighted:
    """Weights of the n-grams of a caption, their norm for each n, and the number of words."""

    def __init__(self, counts: Counts, rarity: dict[tuple[str, ...], float], unseen: float):
        self.weights = {gram: n * rarity.get(gram, unseen) for gram, n in counts.items()}
        self.words = sum(count for gram, count in counts.items() if len(gram) == 1)
        squares = [0.0] * LONGEST
        for gram, weight in self.weights.items():
            squares[len(gram) - 1] += weight**2
        self.norms = [math.sqrt(square) for square in squares]

    def agreement(self, reference: "_Weighted") -> float:
        """Return the clipped cosine, mean over n, times the length penalty (equation 8)."""
        products = [0.0] * LONGEST
        for gram, weight in self.weights.items():
            other = reference.weights.get(gram, 0.0)
            products[len(gram) - 1] += min(weight, other) * other
        cosines = [
            product / (ours * theirs) if ours and theirs else 0.0
            for product, ours, theirs in zip(products, self.norms, reference.norms, strict=True)
        ]
        penalty = math.exp(-((self.words - reference.words) ** 2) / (2 * SIGMA**2))
        return penalty * sum(cosines) / LONGEST

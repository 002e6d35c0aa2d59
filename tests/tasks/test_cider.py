"""CIDEr-D by a float64 formula over dense vectors, by hand, and its properties."""

import numpy as np
import pytest

from attnzoo.tasks.cider import caption_words, cider

WORDS = "a the dog cat runs sleeps on grass red blue".split()


def dense(captions: list[str], references: list[list[str]]) -> list[float]:
    """CIDEr-D as Vedantam et al. write it, with one vector over all n-grams for each n."""
    texts = [text.split() for texts in references for text in texts] + [c.split() for c in captions]
    scores = np.zeros(len(captions))
    for n in (1, 2, 3, 4):
        grams = sorted({tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)})

        def vector(text: str, n: int = n, grams: list = grams) -> np.ndarray:
            words = text.split()
            found = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            return np.asarray([found.count(gram) for gram in grams], np.float64)

        has = np.asarray([sum(vector(text) for text in texts) > 0 for texts in references])
        idf = np.log(len(captions)) - np.log(np.maximum(has.reshape(len(captions), -1).sum(0), 1))
        for i, (caption, its) in enumerate(zip(captions, references, strict=True)):
            c = vector(caption) * idf
            for reference in its:
                r = vector(reference) * idf
                scale = np.linalg.norm(c) * np.linalg.norm(r)
                gap = len(caption.split()) - len(reference.split())
                cosine = np.minimum(c, r) @ r / scale if scale else 0.0
                scores[i] += 10 * cosine * np.exp(-(gap**2) / 72) / len(its) / 4
    return scores.tolist()


def test_it_is_the_formula_over_dense_vectors() -> None:
    random = np.random.default_rng(0)

    def text() -> str:
        return " ".join(random.choice(WORDS, random.integers(1, 11)))

    captions = [text() for _ in range(23)]
    references = [[text() for _ in range(random.integers(1, 6))] for _ in captions]
    mean, each = cider(captions, references)
    np.testing.assert_allclose(each, dense(captions, references), rtol=1e-9, atol=1e-12)
    assert mean == pytest.approx(np.mean(each))


def test_a_number_by_hand() -> None:
    # Two pictures: "dog" and "runs" are in one each, weight log 2; "a" is in both, weight 0.
    # n=1: (dog) . (dog runs) = 1 / sqrt 2; n=2: "a dog" of two bigrams: 1 / sqrt 2; n=3 and 4: 0.
    # One word fewer: exp(-1 / 72).
    _, each = cider(["a dog", "a cat"], [["a dog runs"], ["a cat"]])
    assert each[0] == pytest.approx(10 * 2 * 0.5**0.5 * np.exp(-1 / 72) / 4)
    assert each[1] == pytest.approx(5.0)  # there are no 3-grams in two words


def test_a_reference_itself_has_ten_and_repetition_does_not_pay() -> None:
    references = [["a red dog runs on the grass"], ["the blue cat sleeps on a dog"]]
    mean, _ = cider([texts[0] for texts in references], references)
    assert mean == pytest.approx(10)
    repeated, _ = cider(["dog dog dog dog dog dog dog", "cat"], references)
    assert repeated < 1


def test_case_and_punctuation_do_not_count() -> None:
    assert caption_words("A tri-colored dog's toy, on_the GRASS .") == [
        "a", "tri-colored", "dog", "'s", "toy", "on", "the", "grass",
    ]  # fmt: skip
    references = [["a red dog runs ."], ["The cat sleeps on the grass"]]
    assert cider(["A Red Dog runs", "the cat sleeps on the grass !"], references)[0] == (
        pytest.approx(10)
    )


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="2 captions and 1 lists"):
        cider(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="no list is empty"):
        cider(["a"], [[]])

"""Four things that Bahdanau, Cho and Bengio saw in the weights of their translator, counted."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from attnzoo.config.attention import AdditiveConfig
from attnzoo.config.model import BahdanauConfig
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead, below, headline
from reproductions.training import fit
from reproductions.translators import (
    MULTI30K,
    Part,
    bleu,
    build,
    captions,
    decode,
    judge,
    loss,
)

LONGEST, VOCABULARY, WIDTH, STEPS = 13, 1_000, 128, 1_500
UNEQUAL = 3
"""Difference of the lengths, in words, from which a pair counts as one of unequal lengths."""
COLOURS = {
    "red": "rouge rouges", "blue": "bleu bleue bleus bleues", "white": "blanc blanche blancs "
    "blanches", "black": "noir noire noirs noires", "green": "vert verte verts vertes",
    "yellow": "jaune jaunes", "pink": "rose roses", "purple": "violet violette violettes",
    "gray": "gris grise grises", "brown": "brun brune bruns brunes marron",
}  # fmt: skip
"""Adjectives after their noun in French, with their forms."""
SIZES = {
    "young": "jeune jeunes", "little": "petit petite petits petites", "small": "petit petite "
    "petits petites", "large": "grand grande grands grandes gros grosse", "big": "grand grande "
    "gros grosse", "old": "vieux vieille vieil",
}  # fmt: skip
"""Adjectives before their noun in both languages."""
NOUNS = {
    "man": "homme", "woman": "femme", "girl": "fille", "boy": "garçon", "dog": "chien",
    "person": "personne", "child": "enfant", "group": "groupe", "street": "rue", "ball": "balle",
    "table": "table", "field": "champ", "bike": "vélo", "beach": "plage", "dress": "robe",
    "men": "hommes", "women": "femmes", "girls": "filles", "boys": "garçons", "dogs": "chiens",
    "people": "personnes", "children": "enfants",
}  # fmt: skip
CROSSED = "weights crossed, adjective after its noun"
UNCROSSED = "weights crossed, adjective before its noun"
ARTICLE, NOUN = "weight on the article, of un and une", "weight on the noun, of un and une"
NUMERAL = "weight on the noun, of deux"
ORDER = "rank correlation of places with order"
END, END_UNEQUAL = "weight on the end", "weight on the end, unequal lengths"
Words = list[str]
Rows = Float[np.ndarray, "T S"]
Sites = Callable[[Words, Words], Iterator[tuple[int, int]]]


def adjectives(forms: Mapping[str, str], after: bool) -> Sites:
    """Return a search for the places (English, French) of pairs of an adjective and a noun.

    Each is the place of the first word of the two; the adjective is the only one of its kind in
    either sentence. ``after``: the French one is after its noun.
    """
    french = {form for some in forms.values() for form in some.split()}

    def found(source: Words, target: Words) -> Iterator[tuple[int, int]]:
        ours = [i for i, word in enumerate(source[:-1]) if word in forms]
        theirs = [j for j, word in enumerate(target) if word in french]
        if len(ours) != 1 or len(theirs) != 1:
            return
        (i,), (j,) = ours, theirs
        first = j - 1 if after else j
        other = target[j - 1 if after else j + 1] if 0 < j + (not after) < len(target) else ""
        fits = target[j] in forms[source[i]].split() and len(other) > 3 and len(source[i + 1]) > 2
        if first >= 0 and fits and source[i + 1] not in ("and", "with"):
            yield i, first

    return found


def determiners(known: Mapping[str, tuple[str, ...]]) -> Sites:
    """Return a search for determiners that stand before the same noun in both languages."""

    def found(source: Words, target: Words) -> Iterator[tuple[int, int]]:
        for i, (word, noun) in enumerate(pairwise(source)):
            french = NOUNS.get(noun)
            if word not in known or source.count(noun) > 1 or target.count(french or "") != 1:
                continue
            j = target.index(french or "") - 1
            if j >= 0 and target[j] in known[word]:
                yield i, j

    return found


ARTICLES = determiners({"a": ("un", "une"), "an": ("un", "une")})
NUMERALS = determiners({"two": ("deux",)})


def phenomena(weights: Float[np.ndarray, "B T S"], part: Part) -> dict[str, float]:
    """Return the shares and means that the claim is about, over the pairs of a part."""
    pairs = [
        (row, source.split(), target.split())
        for row, source, target in zip(weights, *part.texts, strict=True)
    ]

    def each(sites: Sites, read: Callable[[Rows, int, int], float]) -> float:
        found = [read(w, i, j) for w, s, t in pairs for i, j in sites(s, t)]
        return float(np.mean(found)) if found else 0.0

    def crossed(w: Rows, i: int, j: int) -> float:
        return float(w[j, i + 1] > w[j, i] and w[j + 1, i] > w[j + 1, i + 1])

    def order(row: Rows, source: Words, target: Words) -> float:
        places = row[: len(target), : len(source)] @ np.arange(len(source))
        return float(spearmanr(np.arange(len(target)), places)[0])

    ends = [float(np.mean(row[: len(t), len(s)])) for row, s, t in pairs]
    unequal = [end for end, (_, s, t) in zip(ends, pairs) if abs(len(s) - len(t)) >= UNEQUAL]
    return {
        ORDER: float(np.mean([order(*pair) for pair in pairs])),
        CROSSED: each(adjectives(COLOURS, after=True), crossed),
        UNCROSSED: each(adjectives(SIZES, after=False), crossed),
        ARTICLE: each(ARTICLES, lambda w, i, j: float(w[j, i])),
        NOUN: each(ARTICLES, lambda w, i, j: float(w[j, i + 1])),
        NUMERAL: each(NUMERALS, lambda w, i, j: float(w[j, i + 1])),
        END: float(np.mean(ends)),
        END_UNEQUAL: float(np.mean(unequal)) if unequal else 0.0,
    }


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Train a translator of captions; count the phenomena in its weights on new captions."""
    text = captions(
        setting.data, "fr", LONGEST, setting.pick(VOCABULARY, 50), setting.pick(None, 60)
    )
    config = BahdanauConfig(attention=AdditiveConfig(), hidden=WIDTH, embedding=64, maxout=64)
    model: Any = build(config, text.sizes, setting.seed)
    steps = setting.pick(STEPS, 3)
    fit(model, loss, text.train.batch, steps=steps, seed=setting.seed, learning_rate=2e-3)
    found, _ = decode(model, jnp.asarray(text.test.source), LONGEST + 6)
    lines = [text.tokenizers[1].decode(row) for row in np.asarray(found)]
    _, weights = judge(model, text.test)
    score = bleu(lines, text.test) / 100
    return {"BLEU as a share": score, **phenomena(weights, text.test)}


def _came(results: Results) -> str:
    crossed, kept, article, noun, numeral, order, end = (
        results.mean(name) for name in (CROSSED, UNCROSSED, ARTICLE, NOUN, NUMERAL, ORDER, END)
    )
    return (
        f"The places that are read rise with the words that are written (rank correlation "
        f"{order:.2f}); the weights of a colour and its noun cross in {crossed:.0%} of the pairs, "
        f"those of an adjective that stays before its noun in {kept:.0%}; writing un or une the "
        f"article has {article:.0%} of the weight and the noun {noun:.0%}, which is {numeral:.0%} "
        f"when deux is written, and the end of the sentence has {end:.1%}."
    )


CLAIMS = (
    Claim(
        name="soft-alignments",
        title="Soft weights follow the order, cross where it changes, and read two words for one",
        source="Bahdanau, Cho and Bengio 2015, arXiv 1409.0473, section 5.2.1 and figure 3",
        claimed="Weights between English and French are largely monotone, cross between an "
        "adjective and its noun, lie on an article and on the noun after it when the article is "
        "written, since its form depends on the noun, and need no empty word to deal with "
        "different lengths.",
        setup=f"captions of Multi30k, English to French, of up to {LONGEST} words a side: 14,071 "
        f"to train on, the 513 of test 2016, whose known translations are read; the {VOCABULARY:,} "
        f"most frequent words; Bahdanau's model of width {WIDTH}, {STEPS:,} steps of 64. Colours "
        "stand after their nouns in French, sizes and ages before them; un and une depend on the "
        f"noun, deux does not; lengths are unequal from a difference of {UNEQUAL} words on; even "
        "weights would give the end 9.1%. The paper shows four sentences, of a model of width "
        "1,000.",
        criterion=(
            headline(above(ORDER, 0.9)),
            above(CROSSED, 0.5),
            headline(ahead(CROSSED, UNCROSSED, 0.3)),
            headline(above(ARTICLE, 0.1)),
            above(NOUN, 0.1),
            ahead(NOUN, NUMERAL),
            below(END, 0.05),
            below(END_UNEQUAL, 0.05),
        ),
        measure=measure,
        came=_came,
        meaning="What the paper shows in four pictures is the rule: weights align words without "
        "being told, and soft ones can ask two words about one.",
        otherwise="Order, crossings and lengths are those of the pictures if their lines hold; a "
        "weight that lies on the noun alone when its article is written serves as well, since the "
        "annotation of the noun has read the words around it.",
        minutes=2,
        needs=(MULTI30K,),
        axes=("share, or correlation", ""),
    ),
)

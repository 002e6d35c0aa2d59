"""Made reports whose summary copies names that occur nowhere else, with the true word links."""

from __future__ import annotations

import random
from typing import Any

from attnzoo.alignment.links import Links
from attnzoo.data.corpus import Corpus, Splits

FILLERS = (
    "NAME met NAME in NAME .",
    "NAME went from NAME to NAME .",
    "the people of NAME waited for NAME .",
    "NAME asked NAME about the THING .",
    "in NAME it was cold , said NAME .",
)
EVENT = "at last NAME VERB the THING of NAME ."
VERBS = (
    ("won", "wins"),
    ("sold", "sells"),
    ("found", "finds"),
    ("built", "builds"),
    ("lost", "loses"),
    ("bought", "buys"),
)
THINGS = ("prize", "house", "ship", "garden", "letter", "tower", "horse", "crown", "lamp", "song")
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def load_reports(config: Any) -> Splits:
    """Build the data set of a `Reports` config.

    A report has an event between other sentences. Its summary, "Kalomi wins the prize of Resu .",
    has the verb in another form, so that it has to be written, and two names, which have to be
    copied: each name stands in one report only.
    """
    # Only random() is guaranteed to be the same in every version of Python.
    generator = random.Random(config.seed)
    used: set[str] = set()

    def part(count: int) -> Corpus:
        texts = [_report(config, generator, used) for _ in range(count)]
        sources, targets, links = (list(column) for column in zip(*texts, strict=True))
        return Corpus(sources, targets, links, "en", "en", "reports")

    return Splits(part(config.train), part(config.validation), part(config.test))


def _report(config: Any, generator: random.Random, used: set[str]) -> tuple[str, str, Links]:
    def below(count: int) -> int:
        return int(generator.random() * count)

    def spelled(template: str, verb: str = "") -> list[str]:
        fill = {"NAME": lambda: _name(below, used), "VERB": lambda: verb}
        fill["THING"] = lambda: THINGS[below(len(THINGS))]
        return [fill.get(word, lambda word=word: word)() for word in template.split()]

    count = config.min_sentences + below(config.max_sentences - config.min_sentences + 1)
    place = below(count)
    past, present = VERBS[below(len(VERBS))]
    sentences = [spelled(FILLERS[below(len(FILLERS))]) for _ in range(count)]
    sentences[place] = event = spelled(EVENT, past)
    summary = [present if word == past else word for word in event[2:]]
    first = sum(map(len, sentences[:place])) + 2
    source = "\n".join(" ".join(words) for words in sentences)
    links = Links.of((first + place, place) for place in range(len(summary)))
    return source, " ".join(summary), links


def _name(below: Any, used: set[str]) -> str:
    while True:
        letters = [
            letter
            for _ in range(3 + below(3))
            for letter in (CONSONANTS[below(len(CONSONANTS))], VOWELS[below(len(VOWELS))])
        ]
        name = "".join(letters).capitalize()
        if name not in used:
            used.add(name)
            return name

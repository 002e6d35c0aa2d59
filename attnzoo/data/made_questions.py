"""Made documents on people, and questions on them whose answers are known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from attnzoo.data.corpus import PARTS, Report, Splits
from attnzoo.data.questions import Question, Questions
from attnzoo.data.random_numbers import bits

NAMES = (
    "Ada Alan Anna Boris Carla Chen Clara David Elena Emil Fatima Felix Grace Hana Hugo Igor Ines "
    "Ivan Jana Jonas Kofi Laila Leo Lina Marco Maria Mina Nadia Nils Olga Omar Paula Pedro Rosa "
    "Ruth Samir Sofia Tariq Vera Yusuf"
).split()


class Property(NamedTuple):
    """One property of a person: its sentences, its questions and its values."""

    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    values: tuple[str, ...]


def _pairs(first: str, second: str) -> tuple[str, ...]:
    return tuple(f"{a} {b}" for a in first.split() for b in second.split())


PROPERTIES = (
    Property(
        ("{} lives in {} .", "The home of {} is {} .", "{} has moved to {} ."),
        ("Where does {} live ?", "In which city is the home of {} ?"),
        ("Paris", "Rome", "Oslo", "New York", "Lima", "Cairo", "Kyoto", "Buenos Aires", "Vienna"),
    ),
    Property(
        ("{} works as a {} .", "By profession {} is a {} ."),
        ("What does {} work as ?", "Which profession does {} have ?"),
        ("baker", "teacher", "night nurse", "pilot", "judge", "tax lawyer", "farmer", "tailor"),
    ),
    Property(
        ("{} owns a {} .", "The pride of {} is a {} ."),
        ("What does {} own ?", "Which thing belongs to {} ?"),
        _pairs("red green blue white", "boat bicycle house violin car"),
    ),
    Property(
        ("{} was born in {} .", "The year of birth of {} is {} ."),
        ("When was {} born ?", "In which year was {} born ?"),
        tuple(str(year) for year in range(1940, 2005, 3)),
    ),
    Property(
        ("{} likes to eat {} .", "The favourite dish of {} is {} ."),
        ("What does {} like to eat ?", "Which dish does {} like most ?"),
        ("rice", "fried fish", "soup", "bread with cheese", "noodles", "apple cake", "beans"),
    ),
    Property(
        ("{} speaks {} .", "The first language of {} is {} ."),
        ("Which language does {} speak ?", "What is the first language of {} ?"),
        ("Greek", "Swahili", "Polish", "Hindi", "Danish", "Old Norse", "Swiss German", "Thai"),
    ),
)


def load_made_questions(config: Any) -> Splits[Questions]:
    """Make the parts of a ``MadeQuestionsConfig``; the same config gives the same questions."""
    parts = {
        part: Questions([made_question(config, part, i) for i in range(getattr(config, part))])
        for part in PARTS
    }
    reports = [Report(f"made {p}", len(some), "questions") for p, some in parts.items()]
    return Splits(**parts, reports=reports)


def made_question(config: Any, part: str, number: int) -> Question:
    """Return one question with its document, a function of the seed, the part and the number."""
    draws = iter(bits((16 * config.facts + 32,), config.seed, PARTS.index(part), number, stream=23))

    def choose(options: Any) -> Any:
        return options[int(next(draws) % np.uint64(len(options)))]

    # Few people, so that a name alone does not say where the answer is.
    people: list[str] = []
    while len(people) < max(2, config.facts // 2):
        people += [name for name in [choose(NAMES)] if name not in people]
    slots = [(name, kind) for name in people for kind in range(len(PROPERTIES))]
    facts: dict[tuple[str, int], tuple[str, int]] = {}
    document = ""
    while len(facts) < config.facts:
        slot = choose([one for one in slots if one not in facts])
        value = choose(PROPERTIES[slot[1]].values)
        sentence = choose(PROPERTIES[slot[1]].sentences).format(slot[0], "\0")
        before, _, after = sentence.partition("\0")
        document += (" " if document else "") + before
        facts[slot] = value, len(document)
        document += value + after
    missing = [one for one in slots if one not in facts]
    asked = choose(missing if _share(next(draws)) < config.unanswerable else list(facts))
    text = choose(PROPERTIES[asked[1]].questions).format(asked[0])
    answers = (facts[asked],) if asked in facts else ()
    return Question(
        f"{part}-{number}", text, document, answers, f"made {part}:{number + 1}", number
    )


def _share(number: Any) -> float:
    return float(number >> np.uint64(11)) * 2.0**-53

"""Made stories of people who go to places and carry objects, as in bAbI's tasks 1 to 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from attnzoo.data.corpus import PARTS, Report, Splits
from attnzoo.data.random_numbers import bits
from attnzoo.data.stories import Stories, StoryQuestion, words_of

PEOPLE = "mary john sandra daniel".split()
PLACES = "kitchen bathroom bedroom garden hallway office".split()
OBJECTS = "football apple milk".split()
MOVES = ("went to the", "journeyed to the", "travelled to the", "moved to the")
TAKES = ("got the", "took the", "grabbed the", "picked up the")
DROPS = ("dropped the", "left the", "discarded the", "put down the")
Choose = Callable[[Any], Any]


class Asked(NamedTuple):
    """A question, its answer, and the numbers of its supporting sentences."""

    text: str
    answer: str
    supports: tuple[int, ...]


class Trip(NamedTuple):
    """A change of an object's place: from where to where, and the sentences that say so."""

    before: str
    after: str
    supports: tuple[int, ...]


class World:
    """People, places and objects, with the sentences told so far and what supports each fact."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.where: dict[str, tuple[str, int]] = {}  # person: place, number of the sentence
        self.held: dict[str, tuple[str, int]] = {}  # object: person, number of the taking
        self.lying: dict[str, tuple[str, tuple[int, ...]]] = {}  # object: place, supports
        self.trips: dict[str, list[Trip]] = {}

    def tell(self, choose: Choose, *, objects: bool) -> None:
        """Add a sentence on something that can happen."""
        person, number = choose(PEOPLE), len(self.sentences)
        held = [thing for thing, (who, _) in self.held.items() if who == person]
        here = self.where.get(person, ("", 0))[0]
        near = [
            thing
            for thing in OBJECTS
            if thing not in self.held and self.lying.get(thing, (here,))[0] == here
        ]
        event = choose(("move", "move", "take", "take", "drop")) if objects and here else "move"
        if event == "take" and near:
            thing = choose(near)
            self.sentences.append(f"{person} {choose(TAKES)} {thing}")
            self.held[thing] = person, number
            self.lying.pop(thing, None)
        elif event == "drop" and held:
            thing = choose(held)
            self.sentences.append(f"{person} {choose(DROPS)} {thing}")
            self.lying[thing] = here, (number, self.where[person][1])
            del self.held[thing]
        else:
            place = choose([place for place in PLACES if place != here])
            self.sentences.append(f"{person} {choose(MOVES)} {place}")
            for thing in held:
                taken, before = self.held[thing][1], self.where[person][1]
                trip = Trip(here, place, (taken, before, number))
                self.trips.setdefault(thing, []).append(trip)
            self.where[person] = place, number

    def questions(self, task: int) -> list[Asked]:
        """Return the questions of a task that the story answers."""
        if task == 1:
            return [
                Asked(f"where is {who} ?", place, (number,))
                for who, (place, number) in self.where.items()
            ]
        if task == 2:
            carried = [
                Asked(f"where is the {thing} ?", self.where[who][0], (taken, self.where[who][1]))
                for thing, (who, taken) in self.held.items()
            ]
            return carried + [
                Asked(f"where is the {thing} ?", place, supports)
                for thing, (place, supports) in self.lying.items()
            ]
        found = []
        for thing, trips in self.trips.items():
            latest = {trip.after: trip for trip in trips}  # of several stays the last one
            if len(latest) < 2:  # the place in the question would not matter
                continue
            found += [
                Asked(f"where was the {thing} before the {place} ?", trip.before, trip.supports)
                for place, trip in latest.items()
            ]
        return found


def load_made_stories(config: Any) -> Splits[Stories]:
    """Make the parts of a ``MadeStoriesConfig``; the same config gives the same stories."""
    parts = {
        part: Stories([made_story(config, part, i) for i in range(getattr(config, part))])
        for part in PARTS
    }
    reports = [Report(f"made {p}", len(some), "questions") for p, some in parts.items()]
    return Splits(**parts, reports=reports)


def made_story(config: Any, part: str, number: int) -> StoryQuestion:
    """Return one story with its question, a function of the seed, the part and the number."""
    task = config.tasks[number % len(config.tasks)]
    draws = _draws(config.seed, PARTS.index(part), number)

    def choose(options: Any) -> Any:
        return options[int(next(draws) % np.uint64(len(options)))]

    while True:
        world = World()
        for _ in range(choose(range(task + 1, config.sentences + 1))):
            world.tell(choose, objects=task > 1)
        asked = world.questions(task)
        if asked:
            text, answer, supports = choose(asked)
            sentences = tuple(map(words_of, world.sentences))
            place = f"made {part}:{number + 1}"
            return StoryQuestion(sentences, text, answer, supports, place, f"task {task}")


def _draws(*key: int) -> Iterator[Any]:
    """Yield random numbers of 64 bits without end, a function of the key."""
    block = 0
    while True:
        yield from bits((128,), *key, block, stream=31)
        block += 1

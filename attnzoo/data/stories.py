"""Questions on stories: files of bAbI's format, vocabulary, and batches of sentences."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, final

import numpy as np
import xxhash
from jaxtyping import Int32, Int64

from attnzoo.data.ahead import rows_of
from attnzoo.data.batching import Batch, RowPlan
from attnzoo.data.corpus import PARTS, Report, Splits, add_strings
from attnzoo.data.labelled import split_off_parts
from attnzoo.data.locations import expand
from attnzoo.data.order import RowOrder
from attnzoo.data.random_numbers import uniform
from attnzoo.data.sources import decode, read_lines
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError
from attnzoo.files import read_json, write_text

NIL, UNKNOWN = 0, 1
WORD = re.compile(r"[\w'-]+")


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a sentence in lower case, without punctuation."""
    return tuple(WORD.findall(text.lower()))


@dataclass(frozen=True)
class StoryQuestion:
    """One question on the sentences before it.

    Attributes:
      sentences: words of each sentence, the oldest first. supports: numbers of the sentences that
        the answer needs, from 0, where they are known.
      answer: one word, or several between commas, which count as one. task: name of its kind.
      problem: why the question cannot be used, in a few words; empty if it can.
    """

    sentences: tuple[tuple[str, ...], ...]
    text: str
    answer: str
    supports: tuple[int, ...] = ()
    place: str = ""
    task: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Stories:
    """Questions of one part of the data, in order."""

    items: Sequence[StoryQuestion]

    def __len__(self) -> int:
        return len(self.items)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every story, question and answer, the same in every process."""
        digest = xxhash.xxh3_128()
        for one in self.items:
            story = (" ".join(words) for words in one.sentences)
            add_strings(digest, (*story, one.text, one.answer, str(one.supports)))
        return digest.hexdigest()


class _Kept(TypedDict):
    """Content of ``words.json``."""

    words: list[str]


@dataclass(frozen=True)
class Words:
    """Words that a model knows, by number; 0 is no word and 1 an unknown one."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names) + 2

    @functools.cached_property
    def _number(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names, start=2)}

    def numbers(self, words: Sequence[str]) -> list[int]:
        """Return the number of each word."""
        return [self._number.get(word, UNKNOWN) for word in words]

    def name(self, number: int) -> str:
        """Return a word by its number."""
        return self.names[number - 2] if number >= 2 else "?"

    @classmethod
    def of(cls, stories: Stories) -> Words:
        """Return all words of stories, questions and answers, sorted."""
        found: set[str] = set()
        for one in stories.items:
            found.update(words_of(one.text), (one.answer.lower(),), *one.sentences)
        return cls(tuple(sorted(found)))

    @classmethod
    def read(cls, path: Path) -> Words:
        """Read the file of words of a run."""
        return cls(tuple(read_json(path, _Kept)["words"]))

    def write(self, path: Path) -> None:
        """Write the file of words of a run."""
        write_text(path, json.dumps({"words": self.names}, ensure_ascii=False) + "\n")


def load_stories(config: Any) -> Splits[Stories]:
    """Load or draw the parts of a ``StoriesConfig``; a missing part is empty.

    Lines without a number, and questions without words, an answer or a sentence before them, are
    skipped and counted; more than the share ``config.max_skipped`` is a UserError.
    """
    parts: dict[str, list[StoryQuestion]] = {}
    reports = []
    for part in PARTS:
        parts[part] = []
        for name in expand(getattr(config, part)) if getattr(config, part) else ():
            report = Report(name, unit="questions")
            for one in read_stories(name, config.encoding):
                report.read += 1
                problem = one.problem or "no answer" * (not one.answer)
                if problem:
                    report.skip(problem, one.place)
                else:
                    parts[part].append(one)
            if not report.kept:
                raise UserError(f"{name}: no usable question in {report.read:,}")
            report.check(config.max_skipped)
            reports.append(report)
    drawn = split_off_parts(parts, config)
    return Splits(**{part: Stories(found) for part, found in drawn.items()}, reports=reports)


def read_stories(path: str | Path, encoding: str = "utf-8") -> Iterator[StoryQuestion]:
    """Yield the questions of a file of bAbI's format (Weston et al. 2015, arXiv 1502.05698).

    A line is a number and a sentence, or a number, a question, a tab, its answer, a tab, and the
    numbers of its supporting sentences. A story begins at number 1. The answer may be missing.
    """
    return stories_in(enumerate(read_lines(path, encoding), start=1), path, Path(path).stem)


def stories_in(
    lines: Iterator[tuple[int, bytes]], name: str | Path, task: str
) -> Iterator[StoryQuestion]:
    """Yield the questions among numbered lines of bAbI's format."""
    story: list[tuple[str, ...]] = []
    numbers: dict[int, int] = {}
    for at, raw in lines:
        place = f"{name}:{at}"
        try:
            line = decode(raw)
        except UnicodeDecodeError:
            yield StoryQuestion((), "", "", (), place, task, "not UTF-8")
            continue
        if not line.strip():
            continue
        number, _, rest = line.strip().partition(" ")
        if not number.isdecimal():
            yield StoryQuestion((), rest, "", (), place, task, "a line without a number")
            continue
        if int(number) == 1:
            story, numbers = [], {}
        text, tab, more = rest.partition("\t")
        if not tab and "?" not in text:
            numbers[int(number)] = len(story)
            story.append(words_of(text))
            continue
        answer, _, supporting = more.partition("\t")
        wanted = [int(one) for one in supporting.split() if one.isdecimal()]
        problem = ""
        if not words_of(text):
            problem = "no question"
        elif not story:
            problem = "no sentence before the question"
        elif any(one not in numbers for one in wanted):
            problem = "a supporting sentence that is not in the story"
        supports = tuple(numbers[one] for one in wanted if one in numbers)
        answer = answer.strip().lower()
        yield StoryQuestion(tuple(story), text.strip(), answer, supports, place, task, problem)


@final
class StoryPlan(RowPlan):
    """Batches of questions with the latest ``memory`` sentences before each, the latest first.

    With ``time_noise`` empty memories are inserted at random, as a share of the sentences
    (Sukhbaatar et al. 2015, section 4.1), other ones at every step. In the first ``linear_epochs``
    ``linear`` is true.
    """

    def __init__(
        self,
        stories: Stories,
        words: Words,
        batch_size: int,
        memory: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        time_noise: float = 0.0,
        linear_epochs: int = 0,
    ) -> None:
        self.stories, self.batch_size, self.seed = stories, batch_size, seed
        self.time_noise, self.linear_epochs = time_noise, linear_epochs
        self._order = RowOrder(len(stories), batch_size, seed, shuffle)
        items = stories.items
        self.cut = sum(len(one.sentences) > memory for one in items)
        longest = max(len(one.sentences) for one in items)
        self.slots = min(memory, longest + round(time_noise * longest))
        self._sentences = [
            [words.numbers(some) for some in one.sentences[::-1][:memory]] for one in items
        ]
        self._questions = [words.numbers(words_of(one.text)) for one in items]
        self._answers = np.asarray([words.numbers([one.answer])[0] for one in items], np.int32)
        self.length = max(max(map(len, some)) for some in self._sentences)
        self.asked = max(map(len, self._questions))
        flat = [word for some in self._sentences for sentence in some for word in (*sentence, NIL)]
        self._fingerprint = array_fingerprint(
            np.asarray(flat, np.int32),
            np.asarray([word for some in self._questions for word in (*some, NIL)], np.int32),
            self._answers,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        more = {"time_noise": self.time_noise, "linear_epochs": self.linear_epochs}
        return {**super().fingerprint(), "slots": self.slots, **more}

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Return the batch of a step, or its ``rows``; steps count from 0 through all epochs."""
        return rows_of(self._collate(self._order.step(step), step), rows)

    def batches(self, epoch: int = 0) -> Iterator[Batch]:
        """Yield all batches of one epoch."""
        first = epoch * self.steps_per_epoch
        return map(self.batch, range(first, first + self.steps_per_epoch))

    def _collate(self, rows: Int64[np.ndarray, " B"], step: int) -> Batch:
        """Return the batch of these questions.

        ``stories``: int32 ``B M J``, words of the sentences, 0 behind them. ``valid``: bool
        ``B M``, false where there is no memory. ``question``: int32 ``B Q``. ``labels``: int32
        ``B``, the answer. ``supports``: bool ``B M``. ``linear``: bool ``B``. ``rows``: int32
        ``B``, the question's index, -1 for a padding row.
        """
        B, M = len(rows), self.slots
        stories = np.zeros((B, M, self.length), np.int32)
        question = np.zeros((B, self.asked), np.int32)
        valid, supports = np.zeros((2, B, M), np.bool_)
        for place, row in enumerate(rows.tolist()):
            if row < 0:
                continue
            question[place, : len(self._questions[row])] = self._questions[row]
            slots = self._slots(len(self._sentences[row]), step, place)
            for slot, sentence in zip(slots.tolist(), self._sentences[row]):
                stories[place, slot, : len(sentence)] = sentence
            valid[place, : slots[-1] + 1] = True
            count = len(self.stories.items[row].sentences)
            for number in self.stories.items[row].supports:
                if count - 1 - number < len(slots):
                    supports[place, slots[count - 1 - number]] = True
        return {
            "stories": stories,
            "valid": valid,
            "question": question,
            "labels": np.where(rows >= 0, self._answers[rows], 0).astype(np.int32),
            "supports": supports,
            "linear": np.full(B, step < self.linear_epochs * self.steps_per_epoch),
            "counted": rows >= 0,
            "rows": rows.astype(np.int32),
        }

    def _slots(self, count: int, *key: int) -> Int32[np.ndarray, " kept"]:
        """Return the memory of each sentence, the latest first; those beyond the last are left out.

        Before each sentence an empty memory is inserted with probability ``time_noise``.
        """
        slots = np.arange(count)
        if self.time_noise:
            slots = slots + np.cumsum(
                uniform((count,), self.seed, *key, stream=29) < self.time_noise
            )
        return slots[slots < self.slots].astype(np.int32)

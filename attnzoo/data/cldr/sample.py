"""Random phrases that two locales can both render."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from babel import Locale
from babel.core import get_global

from attnzoo.data.cldr.dates import INTERVALS, STYLES
from attnzoo.data.cldr.phrases import (
    Annotated,
    Interval,
    Measure,
    Moment,
    Money,
    Name,
    Number,
    Percent,
    Phrase,
    Price,
    Relative,
    Series,
)
from attnzoo.data.cldr.render import NUMBER, Renderer

FIRST_YEAR, LAST_YEAR = 1900, 2099
COUNTS: tuple[int, ...] = (*range(2, 60), *range(60, 100, 10), *range(100, 1000, 100))
THOUSANDS: tuple[int, ...] = tuple(range(1000, 10_000, 1000))
FRACTIONS: tuple[Decimal, ...] = tuple(Decimal(f"{whole}.5") for whole in range(10))
NUMBERS: tuple[Number, ...] = (1, *COUNTS, *THOUSANDS, *FRACTIONS)

# fmt: off
PRICES: tuple[str, ...] = (
    "EUR", "USD", "JPY", "GBP", "CNY", "AUD", "CAD", "CHF", "HKD", "SGD",
    "SEK", "KRW", "NOK", "NZD", "INR", "MXN", "TWD", "ZAR", "BRL", "DKK",
    "PLN", "THB", "ILS", "IDR", "CZK", "TRY", "HUF", "CLP", "SAR", "PHP",
    "COP", "RUB", "RON", "PEN", "EGP", "VND", "UAH", "MAD", "KES", "ISK",
)
RELATIVE_UNITS: tuple[str, ...] = (
    "year", "quarter", "month", "week", "day", "hour", "minute", "second", "sun", "mon",
    "tue", "wed", "thu", "fri", "sat",
)
# fmt: on
# Minimum size of a kind of nouns; a smaller kind is left out.
MIN_NOUNS = 12
# Probability that a single name comes before a phrase, until all names have been drawn.
NAME_SHARE = 0.1
# Codes that are not places: pseudo-locales, "unknown region".
NO_TERRITORY = frozenset({"XA", "XB", "ZZ", "QO"})

_SAMPLE_DAY = datetime(2015, 9, 8, 14, 30)


class Sampler:
    """Draws phrases that both renderers support, from a given random generator."""

    def __init__(self, source: Renderer, target: Renderer) -> None:
        self._both = lambda phrase: source.supports(phrase) and target.supports(phrase)
        claimed: dict[tuple[str, ...], tuple[str, ...]] = {}

        # One number of each pair of plural forms, to check all forms of a noun.
        def one_each(numbers: Iterable[Number]) -> list[Number]:
            return list({(source.plural(n), target.plural(n)): n for n in numbers}.values())

        probes = one_each(NUMBERS)
        whole_probes = one_each((1, *COUNTS))

        def usable(nouns: Iterable[tuple[Phrase, ...]]) -> Iterator[Phrase]:
            """Yield the first form of each noun whose words are plain and unambiguous."""
            for forms in nouns:
                pairs = [(_words(source, form), _words(target, form)) for form in forms]
                if not all(_is_plain(words) for pair in pairs for words in pair):
                    continue
                # "5 pounds" must not be money in one sentence and weight in the next.
                if all(claimed.get(left, right) == right for left, right in pairs):
                    claimed.update(pairs)
                    yield forms[0]

        self.territories = _enough(usable((Name("territory", code),) for code in _territories()))
        self.languages = _enough(usable((Name("language", code),) for code in _languages()))
        units = sorted(Locale.parse("en")._data["unit_patterns"])
        self.measures = _enough(usable(tuple(Measure(unit, n) for n in probes) for unit in units))
        self.money = _enough(
            usable(tuple(Money(code, n) for n in probes) for code in _currencies())
        )
        self.prices = [code for code in PRICES if self._both(Price(code, 10))]
        self.relative = [
            unit
            for unit in RELATIVE_UNITS
            if all(
                self._both(Relative(unit, direction, int(number)))
                for direction in ("future", "past")
                for number in whole_probes
            )
        ]
        self.styles = [style for style in STYLES if self._both(Moment(style, _SAMPLE_DAY))]
        if {"full", "time"} <= set(self.styles) and self._both(Moment("datetime", _SAMPLE_DAY)):
            self.styles.append("datetime")
        self.intervals = [style for style in INTERVALS if self._supports_interval(style)]
        self.series = [
            kind
            for kind in ("standard", "or")
            if self._both(Series(kind, (Moment("long", _SAMPLE_DAY),) * 4))
        ]

    def templates(self) -> list[tuple[float, Callable[[random.Random], Phrase]]]:
        """Return the supported kinds of phrases with their weights."""
        kinds: list[tuple[float, bool, Callable[[random.Random], Phrase]]] = [
            (0.26, bool(self.styles), self.moment),
            (0.16, bool(self.intervals), self.interval),
            (0.10, bool(self.measures or self.money), self.quantity),
            (0.12, bool(self.series and self.measures), self.list_of(self.quantity)),
            (0.09, bool(self.series and self.territories), self.list_of(self.territory)),
            (0.09, bool(self.series and self.languages), self.list_of(self.language)),
            (0.10, bool(self.series and self.styles), self.list_of(self.anything)),
            (0.05, bool(self.relative), self.relative_time),
            (0.02, self._both(Percent(10)), self.percent),
            (0.03, bool(self.prices), self.price),
            (0.06, bool(self.languages and self.territories), self.annotated),
            (0.03, bool(self.territories and "year" in self.intervals), self.reign),
        ]
        return [(weight, draw) for weight, available, draw in kinds if available]

    def stream(self, rng: random.Random) -> Iterator[Phrase]:
        """Yield random phrases endlessly; early ones include every name once, as a whole phrase."""
        names = [*self.territories, *self.languages]
        rng.shuffle(names)
        weights, draws = zip(*self.templates(), strict=True)
        while True:
            if names and rng.random() < NAME_SHARE:
                yield names.pop()
            yield rng.choices(draws, weights)[0](rng)

    def moment(self, rng: random.Random) -> Phrase:
        return Moment(rng.choice(self.styles), _day(rng))

    def interval(self, rng: random.Random) -> Phrase:
        style = rng.choice(self.intervals)
        start = _day(rng)
        if style == "time":
            end = start.replace(hour=rng.randrange(24), minute=rng.randrange(60))
            start, end = sorted((start, end))
            if start.hour == end.hour:
                start, end = start.replace(hour=9), start.replace(hour=18)
            return Interval(style, start, end)
        if style == "year":
            return Interval(style, *_years(rng))
        if style == "month":
            end = start + timedelta(days=rng.choice((31, 62, 93, 185, 365)))
        else:
            end = start + timedelta(days=rng.choice((1, 2, 3, 7, 12, 30, 90, 200)))
        if style == "day" and end.year != start.year:
            start, end = start.replace(month=3), start.replace(month=10)
        if end.year > LAST_YEAR:
            start, end = start.replace(year=2000), end.replace(year=2000 + end.year - start.year)
        return Interval(style, start, end)

    def quantity(self, rng: random.Random) -> Phrase:
        nouns = self.money if self.money and (not self.measures or rng.random() < 0.4) else None
        noun = rng.choice(nouns or self.measures)
        return dataclasses.replace(noun, number=_number(rng))

    def territory(self, rng: random.Random) -> Phrase:
        return rng.choice(self.territories)

    def language(self, rng: random.Random) -> Phrase:
        return rng.choice(self.languages)

    def relative_time(self, rng: random.Random) -> Phrase:
        direction = rng.choice(("future", "past"))
        number = 1 if rng.random() < 0.15 else rng.choice(COUNTS)
        return Relative(rng.choice(self.relative), direction, number)

    def percent(self, rng: random.Random) -> Phrase:
        return Percent(rng.choice((1, *COUNTS)))

    def price(self, rng: random.Random) -> Phrase:
        return Price(rng.choice(self.prices), rng.choice((*COUNTS, *THOUSANDS)))

    def annotated(self, rng: random.Random) -> Phrase:
        return Annotated(self.language(rng), self.territory(rng))

    def reign(self, rng: random.Random) -> Phrase:
        return Annotated(self.territory(rng), Interval("year", *_years(rng)))

    def anything(self, rng: random.Random) -> Phrase:
        choices: list[Callable[[random.Random], Phrase]] = [self.quantity] if self.measures else []
        choices += [self.territory] if self.territories else []
        choices += [self.language] if self.languages else []
        choices += [self.relative_time] if self.relative else []
        choices += [self.price] if self.prices else []
        choices += [self.moment] if self.styles else []
        return rng.choice(choices)(rng)

    def list_of(self, draw: Callable[[random.Random], Phrase]) -> Callable[[random.Random], Phrase]:
        def series(rng: random.Random) -> Phrase:
            count = rng.choice((2, 2, 3, 3, 4))
            items: list[Phrase] = []
            while len(items) < count:
                item = draw(rng)
                if item not in items:
                    items.append(item)
            return Series(rng.choice(self.series), tuple(items))

        return series

    def _supports_interval(self, style: str) -> bool:
        start = datetime(2015, 3, 8, 9, 30)
        ends = {
            "time": [start.replace(hour=11, minute=45), start.replace(hour=15)],
            "year": [start.replace(year=2018)],
            "month": [start.replace(month=9), start.replace(year=2016)],
            "day": [start.replace(day=10), start.replace(month=9)],
        }.get(style, [start.replace(day=10), start.replace(month=9), start.replace(year=2016)])
        return all(self._both(Interval(style, start, end)) for end in ends)


def _enough(nouns: Iterable[Phrase]) -> list[Phrase]:
    """Return all nouns, or none if they are too few for lists."""
    nouns = list(nouns)
    return nouns if len(nouns) >= MIN_NOUNS else []


def _words(renderer: Renderer, phrase: Phrase) -> tuple[str, ...]:
    """Return the locale's words with numbers as "#"; nothing if it lacks the data."""
    try:
        tokens = renderer.render(phrase)
    except KeyError:
        return ()
    return tuple("#" if token.meaning == NUMBER else token.text for token in tokens)


def _is_plain(words: tuple[str, ...]) -> bool:
    """Return whether there are at most four words (and a number), of letters only."""
    own = [word for word in words if word != "#"]
    return (
        0 < len(own) <= 4
        and "-" not in own
        and not any(char in "()[]（）/–—,:;.⋅" or char.isdigit() for char in "".join(own))
    )


def _territories() -> list[str]:
    return [c for c in sorted(Locale.parse("en")._data["territories"]) if c not in NO_TERRITORY]


def _languages() -> list[str]:
    """Return the languages with a two-letter code; rarer ones would add only names."""
    return [c for c in sorted(Locale.parse("en")._data["languages"]) if len(c) == 2]


def _currencies() -> list[str]:
    """Return every currency that is legal tender somewhere today."""
    table = get_global("territory_currencies")
    return sorted({row[0] for rows in table.values() for row in rows if row[2] is None and row[3]})


def _day(rng: random.Random) -> datetime:
    days = (datetime(LAST_YEAR, 12, 31) - datetime(FIRST_YEAR, 1, 1)).days
    day = datetime(FIRST_YEAR, 1, 1) + timedelta(days=rng.randrange(days + 1))
    minute = rng.randrange(60) if rng.random() < 0.6 else rng.randrange(0, 60, 15)
    return day.replace(hour=rng.randrange(24), minute=minute)


def _years(rng: random.Random) -> tuple[datetime, datetime]:
    start = rng.randrange(FIRST_YEAR, LAST_YEAR)
    end = min(start + rng.randrange(1, 60), LAST_YEAR)
    return datetime(start, 1, 1), datetime(end, 1, 1)


def _number(rng: random.Random) -> Number:
    draw = rng.random()
    if draw < 0.20:  # many nouns have a singular form of their own, which must be frequent enough
        return 1
    if draw < 0.28:
        return rng.choice(FRACTIONS)
    return rng.choice(THOUSANDS) if draw < 0.34 else rng.choice(COUNTS)

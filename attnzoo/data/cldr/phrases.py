"""Phrases as language-independent values that every locale can render."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

Number = int | Decimal


@dataclass(frozen=True)
class Name:
    """A territory or a language; `kind` is "territory" or "language", `code` the CLDR code."""

    kind: str
    code: str


@dataclass(frozen=True)
class Measure:
    """A number of units: 3 kilometers. `unit` is a CLDR unit such as "length-kilometer"."""

    unit: str
    number: Number


@dataclass(frozen=True)
class Money:
    """An amount with the currency's name: 10 euros. `code` is the ISO 4217 code."""

    code: str
    number: Number


@dataclass(frozen=True)
class Price:
    """An amount with the currency's ISO code: EUR 10, 10 EUR."""

    code: str
    number: int


@dataclass(frozen=True)
class Percent:
    """A percentage with the sign: 47 %."""

    number: int


@dataclass(frozen=True)
class Relative:
    """A time from now: in 3 days, 3 days ago. `direction` is "future" or "past"."""

    unit: str
    direction: str
    number: int


@dataclass(frozen=True)
class Moment:
    """A date, a time or both; `style` is a key of `dates.STYLES` or "datetime"."""

    style: str
    when: datetime


@dataclass(frozen=True)
class Interval:
    """A time interval from `start` to `end`; `style` is a key of `dates.INTERVALS`."""

    style: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Series:
    """A list: A, B and C. `kind` is "standard" (and) or "or"."""

    kind: str
    items: tuple[Phrase, ...]


@dataclass(frozen=True)
class Annotated:
    """A phrase with another in parentheses: French (Canada)."""

    outer: Phrase
    inner: Phrase


Phrase = (
    Name | Measure | Money | Price | Percent | Relative | Moment | Interval | Series | Annotated
)

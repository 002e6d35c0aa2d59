"""Rendering of dates, times and intervals with a locale's CLDR patterns, field by field."""

from __future__ import annotations

from datetime import datetime
from functools import cache

from babel import Locale
from babel.dates import DateTimeFormat, tokenize_pattern

from attnzoo.data.cldr.phrases import Interval, Moment
from attnzoo.data.cldr.tokens import Token, is_comma, numbered, split_words, tokens_of, within

Parts = list[tuple[str, str, int]]  # ("field", letter, width) or ("literal", text, 0)

# Pattern by style: a length of the locale's date format, or skeletons in order of preference,
# whose months and weekdays are then written out as in ICU.
STYLES: dict[str, str | tuple[str, ...]] = {
    "full": "full",
    "long": "long",
    "month": ("yMMMM", "yMMM"),
    "day": ("MMMMd", "MMMd"),
    "weekday": ("MMMMEEEEd", "MMMMEd", "MMMEd"),
    "numeric": ("yMd",),
    "quarter": ("yQQQQ",),
    "time": "time",
}
INTERVALS: dict[str, tuple[str, ...]] = {
    "date": ("yMMMMd", "yMMMd"),
    "weekday": ("yMMMMEEEEd", "yMMMMEd", "yMMMEd"),
    "month": ("yMMMM", "yMMM"),
    "day": ("MMMMd", "MMMd"),
    "year": ("y",),
    "time": ("hm", "Hm"),  # the skeleton of the locale's 12- or 24-hour clock
}
FIELDS = {
    **dict.fromkeys("yu", "year"),
    **dict.fromkeys("QqU", "quarter"),
    **dict.fromkeys("ML", "month"),
    "d": "day",
    **dict.fromkeys("Eec", "weekday"),
    **dict.fromkeys("hHkK", "hour"),
    "m": "minute",
    **dict.fromkeys("abB", "period"),
    "G": "era",
}


class DateRenderer:
    """Renders `Moment` and `Interval` in one locale.

    A locale without a pattern, or a pattern with an unsupported field, raises KeyError.
    """

    def __init__(self, locale: Locale) -> None:
        self._locale = locale
        self._data = locale._data
        self._text = cache(self._field_text)
        self._moment_parts = cache(self._parts_of_style)
        self._interval_parts = cache(self._parts_of_interval)

    def moment(self, moment: Moment) -> list[Token]:
        if moment.style != "datetime":
            parts = self._moment_parts(moment.style)
            return self._fields(parts, moment.when, moment.style == "numeric")
        halves = {
            "1": within(self.moment(Moment("full", moment.when)), "date"),
            "0": within(self.moment(Moment("time", moment.when)), "time"),
        }
        tokens: list[Token] = []
        for text, slot in slots(self._data["datetime_formats"]["full"]):
            tokens += halves[slot] if slot else numbered(split_words(text), ("datetime",))
        return tokens

    def interval(self, interval: Interval) -> list[Token]:
        """Render an interval; meanings of fields that differ are marked "start" or "end"."""
        first, dash, second = self._interval_parts(interval.style, _greatest_difference(interval))
        differing = _differing(interval)
        start = self._fields(first, interval.start)
        end = self._fields(second, interval.end)
        middle = [Token(word) for word in dash[:-1]] + [Token(dash[-1], ("interval",))]
        return _mark(start, "start", differing) + middle + _mark(end, "end", differing)

    def _fields(self, parts: Parts, when: datetime, numeric: bool = False) -> list[Token]:
        tokens: list[Token] = []
        for index, (kind, value, width) in enumerate(parts):
            if kind == "literal":
                tokens += _literal(parts, index, numeric)
                continue
            name = FIELDS[value]
            # The hour of a 24-hour clock includes the meaning of PM in the other language.
            also = ("period",) if value in "Hk" else None
            tokens += tokens_of(self._text(value * width, _relevant(value, when)), (name,), also)
        return tokens

    def _field_text(self, letters: str, when: datetime) -> str:
        if letters[0] == "L" and len(letters) >= 3:
            alone = self._data["months"]["stand-alone"]["wide"]
            # babel gives numbered months of another calendar if a locale inherits the format.
            if alone[9] == "9月" != self._data["months"]["format"]["wide"][9]:
                letters = "M" * len(letters)
        return str(DateTimeFormat(when, self._locale)[letters])

    def _parts_of_style(self, style: str) -> Parts:
        source = STYLES[style]
        if source == "time":
            return _parts(self._data["time_formats"]["short"].pattern)
        if isinstance(source, str):
            return _parts(self._data["date_formats"][source].pattern)
        skeletons = self._data["datetime_skeletons"]
        for skeleton in source:
            if skeleton in skeletons:
                return _widen(_parts(skeletons[skeleton].pattern))
        raise KeyError(style)

    def _parts_of_interval(
        self, style: str, difference: str
    ) -> tuple[Parts, tuple[str, ...], Parts]:
        formats = self._data["interval_formats"]
        choices = INTERVALS[style]
        if style == "time":
            half_days = any(value in ("h", "K") for _, value, _ in self._moment_parts("time"))
            choices = ("hm",) if half_days else ("Hm",)
            difference = difference if half_days else "H"
        for skeleton in choices:
            patterns = formats.get(skeleton, {}).get(difference)
            if patterns and len(patterns) == 2:
                first, second = (_widen(_parts(pattern)) for pattern in patterns)
                return _split_dash(first, second)
        raise KeyError(style)


def slots(pattern: str) -> list[tuple[str, str]]:
    """Split "{1}, {0}" into ("", "1"), (", ", ""), ("", "0")."""
    pieces: list[tuple[str, str]] = []
    rest = pattern
    while rest:
        before, brace, rest = rest.partition("{")
        if before:
            pieces.append((before, ""))
        if brace:
            slot, _, rest = rest.partition("}")
            pieces.append(("", slot))
    return pieces


def _parts(pattern: str) -> Parts:
    parts: Parts = []
    for _, value in tokenize_pattern(pattern):
        if not isinstance(value, str):  # a field; literals are strings
            letter, width = value
            if letter not in FIELDS:
                raise KeyError(letter)
            parts.append(("field", letter, int(width)))
        elif parts and parts[-1][0] == "literal":
            parts[-1] = ("literal", parts[-1][1] + value, 0)
        else:
            parts.append(("literal", value, 0))
    return parts


def _widen(parts: Parts) -> Parts:
    """Write months and weekdays out: MMM to MMMM and E to EEEE, as ICU adjusts a skeleton."""
    widened: Parts = []
    for kind, value, width in parts:
        if kind == "field" and (value in "Eec" or (value in "ML" and width == 3)):
            width = 4
        widened.append((kind, value, width))
    return widened


def _split_dash(first: Parts, second: Parts) -> tuple[Parts, tuple[str, ...], Parts]:
    """Cut the dash off the first half of an interval pattern.

    The text after the last field may be more than a dash, as in "d日～" and "d日": the second half
    shows which part belongs to the field.
    """
    if first[-1][0] != "literal":
        raise KeyError("interval")
    text = first[-1][1]
    own = second[-1][1].strip() if second[-1][0] == "literal" else ""
    if own and text.strip().startswith(own) and text.strip() != own:
        text = text.strip()
        dash = split_words(text[len(own) :])
        return [*first[:-1], ("literal", own, 0)], dash, second
    words = split_words(text)
    if not words:
        raise KeyError("interval")
    return [*first[:-1], ("literal", " ".join(words[:-1]), 0)], words[-1:], second


def _literal(parts: Parts, index: int, numeric: bool) -> list[Token]:
    """Return the words between fields, with meanings that match those of the other language.

    In a numeric date the k-th separator matches the k-th. The separator of hour and minute matches
    its counterpart. A comma belongs to the weekday beside it, else to the year. Any other word
    matches the same word after the same field.
    """
    words = split_words(parts[index][1])
    before = FIELDS[parts[index - 1][1]] if index else ""
    after = FIELDS[parts[index + 1][1]] if index + 1 < len(parts) else ""
    if before and after and len(words) == 1 and numeric:
        return [Token(words[0], ("separator", index))]
    if (before, after) == ("hour", "minute") and len(words) == 1:
        return [Token(words[0], ("hour:minute",))]
    owner = next((name for name in ("weekday", "year") if name in (before, after)), before)
    return [
        Token(word, ("literal", ",", owner)) if is_comma(word) else token
        for word, token in zip(words, numbered(words, (before,)), strict=True)
    ]


def _relevant(letter: str, when: datetime) -> datetime:
    """Reset the parts of `when` that a field does not show, so that equal fields share caches."""
    name = FIELDS[letter]
    if name == "year":
        return datetime(when.year, 1, 1)
    if name in ("month", "quarter"):
        return datetime(2000, when.month, 1)
    if name == "day":
        return datetime(2000, 1, when.day)
    if name == "weekday":
        return datetime(2001, 1, 1 + when.weekday())  # the first of January 2001 was a Monday
    if name in ("hour", "period"):
        return datetime(2000, 1, 1, when.hour, 0 if letter != "B" else when.minute)
    return datetime(2000, 1, 1, 0, when.minute)


def _values(when: datetime) -> dict[str, int]:
    return {
        "year": when.year,
        "month": when.month,
        "day": when.day,
        "weekday": when.weekday(),
        "period": when.hour // 12,
        "hour": when.hour,
        "minute": when.minute,
    }


def _differing(interval: Interval) -> frozenset[str]:
    """Return the fields that both ends write: all from the greatest difference down."""
    start, end = _values(interval.start), _values(interval.end)
    if interval.style == "time":
        different = {"hour", "minute"}
        return frozenset(different | ({"period"} if start["period"] != end["period"] else set()))
    order = ["year", "month", "day"]
    first = next(index for index, name in enumerate(order) if start[name] != end[name])
    return frozenset([*order[first:], "weekday"])


def _greatest_difference(interval: Interval) -> str:
    start, end = _values(interval.start), _values(interval.end)
    if interval.style == "time":
        return "a" if start["period"] != end["period"] else "h"
    names = {"year": "y", "month": "M", "day": "d"}
    return next(letter for name, letter in names.items() if start[name] != end[name])


def _mark(tokens: list[Token], end: str, differing: frozenset[str]) -> list[Token]:
    own = differing | {"hour:minute", "literal"}
    marked = []
    for text, meaning, also in tokens:
        if meaning is not None and meaning[0] in own:
            meaning = (end, *meaning)
        if also is not None and also[0] in differing:
            also = (end, *also)
        marked.append(Token(text, meaning, also))
    return marked

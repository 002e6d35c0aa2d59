"""Rendering of phrases in one locale, as words with their meanings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from babel import Locale
from babel.numbers import format_decimal

from attnzoo.data.cldr.dates import DateRenderer, slots
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
from attnzoo.data.cldr.tokens import Token, is_comma, split_words, tokens_of, within

NUMBER = ("number",)


class Renderer:
    """Renders any phrase in one locale as tokens.

    Missing data of the locale raises KeyError; `supports` tests beforehand. Numbers are written
    with Latin digits and the locale's separators.
    """

    def __init__(self, locale: Locale) -> None:
        self.locale = locale
        self._data = locale._data
        self._dates = DateRenderer(locale)
        # Cached: babel is slow, and the corpus needs the same few thousand results.
        self._number = cache(self._number_words)
        self._unit = cache(self._unit_pattern)
        self._currency = cache(self._currency_name)
        self._relative = cache(self._relative_words)
        self._name = cache(self._name_words)

    def supports(self, phrase: Phrase) -> bool:
        """Return whether the locale has the data to render a phrase as at least one word."""
        try:
            return bool(self.render(phrase))
        except KeyError:
            return False

    def render(self, phrase: Phrase) -> list[Token]:
        match phrase:
            case Name(kind, code):
                return [Token(word, (kind,)) for word in self._name(kind, code)]
            case Measure(unit, number):
                return self._counted(self._unit(unit, self.plural(number)), number, "unit")
            case Money(code, number):
                return self._money(code, number)
            case Price(code, number):
                affixes = self.locale.currency_formats["standard"]
                return self._affixed(affixes, "¤", code, ("currency",), number)
            case Percent(number):
                sign = self._symbol("percentSign")
                affixes = self.locale.percent_formats[None]
                return self._affixed(affixes, "%", sign, ("percent",), number)
            case Relative():
                return self._relative_time(phrase)
            case Moment():
                return self._dates.moment(phrase)
            case Interval():
                return self._dates.interval(phrase)
            case Series(kind, items):
                return self._series(kind, [self.render(item) for item in items])
            case Annotated(outer, inner):
                # Parentheses in every language, as in babel's Locale.get_display_name.
                opening, closing = Token("(", ("opening",)), Token(")", ("closing",))
                inside = within(self.render(inner), "inner")
                return [*within(self.render(outer), "outer"), opening, *inside, closing]

    def _name_words(self, kind: str, code: str) -> tuple[str, ...]:
        names: Mapping[str, str] = self._data["territories" if kind == "territory" else "languages"]
        return split_words(names[code]) if names[code] != code else ()

    def plural(self, number: Number) -> str:
        """Return the plural category of a number: "one", "few", "other", ..."""
        return self.locale.plural_form(number)

    def _number_words(self, number: Number) -> tuple[str, ...]:
        return split_words(format_decimal(number, locale=self.locale))

    def _number_tokens(self, number: Number) -> list[Token]:
        return [Token(word, NUMBER) for word in self._number(number)]

    def _counted(self, pattern: str, number: Number, what: str) -> list[Token]:
        """Fill a number into a pattern.

        If the pattern has no slot (the Arabic dual), the noun also has the number's meaning.
        """
        also = None if "{0}" in pattern else NUMBER
        tokens: list[Token] = []
        for text, slot in slots(pattern):
            tokens += self._number_tokens(number) if slot else tokens_of(text, (what,), also)
        return tokens

    def _unit_pattern(self, unit: str, plural: str) -> str:
        lengths = self._data["unit_patterns"][unit]
        for length in ("long", "short"):
            forms = lengths.get(length) or {}
            if pattern := forms.get(plural) or forms.get("other"):
                return pattern
        raise KeyError(unit)

    def _money(self, code: str, number: Number) -> list[Token]:
        plural = self.plural(number)
        patterns = self._data["currency_unit_patterns"]
        tokens: list[Token] = []
        for text, slot in slots(patterns.get(plural) or patterns["other"]):
            if slot == "0":
                tokens += self._number_tokens(number)
            elif slot == "1":
                tokens += tokens_of(self._currency(code, plural), ("currency",))
            else:
                tokens += tokens_of(text, None)
        return tokens

    def _currency_name(self, code: str, plural: str) -> str:
        forms = self._data["currency_names_plural"].get(code) or {}
        return forms.get(plural) or forms.get("other") or self._data["currency_names"][code]

    def _symbol(self, name: str) -> str:
        return self.locale.number_symbols["latn"][name]

    def _affixed(
        self, pattern: object, mark: str, text: str, meaning: tuple[str], number: int
    ) -> list[Token]:
        """Render a number with a sign before or after it, by the pattern's prefix and suffix."""
        prefix, suffix = (getattr(pattern, name)[0] for name in ("prefix", "suffix"))
        if mark not in prefix + suffix:
            raise KeyError(mark)
        before = tokens_of(prefix.replace(mark, text), meaning)
        return before + self._number_tokens(number) + tokens_of(suffix.replace(mark, text), meaning)

    def _relative_time(self, phrase: Relative) -> list[Token]:
        words = self._relative(phrase.unit, phrase.direction, self.plural(phrase.number))
        # Without a slot for the number ("in a month") the unit has its meaning.
        spelled = any(role == "number" for _, role in words)
        tokens: list[Token] = []
        for word, role in words:
            if role == "number":
                tokens += self._number_tokens(phrase.number)
            else:
                tokens.append(Token(word, (role,), None if spelled or role != "unit" else NUMBER))
        return tokens

    def _relative_words(self, unit: str, direction: str, plural: str) -> list[tuple[str, str]]:
        """Return the words of "in {0} days" with their roles: number, unit and direction.

        The unit is the part that the patterns of the future and the past share ("days"), the
        direction the part that only one has ("in", "ago"). If a language inflects the unit instead,
        nothing is shared, the alignment is not known, and KeyError is raised.
        """
        field = self._data["date_fields"][unit]
        runs: dict[str, list[str]] = {}
        for name in ("future", "past"):
            forms = field[name]
            pattern = forms.get(plural) or forms["other"]
            runs[name] = [
                word
                for text, slot in slots(pattern)
                for word in ([""] if slot else split_words(text))
            ]
        own = runs[direction]
        other = runs["past" if direction == "future" else "future"]
        shared = {word for word in own if word} & set(other)
        if not shared:
            own, shared = _split_affixes(own, other)
        roles = [(w, "number" if not w else "unit" if w in shared else "direction") for w in own]
        if {"unit", "direction"} - {role for _, role in roles}:
            raise KeyError(unit)
        return roles

    def _series(self, kind: str, items: list[list[Token]]) -> list[Token]:
        patterns = self._data["list_patterns"][kind]
        count = len(items)
        tokens = within(items[0], "item", 0)
        for index in range(1, count):
            name = "2" if count == 2 else "end" if index == count - 1 else "start"
            name = "middle" if name == "start" and index > 1 else name
            joined: list[Token] = []
            for text, slot in slots(patterns[name]):
                if slot == "0":
                    joined += tokens
                elif slot == "1":
                    joined += within(items[index], "item", index)
                else:
                    joined += [_separator(word, index) for word in split_words(text)]
            tokens = joined
        return tokens


def _separator(word: str, index: int) -> Token:
    kind = "comma" if is_comma(word) or word in ";؛" else "word"
    return Token(word, ("separator", index, kind))


def _split_affixes(own: list[str], other: list[str]) -> tuple[list[str], set[str]]:
    """Split "年後" against "年前" into 年 (shared) and 後, for scripts without spaces."""
    shared: set[str] = set()
    words: list[str] = []
    for word in own:
        # Letters with case mark a script with spaces, where a shared ending is inflection.
        rival = next((x for x in other if x and x[0] == word[:1] and x != word), "")
        if not word or not rival or word.lower() != word.upper():
            words.append(word)
            continue
        start = _common_prefix(word, rival)
        end = _common_prefix(word[start:][::-1], rival[start:][::-1])
        stop = len(word) - end
        words += [part for part in (word[:start], word[start:stop], word[stop:]) if part]
        shared |= {part for part in (word[:start], word[stop:]) if part}
    return words, shared


def _common_prefix(first: str, second: str) -> int:
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length

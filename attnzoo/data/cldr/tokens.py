"""Words with their meanings, and the alignment that follows from equal meanings."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from attnzoo.alignment.links import Link, Links

# A meaning is a path: ("item", 2, "unit"). Words of equal meaning are translations.
Meaning = tuple[Hashable, ...]

# Characters that belong to a word if they are between two letters or digits.
_JOINERS = frozenset("-'’‑.·・״׳,٫٬")
# Invisible characters that control display only: bidi marks, soft hyphen, zero-width space.
_INVISIBLE = frozenset("\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\ufeff") | {
    chr(code) for code in range(0x2060, 0x206A)
}
# Zero-width (non-)joiners shape Persian and Indic words and belong to them.
_SHAPING = frozenset("\u200c\u200d")


class Token(NamedTuple):
    """One word with its text, its meaning and perhaps a second meaning.

    `meaning` is None for a word that only grammar requires. `also` is a second meaning that the
    word includes, as the 14 of "14:30" includes the PM of "2:30 PM".
    """

    text: str
    meaning: Meaning | None = None
    also: Meaning | None = None


@cache
def split_words(text: str) -> tuple[str, ...]:
    """Split at white space, and make every punctuation mark or symbol a word of its own.

    A hyphen, apostrophe, dot or comma between two letters or digits stays inside its word
    ("Guinea-Bissau", "d’Ivoire", "2.5"). Runs of a script without spaces stay whole.
    """
    text = "".join(char for char in text if char not in _INVISIBLE)
    words: list[str] = []
    open_word = False
    for position, char in enumerate(text):
        inside = _is_word_character(char) or (
            open_word
            and char in _JOINERS
            and position + 1 < len(text)
            and _is_word_character(text[position + 1])
        )
        if inside and open_word:
            words[-1] += char
        elif not char.isspace():
            words.append(char)
        open_word = inside
    return tuple(words)


def tokens_of(text: str, meaning: Meaning | None, also: Meaning | None = None) -> list[Token]:
    """Split `text` into tokens, all with one meaning."""
    return [Token(word, meaning, also) for word in split_words(text)]


def numbered(words: Iterable[str], place: Meaning) -> list[Token]:
    """Return pattern words ("de", ",") with meanings of place, text and occurrence number."""
    seen: Counter[str] = Counter()
    tokens = []
    for word in words:
        kind = "," if is_comma(word) else word.casefold()
        tokens.append(Token(word, (*place, "literal", kind, seen[kind])))
        seen[kind] += 1
    return tokens


def within(tokens: Iterable[Token], *place: Hashable) -> list[Token]:
    """Prefix every meaning with `place`, for words that are part of something larger."""
    return [
        Token(
            text,
            None if meaning is None else (*place, *meaning),
            None if also is None else (*place, *also),
        )
        for text, meaning, also in tokens
    ]


def is_comma(word: str) -> bool:
    return word in {",", "،", "、", "，", "･", "՝", "፣", "߸"}


def links_between(source: Sequence[Token], target: Sequence[Token]) -> Links:
    """Return the word alignment, which links tokens of equal meaning.

    One token against one, or one against several, is sure. Several against several are possible,
    all with all, because it is not known which words of a name correspond. But if both sides write
    the same words, or repeat one word equally often, the first is linked to the first, and so on,
    as sure. Second meanings give possible links. Tokens without a counterpart have no link.
    """
    source_groups, target_groups = _groups(source), _groups(target)
    _join_lone_separators(source_groups, target_groups)
    sure: set[Link] = set()
    possible: set[Link] = set()
    for meaning, left in source_groups.items():
        right = target_groups.get(meaning, [])
        every = [(i, j) for i in left for j in right]
        if len(left) == 1 or len(right) == 1:
            sure.update(every)
        elif _in_step([source[i].text for i in left], [target[j].text for j in right]):
            sure.update(zip(left, right, strict=True))
        else:
            possible.update(every)
    for i, token in enumerate(source):
        possible.update((i, j) for j in _of_second_meaning(token, target_groups))
    for j, token in enumerate(target):
        possible.update((i, j) for i in _of_second_meaning(token, source_groups))
    return Links.of(sure, possible)


def _in_step(left: list[str], right: list[str]) -> bool:
    repeated = len(left) == len(right) and len(set(left)) == len(set(right)) == 1
    return left == right or repeated


def _of_second_meaning(token: Token, groups: dict[Meaning, list[int]]) -> list[int]:
    return [] if token.also is None else groups.get(token.also, [])


def _groups(tokens: Sequence[Token]) -> dict[Meaning, list[int]]:
    groups: defaultdict[Meaning, list[int]] = defaultdict(list)
    for position, token in enumerate(tokens):
        if token.meaning is not None:
            groups[token.meaning].append(position)
    return dict(groups)


def _join_lone_separators(
    source: dict[Meaning, list[int]], target: dict[Meaning, list[int]]
) -> None:
    """Align "and" with a comma if each is the only separator of one language between two items.

    The list patterns key a separator (..., "separator", k, "comma" or "word").
    """
    for meaning in list(source):
        if len(meaning) < 3 or meaning[-3] != "separator" or meaning in target:
            continue
        twin = (*meaning[:-1], "word" if meaning[-1] == "comma" else "comma")
        if twin in target and twin not in source:
            target[meaning] = target.pop(twin)


def _is_word_character(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN" or char in _SHAPING

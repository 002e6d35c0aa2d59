"""Splitting of text into words and pieces, and joining, shared by all tokenizers.

A *word* is the unit of alignment links: a whitespace-separated token (`split="whitespace"`), or, if
punctuation is split off, a run of letters and digits or a single punctuation mark or symbol
(`split="punctuation"`). A *piece* is a word with its spacing written into it, so that the text can
be rebuilt from pieces alone:

- SPACE before the word: a space comes before it. A word of letters and digits always has it, which
  keeps one vocabulary entry per word; a punctuation mark only if the text has the space.
- JOINER after a punctuation mark: the next word follows without a space.

`l'eau, 3.5 km` is `▁l`, `'￭`, `▁eau`, `,`, `▁3`, `.￭`, `▁5`, `▁km`. Text is normalised to NFC,
and runs of whitespace become one space; nothing else is lost.
"""

from __future__ import annotations

import unicodedata

SPACE = "▁"  # U+2581, as sentencepiece writes it
JOINER = "￭"  # U+FFED, as OpenNMT writes it
# Both marks are replaced in the text by characters that look like them.
_REPLACE_MARKS = str.maketrans({SPACE: "_", JOINER: "■"})


def is_punctuation(character: str) -> bool:
    """Return whether a character is punctuation or a symbol by its Unicode category."""
    return unicodedata.category(character)[0] in "PS"


def split_token(token: str, *, split: str, lowercase: bool) -> tuple[list[str], list[str]]:
    """Return the words and the pieces, equally many, of one whitespace-separated token."""
    token = unicodedata.normalize("NFC", token).translate(_REPLACE_MARKS)
    if lowercase:
        token = token.lower()
    if split == "whitespace":
        return [token], [SPACE + token]
    words = _cut_punctuation(token)
    pieces = []
    for position, word in enumerate(words):
        if not is_punctuation(word[0]):
            pieces.append(SPACE + word)
            continue
        before = SPACE if position == 0 else ""
        is_joined = position + 1 < len(words) and not is_punctuation(words[position + 1][0])
        pieces.append(before + word + (JOINER if is_joined else ""))
    return words, pieces


def join_pieces(pieces: list[str]) -> str:
    """Join pieces (or parts of pieces, in order) into text."""
    spelled = "".join(pieces).replace(JOINER + SPACE, "").replace(JOINER, "")
    return spelled.replace(SPACE, " ").strip()


def strip_marks(piece: str) -> str:
    """Remove the spacing marks from a piece, or a part of one."""
    return piece.replace(SPACE, "").replace(JOINER, "")


def is_mark(piece: str, *, split: str) -> bool:
    """Return whether a piece is a punctuation mark that was split off."""
    return split == "punctuation" and is_punctuation(strip_marks(piece)[0])


def group_pieces(pieces: list[str], *, split: str) -> list[int]:
    """Return the index of the word of each piece, or part of a piece.

    This undoes splitting if only the tokens are known, as in generated text. A part continues
    the word before it unless it has a SPACE, or punctuation starts or ends between the two.
    """
    word_ids: list[int] = []
    word = ""
    index = -1
    for piece in pieces:
        surface = strip_marks(piece)
        starts = piece.startswith(SPACE)
        if split == "punctuation" and surface and word:
            starts = starts or is_punctuation(surface[0]) or is_punctuation(word[0])
        if index < 0 or (starts and word):  # a SPACE alone has begun its word already
            index += 1
            word = ""
        word += surface
        word_ids.append(index)
    return word_ids


def _cut_punctuation(token: str) -> list[str]:
    words: list[str] = []
    in_word = False
    for character in token:
        if is_punctuation(character):
            words.append(character)
            in_word = False
        elif in_word:
            words[-1] += character
        elif words and unicodedata.category(character)[0] == "M":
            words[-1] += character  # an accent on a punctuation mark stays with it
        else:
            words.append(character)
            in_word = True
    return words

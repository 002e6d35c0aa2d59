"""Splitting of text into words and pieces, and joining, shared by all tokenizers.

A *word* is what stands between whitespace in the user's text: the unit of links and of the output.
A *piece* is a word, or (`split="punctuation"`) a part of one: a run of letters and digits, or a
single punctuation mark or symbol. Its spacing is written into it, so that the text can be rebuilt
from pieces alone:

- SPACE before the piece: a space comes before it. A run of letters and digits always has it, which
  keeps one vocabulary entry per word; a punctuation mark only if the text has the space.
- JOINER after a punctuation mark: the next piece follows without a space.

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


def split_token(token: str, *, split: str, lowercase: bool) -> list[str]:
    """Return the pieces of one whitespace-separated word."""
    token = normalise(token)
    if lowercase:
        token = token.lower()
    if split == "whitespace":
        return [SPACE + token]
    parts = cut_punctuation(token)
    pieces = []
    for position, part in enumerate(parts):
        if not is_punctuation(part[0]):
            pieces.append(SPACE + part)
            continue
        before = SPACE if position == 0 else ""
        is_joined = position + 1 < len(parts) and not is_punctuation(parts[position + 1][0])
        pieces.append(before + part + (JOINER if is_joined else ""))
    return pieces


def normalise(token: str) -> str:
    """Return a word as tokenizers read it: in NFC, and without the characters of the marks."""
    return unicodedata.normalize("NFC", token).translate(_REPLACE_MARKS)


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


def group_pieces(pieces: list[str]) -> list[int]:
    """Return the index of the word of each piece, or part of a piece, in the text they spell.

    A part continues the word before it unless it has a SPACE and no JOINER comes before.
    """
    word_ids: list[int] = []
    word, index, is_joined = "", -1, False
    for piece in pieces:
        # A SPACE alone has begun its word already.
        if index < 0 or (word and piece.startswith(SPACE) and not is_joined):
            index += 1
            word = ""
        word += strip_marks(piece)
        word_ids.append(index)
        is_joined = piece.endswith(JOINER)
    if index > 0 and not word:  # nothing follows the last SPACE
        word_ids = [min(i, index - 1) for i in word_ids]
    return word_ids


def cut_punctuation(token: str) -> list[str]:
    """Return the punctuation marks of a word and the runs of letters and digits, in order."""
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

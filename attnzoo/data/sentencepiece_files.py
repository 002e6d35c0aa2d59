"""SentencePiece models read without its library, for the `tokenizers` package.

A ``.spm`` or ``.model`` file is a protocol buffer (``sentencepiece_model.proto`` of SentencePiece):
pieces with scores and kinds, settings of training, and the table of its normaliser.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from attnzoo.errors import UserError

MARK = "\u2581"
NO_TEXT = "\0unknown\0"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2


class Piece(NamedTuple):
    """Piece of a vocabulary: its text, its score, and its kind (``NORMAL``, ...)."""

    text: str
    score: float
    kind: int


class SentencePieceFile(NamedTuple):
    """Content of a SentencePiece model that its tokenizer needs.

    Attributes:
      kind: ``UNIGRAM`` or ``BPE``.
      charsmap: compiled table of the normaliser; empty for none.
      dummy_prefix: True if a text begins with a space.
      squeezes: True if runs of spaces are one space.
    """

    pieces: list[Piece]
    kind: int
    charsmap: bytes
    dummy_prefix: bool
    squeezes: bool


def read_sentencepiece(path: Path) -> SentencePieceFile:
    """Read a SentencePiece model; a file that is none is a UserError with its name."""
    try:
        data = path.read_bytes()
        if not data:
            raise UserError(f"{path}: an empty file; wanted a SentencePiece model")
        fields = list(_fields(data))
        pieces = [_piece(value) for number, value in fields if number == 1]
        trainer = dict(_fields(_only(fields, 2)))
        normaliser = dict(_fields(_only(fields, 3)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, TypeError, IndexError, struct.error):
        raise UserError(f"{path}: not a SentencePiece model, or a damaged one") from None
    kind = int(trainer.get(3, UNIGRAM))
    if kind not in (UNIGRAM, BPE) or not any(piece.kind == UNKNOWN for piece in pieces):
        raise UserError(f"{path}: a SentencePiece model of kind {kind}; wanted unigram or BPE")
    flags = (bool(normaliser.get(number, 1)) for number in (3, 4))
    return SentencePieceFile(pieces, kind, bytes(normaliser.get(2, b"")), *flags)


def sentencepiece_tokenizer(read: SentencePieceFile) -> Tokenizer:
    """Return the tokenizer of a model; its ids are not those of the file, its tokens are.

    Control pieces, which no text contains, are left out, and the unknown piece has another name.
    """
    pieces = [
        piece._replace(text=NO_TEXT) if piece.kind == UNKNOWN else piece
        for piece in read.pieces
        if piece.kind not in (CONTROL, UNUSED)
    ]
    unknown = next(i for i, piece in enumerate(pieces) if piece.kind == UNKNOWN)
    has_bytes = any(piece.kind == BYTE for piece in pieces)
    if read.kind == UNIGRAM:
        scored = [(piece.text, piece.score) for piece in pieces]
        model: Any = models.Unigram(scored, unk_id=unknown, byte_fallback=has_bytes)
    else:
        model = models.BPE(
            {piece.text: i for i, piece in enumerate(pieces)},
            _merges(pieces),
            unk_token=pieces[unknown].text,
            fuse_unk=True,
            byte_fallback=has_bytes,
        )
    tokenizer = Tokenizer(model)
    steps: list[Any] = [normalizers.Precompiled(read.charsmap)] if read.charsmap else []
    if read.squeezes:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if read.dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(MARK, prepend_scheme=scheme)
    last = decoders.Metaspace(MARK, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), last]) if has_bytes else last
    named = [piece.text for piece in pieces if piece.kind == USER_DEFINED]
    tokenizer.add_tokens(named)
    return tokenizer


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Return the merges of a BPE model, whose file has their results with falling scores."""
    number = {piece.text: i for i, piece in enumerate(pieces)}
    found = []
    for piece in pieces:
        cuts = [(piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text))]
        known = [(a, b) for a, b in cuts if a in number and b in number]
        known.sort(key=lambda cut: (number[cut[0]], number[cut[1]]))
        found += [(-piece.score, cut) for cut in known]
    found.sort(key=lambda merge: merge[0])  # stable: equal scores stay in order
    return [cut for _, cut in found]


def _piece(value: Any) -> Piece:
    fields = dict(_fields(value))
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    return Piece(fields[1].decode(), score, int(fields.get(3, NORMAL)))


def _only(fields: list[tuple[int, Any]], number: int) -> bytes:
    return next((value for found, value in fields if found == number), b"")


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a protocol buffer: whole numbers, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
            case 1 | 5 as width:
                size = 8 if width == 1 else 4
                value, at = data[at : at + size], at + size
            case 2:
                size, at = _varint(data, at)
                if at + size > len(data):
                    raise ValueError("cut off")
                value, at = data[at : at + size], at + size
            case _:
                raise ValueError("no protocol buffer")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at

"""Tokenizers with temporary ids for the words of a source that the vocabulary lacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from attnzoo.data.splitting import SPACE, split_token
from attnzoo.data.tokenizers import Encoding, Tokenizer
from attnzoo.data.word_cache import Ids, join_ids
from attnzoo.special_tokens import UNK


class CopyingTokenizer(Tokenizer):
    """Tokenizer whose last `slots` ids stand for unknown words of one source (See et al. 2017).

    A source numbers its own unknown words in the order of their first occurrence; `beside` gives
    the tokenizer of a text written about it, in which these words have the same ids. Further words
    are unknown. Subwords know all words but those of unseen characters, which stay unknown.
    """

    def __init__(
        self, base: Tokenizer, slots: int, source_words: tuple[str, ...] | None = None
    ) -> None:
        self.__dict__.update(base.__dict__)  # what it has learnt is shared, not copied
        self.base, self.slots, self.source_words = base, slots, source_words

    @property
    def vocab_size(self) -> int:
        return self.base.vocab_size + self.slots

    @property
    def tokens(self) -> list[str]:
        """The tokens in the order of their ids; those of temporary ids are numbered."""
        return self.base.tokens + [f"< word {k} >" for k in range(1, self.slots + 1)]

    def beside(self, source: Encoding) -> CopyingTokenizer:
        """Return the tokenizer for a target text that may copy unknown words of its source."""
        return CopyingTokenizer(self.base, self.slots, self._words_of(source))

    def encode(self, text: str) -> Encoding:
        """Encode a source, or, with a tokenizer from `beside`, a target text of that source."""
        plain = super().encode(text)
        if self.kind != "word" or UNK not in plain.ids:
            return plain
        pieces = [piece for word in plain.words for piece in self._split(word)]
        unknown = [piece for piece, index in zip(pieces, plain.ids, strict=True) if index == UNK]
        known = unknown if self.source_words is None else self.source_words
        places = {piece: place for place, piece in enumerate(dict.fromkeys(known))}
        ids = [
            self.base.vocab_size + places[piece]
            if index == UNK and places.get(piece, self.slots) < self.slots
            else index
            for piece, index in zip(pieces, plain.ids, strict=True)
        ]
        return replace(plain, ids=ids)

    def encode_many(self, texts: Iterable[str]) -> Ids:
        """Return the ids of all texts one after the other, and the number of each text's."""
        return join_ids([self.encode(text).ids for text in texts], self.vocab_size)

    def encode_beside(self, texts: Sequence[str], sources: Sequence[str]) -> Ids:
        """Apply `encode_many` to texts that are each written about a source."""
        rows = (
            self.beside(self.encode(source)).encode(text).ids
            for text, source in zip(texts, sources, strict=True)
        )
        return join_ids(rows, self.vocab_size)

    def fingerprint(self) -> str:
        """Return that of the tokenizer, with the number of temporary ids."""
        return f"{self.base.fingerprint()}+{self.slots}"

    def _words_of(self, source: Encoding) -> tuple[str, ...]:
        first = self.base.vocab_size
        if not any(index >= first for index in source.ids):
            return ()
        pieces = [piece for word in source.words for piece in self._split(word)]
        found = {i: p for i, p in zip(source.ids, pieces, strict=True) if i >= first}
        return tuple(found[index] for index in sorted(found))

    def _split(self, word: str) -> list[str]:
        return split_token(word, split=self.split, lowercase=self.lowercase)

    def _piece(self, index: int) -> str:
        place = index - self.base.vocab_size
        if place < 0:
            return super()._piece(index)
        words = self.source_words or ()
        return words[place] if place < len(words) else f"{SPACE}<word {place + 1}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.base, self.slots, self.source_words)

"""Token ids of words, encoded once each, and of whole texts from them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import UInt, UInt32

# The last words are kept, at least `SIZE` and at most twice as many, up to so many characters.
SIZE = 2**19
LONGEST = 64

Ids = tuple[UInt[np.ndarray, " tokens"], UInt32[np.ndarray, " texts"]]


def id_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest type of ids: uint16, or uint32 above 65,536."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


class WordCache(dict[str, bytes]):
    """Ids of words as bytes: `encode` is called for a word that is not there.

    Args:
      encode: function from a word to its ids.
      vocab_size: number of ids.
      parts: function that cuts a word into parts whose ids are those of the word, or None.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        vocab_size: int,
        parts: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.dtype = id_dtype(vocab_size)
        self._code = self.dtype.char
        self._encode = encode
        self._parts = parts
        self._older: dict[str, bytes] = {}

    def __missing__(self, word: str) -> bytes:
        found = self._older.get(word)
        if found is None:
            parts = [word] if self._parts is None else self._parts(word)
            if len(parts) > 1:
                found = b"".join(map(self.__getitem__, parts))
            else:
                # Of the standard library: made in a fifth of the time of numpy's.
                found = array(self._code, self._encode(word)).tobytes()
        if len(word) <= LONGEST:
            if len(self) >= SIZE:
                self._older = dict(self)
                self.clear()
            self[word] = found
        return found

    def encode_many(self, texts: Iterable[str], split: Callable[[str], Iterable[str]]) -> Ids:
        """Return the ids of all texts one after the other, and the number of each text's.

        `split` cuts a text into words whose ids, one after the other, are those of the text.
        """
        found = [b"".join(map(self.__getitem__, split(text))) for text in texts]
        lengths = np.fromiter(map(len, found), np.uint32, len(found)) // self.dtype.itemsize
        return np.frombuffer(b"".join(found), self.dtype), lengths.astype(np.uint32)


def join_ids(rows: Iterable[Sequence[int]], vocab_size: int) -> Ids:
    """Return rows of ids as `WordCache.encode_many` does."""
    parts = [np.asarray(row, id_dtype(vocab_size)) for row in rows]
    lengths = np.fromiter(map(len, parts), np.uint32, len(parts))
    return np.concatenate([np.empty(0, id_dtype(vocab_size)), *parts]), lengths

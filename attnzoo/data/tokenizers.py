"""Tokenizers for sentence pairs: words with a shortlist, BPE and Unigram, saved with each run."""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import xxhash

from attnzoo.data.splitting import (
    JOINER,
    SPACE,
    cut_punctuation,
    group_pieces,
    is_mark,
    join_pieces,
    normalise,
    split_token,
    strip_marks,
)
from attnzoo.data.word_cache import Ids, WordCache
from attnzoo.errors import UserError
from attnzoo.files import read_json, write_text
from attnzoo.special_tokens import BOS, EOS, PAD, UNK

# No piece contains a space, so no text can spell a special token.
SPECIALS = ("< pad >", "< bos >", "< eos >", "< unk >")
FORMAT = "attnzoo.tokenizer"
FORMAT_VERSION = 1
# Placeholder for an unknown part of a word while words are joined: a letter, for splitting.
UNKNOWN_LETTER = "\ue000"
# At most one in this many subwords is a punctuation mark with its spacing.
MARKS_SHARE = 8


@dataclass(frozen=True)
class Encoding:
    """A sentence as tokens: token `i`, with id `ids[i]`, is a part of `words[word_ids[i]]`.

    It contains no special tokens. The words are the whitespace-separated ones of the text, however
    the tokenizer cuts them, so that a corpus' links index them.
    """

    ids: list[int]
    word_ids: list[int]
    words: list[str]


@dataclass(frozen=True)
class Frame:
    """Special tokens before and after the tokens of a sentence, as a model reads them."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens before and after a sentence, as a pair."""
        return self.before, self.after

    def around(self, ids: Iterable[int]) -> list[int]:
        """Return the ids of a sentence with those around it."""
        return [*self.before, *ids, *self.after]


class Tokenizer:
    """Tokenizer of sentences; ids 0 to 3 are PAD, BOS, EOS and UNK.

    Made by `train_tokenizer` or `Tokenizer.load`. `spec` is the saved content: kind, split,
    lowercase, and the pieces or the trained subword model.
    """

    pad_id, unk_id = PAD, UNK
    frames: Mapping[str, Frame] = {
        "source": Frame((), (EOS,)),
        "target": Frame((BOS,), (EOS,)),
    }
    hidden = frozenset({PAD, BOS, EOS})
    """Ids that are no text."""
    never: tuple[int, ...] = (PAD, BOS)
    """Ids that a translator never generates."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.kind: str = spec["kind"]
        self.split: str = spec["split"]
        self.lowercase: bool = spec["lowercase"]
        self._spec = spec
        model = MODELS[self.kind](spec["model"])
        if tuple(model.tokens[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"the first tokens are {model.tokens[:4]}, wanted {SPECIALS}")
        self._tokens = model.tokens
        self._encode_piece = model.encode
        self._cache = WordCache(self._encode_word, len(self._tokens))

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def tokens(self) -> list[str]:
        """The tokens in the order of their ids, spacing marks included (see `splitting`)."""
        return list(self._tokens)

    def encode(self, text: str) -> Encoding:
        """Encode a sentence without special tokens; an empty text gives empty lists."""
        words = text.split()
        ids, lengths = self._cache.encode_many(words, lambda word: (word,))
        word_ids = np.repeat(np.arange(len(words)), lengths)
        return Encoding(ids.tolist(), word_ids.tolist(), words)

    def encode_ids(self, text: str) -> list[int]:
        """Return only the ids of `encode`."""
        return self.encode_many([text])[0].tolist()

    def encode_many(self, texts: Iterable[str]) -> Ids:
        """Return the ids of all texts one after the other, and the number of each text's."""
        return self._cache.encode_many(texts, str.split)

    def beside(self, source: Encoding) -> Tokenizer:
        """Return the tokenizer for a target text, given its source; by default this one."""
        return self

    def encode_beside(self, texts: Sequence[str], sources: Sequence[str]) -> Ids:
        """Apply `encode_many` to texts that are each written about a source."""
        return self.encode_many(texts)

    def parts(self, encoding: Encoding) -> list[str]:
        """Return the part of its word that each id belongs to, without the punctuation around."""
        parts: list[str] = []
        for word in encoding.words:
            pieces = split_token(word, split=self.split, lowercase=self.lowercase)
            cut = [word] if len(pieces) == 1 else cut_punctuation(normalise(word))
            for part, piece in zip(cut, pieces, strict=False):
                parts += [part] * len(self._encode_piece(piece))
        return parts

    def decode(self, ids: Iterable[SupportsIndex], *, unknown: str = "<unk>") -> str:
        """Return the text of ids up to the first EOS, without PAD and BOS; `unknown` for UNK.

        An id that is not in the vocabulary is a ValueError.
        """
        return join_pieces(self._pieces(self._kept(ids), unknown))

    def decode_words(self, ids: Iterable[SupportsIndex], *, unknown: str = "<unk>") -> Encoding:
        """Decode ids of generated text into words, with the word index of each id.

        PAD, BOS, EOS and all ids after EOS are left out of the result's `ids`. The words are those
        of the text that `decode` returns.
        """
        kept = self._kept(ids)
        pieces = self._pieces(kept, UNKNOWN_LETTER)
        word_ids = group_pieces(pieces)
        words = [""] * (word_ids[-1] + 1 if word_ids else 0)
        for word_id, index, piece in zip(word_ids, kept, pieces, strict=True):
            words[word_id] += unknown if index == UNK else strip_marks(piece)
        return Encoding(kept, word_ids, words)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of everything that determines the encoding of a text."""
        return xxhash.xxh3_128_hexdigest(self._to_json().encode())

    def vocabulary_fingerprint(self) -> str:
        """Return the xxh3_128 of the tokens by their ids, or of more."""
        return self.fingerprint()

    def save(self, path: Path | str) -> None:
        """Write the tokenizer to one JSON file."""
        write_text(path, self._to_json() + "\n")

    @classmethod
    def load(
        cls, path: Path | str, others: Mapping[str, Callable[[Any], Tokenizer]] | None = None
    ) -> Tokenizer:
        """Read a file of `save`; any other file is a UserError with its name.

        `others` are functions from the content of a file to a tokenizer, for kinds that are not
        defined in this module.
        """
        spec = read_json(path)
        if spec.get("format") != FORMAT:
            raise UserError(f"{path}: not a tokenizer: its 'format' is not {FORMAT!r}")
        if spec.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: tokenizer of version {spec.get('version')}, wanted {FORMAT_VERSION}"
            )
        known = {**dict.fromkeys(MODELS, cls), **(others or {})}
        if str(spec.get("kind")) not in known:
            raise UserError(f"{path}: kind {spec.get('kind')!r} is none of {', '.join(known)}")
        try:
            return known[spec["kind"]](spec)
        except Exception as error:  # `tokenizers` raises nothing more specific
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"{path}: a damaged tokenizer: {reason}") from None

    def _encode_word(self, word: str) -> list[int]:
        pieces = split_token(word, split=self.split, lowercase=self.lowercase)
        return [i for piece in pieces for i in self._encode_piece(piece)]

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[dict[str, Any]]]:
        return type(self), (self._spec,)

    def _kept(self, ids: Iterable[SupportsIndex]) -> list[int]:
        kept = []
        for index in ids:
            index = operator.index(index)
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"ids contains {index}, wanted 0 to {self.vocab_size - 1}")
            if index == EOS:
                break
            if index not in (PAD, BOS):
                kept.append(index)
        return kept

    def _pieces(self, ids: list[int], unknown: str) -> list[str]:
        # A whole unknown word has a space before it; an unknown part of a word has none.
        unknown = SPACE + unknown if self.kind == "word" else unknown
        return [unknown if index == UNK else self._piece(index) for index in ids]

    def _piece(self, index: int) -> str:
        return self._tokens[index]

    def _to_json(self) -> str:
        return json.dumps(self._spec, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class WordModel:
    """Shortlist with one id per piece; an unknown punctuation mark tries other spacings."""

    def __init__(self, tokens: Any) -> None:
        if not isinstance(tokens, list):
            raise ValueError(f"the model is a {type(tokens).__name__}, wanted a list of tokens")
        self.tokens = [str(token) for token in tokens]
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            raise ValueError("a token is twice in the vocabulary")

    def encode(self, piece: str) -> list[int]:
        known = self._ids.get(piece)
        if known is not None:
            return [known]
        word = strip_marks(piece)
        for spaced in (word, SPACE + word, word + JOINER, SPACE + word + JOINER):
            if spaced in self._ids:
                return [self._ids[spaced]]
        return [UNK]


def _subword_model(kind: str) -> Callable[[Any], Any]:
    def build(model: Any) -> Any:
        # Imported here: words need no compiled package.
        from attnzoo.data.subwords import SubwordModel

        return SubwordModel(kind, model, SPECIALS[UNK])

    return build


MODELS: dict[str, Callable[[Any], Any]] = {
    "word": WordModel,
    "bpe": _subword_model("bpe"),
    "unigram": _subword_model("unigram"),
}


def train_word_tokenizer(
    lines: Iterable[str],
    *,
    max_size: int | None = None,
    min_count: int = 1,
    lowercase: bool = False,
    split: str = "whitespace",
) -> Tokenizer:
    """Train on the `max_size` most frequent words (30,000 in Bahdanau et al. 2015).

    Special tokens are not counted. Equally frequent words are taken in the order of their
    characters. A text without words is a ValueError.
    """
    counts = _count_pieces(lines, split=split, lowercase=lowercase)
    frequent = [piece for piece, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda piece: (-counts[piece], piece))
    if not frequent:
        raise ValueError(f"lines has no word that occurs min_count={min_count} times")
    return Tokenizer(_spec("word", split, lowercase, [*SPECIALS, *frequent[:max_size]]))


def train_subword_tokenizer(
    kind: str,
    lines: Iterable[str],
    *,
    vocab_size: int,
    lowercase: bool = False,
    split: str = "punctuation",
) -> Tokenizer:
    """Train BPE or Unigram with at most `vocab_size` tokens, special tokens included.

    Subwords never cross words. Decoding restores the text, except for characters that training did
    not see. A text without words, or a `vocab_size` that is too small, is a ValueError.
    """
    from attnzoo.data.subwords import train_subwords

    if vocab_size < len(SPECIALS) + 2:
        raise ValueError(f"vocab_size={vocab_size}, wanted at least {len(SPECIALS) + 2}")
    counts = _count_pieces(lines, split=split, lowercase=lowercase)
    # Punctuation is whole tokens: Unigram would split a mark and its spacing again.
    marks = [piece for piece in counts if is_mark(piece, split=split)]
    marks.sort(key=lambda piece: (-counts[piece], piece))
    marks = marks[: vocab_size // MARKS_SHARE]
    words = {piece: count for piece, count in counts.items() if piece not in set(marks)}
    if not words:
        raise ValueError("lines has no word to train on")
    model = train_subwords(
        kind,
        words,
        vocab_size=vocab_size,
        whole=[*SPECIALS, *marks],
        unknown=SPECIALS[UNK],
    )
    return Tokenizer(_spec(kind, split, lowercase, model))


def train_tokenizer(config: Any, lines: Iterable[str]) -> Tokenizer:
    """Train the tokenizer of a config of `attnzoo.config.data` on these sentences.

    A vocabulary that is too small, a text without words, and a kind for running text
    (`text_tokenizers`) are a UserError.
    """
    if config.kind not in MODELS:
        raise UserError(
            f"tokenizer: {config.kind} is for running text; sentence pairs take {', '.join(MODELS)}"
        )
    shared = {"lowercase": config.lowercase, "split": config.split}
    try:
        if config.kind == "word":
            return train_word_tokenizer(
                lines, max_size=config.max_size, min_count=config.min_count, **shared
            )
        return train_subword_tokenizer(config.kind, lines, vocab_size=config.vocab_size, **shared)
    except ValueError as error:
        raise UserError(f"tokenizer: {error}") from None


def _spec(kind: str, split: str, lowercase: bool, model: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "kind": kind,
        "split": split,
        "lowercase": lowercase,
        "model": model,
    }


def _count_pieces(lines: Iterable[str], *, split: str, lowercase: bool) -> Counter[str]:
    # Each distinct token is split once: a corpus has about a hundred times more occurrences.
    tokens = Counter(token for line in lines for token in line.split())
    counts: Counter[str] = Counter()
    for token, count in tokens.items():
        for piece in split_token(token, split=split, lowercase=lowercase):
            counts[piece] += count
    return counts

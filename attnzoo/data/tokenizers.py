"""Tokenizers: words with a shortlist, BPE and Unigram, trained by the run and saved with it."""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import xxhash

from attnzoo.data.splitting import (
    JOINER,
    SPACE,
    group_pieces,
    is_mark,
    join_pieces,
    split_token,
    strip_marks,
)
from attnzoo.errors import UserError
from attnzoo.special_tokens import BOS, EOS, PAD, UNK

# No piece contains a space, so no text can spell a special token.
SPECIALS = ("< pad >", "< bos >", "< eos >", "< unk >")
FORMAT = "attnzoo.tokenizer"
FORMAT_VERSION = 1
# Stands for an unknown part of a word while words are put together: a letter, for splitting.
UNKNOWN_LETTER = "\ue000"
# So many whitespace-separated tokens are remembered with their ids; a corpus has fewer.
CACHE_SIZE = 2**19
# At most one in so many subwords is a punctuation mark with its spacing.
MARKS_SHARE = 8


@dataclass(frozen=True)
class Encoding:
    """A sentence as tokens: token `i`, with id `ids[i]`, is a part of `words[word_ids[i]]`.

    There are no special tokens in it. With `split="whitespace"` the words are exactly the
    whitespace-separated tokens of the text, so that a corpus' links index them.
    """

    ids: list[int]
    word_ids: list[int]
    words: list[str]


class Tokenizer:
    """Sentences to ids and back; ids 0 to 3 are PAD, BOS, EOS and UNK.

    Made by `train_tokenizer` or `Tokenizer.load`. What is common to all kinds is here; `spec` is
    what is saved: kind, split, lowercase, and the pieces or the trained subword model.
    """

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
        self._cache: dict[str, tuple[list[int], list[int], list[str]]] = {}

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def tokens(self) -> list[str]:
        """The tokens in the order of their ids, spacing marks included (see `splitting`)."""
        return list(self._tokens)

    def encode(self, text: str) -> Encoding:
        """Tokens of a sentence, without special tokens; an empty text gives empty lists."""
        ids: list[int] = []
        word_ids: list[int] = []
        words: list[str] = []
        for token in text.split():
            token_ids, token_word_ids, token_words = self._encode_token(token)
            first = len(words)
            ids += token_ids
            word_ids += [first + index for index in token_word_ids]
            words += token_words
        return Encoding(ids, word_ids, words)

    def encode_ids(self, text: str) -> list[int]:
        """Only the ids of `encode`, for whole corpora."""
        ids: list[int] = []
        for token in text.split():
            ids += self._encode_token(token)[0]
        return ids

    def decode(self, ids: Iterable[SupportsIndex], *, unknown: str = "<unk>") -> str:
        """The text of these ids: up to the first EOS, without PAD and BOS; `unknown` for UNK.

        An id that is not in the vocabulary is a ValueError.
        """
        return join_pieces(self._pieces(self._kept(ids), unknown))

    def decode_words(self, ids: Iterable[SupportsIndex], *, unknown: str = "<unk>") -> Encoding:
        """As `decode`, but which word each id belongs to, for sentences that a model generated.

        PAD, BOS, EOS and what follows EOS are left out: `ids` of the result are the others. A
        sentence that was encoded and is decoded comes back with the same `word_ids`.
        """
        kept = self._kept(ids)
        pieces = self._pieces(kept, UNKNOWN_LETTER)
        word_ids = group_pieces(pieces, split=self.split)
        words = [""] * (word_ids[-1] + 1 if word_ids else 0)
        for word_id, index, piece in zip(word_ids, kept, pieces, strict=True):
            words[word_id] += unknown if index == UNK else strip_marks(piece)
        return Encoding(kept, word_ids, words)

    def fingerprint(self) -> str:
        """xxh3_128 of all that decides how a text is encoded."""
        return xxhash.xxh3_128_hexdigest(self._to_json().encode())

    def save(self, path: Path | str) -> None:
        """Writes one JSON file."""
        Path(path).write_text(self._to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Reads what `save` wrote; anything else is a UserError that names the file."""
        try:
            spec = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError:
            raise UserError(f"{path}: not a tokenizer: it is not JSON") from None
        if not isinstance(spec, dict) or spec.get("format") != FORMAT:
            raise UserError(f"{path}: not a tokenizer: its 'format' is not {FORMAT!r}")
        if spec.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: tokenizer of version {spec.get('version')}, wanted {FORMAT_VERSION}"
            )
        if spec.get("kind") not in MODELS:
            raise UserError(f"{path}: kind {spec.get('kind')!r} is none of {', '.join(MODELS)}")
        try:
            return cls(spec)
        except Exception as error:  # `tokenizers` raises nothing more specific
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"{path}: a damaged tokenizer: {reason}") from None

    def _encode_token(self, token: str) -> tuple[list[int], list[int], list[str]]:
        cached = self._cache.get(token)
        if cached is None:
            words, pieces = split_token(token, split=self.split, lowercase=self.lowercase)
            ids: list[int] = []
            word_ids: list[int] = []
            for index, piece in enumerate(pieces):
                piece_ids = self._encode_piece(piece)
                ids += piece_ids
                word_ids += [index] * len(piece_ids)
            cached = ids, word_ids, words
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[token] = cached
        return cached

    def _kept(self, ids: Iterable[SupportsIndex]) -> list[int]:
        kept = []
        for index in ids:
            index = operator.index(index)
            if not 0 <= index < len(self._tokens):
                raise ValueError(f"ids contains {index}, wanted 0 to {len(self._tokens) - 1}")
            if index == EOS:
                break
            if index not in (PAD, BOS):
                kept.append(index)
        return kept

    def _pieces(self, ids: list[int], unknown: str) -> list[str]:
        # A whole unknown word has a space before it; an unknown part of a word has not.
        unknown = SPACE + unknown if self.kind == "word" else unknown
        return [unknown if index == UNK else self._tokens[index] for index in ids]

    def _to_json(self) -> str:
        return json.dumps(self._spec, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class WordModel:
    """The shortlist: one id a piece. A punctuation mark falls back on its other spacings."""

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
    """The `max_size` most frequent words (Bahdanau et al. 2015 take 30,000), special tokens apart.

    Equally frequent words are taken in the order of their characters. No words at all is a
    ValueError.
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
    """BPE or Unigram with at most `vocab_size` tokens, special tokens included.

    Subwords never cross words. Decoding gives the text back, but for characters that training did
    not see. No words at all, or a `vocab_size` that leaves no room, is a ValueError.
    """
    from attnzoo.data.subwords import train_subwords

    if vocab_size < len(SPECIALS) + 2:
        raise ValueError(f"vocab_size={vocab_size}, wanted at least {len(SPECIALS) + 2}")
    counts = _count_pieces(lines, split=split, lowercase=lowercase)
    # Punctuation is whole tokens: Unigram would take a mark and its spacing apart again.
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
    """Trains what a tokenizer config of `attnzoo.config.data` describes on these sentences.

    What cannot be trained, a vocabulary without room or a text without words, is a UserError; so is
    a kind that is for running text (`text_tokenizers`).
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
    # Each distinct token is split once: a corpus has some hundred times fewer than occurrences.
    tokens = Counter(token for line in lines for token in line.split())
    counts: Counter[str] = Counter()
    for token, count in tokens.items():
        for piece in split_token(token, split=split, lowercase=lowercase)[1]:
            counts[piece] += count
    return counts

"""Tokenizers of running text: characters, bytes, byte-level BPE, WordPiece, and loaded ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, final, runtime_checkable

import numpy as np
import xxhash
from jaxtyping import Bool

from attnzoo.data.library_tokenizers import (
    SPACE,
    read_library_tokenizer,
    symbols_model,
    train_byte_bpe,
    train_wordpiece,
    word_cutter,
)
from attnzoo.data.word_cache import Ids, WordCache, id_dtype, join_ids
from attnzoo.errors import UserError
from attnzoo.files import read_json, write_text
from attnzoo.special_tokens import BOS, EOS, PAD, UNK

FORMAT = "attnzoo.text_tokenizer"
FORMAT_VERSION = 1

# Roles of special tokens, and the role that replaces a missing one: BERT begins with [CLS] and
# ends with [SEP], RoBERTa and our own byte-level tokenizers with BOS and EOS.
ROLES = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
FALLBACK_ROLES = {"cls": "bos", "sep": "eos", "bos": "cls", "eos": "sep"}
Offsets = tuple[np.ndarray, np.ndarray]
OWN_IDS = {"pad": PAD, "bos": BOS, "eos": EOS, "unk": UNK}


@runtime_checkable
class TextTokenizer(Protocol):
    """Interface of tokenizers of running text.

    Tokenizers trained here have PAD 0, BOS 1, EOS 2 and UNK 3. A loaded one has its own `pad_id`,
    which may equal EOS, so detect padding by a mask and never by the id.
    """

    kind: str
    specials: dict[str, int]
    sentinels: tuple[int, ...]

    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def tokens(self) -> list[str]: ...

    @property
    def model(self) -> dict[str, Any]:
        """A tokenizer.json of the `tokenizers` package with the same ids."""
        ...

    def encode_ids(self, text: str) -> list[int]:
        """Return ids without special tokens; text that spells one is encoded as text."""
        ...

    def encode_offsets(self, text: str) -> Offsets:
        """Return the ids of a text, and the first and the end character of each token.

        Characters are those of the text as it is given: a tokenizer that normalises it says where
        the token came from.
        """
        ...

    def encode_many(self, texts: Iterable[str]) -> Ids:
        """Return the ids of all texts one after the other, and the number of each text's.

        Ids are uint16, or uint32 for a vocabulary above 65,536; the numbers are uint32.
        """
        ...

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text of ids without special tokens."""
        ...

    def special(self, name: str) -> int:
        """Return the id of pad, bos, eos, unk, cls, sep or mask.

        cls and bos, sep and eos replace each other if one is missing. A token that the tokenizer
        lacks is a UserError.
        """
        ...

    def word_starts(self) -> Bool[np.ndarray, " V"]:
        """Return for each id whether it begins a word rather than continues one."""
        ...

    def save(self, path: Path | str) -> None: ...

    def fingerprint(self) -> str: ...


class _Saved:
    """Common parts of all kinds: special tokens by name, one JSON file, a fingerprint."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.kind: str = spec["kind"]
        self.specials: dict[str, int] = {str(name): int(i) for name, i in spec["specials"].items()}
        self.sentinels: tuple[int, ...] = tuple(int(i) for i in spec["sentinels"])
        self._spec = spec

    @property
    def pad_id(self) -> int:
        return self.specials["pad"]

    def special(self, name: str) -> int:
        if name not in ROLES:
            raise ValueError(f"name={name!r} is none of {', '.join(ROLES)}")
        found = self.specials.get(name, self.specials.get(FALLBACK_ROLES.get(name, name)))
        if found is None:
            raise UserError(
                f"tokenizer ({self.kind}): no {name} token; it has "
                f"{', '.join(self.specials) or 'none'}{_ADVICE.get((name, self.kind), '')}"
            )
        return found

    def save(self, path: Path | str) -> None:
        write_text(path, self._to_json() + "\n")

    def fingerprint(self) -> str:
        return xxhash.xxh3_128_hexdigest(self._to_json().encode())

    def __reduce__(self) -> tuple[type[_Saved], tuple[dict[str, Any]]]:
        return type(self), (self._spec,)

    def _to_json(self) -> str:
        return json.dumps(self._spec, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


_ADVICE = {("mask", kind): ": set 'mask: true'" for kind in ("char", "byte", "byte_bpe")}


@final
class SymbolTokenizer(_Saved):
    """A tokenizer with one id per character, or per byte of UTF-8.

    `symbols` of the spec are the characters, or null for the 256 bytes. They follow the special
    tokens; sentinels are the last ids. Unknown characters become UNK, decoded as U+FFFD.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        self._first = max(self.specials.values()) + 1
        self._symbols: list[str] | None = spec["symbols"]
        count = 256 if self._symbols is None else len(self._symbols)
        self._end = self._first + count
        if self._symbols is not None:
            self._ids = {ord(symbol): self._first + i for i, symbol in enumerate(self._symbols)}

    @property
    def vocab_size(self) -> int:
        return self._end + len(self.sentinels)

    @property
    def tokens(self) -> list[str]:
        names = [f"<{name}>" for name in sorted(self.specials, key=self.specials.__getitem__)]
        symbols = self._symbols or [f"<0x{byte:02X}>" for byte in range(256)]
        last = [f"<extra_id_{i}>" for i in reversed(range(len(self.sentinels)))]
        return [*names, *symbols, *last]

    @property
    def model(self) -> dict[str, Any]:
        return symbols_model(self.tokens, range(self._first, self._end), self._symbols is None)

    def encode_ids(self, text: str) -> list[int]:
        if self._symbols is None:
            return [byte + self._first for byte in text.encode("utf-8", "surrogatepass")]
        ids = self._ids
        return [ids.get(ord(symbol), UNK) for symbol in text]

    def encode_offsets(self, text: str) -> Offsets:
        sizes = [1 if self._symbols else len(c.encode("utf-8", "surrogatepass")) for c in text]
        starts = np.repeat(np.arange(len(text)), np.asarray(sizes, np.int64))
        return np.asarray(self.encode_ids(text), np.int32), np.stack([starts, starts + 1], axis=1)

    def encode_many(self, texts: Iterable[str]) -> Ids:
        codec = "utf-8" if self._symbols is None else "utf-32-le"
        parts = [text.encode(codec, "surrogatepass") for text in texts]
        codes = np.frombuffer(b"".join(parts), np.uint8 if self._symbols is None else "<u4")
        lengths = np.fromiter(map(len, parts), np.uint32, len(parts)) // codes.itemsize
        return self._by_code[codes], lengths.astype(np.uint32)

    @cached_property
    def _by_code(self) -> np.ndarray:
        """Id of each byte, or of each code point."""
        if self._symbols is None:
            return np.arange(self._first, self._end).astype(id_dtype(self.vocab_size))
        table = np.full(sys.maxunicode + 1, UNK, id_dtype(self.vocab_size))
        table[list(self._ids)] = list(self._ids.values())
        return table

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        kept = [i for i in _checked(ids, self.vocab_size) if i == UNK or i >= self._first]
        kept = [i for i in kept if i < self._end]
        if self._symbols is None:
            return bytes(i - self._first for i in kept if i != UNK).decode("utf-8", "replace")
        return "".join("\ufffd" if i == UNK else self._symbols[i - self._first] for i in kept)

    def word_starts(self) -> Bool[np.ndarray, " V"]:
        # Only the spaces around it delimit a word of characters, so every id counts as a start.
        return np.ones(self.vocab_size, np.bool_)


@final
class LibraryTokenizer(_Saved):
    """A tokenizer of the `tokenizers` package; `spec["model"]` is the content of tokenizer.json."""

    def __init__(self, spec: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        super().__init__(spec)
        self._tokenizer = Tokenizer.from_str(json.dumps(spec["model"]))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Otherwise a text that spells [MASK] would contain one.
        self._tokenizer.encode_special_tokens = True
        for name, i in self.specials.items():
            if self._tokenizer.id_to_token(i) is None:
                raise ValueError(f"the {name} token has id {i}, which is not in the vocabulary")
        self._hidden = set(self.specials.values()) - {self.specials.get("unk")}
        self._hidden |= set(self.sentinels)
        # None where the ids of a text are not those of its words one after the other.
        self._cut = word_cutter(spec["model"])
        self._tokenize = self._tokenizer.model.tokenize
        parts = None if self._cut is None else self._cut.parts
        self._cache = WordCache(self._encode, self.vocab_size, parts)

    @property
    def model(self) -> dict[str, Any]:
        return self._spec["model"]

    @property
    def vocab_size(self) -> int:
        # Not the number of tokens: some vocabularies have gaps.
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def tokens(self) -> list[str]:
        return [self._tokenizer.id_to_token(i) or "" for i in range(self.vocab_size)]

    def encode_ids(self, text: str) -> list[int]:
        return self.encode_many([text])[0].tolist()

    def encode_offsets(self, text: str) -> Offsets:
        found = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = np.asarray(found.offsets, np.int64).reshape(-1, 2)
        return np.asarray(found.ids, np.int32), offsets

    def encode_many(self, texts: Iterable[str]) -> Ids:
        if self._cut is not None:
            return self._cache.encode_many(texts, self._cut.words)
        encode, texts = self._tokenizer.encode_batch_fast, iter(texts)
        chunks = iter(lambda: list(islice(texts, 256)), [])
        found = (one.ids for chunk in chunks for one in encode(chunk, add_special_tokens=False))
        return join_ids(found, self.vocab_size)

    def _encode(self, text: str) -> list[int]:
        if self._cut is not None and self._cut.letters is not None and text.isascii():
            # The model alone: half the time of the whole way through the library.
            letters = self._cut.letters
            spelled = text.replace(" ", SPACE) if text.isprintable() else text.translate(letters)
            return [token.id for token in self._tokenize(spelled)]
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        kept = [i for i in _checked(ids, self.vocab_size) if i not in self._hidden]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def word_starts(self) -> Bool[np.ndarray, " V"]:
        tokens = self.tokens
        special = self._hidden
        marks = [mark for mark in ("\u0120", "\u2581") if any(t.startswith(mark) for t in tokens)]
        if marks:  # byte-level BPE and SentencePiece mark tokens that begin a word
            starts = [token.startswith(tuple(marks)) for token in tokens]
        else:  # WordPiece marks tokens that continue one
            starts = [not token.startswith("##") for token in tokens]
        return np.asarray([start or i in special for i, start in enumerate(starts)], np.bool_)


KINDS: dict[str, type[SymbolTokenizer] | type[LibraryTokenizer]] = {
    "char": SymbolTokenizer,
    "byte": SymbolTokenizer,
    "byte_bpe": LibraryTokenizer,
    "wordpiece": LibraryTokenizer,
    "file": LibraryTokenizer,
}


def build_tokenizer(config: Any, texts: Iterable[str]) -> TextTokenizer:
    """Build the tokenizer of running text of a config, trained on these texts unless loaded.

    A kind for sentence pairs, a text that gives no vocabulary, and a file that cannot be read, are
    a UserError.
    """
    if config.kind not in KINDS:
        raise UserError(
            f"tokenizer: {config.kind} is for sentence pairs; running text takes {', '.join(KINDS)}"
        )
    if config.kind == "file":
        model, specials, sentinels = read_library_tokenizer(config.path)
        return LibraryTokenizer(_spec("file", specials, sentinels, model=model))
    names = ["cls", "sep", "mask"] if config.kind == "wordpiece" else ["mask"] * config.mask
    specials = {**OWN_IDS, **{name: len(OWN_IDS) + i for i, name in enumerate(names)}}
    count = config.sentinels
    if config.kind in ("char", "byte"):
        symbols = None
        if config.kind == "char":
            symbols = sorted(set().union(*(set(text) for text in texts)))
            if not symbols:
                raise UserError("tokenizer: the text has no character")
        end = len(specials) + (256 if symbols is None else len(symbols))
        return SymbolTokenizer(_spec(config.kind, specials, _last(end, count), symbols=symbols))
    size = config.vocab_size
    try:
        if config.kind == "byte_bpe":
            model = train_byte_bpe(texts, size, list(specials), count)
        else:
            model = train_wordpiece(texts, size, list(specials), count, config.lowercase)
    except ValueError as error:
        raise UserError(f"tokenizer: {error}") from None
    end = len(model["model"]["vocab"])
    return LibraryTokenizer(_spec(config.kind, specials, _last(end, count), model=model))


def load_tokenizer(path: Path | str) -> TextTokenizer:
    """Read a file of `save`; any other file is a UserError with its name."""
    spec = read_json(path)
    if spec.get("format") != FORMAT:
        raise UserError(f"{path}: not a tokenizer: its 'format' is not {FORMAT!r}")
    if spec.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: tokenizer of version {spec.get('version')}, wanted {FORMAT_VERSION}"
        )
    if str(spec.get("kind")) not in KINDS:
        raise UserError(f"{path}: kind {spec.get('kind')!r} is none of {', '.join(KINDS)}")
    try:
        tokenizer = KINDS[spec["kind"]](spec)
        tokenizer.encode_ids("\U00010900")  # fails if the token of unknown letters is missing
        return tokenizer
    except Exception as error:  # `tokenizers` raises nothing more specific
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: a damaged tokenizer: {reason}") from None


def need_sentinels(tokenizer: TextTokenizer, count: int) -> Sequence[int]:
    """Return the first `count` sentinels, for span corruption; too few are a UserError."""
    if len(tokenizer.sentinels) < count:
        raise UserError(
            f"tokenizer ({tokenizer.kind}): {len(tokenizer.sentinels)} sentinels <extra_id_i>, "
            f"span corruption at this length needs {count}"
        )
    return tokenizer.sentinels[:count]


def _spec(
    kind: str, specials: dict[str, int], sentinels: Sequence[int], **rest: Any
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "kind": kind,
        "specials": specials,
        "sentinels": list(sentinels),
        **rest,
    }


def _last(end: int, count: int) -> list[int]:
    # T5's order: <extra_id_0> is the last id of all.
    return [end + count - 1 - i for i in range(count)]


def _checked(ids: Iterable[SupportsIndex], size: int) -> list[int]:
    import operator

    checked = [operator.index(i) for i in ids]
    for i in checked:
        if not 0 <= i < size:
            raise ValueError(f"ids contains {i}, wanted 0 to {size - 1}")
    return checked

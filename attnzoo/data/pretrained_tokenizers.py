"""Tokenizers of pretrained translators: words of the text, and special tokens around sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import xxhash
from tokenizers import Regex, normalizers, pre_tokenizers

from attnzoo.data.library_tokenizers import read_library_tokenizer
from attnzoo.data.sentencepiece_files import (
    MARK,
    read_sentencepiece,
    sentencepiece_tokenizer,
)
from attnzoo.data.tokenizers import FORMAT, FORMAT_VERSION, Encoding, Frame, Tokenizer
from attnzoo.data.word_cache import Ids, join_ids
from attnzoo.errors import UserError
from attnzoo.files import read_json, write_text

KIND = "pretrained"
"""Kind of the tokenizer in its file."""
SPIECE = "spiece.model"
"""SentencePiece model of SigLIP."""
WORD = re.compile(r"\S+")
LANGUAGE = re.compile(r"__([a-z]{2,3})__|>>(.+)<<|([a-z]{2,3}_[A-Z]([a-z]{3}|[A-Z]))")
"""Language tokens of M2M100, Marian, and of NLLB and mBART."""


class PretrainedTokenizer(Tokenizer):
    """Tokenizer of one side of a pretrained translator, with the special tokens of its language.

    Args:
      library: tokenizer of the `tokenizers` package.
      vocabulary: ids by token, if they are not those of the library.
      specials: ids that are no text.
      unk_id: id of tokens that are not in the vocabulary.
      frame: special tokens before and after a sentence.
      end_ids: tokens that end a generated text; by default the first one after a sentence.
      size: number of ids of the model, which may have more than the tokenizer; by default as many.
    """

    kind, split, lowercase = "file", "whitespace", False
    never: tuple[int, ...] = ()

    def __init__(
        self,
        library: Any,
        vocabulary: Mapping[str, int],
        *,
        specials: Iterable[int],
        unk_id: int,
        pad_id: int,
        frame: Frame,
        end_ids: Iterable[int] | None = None,
        size: int | None = None,
    ):
        self._library, self._vocabulary = library, vocabulary
        self._library.no_padding()
        self._library.no_truncation()
        # Otherwise a text that spells </s> would contain one.
        self._library.encode_special_tokens = True
        self._names = {i: name for name, i in vocabulary.items()}
        self.hidden = frozenset(specials)
        self.unk_id, self.pad_id, self.frame = unk_id, pad_id, frame
        self.frames = {"source": frame, "target": frame}
        # An end token that is a word stays in the text.
        self._ends = self.hidden.intersection(frame.after[:1] if end_ids is None else end_ids)
        self._size = max(self._names) + 1 if size is None else size

    @property
    def vocab_size(self) -> int:
        """Number of ids of the model."""
        return self._size

    def resized(self, size: int) -> PretrainedTokenizer:
        """Return this tokenizer for a model of so many ids; UserError if it has more."""
        most = max(self._names) + 1
        if size < most:
            raise UserError(f"its tokenizer has {most} tokens, its weights have {size}")
        return PretrainedTokenizer.of_spec({**self.spec, "size": size})

    @property
    def spec(self) -> dict[str, Any]:
        """Content of the file of ``save``, from which ``of_spec`` makes the tokenizer again."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "kind": KIND,
            "library": json.loads(self._library.to_str()),
            "vocabulary": self._vocabulary,
            "specials": sorted(self.hidden),
            "unk_id": self.unk_id,
            "pad_id": self.pad_id,
            "before": self.frame.before,
            "after": self.frame.after,
            "ends": sorted(self._ends),
            "size": self._size,
        }

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any]) -> PretrainedTokenizer:
        """Return the tokenizer of a ``spec``."""
        from tokenizers import Tokenizer

        return cls(
            Tokenizer.from_str(json.dumps(spec["library"])),
            spec["vocabulary"],
            specials=spec["specials"],
            unk_id=spec["unk_id"],
            pad_id=spec["pad_id"],
            frame=Frame(tuple(spec["before"]), tuple(spec["after"])),
            end_ids=spec["ends"],
            size=spec["size"],
        )

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        return PretrainedTokenizer.of_spec, (self.spec,)

    @property
    def tokens(self) -> list[str]:
        """The tokens in the order of their ids, as text."""
        return [self._spelled([i]) or self._names.get(i, "") for i in range(self.vocab_size)]

    def encode(self, text: str) -> Encoding:
        """Encode a sentence without special tokens; words are those between whitespace."""
        places = [(found.start(), found.end()) for found in WORD.finditer(text)]
        words = [text[start:end] for start, end in places]
        if not words:
            return Encoding([], [], [])
        found = self._library.encode(text, add_special_tokens=False)
        ids = [self._vocabulary.get(token, self.unk_id) for token in found.tokens]
        # A token may begin with the space before its word.
        starts = np.asarray([start for start, _ in found.offsets], np.int64)
        word_ids = np.searchsorted([end for _, end in places], starts, side="right")
        return Encoding(ids, np.minimum(word_ids, len(words) - 1).tolist(), words)

    def encode_ids(self, text: str) -> list[int]:
        """Return only the ids of ``encode``."""
        return self.encode(text).ids

    def encode_many(self, texts: Iterable[str]) -> Ids:
        """Return the ids of all texts one after the other, and the number of each text's."""
        found = self._library.encode_batch(
            [text if WORD.search(text) else "" for text in texts], add_special_tokens=False
        )
        rows = [[self._vocabulary.get(t, self.unk_id) for t in one.tokens] for one in found]
        return join_ids(rows, self.vocab_size)

    def parts(self, encoding: Encoding) -> list[str]:
        """Return the word of each id."""
        return [encoding.words[i] for i in encoding.word_ids]

    def decode(self, ids: Iterable[SupportsIndex], *, unknown: str = "<unk>") -> str:
        """Return the text of ids up to the first end token, without special tokens."""
        return self._spelled(self._kept(ids), unknown).strip()

    def decode_words(self, ids: Iterable[SupportsIndex], *, unknown: str = "<unk>") -> Encoding:
        """Decode ids of generated text into words, with the word index of each id."""
        kept = self._kept(ids)
        texts = [self._spelled(kept[:count], unknown) for count in range(len(kept) + 1)]
        text = texts[-1]
        places = [found.end() for found in WORD.finditer(text)]
        if not places:
            return Encoding([], [], [])
        starts = [len(before) for before in texts[:-1]]
        word_ids = np.searchsorted(places, starts, side="right")
        return Encoding(kept, np.minimum(word_ids, len(places) - 1).tolist(), text.split())

    def save_library(self, folder: Path) -> bool:
        """Write the tokenizer.json of transformers; return False if its ids would be others."""
        same = self._library.get_vocab(with_added_tokens=True) == self._vocabulary
        if same:
            names = {
                f"{role}_token": self._names[i] for role, i in self._roles() if i in self._names
            }
            settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast"}
            self._library.save(str(folder / "tokenizer.json"))
            write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=1) + "\n")
        return same

    def _roles(self) -> list[tuple[str, int]]:
        ends = [("bos", self.frame.before), ("eos", self.frame.after)]
        found = [(role, ids[0]) for role, ids in ends if ids]
        return [*found, ("pad", self.pad_id), ("unk", self.unk_id)]

    def fingerprint(self) -> str:
        """Return the xxh3_128 of everything that determines the encoding of a text."""
        return xxhash.xxh3_128_hexdigest(self._to_json().encode())

    def vocabulary_fingerprint(self) -> str:
        """Return the xxh3_128 of the tokens by their ids."""
        told = json.dumps([self._size, self._vocabulary], sort_keys=True)
        return xxhash.xxh3_128_hexdigest(told.encode())

    def _to_json(self) -> str:
        return json.dumps(self.spec, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    def _kept(self, ids: Iterable[SupportsIndex]) -> list[int]:
        kept = []
        for index in map(int, ids):
            if index in self._ends:
                break
            if index not in self.hidden:
                kept.append(index)
        return kept

    def _spelled(self, ids: list[int], unknown: str = "<unk>") -> str:
        spaced = MARK + unknown
        names = [spaced if i == self.unk_id else self._names.get(i, "") for i in ids]
        decoder = self._library.decoder
        return decoder.decode(names) if decoder is not None else " ".join(names)


def load_side(path: Path | str) -> Tokenizer:
    """Read the tokenizer of one side of sentence pairs, whether learnt here or of a folder.

    Raises:
      UserError: another file, or a damaged one.
    """
    return Tokenizer.load(path, {KIND: PretrainedTokenizer.of_spec})


class FolderTokenizers:
    """Tokenizers of both sides of a translator in a folder of transformers.

    Read are tokenizer.json; source.spm, target.spm and vocab.json (Marian);
    sentencepiece.bpe.model and vocab.json (M2M100); or spiece.model (SigLIP).

    Attributes:
      languages: language tokens by code.

    Raises:
      UserError: a file is missing or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = _optional(folder / "tokenizer_config.json")
        self._named = {**_optional(folder / "special_tokens_map.json"), **self.config}
        self._template: Frame | None = None
        sides = _sentencepiece_sides(folder, self._named)
        if sides is None:
            sides = self._of_library()
        self._sides: tuple[tuple[Any, dict[str, int]], ...] = sides
        found = [(LANGUAGE.fullmatch(name), name) for name in sides[0][1]]
        self.languages = {
            match[1] or match[2] or match[3]: name for match, name in found if match is not None
        }

    def _of_library(self) -> tuple[tuple[Any, dict[str, int]], ...]:
        from tokenizers import Tokenizer

        model, _, _ = read_library_tokenizer(self.folder)
        library = Tokenizer.from_str(json.dumps(model))
        probe = library.encode("a", add_special_tokens=False).ids
        framed = library.encode("a").ids
        if probe and len(framed) >= len(probe):
            at = next((i for i in range(len(framed)) if framed[i : i + len(probe)] == probe), 0)
            self._template = Frame(tuple(framed[:at]), tuple(framed[at + len(probe) :]))
        return ((library, library.get_vocab(with_added_tokens=True)),) * 2

    @property
    def template(self) -> Frame | None:
        """Special tokens that tokenizer.json puts around a text; None without tokenizer.json."""
        return self._template

    def token(self, role: str) -> int | None:
        """Return the id of the token that the files name for a role, such as "unk"."""
        named = self._named.get(f"{role}_token")
        named = named.get("content") if isinstance(named, dict) else named
        return self._sides[0][1].get(named) if isinstance(named, str) else None

    def language(self, code: str) -> int:
        """Return the id of a language token by the code, or by an unambiguous beginning of a code.

        Raises:
          UserError: there is no such language.
        """
        same = [one for one in self.languages if code in (one, self.languages[one])]
        near = same or [one for one in self.languages if re.match(f"{re.escape(code)}[_]", one)]
        if len(near) == 1:
            return self._sides[0][1][self.languages[near[0]]]
        several = f"{', '.join(sorted(near))} begin so" if near else "no language of this model"
        known = ", ".join(sorted(self.languages)) or "none: it translates one pair alone"
        raise UserError(f"{self.folder}: language {code!r}: {several}; wanted one of {known}")

    def code_of(self, token: int) -> str | None:
        """Return the language code of a token id; None if it is no language's."""
        numbers = self._sides[0][1]
        return next((c for c, name in self.languages.items() if numbers[name] == token), None)

    def specials(self, side: str) -> set[int]:
        """Return the ids of language tokens and special tokens of "source" or "target"."""
        library, vocabulary = self._sides[side == "target"]
        roles = (self.token(role) for role in ("bos", "eos", "pad", "cls", "sep", "mask"))
        added = [t.content for t in library.get_added_tokens_decoder().values() if t.special]
        named = (*added, *self.languages.values())
        found = {vocabulary[name] for name in named if name in vocabulary}
        return found | {i for i in roles if i is not None}

    def side(
        self, side: str, frame: Frame, pad_id: int, end_ids: Iterable[int] | None = None
    ) -> PretrainedTokenizer:
        """Return the tokenizer of "source" or "target", with the special tokens around it.

        ``end_ids`` are the tokens that end a generated text, if not the first after a sentence.
        """
        library, vocabulary = self._sides[side == "target"]
        specials = {pad_id, *frame.after, *self.specials(side)}
        if side == "target":  # a source may begin with words, such as T5's
            specials |= set(frame.before)
        unknown = self.token("unk")
        if unknown is None:
            unknown = vocabulary.get("<unk>", vocabulary.get("[UNK]", pad_id))
        return PretrainedTokenizer(
            library,
            vocabulary,
            # Whisper's unknown token is its end, which is no text.
            specials=specials - ({unknown} - {pad_id, *frame.after}),
            unk_id=unknown,
            pad_id=pad_id,
            frame=frame,
            end_ids=end_ids,
        )

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text on the source side, without special tokens."""
        return tuple(self.side("source", Frame((), ()), 0).encode(text).ids)


def _sentencepiece_sides(
    folder: Path, named: Mapping[str, Any]
) -> tuple[tuple[Any, dict[str, int]], ...] | None:
    """Return tokenizer and vocabulary of both sides of Marian or M2M100; None if it has neither."""
    source, target = folder / "source.spm", folder / "target.spm"
    shared = folder / "sentencepiece.bpe.model"
    if (folder / "tokenizer.json").exists():
        return None
    if source.exists() or target.exists():
        vocabulary = read_json(folder / "vocab.json", dict[str, int])
        other = folder / "target_vocab.json"
        theirs = read_json(other, dict[str, int]) if other.exists() else vocabulary
        pairs = ((source, vocabulary), (target, theirs))
    elif shared.exists() and (folder / "vocab.json").exists():
        vocabulary = dict(read_json(folder / "vocab.json", dict[str, int]))
        # The language tokens follow the vocabulary, in the order of this list.
        more = named.get("additional_special_tokens") or []
        names = [one.get("content") if isinstance(one, dict) else one for one in more]
        for name in names:
            if isinstance(name, str) and LANGUAGE.fullmatch(name):
                vocabulary.setdefault(name, len(vocabulary))
        pairs = ((shared, vocabulary),) * 2
    elif (folder / SPIECE).exists():
        read = read_sentencepiece(folder / SPIECE)
        library = sentencepiece_tokenizer(read)
        if str(named.get("tokenizer_class", "Siglip")).startswith("Siglip"):
            plain = canonical(lowercase=bool(named.get("do_lower_case", True)))
            library.normalizer = normalizers.Sequence([*plain, library.normalizer])
            library.pre_tokenizer = pre_tokenizers.Metaspace(MARK, prepend_scheme="always")
        return ((library, {piece.text: i for i, piece in enumerate(read.pieces)}),) * 2
    elif any((folder / name).exists() for name in ("vocab.txt", "merges.txt")):
        return None
    else:
        raise UserError(
            f"{folder}: no tokenizer; wanted tokenizer.json, or source.spm, target.spm and "
            "vocab.json (Marian), or sentencepiece.bpe.model and vocab.json (M2M100)"
        )
    sides = []
    for path, numbers in pairs:
        library = sentencepiece_tokenizer(read_sentencepiece(path))
        # A language token in a text, as Marian's users write it.
        library.add_tokens([name for name in numbers if re.fullmatch(">>.+<<", name)])
        sides.append((library, numbers))
    return tuple(sides)


def canonical(*, lowercase: bool) -> list[Any]:
    """Return the steps of SigLIP before its pieces: no punctuation of ASCII, single spaces."""
    steps = [
        normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    return [normalizers.Lowercase(), *steps] if lowercase else steps


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}

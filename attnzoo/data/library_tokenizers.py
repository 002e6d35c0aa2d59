"""Byte-level BPE and WordPiece training, and reading of tokenizer files, through `tokenizers`."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attnzoo.errors import UserError
from attnzoo.files import read_json

# Threads gain little here, and a later fork would print a warning about them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

# Names of the special tokens of well-known tokenizers, if no file names them.
USUAL_NAMES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "mask": ("[MASK]", "<mask>", "<mask_1>"),
}
SENTINEL = re.compile(r"<extra_id_(\d+)>")
UNKNOWN = "[UNK]"
# A word with the whitespace before it; \\x1c to \\x1f are whitespace to Python, not to Unicode.
SPACED_WORDS = re.compile(r"[^\S\x1c-\x1f]*[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+")
ASCII_WORDS = re.compile(r"[^ \t\n\r]+")
# The pattern of GPT-2 for a text of ASCII, where all versions of Unicode agree.
ASCII_PIECES = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^ \t\n\r\f\vA-Za-z0-9]+"
    r"|[ \t\n\r\f\v]+(?![^ \t\n\r\f\v])|[ \t\n\r\f\v]+"
)
# Letters that byte-level BPE writes for the bytes of ASCII that are no visible character.
BYTE_LETTERS = {byte: 256 + i for i, byte in enumerate((*range(33), 127))}
SPACE = chr(BYTE_LETTERS[32])
# Private characters from here on mark letters within a word while WordPiece is trained.
WITHIN = 0xF0000


class WordCutter(NamedTuple):
    """Functions that cut a text into words, and a word into parts, with the ids of the whole.

    With `letters` the model takes an ASCII part as it is, with other letters for its bytes.
    """

    words: Callable[[str], list[str]]
    parts: Callable[[str], list[str]] | None = None
    letters: dict[int, int] | None = None


def word_cutter(model: dict[str, Any]) -> WordCutter | None:
    """Return the splitter of texts into words whose ids do not depend on their neighbours.

    None if this is not known of the tokenizer.json. Known are byte-level BPE as in GPT-2, where
    only whitespace can begin a piece after something else, and BERT's WordPiece.
    """
    normalizer, splitter = model.get("normalizer") or {}, model.get("pre_tokenizer") or {}
    if any(not token["special"] for token in model.get("added_tokens", ())):
        return None  # they are looked for in the whole text
    kinds = model["model"].get("type"), normalizer.get("type"), splitter.get("type")
    if kinds == ("WordPiece", "BertNormalizer", "BertPreTokenizer"):
        return WordCutter(ASCII_WORDS.findall)
    plain = not splitter.get("add_prefix_space", True) and splitter.get("use_regex", True)
    if kinds == ("BPE", None, "ByteLevel") and plain and not model["model"].get("dropout"):
        return WordCutter(SPACED_WORDS.findall, _pieces, BYTE_LETTERS)
    return None


def _pieces(word: str) -> list[str]:
    if not word.isascii():
        return [word]
    visible = word[1:] if word[0] == " " else word
    return [word] if visible.isalpha() or visible.isdigit() else ASCII_PIECES.findall(word)


def train_byte_bpe(
    texts: Iterable[str], vocab_size: int, specials: Sequence[str], sentinels: int
) -> dict[str, Any]:
    """Train byte-level BPE; return a tokenizer.json of at most `vocab_size` tokens.

    Special tokens come first, sentinels last. The text is split as in GPT-2, so no token crosses a
    word (Radford et al. 2019).
    """
    least = 256 + len(specials) + sentinels
    if vocab_size < least:
        raise ValueError(f"vocab_size={vocab_size}, wanted at least {least} for bytes and specials")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - sentinels,
        special_tokens=[f"<{name}>" for name in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return _with_sentinels(json.loads(tokenizer.to_str()), sentinels)


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    specials: Sequence[str],
    sentinels: int,
    lowercase: bool,
) -> dict[str, Any]:
    """Train a tokenizer like BERT's (Devlin et al. 2019), with reproducible results.

    Returns its tokenizer.json. Pieces are learnt by merging, as in the package's own trainer. That
    trainer numbers letters within words in the order of a hash table and breaks ties by these
    numbers, so two trainings differ. Here letters within words are mapped to characters of their
    own and trained by plain BPE, which is deterministic.
    """
    names = [f"[{name.upper()}]" for name in specials]
    room = vocab_size - sentinels - len(names)
    if room < 2:
        raise ValueError(f"vocab_size={vocab_size}, wanted at least {vocab_size - room + 2}")
    normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    frequent = sorted((c for c in letters if ord(c) < WITHIN), key=lambda c: (-letters[c], c))
    # At most half of the vocabulary is letters; each may begin a word or be within one.
    within = {c: chr(WITHIN + i) for i, c in enumerate(frequent[: max(1, room // 4)])}
    lines = [
        " ".join([word[0] + "".join(within[c] for c in word[1:])] * count)
        for word, count in sorted(words.items())
        if within.keys() >= set(word)
    ]
    if not lines:
        raise ValueError("the text has no word to train on")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=room, show_progress=False))
    learned = bpe.get_vocab()
    back = {inner: letter for letter, inner in within.items()}
    vocabulary = list(names)
    for token in sorted(learned, key=learned.__getitem__):
        plain = "".join(back.get(c, c) for c in token)
        vocabulary.append(f"##{plain}" if token[0] in back else plain)
    numbered = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbered, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(names)
    trained = json.loads(tokenizer.to_str())
    trained["model"]["vocab"] = numbered  # in the order of the ids
    return _with_sentinels(trained, sentinels)


def symbols_model(tokens: Sequence[str], symbols: range, bytes_of_utf8: bool) -> dict[str, Any]:
    """Return a tokenizer.json with an id for each character, or for each byte of UTF-8.

    ``symbols`` are the ids of characters or bytes, the others special. The token with the name
    <unk> is that of unknown characters.
    """
    numbered = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(numbered, [], unk_token="<unk>", byte_fallback=bytes_of_utf8)
    tokenizer = Tokenizer(model)
    parts = [decoders.ByteFallback()] if bytes_of_utf8 else []
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Fuse()])
    tokenizer.add_special_tokens([token for token, i in numbered.items() if i not in symbols])
    return json.loads(tokenizer.to_str())


def read_library_tokenizer(path: Path) -> tuple[dict[str, Any], dict[str, int], list[int]]:
    """Read the tokenizer.json of a file or model folder; return it, special ids and sentinel ids.

    A folder may instead have vocab.txt (WordPiece) or vocab.json and merges.txt (byte-level BPE).
    The roles of tokens are read from tokenizer_config.json and special_tokens_map.json, or inferred
    from usual names. Without a padding token, EOS (or SEP) is used for padding; without these, the
    end token of the model beside it. A file that cannot be read is a UserError with its name.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    file = path / "tokenizer.json" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        tokenizer = _from_vocabulary(folder)
    else:
        if not file.is_file():
            raise UserError(f"{file}: no such file")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more specific
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"{file}: not a tokenizer: {reason}") from None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    specials = {}
    named = _roles(folder)
    for role, usual in USUAL_NAMES.items():
        candidates = (named[role],) if role in named else usual
        known = [vocabulary[token] for token in candidates if token in vocabulary]
        if known:
            specials[role] = known[0]
    if "pad" not in specials:
        stand_in = specials.get("eos", specials.get("sep"))
        if stand_in is None:
            stand_in = _end_of_model(folder)
        if stand_in is None or stand_in not in vocabulary.values():
            raise UserError(f"{path}: the tokenizer has neither a pad nor an eos token")
        specials["pad"] = stand_in
    numbered = {
        int(match[1]): i for token, i in vocabulary.items() if (match := SENTINEL.fullmatch(token))
    }
    sentinels = [numbered[i] for i in sorted(numbered)]
    return json.loads(tokenizer.to_str()), specials, sentinels


def between_pair(tokenizer: Any) -> tuple[int, ...]:
    """Return the special tokens between the texts of a pair, which CLS and SEP enclose.

    Those of the tokenizer.json of a `TextTokenizer` where it has them, such as RoBERTa's two; else
    one SEP.
    """
    cls, sep = tokenizer.special("cls"), tokenizer.special("sep")
    template = tokenizer.model.get("post_processor")
    if template is None:
        return (sep,)
    probe = json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    pair = Tokenizer.from_str(json.dumps(probe | {"post_processor": template})).encode("a", "a")
    framed = pair.sequence_ids[:2] == [None, 0] and pair.sequence_ids[-2:] == [1, None]
    found = tuple(pair.ids[2:-2])
    return found if found and framed and (pair.ids[0], pair.ids[-1]) == (cls, sep) else (sep,)


def save_for_transformers(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a `TextTokenizer`."""
    names = tokenizer.tokens
    settings = {f"{role}_token": names[i] for role, i in tokenizer.specials.items()}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name, content in (("tokenizer", tokenizer.model), ("tokenizer_config", settings)):
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _end_of_model(folder: Path) -> int | None:
    """Return the end token that the settings of a folder's model name by its id."""
    for name in ("generation_config.json", "config.json"):
        stated = _read_json(folder / name).get("eos_token_id")
        found = stated[0] if isinstance(stated, list) and stated else stated
        if isinstance(found, int):
            return found
    return None


def _with_sentinels(trained: dict[str, Any], count: int) -> dict[str, Any]:
    """Add <extra_id_0> with the last id, <extra_id_1> with the last but one, ..."""
    end = len(trained["model"]["vocab"])
    for i in range(count):
        trained["added_tokens"].append(
            {
                "id": end + i,
                "content": f"<extra_id_{count - 1 - i}>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        )
    return trained


def _from_vocabulary(folder: Path) -> Tokenizer:
    words, pieces, merges = (folder / n for n in ("vocab.txt", "vocab.json", "merges.txt"))
    try:
        if words.is_file():
            config = _read_json(folder / "tokenizer_config.json")
            lowercase = bool(config.get("do_lower_case", True))
            tokenizer = Tokenizer(models.WordPiece.from_file(str(words), unk_token=UNKNOWN))
            tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece()
            return tokenizer
        if pieces.is_file() and merges.is_file():
            tokenizer = Tokenizer(models.BPE.from_file(str(pieces), str(merges)))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            begin, end = (tokenizer.token_to_id(name) for name in ("<s>", "</s>"))
            kind = _read_json(folder / "config.json").get("model_type")
            if kind == "roberta" and begin is not None and end is not None:
                tokenizer.post_processor = processors.RobertaProcessing(
                    ("</s>", end), ("<s>", begin), add_prefix_space=False
                )
            return tokenizer
    except Exception as error:  # the library raises nothing more specific
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{folder}: not a tokenizer: {reason}") from None
    raise UserError(f"{folder}: no tokenizer.json, vocab.txt, or vocab.json with merges.txt")


def _roles(folder: Path) -> dict[str, str]:
    """Return the special tokens in the files beside a tokenizer, by role."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        stated = _read_json(folder / name)
        for role in USUAL_NAMES:
            token = stated.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found[role] = token
    return found


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}

"""Settings of the tokenizers of sentence pairs and of running text."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.fields import Kind, NotNegative, Positive, config


@config
class WordTokenizerConfig:
    """Whole words: the most frequent ones; all others become the unknown token."""

    kind: Literal["word"] = "word"
    max_size: Annotated[int, Positive] | None = 30_000
    """Number of words in the vocabulary, without special tokens; null: all."""
    min_count: Annotated[int, Positive] = 1
    """Least count of a word in the vocabulary."""
    lowercase: bool = False
    """Lower-case the text first."""
    split: Literal["whitespace", "punctuation"] = "whitespace"
    """Split into words at spaces only, or at spaces and punctuation."""


@config
class SubwordTokenizerConfig:
    """Settings of subwords for sentence pairs."""

    vocab_size: Annotated[int, Positive] = 8_000
    """Size of the vocabulary, special tokens included."""
    lowercase: bool = False
    """Lower-case the text first."""
    split: Literal["whitespace", "punctuation"] = "punctuation"
    """Split into words before subwords: at spaces only (for a tokenised corpus), or at spaces and
    punctuation (for raw text). Links count words between spaces with both."""


@config
class BpeTokenizerConfig(SubwordTokenizerConfig):
    """Byte-pair encoding, trained on the training part (Sennrich et al. 2016)."""

    kind: Literal["bpe"] = "bpe"


@config
class UnigramTokenizerConfig(SubwordTokenizerConfig):
    """Unigram language model of subwords, trained on the training part (Kudo 2018)."""

    kind: Literal["unigram"] = "unigram"


@config
class TextTokenizerConfig:
    """Settings of tokenizers of running text."""

    sentinels: Annotated[int, NotNegative] = 0
    """Number of sentinel tokens <extra_id_0>, ... at the end, for span corruption."""


@config
class MaskableTokenizerConfig(TextTokenizerConfig):
    """Settings of tokenizers of running text without a mask token of their own."""

    mask: bool = False
    """Add a mask token, for masked language models."""


@config
class CharTokenizerConfig(MaskableTokenizerConfig):
    """One token per character of the training part, for small language models."""

    kind: Literal["char"] = "char"


@config
class ByteTokenizerConfig(MaskableTokenizerConfig):
    """One token per byte of UTF-8: no training, no unknown tokens (Xue et al. 2022)."""

    kind: Literal["byte"] = "byte"


@config
class ByteBpeTokenizerConfig(MaskableTokenizerConfig):
    """Byte-level BPE, trained on the training part; no unknown tokens (Radford et al. 2019)."""

    kind: Literal["byte_bpe"] = "byte_bpe"
    vocab_size: Annotated[int, Positive] = 8_000
    """Size of the vocabulary, special tokens included."""


@config
class WordPieceTokenizerConfig(TextTokenizerConfig):
    """WordPiece with [CLS], [SEP] and [MASK], trained on the training part (Devlin et al. 2019)."""

    kind: Literal["wordpiece"] = "wordpiece"
    vocab_size: Annotated[int, Positive] = 8_000
    """Size of the vocabulary, special tokens included."""
    lowercase: bool = True
    """Lower-case the text and strip its accents first."""


@config
class FileTokenizerConfig:
    """Existing tokenizer: a tokenizer.json, or the folder of a Hugging Face model."""

    kind: Literal["file"] = "file"
    path: Path
    """Path of the file or folder."""


Tokenizer = Annotated[
    WordTokenizerConfig
    | BpeTokenizerConfig
    | UnigramTokenizerConfig
    | CharTokenizerConfig
    | ByteTokenizerConfig
    | ByteBpeTokenizerConfig
    | WordPieceTokenizerConfig
    | FileTokenizerConfig,
    Kind,
]

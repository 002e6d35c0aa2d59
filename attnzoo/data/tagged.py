"""Sentences with a tag on every word: reading, tokenizing, and batching by length."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xxhash
from jaxtyping import Int64

from attnzoo.data.batching import Batch, BucketPlan
from attnzoo.data.corpus import PARTS, Report, Splits, add_strings
from attnzoo.data.labelled import class_names, class_numbers, pad_rows, split_off_parts
from attnzoo.data.locations import spelled
from attnzoo.data.order import MAX_BUCKETS, Buckets, RowOrder
from attnzoo.data.sources import read_text
from attnzoo.data.text import array_fingerprint
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.errors import UserError

Sentence = tuple[list[str], list[str]]


@dataclass(frozen=True)
class TaggedCorpus:
    """Sentences in order: word `words[i][j]` has the tag `names[tags[i][j]]`."""

    words: list[list[str]]
    tags: list[list[int]]
    names: tuple[str, ...]
    name: str = ""

    def __len__(self) -> int:
        return len(self.words)

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every word and tag, the same in every process."""
        digest = xxhash.xxh3_128()
        for sentence in self.words:
            add_strings(digest, sentence)
        add_strings(digest, self.names)
        digest.update(
            array_fingerprint(
                np.asarray([tag for tags in self.tags for tag in tags], np.int64)
            ).encode()
        )
        return digest.hexdigest()


@final
class TaggedPlan(BucketPlan):
    """Batches of tagged sentences of similar length: CLS, the tokens of the words, SEP.

    The first token of a word has its tag; the others, and special tokens, are not counted
    (Devlin et al. 2019, 5.3). Sentences longer than `max_length`, special tokens included, are cut
    at their end; `cut_rows` are their indices, `cut` their number. Otherwise like `LabelledPlan`.
    """

    def __init__(
        self,
        corpus: TaggedCorpus,
        tokenizer: TextTokenizer,
        batch_size: int,
        max_length: int,
        buckets: Sequence[int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        if max_length <= 2:
            raise ValueError(f"max_length={max_length}, wanted more than the 2 special tokens")
        self.corpus = corpus
        self.batch_size = batch_size
        self.pad_id = tokenizer.pad_id
        self.cut_rows: list[int] = []
        cls, sep = tokenizer.special("cls"), tokenizer.special("sep")
        self._rows: list[np.ndarray] = []
        self._tags: list[np.ndarray] = []
        known: dict[str, list[int]] = {}
        for row, (words, tags) in enumerate(zip(corpus.words, corpus.tags, strict=True)):
            ids, marks = [cls], [-1]
            for word, tag in zip(words, tags, strict=True):
                if word not in known:
                    # With a space, as before a word in running text.
                    pieces = tokenizer.encode_ids(f" {word}")
                    known[word] = pieces or [tokenizer.special("unk")]
                ids += known[word]
                marks += [tag] + [-1] * (len(known[word]) - 1)
            if len(ids) + 1 > max_length:
                self.cut_rows.append(row)
            ids, marks = ids[: max_length - 1], marks[: max_length - 1]
            self._rows.append(np.asarray([*ids, sep], np.int32))
            self._tags.append(np.asarray([*marks, -1], np.int32))
        self._lengths = np.asarray([len(row) for row in self._rows], np.int64)
        self._order = RowOrder(len(corpus), batch_size, seed, shuffle, self._lengths)
        self._buckets = Buckets(self._lengths, buckets, max_buckets)
        self._fingerprint = array_fingerprint(
            np.concatenate(self._rows), np.concatenate(self._tags), self._lengths
        )

    @property
    def cut(self) -> int:
        """Number of sentences that are cut."""
        return len(self.cut_rows)

    def collate(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """Return the batch of these rows.

        `tokens`: int32 `B T`. `valid`: bool `B T`, false at padding. `labels`: int32 `B T`, the tag
        at the first token of each word, where `counted`, bool `B T`, is true; 0 elsewhere. `rows`:
        int32 `B`, the sentence's index, -1 for a padding row.
        """
        length = self._buckets.of(rows)
        tokens, valid = pad_rows(self._rows, rows, length, self.pad_id)
        tags, _ = pad_rows(self._tags, rows, length, -1)
        return {
            "tokens": tokens,
            "valid": valid,
            "labels": np.maximum(tags, 0),
            "counted": tags >= 0,
            "rows": rows.astype(np.int32),
        }


def load_tagged(config: Any, cache_dir: Path | None = None) -> Splits[TaggedCorpus]:
    """Load or draw the parts of a `TaggedText` config; a missing part is empty.

    A line with too few columns, and a tag in validation or test that training does not have, are a
    UserError.
    """
    parts: dict[str, list[Sentence]] = {}
    reports = []
    for part in PARTS:
        parts[part] = []
        for name, sentences in (
            _hub(config, part, cache_dir) if config.hub else _files(config, part)
        ):
            if not sentences:
                raise UserError(f"{name}: there is no sentence in it")
            parts[part] += sentences
            reports.append(Report(name, read=len(sentences), unit="sentences"))
    parts = split_off_parts(parts, config)
    names = config.tags or class_names(tag for _, tags in parts["train"] for tag in tags)
    return Splits(
        **{
            part: TaggedCorpus(
                words=[words for words, _ in sentences],
                tags=[class_numbers(tags, names, part) for _, tags in sentences],
                names=tuple(names),
                name=part,
            )
            for part, sentences in parts.items()
        },
        reports=reports,
    )


def read_conll(
    path: str | Path, word_column: int, tag_column: int, encoding: str
) -> list[Sentence]:
    """Read one word per line, a blank line after each sentence; skip -DOCSTART- lines."""
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*read_text(path, encoding).split("\n"), ""], start=1):
        columns = re.split("[ \t]+", line.strip(" \t")) if line.strip() else []
        if not columns or columns[0] == "-DOCSTART-":
            if words:
                sentences.append((words, tags))
                words, tags = [], []
            continue
        try:
            words.append(columns[word_column])
            tags.append(columns[tag_column])
        except IndexError:
            raise UserError(
                f"{path}:{number}: {len(columns)} columns, wanted word_column={word_column} and "
                f"tag_column={tag_column}"
            ) from None
    return sentences


def _files(config: Any, part: str) -> Iterator[tuple[str, list[Sentence]]]:
    for path in map(spelled, getattr(config, part)):
        yield path, read_conll(path, config.word_column, config.tag_column, config.encoding)


def _hub(config: Any, part: str, cache_dir: Path | None) -> Iterator[tuple[str, list[Sentence]]]:
    from attnzoo.data.hub import hub_label, hub_splits, label_column, load_table

    split = hub_splits(config.hub).get(part)
    if split is None:
        return
    label = hub_label(config.hub, split)
    table = load_table(config.hub, split, cache_dir)
    words = label_column(table, label, config.words_field)
    tags = label_column(table, label, config.tags_field)
    for row, (sentence, marks) in enumerate(zip(words, tags, strict=True)):
        if not isinstance(sentence, list) or len(sentence) != len(marks):
            raise UserError(
                f"{label}: row {row}: {config.words_field!r} and {config.tags_field!r} are not "
                "lists of one length"
            )
    yield label, [(sentence, marks) for sentence, marks in zip(words, tags) if sentence]

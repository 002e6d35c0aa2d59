"""Masking for pre-training: BERT's masked tokens, and T5's span corruption."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from jaxtyping import Bool, Int32, Int64

from attnzoo.data.ahead import rows_of
from attnzoo.data.batching import Batch, Plan
from attnzoo.data.random_numbers import integers, uniform
from attnzoo.data.text import StreamPlan, TokenStream
from attnzoo.data.text_tokenizers import TextTokenizer, need_sentinels


@final
class MaskedPlan(Plan):
    """Batches of another plan with tokens masked as in BERT (Devlin et al. 2019, 3.1).

    Of the tokens of each row, special ones excluded, `share` are chosen, rounded to the nearest
    token, at least one; with `whole_words` whole words at a time. Of the chosen tokens `mask_share`
    become the mask token, `random_share` any ordinary token, the others stay. The choice is a pure
    function of `seed` and the step.

    `plan` is a `PackPlan` without `predict_next`, or a `StreamPlan`, whose windows are put between
    CLS and SEP and so become two tokens longer. A tokenizer without a mask token is a UserError.
    """

    def __init__(
        self,
        plan: Plan,
        tokenizer: TextTokenizer,
        seed: int = 0,
        share: float = 0.15,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        whole_words: bool = False,
    ) -> None:
        if not (0 < share <= 1 and mask_share >= 0 <= random_share):
            raise ValueError(
                f"share={share}, mask_share={mask_share}, random_share={random_share}: "
                "shares of 1 are wanted"
            )
        if mask_share + random_share > 1:
            raise ValueError(f"mask_share={mask_share} and random_share={random_share} exceed 1")
        self.plan = plan
        self.batch_size = plan.batch_size
        self.seed = seed
        self.share = share
        self.mask_share = mask_share
        self.random_share = random_share
        self.whole_words = whole_words
        self._mask_id = tokenizer.special("mask")
        self._pad_id = tokenizer.pad_id
        self._ends: tuple[int, int] | None = None
        if isinstance(plan, StreamPlan):
            self._ends = tokenizer.special("cls"), tokenizer.special("sep")
        self._special = np.zeros(tokenizer.vocab_size, np.bool_)
        # An unknown word can be predicted from its context like any other.
        hidden = {i for name, i in tokenizer.specials.items() if name != "unk"}
        self._special[[*hidden, *tokenizer.sentinels]] = True
        ordinary = ~self._special
        ordinary[[i for name, i in tokenizer.specials.items() if name == "unk"]] = False
        self._ordinary = np.flatnonzero(ordinary)
        self._starts = tokenizer.word_starts() if whole_words else np.ones_like(self._special)

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Return the batch of a step; steps count from 0 through all epochs.

        `tokens`: int32 `B T`, masked. `labels`: int32 `B T`, the text itself. `counted`: bool
        `B T`, true where a token was chosen. `valid`: bool `B T`, false at padding. `rows`, and
        the `documents` and `positions` of a `PackPlan`, are unchanged.
        """
        return rows_of(self._hide(self.plan.batch(step), step), rows)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {
            "masked": self.plan.fingerprint(),
            "seed": self.seed,
            "shares": [self.share, self.mask_share, self.random_share],
            "whole_words": self.whole_words,
        }

    def _hide(self, batch: Batch, step: int) -> Batch:
        if self._ends is not None:
            batch = _framed(batch, *self._ends, self._pad_id)
        labels, valid = batch["tokens"], batch["valid"]
        key = self.seed, step
        candidates = valid & ~self._special[labels]
        counted = choose_words(candidates, self._starts[labels], self.share, key)
        fate = uniform(labels.shape, *key, stream=6)
        ordinary = self._ordinary[integers(len(self._ordinary), labels.shape, *key, stream=7)]
        hidden = np.where(
            fate < self.mask_share,
            self._mask_id,
            np.where(fate < self.mask_share + self.random_share, ordinary, labels),
        )
        tokens = np.where(counted, hidden, labels).astype(np.int32)
        return {**batch, "tokens": tokens, "labels": labels, "counted": counted}


def choose_words(
    candidates: Bool[np.ndarray, "B T"],
    starts: Bool[np.ndarray, "B T"],
    share: float,
    key: tuple[int, ...],
) -> Bool[np.ndarray, "B T"]:
    """Choose whole words with about `share` of the candidates of each row, at least one word.

    A word is a candidate that starts one, and the following candidates that do not.
    """
    B, T = candidates.shape
    before = np.concatenate([np.zeros((B, 1), np.bool_), candidates[:, :-1]], axis=1)
    begins = candidates & (starts | ~before)
    word = np.maximum(np.cumsum(begins, axis=1) - 1, 0)
    # Words are in random order; rank is the index of each token in that order.
    lot = np.take_along_axis(uniform((B, T), *key, stream=5), word, axis=1)
    order = np.argsort(np.where(candidates, lot, 2.0), axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    column = np.broadcast_to(np.arange(T), (B, T))
    first = rank - (column - np.maximum.accumulate(np.where(begins, column, 0), axis=1))
    sizes = np.zeros((B, T), np.int64)
    np.add.at(sizes, (np.nonzero(candidates)[0], word[candidates]), 1)
    middle = first + np.take_along_axis(sizes, word, axis=1) / 2
    wanted = share * candidates.sum(axis=1, keepdims=True)
    # Compare the word's middle, so that the last word rounds to the nearer side.
    return candidates & ((middle < wanted) | (first == 0))


@final
class SpanPlan(Plan):
    """Windows of a stream with spans replaced by sentinels, and the spans as targets (T5).

    `share` of the tokens is hidden in spans of `mean_span` tokens on average. Every window has the
    same number of spans and hidden tokens, so arrays have one shape (Raffel et al. 2020, 3.1.4; the
    T5 code's `random_spans_noise_mask`). A window begins with visible tokens and ends with a span.

        text    a b c d e f g h         source  a b <0> e f g <1> EOS
                    - -       -         target  start <0> c d <1> h EOS

    `source_length` is the maximum length of the source; the window is the longest that fits. The
    spans are a pure function of `seed` and the step; `shuffle` is that of `StreamPlan`. Too few
    sentinels are a UserError. The target begins with BOS, or with PAD without a BOS, as in T5.
    """

    def __init__(
        self,
        stream: TokenStream | Int32[np.ndarray, " tokens"],
        tokenizer: TextTokenizer,
        batch_size: int,
        source_length: int,
        seed: int = 0,
        shuffle: bool = True,
        share: float = 0.15,
        mean_span: float = 3.0,
    ) -> None:
        if not 0 < share < 1 or mean_span < 1:
            raise ValueError(f"share={share}, mean_span={mean_span}: wanted 0 to 1, at least 1")
        window = 2
        while _source_length(window + 1, share, mean_span) <= source_length:
            window += 1
        if _source_length(window, share, mean_span) > source_length:
            raise ValueError(f"source_length={source_length} has no room for a span")
        self.batch_size = batch_size
        self.window = window
        self.seed = seed
        self.share = share
        self.mean_span = mean_span
        self.source_length = _source_length(window, share, mean_span)
        hidden, spans = span_counts(window, share, mean_span)
        self.target_length = hidden + spans + 1
        self._sentinels = np.asarray(need_sentinels(tokenizer, spans), np.int64)
        self._start = tokenizer.specials.get("bos", tokenizer.pad_id)
        self._end = tokenizer.special("eos")
        self._pad_id = tokenizer.pad_id
        self._plan = StreamPlan(stream, batch_size, window, seed, shuffle, tokenizer.pad_id)

    @property
    def steps_per_epoch(self) -> int:
        return self._plan.steps_per_epoch

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Return the batch of a step; steps count from 0 through all epochs.

        `source`: int32 `B S`. `source_valid`: bool `B S`, false at padding. `target`: int32
        `B T+1`; the model's input is `target[:, :-1]`, its labels are `target[:, 1:]`. `counted`:
        bool `B T`, true at labels. `rows`: int32 `B`, the window's start in the stream, -1 for a
        padding row. The last token of the stream is left out.
        """
        windows = self._plan.batch(step)
        B = self.batch_size
        source = np.full((B, self.source_length), self._pad_id, np.int32)
        target = np.full((B, self.target_length + 1), self._pad_id, np.int32)
        source_valid = np.zeros(source.shape, np.bool_)
        target_valid = np.zeros(target.shape, np.bool_)
        counts = windows["counted"].sum(axis=1)
        # At most two lengths: only the last window of a stream is shorter, and skipped below two.
        for length in np.unique(counts[counts >= 2]).tolist():
            alike = np.flatnonzero(counts == length)
            noise = span_noise(len(alike), length, self.share, self.mean_span, (self.seed, step))
            tokens = windows["tokens"][alike, :length].astype(np.int64)
            kept = self._collapse(tokens, noise)
            told = self._collapse(tokens, ~noise)
            source[alike, : kept.shape[1]] = kept
            source_valid[alike, : kept.shape[1]] = True
            target[alike, 0] = self._start
            target[alike, 1 : told.shape[1] + 1] = told
            target_valid[alike, : told.shape[1] + 1] = True
        batch = {
            "source": source,
            "source_valid": source_valid,
            "target": target,
            "counted": target_valid[:, 1:],
            "rows": np.where(counts >= 2, windows["rows"], -1).astype(np.int32),
        }
        return rows_of(batch, rows)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {
            "windows": self._plan.fingerprint(),
            "share": self.share,
            "mean_span": self.mean_span,
            "sentinels": self._sentinels.tolist(),
        }

    def _collapse(
        self, tokens: Int64[np.ndarray, "B T"], noise: Bool[np.ndarray, "B T"]
    ) -> Int64[np.ndarray, "B L"]:
        """Replace each run of noise by one sentinel and append EOS; all rows have one length."""
        begins = noise & ~np.concatenate([np.zeros_like(noise[:, :1]), noise[:, :-1]], axis=1)
        number = np.cumsum(begins, axis=1) - 1
        shown = np.where(begins, self._sentinels[number], tokens)
        kept = shown[~noise | begins].reshape(len(tokens), -1)
        return np.concatenate([kept, np.full((len(kept), 1), self._end)], axis=1)


def span_counts(length: int, share: float, mean_span: float) -> tuple[int, int]:
    """Return the numbers of hidden tokens and of spans in a window; at least one of each."""
    hidden = min(max(round(length * share), 1), length - 1)
    spans = min(max(round(hidden / mean_span), 1), hidden, length - hidden)
    return hidden, spans


def span_noise(
    batch: int, length: int, share: float, mean_span: float, key: tuple[int, ...]
) -> Bool[np.ndarray, "B T"]:
    """Return a mask of hidden tokens, with runs of visible and hidden tokens in turn.

    Every way to divide the hidden tokens, and the visible ones, into spans is equally likely.
    """
    hidden, spans = span_counts(length, share, mean_span)
    runs = np.empty((batch, 2 * spans), np.int64)
    runs[:, 0::2] = _cut_at_random(batch, length - hidden, spans, (*key, length), 8)
    runs[:, 1::2] = _cut_at_random(batch, hidden, spans, (*key, length), 9)
    changes = np.zeros((batch, length), np.bool_)
    np.put_along_axis(changes, np.cumsum(runs, axis=1)[:, :-1], True, axis=1)
    return np.cumsum(changes, axis=1) % 2 == 1


def _cut_at_random(
    batch: int, total: int, parts: int, key: tuple[int, ...], stream: int
) -> Int64[np.ndarray, "B parts"]:
    """Return random sizes of `parts` parts, at least 1 each, that sum to `total`."""
    lots = uniform((batch, total - 1), *key, stream=stream)
    cuts = np.sort(np.argsort(lots, axis=1)[:, : parts - 1], axis=1) + 1
    edges = np.concatenate(
        [np.zeros((batch, 1), np.int64), cuts, np.full((batch, 1), total)], axis=1
    )
    return np.diff(edges, axis=1)


def _source_length(window: int, share: float, mean_span: float) -> int:
    hidden, spans = span_counts(window, share, mean_span)
    return window - hidden + spans + 1


def _framed(batch: Batch, first: int, last: int, pad_id: int) -> Batch:
    """Put windows of a `StreamPlan` between two special tokens: `tokens`, `valid` and `rows`."""
    counts = batch["counted"].sum(axis=1)
    B, T = batch["tokens"].shape
    column = np.arange(T + 2)
    tokens = np.full((B, T + 2), pad_id, np.int32)
    tokens[:, 1:-1] = np.where(batch["counted"], batch["tokens"], pad_id)
    real = counts > 0
    tokens[real, 0] = first
    tokens[np.flatnonzero(real), counts[real] + 1] = last
    return {
        "tokens": tokens,
        "valid": real[:, None] & (column < counts[:, None] + 2),
        "rows": batch["rows"],
    }

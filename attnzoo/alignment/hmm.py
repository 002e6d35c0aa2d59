"""The hidden Markov model of word alignment, in both directions that learn to agree.

Each target word is translated from a source word, whose position depends on that of the target
word before it, by the width of the jump (Vogel, Ney and Tillmann, COLING 1996, equations 4 to 6),
or from no word (Och and Ney, Computational Linguistics 2003, section 2.1.3). The two directions
are trained together: the expected count of a link is the product of its probabilities in both
(Liang, Taskar and Klein, NAACL 2006, section 3). The lexicon starts as that of IBM model 1 (Brown
et al., Computational Linguistics 1993, equation 17). Words are cut to their first characters by
default, which stands for a stemmer and helps where text is scarce.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from attnzoo.alignment.aligner import (
    Alignment,
    TextAligner,
    Words,
    check_pairs,
    links_from_posteriors,
)
from attnzoo.config.alignment import HmmConfig

CELLS = 300_000
"""Cells (source word, target word) of a batch."""
PAIRS = 4_096
"""Pairs that are aligned at a time."""
TINY = np.float32(1e-30)


class HmmAligner(TextAligner):
    """Align words by hidden Markov models of both directions, trained on the same text.

    The result does not depend on chance. A pair longer than `max_words` is not trained on: it is
    aligned by the words of the others, and unread if most of its words have no partner among them.
    Memory: 4 bytes for each pair of a source word and a target word of all sentence pairs.
    """

    config_class = HmmConfig

    def align(self, sources: Sequence[Words], targets: Sequence[Words]) -> Iterator[Alignment]:
        """Train on these pairs and the aligner's own text, then yield the alignments."""
        check_pairs(sources, targets)
        config = self.config
        sides = [
            _Side.of([*own, *new], config.prefix)
            for own, new in zip(self._text, (sources, targets), strict=True)
        ]
        longest = np.maximum(sides[0].lengths, sides[1].lengths)
        both = np.minimum(sides[0].lengths, sides[1].lengths) > 0
        used = np.flatnonzero(both & (longest <= config.max_words))
        model = _train(*sides, used, config)
        first = len(self._text[0])
        for start in range(first, len(both), PAIRS):
            rows = np.arange(start, min(start + PAIRS, len(both)))
            found = dict(_posteriors(model, *sides, rows[both[rows]], config))
            for row in rows.tolist():
                source, target = sources[row - first], targets[row - first]
                S, T = len(source), len(target)
                nothing = np.zeros((T, S), np.float32), np.zeros((S, T), np.float32)
                forward, backward = found.pop(row, nothing)
                mass = max(forward.sum() / max(T, 1), backward.sum() / max(S, 1))
                if both[row] and longest[row] > config.max_words and mass < 0.5:
                    reason = f"longer than max_words={config.max_words}, of words not trained on"
                    yield Alignment.of_unread(source, target, reason)
                    continue
                links = links_from_posteriors(forward, backward, config.rule, config.threshold)
                yield Alignment(source, target, links, forward, backward)


@dataclass(frozen=True)
class _Side:
    """One side of a corpus as ids of word types in a flat array."""

    ids: Int32[np.ndarray, " words"]
    starts: Int64[np.ndarray, " pairs"]
    lengths: Int64[np.ndarray, " pairs"]
    types: int

    @classmethod
    def of(cls, sentences: Sequence[Words], prefix: int | None) -> _Side:
        """Number the words, in lower case and cut to `prefix` characters."""
        known: dict[str, int] = {}
        words: dict[str, int] = {}
        flat = []
        for sentence in sentences:
            for word in sentence:
                number = words.get(word)
                if number is None:
                    number = words[word] = known.setdefault(word.lower()[:prefix], len(known))
                flat.append(number)
        lengths = np.array([len(sentence) for sentence in sentences], np.int64)
        starts = np.cumsum(lengths) - lengths
        return cls(np.array(flat, np.int32), starts, lengths, len(known))

    def padded(
        self, rows: Int64[np.ndarray, " B"]
    ) -> tuple[Int32[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Return the ids of sentences, padded with 0, and where they are real."""
        lengths = self.lengths[rows]
        column = np.arange(lengths.max(initial=0))
        real = column < lengths[:, None]
        out = np.zeros(real.shape, np.int32)
        out[real] = self.ids[(self.starts[rows, None] + column)[real]]
        return out, real


@dataclass(frozen=True)
class _Direction:
    """Parameters of one direction: words of `given` positions produce the words of the other."""

    lexicon: Float32[np.ndarray, " entries"]
    null: Float32[np.ndarray, " types"]
    jumps: Float64[np.ndarray, " widths"]


@dataclass(frozen=True)
class _Model:
    """Both directions, and the sorted keys of the lexicon's entries."""

    keys: Int64[np.ndarray, " entries"]
    forward: _Direction
    backward: _Direction


def _batches(
    source: _Side, target: _Side, rows: Int64[np.ndarray, " pairs"]
) -> Iterator[Int64[np.ndarray, " B"]]:
    """Cut pairs into batches of similar lengths, of at most `CELLS` cells."""
    S, T = source.lengths[rows], target.lengths[rows]
    rows = rows[np.lexsort((T, S // 4))]
    start = 0
    while start < len(rows):
        end, s, t = start, 0, 0
        while end < len(rows):
            s, t = max(s, source.lengths[rows[end]]), max(t, target.lengths[rows[end]])
            if end > start and (end + 1 - start) * s * t > CELLS:
                break
            end += 1
        yield rows[start:end]
        start = end


@dataclass(frozen=True)
class _Batch:
    """Pairs of similar lengths; `cells[t, b, s]` is an entry of the lexicon, the last a null."""

    rows: Int64[np.ndarray, " B"]
    cells: Int32[np.ndarray, "T B S"]
    source: Int32[np.ndarray, "B S"]
    target: Int32[np.ndarray, "B T"]
    source_real: Bool[np.ndarray, "B S"]
    target_real: Bool[np.ndarray, "B T"]


def _keys(source: _Side, target: _Side, rows: Int64[np.ndarray, " B"]) -> tuple[Any, ...]:
    """Return the keys `T B S` of a batch, -1 in padding, and its padded sides."""
    (e, e_real), (f, f_real) = source.padded(rows), target.padded(rows)
    keys = f.T[:, :, None].astype(np.int64) + e[None].astype(np.int64) * target.types
    keys[~(f_real.T[:, :, None] & e_real[None])] = -1
    return keys, e, f, e_real, f_real


def _batch(known: np.ndarray, source: _Side, target: _Side, rows: np.ndarray) -> _Batch:
    keys, *rest = _keys(source, target, rows)
    own, inverse = np.unique(keys, return_inverse=True)
    place = np.searchsorted(known, own)
    found = place < len(known)
    found[found] = known[place[found]] == own[found]
    entries = np.where(found, place, len(known)).astype(np.int32)
    return _Batch(rows, entries[inverse].reshape(keys.shape), *rest)


def _train(source: _Side, target: _Side, used: np.ndarray, config: HmmConfig) -> _Model:
    groups = list(_batches(source, target, used))
    keys = np.zeros(0, np.int64)
    for start in range(0, len(groups), 16):
        some = [np.unique(_keys(source, target, rows)[0]) for rows in groups[start : start + 16]]
        keys = np.unique(np.concatenate([keys, *some]))
    keys = keys[keys >= 0]
    batches = [_batch(keys, source, target, rows) for rows in groups]
    e, f = keys // max(target.types, 1), keys % max(target.types, 1)
    widths = 2 * config.max_jump + 1
    distance = np.abs(np.arange(widths) - config.max_jump - 1)
    jumps = np.exp(-distance / config.jump_scale)
    model = _Model(
        keys,
        _Direction(_padded_uniform(len(keys), target.types), _uniform(target.types), jumps),
        _Direction(_padded_uniform(len(keys), source.types), _uniform(source.types), jumps),
    )
    for iteration in range(config.lexicon_iterations + config.iterations):
        counts = _Counts(len(keys), source.types, target.types, widths)
        step = _expect_lexicon if iteration < config.lexicon_iterations else _expect_hmm
        for batch in batches:
            step(model, batch, counts, config)
        model = _Model(
            keys,
            _maximise(counts.forward, e, source.types, model.forward.jumps),
            _maximise(counts.backward, f, target.types, model.backward.jumps),
        )
    return model


def _uniform(types: int) -> np.ndarray:
    return np.full(types, 1 / max(types, 1), np.float32)


def _padded_uniform(entries: int, types: int) -> np.ndarray:
    return np.append(np.full(entries, 1 / max(types, 1), np.float32), np.float32(0))


class _DirectionCounts:
    """Expected counts of one direction."""

    def __init__(self, entries: int, types: int, widths: int):
        self.lexicon = np.zeros(entries + 1)
        self.null = np.zeros(types)
        self.jumps = np.zeros(widths)


class _Counts:
    """Expected counts of both directions."""

    def __init__(self, entries: int, source_types: int, target_types: int, widths: int):
        self.forward = _DirectionCounts(entries, target_types, widths)
        self.backward = _DirectionCounts(entries, source_types, widths)


def _maximise(
    counts: _DirectionCounts, given: np.ndarray, types: int, jumps: np.ndarray
) -> _Direction:
    """Estimate a direction from its counts."""
    lexicon = counts.lexicon[:-1]
    total = np.bincount(given, lexicon, minlength=types)
    table = lexicon / np.maximum(total, 1e-30)[given]
    null = counts.null + 0.01
    return _Direction(
        np.append(table, 0).astype(np.float32),
        (null / null.sum()).astype(np.float32),
        counts.jumps + 0.5 if counts.jumps.any() else jumps,
    )


def _expect_lexicon(model: _Model, batch: _Batch, counts: _Counts, config: HmmConfig) -> None:
    """Add the expected counts of IBM model 1, both directions with agreement."""
    share = config.null
    cells = batch.cells
    E = model.forward.lexicon[cells]  # T B S
    E0 = model.forward.null[batch.target].T[:, :, None] * np.float32(share)
    S = batch.source_real.sum(axis=1)[None, :, None]
    E *= (np.float32(1 - share) / S).astype(np.float32)
    forward = E / (E.sum(axis=2, keepdims=True) + E0 + TINY)
    E = model.backward.lexicon[cells]
    E0 = model.backward.null[batch.source][None] * np.float32(share)
    T = batch.target_real.sum(axis=1)[None, :, None]
    E *= (np.float32(1 - share) / T).astype(np.float32)
    backward = E / (E.sum(axis=0, keepdims=True) + E0 + TINY)
    _add(counts, batch, forward, backward, False)


def _add(counts: _Counts, batch: _Batch, forward: Any, backward: Any, agree: bool) -> None:
    """Add link counts of a batch; `forward` and `backward` are both `T B S`."""
    entries = len(counts.forward.lexicon)
    if agree:
        forward = backward = forward * backward
    flat = batch.cells.reshape(-1)
    for one, posterior in ((counts.forward, forward), (counts.backward, backward)):
        one.lexicon += np.bincount(flat, posterior.reshape(-1), minlength=entries)
    for one, words, real, mass in (
        (counts.forward, batch.target, batch.target_real, forward.sum(axis=2).T),
        (counts.backward, batch.source, batch.source_real, backward.sum(axis=0)),
    ):
        rest = np.where(real, np.maximum(1 - mass, 0), 0)
        one.null += np.bincount(words.reshape(-1), rest.reshape(-1), minlength=len(one.null))


def _expect_hmm(model: _Model, batch: _Batch, counts: _Counts, config: HmmConfig) -> None:
    """Add the expected counts of the hidden Markov model, both directions with agreement."""
    forward = _forward_backward(model.forward, batch, config, counts.forward.jumps, False)
    backward = _forward_backward(model.backward, batch, config, counts.backward.jumps, True)
    _add(counts, batch, forward, backward.transpose(2, 1, 0), config.agreement)


def _forward_backward(
    direction: _Direction,
    batch: _Batch,
    config: HmmConfig,
    jump_counts: np.ndarray | None,
    reverse: bool,
) -> Float32[np.ndarray, "L B N"]:
    """Return the probability that word l comes from position n; add the jumps to their counts."""
    cells, words, steps, states = batch.cells, batch.target, batch.target_real, batch.source_real
    if reverse:
        cells, words = cells.transpose(2, 1, 0), batch.source
        steps, states = states, steps
    E = direction.lexicon[cells]  # L B N
    L, B, N = E.shape
    p0 = np.float32(config.null)
    E *= 1 - p0
    e0 = direction.null[words].T[:, :, None] * p0  # L B 1
    real = steps.T[:, :, None]
    K = config.max_jump
    c = (direction.jumps / direction.jumps.sum()).astype(np.float32)
    offset = np.arange(N)[None, :] - np.arange(-1, N)[:, None]  # from -1 (the start) .. N-1
    bucket = np.clip(offset, -K, K) + K
    P = c[bucket]
    # The share of each row that lies inside of the sentence.
    scale = 1 / np.maximum(states.astype(np.float32) @ P.T, TINY)  # B N+1
    start, P = P[0], P[1:]
    start_scale, scale = scale[:, :1], scale[:, 1:]
    A = np.empty((L, B, N), np.float32)  # filtered, real and null
    R = np.empty((L, B, N), np.float32)  # filtered, real alone
    M = np.where(states, start * start_scale, 0)
    before = M
    norms = np.empty((L, B, 1), np.float32)
    for j in range(L):
        if j:
            before = A[j - 1]
            M = (before * scale) @ P
        r = M * E[j]
        a = r + before * e0[j]
        norm = a.sum(axis=1, keepdims=True) + TINY
        norms[j] = norm
        R[j] = r / norm
        A[j] = np.where(real[j], a / norm, before)
    beta = np.ones((B, N), np.float32)
    posterior = np.empty((L, B, N), np.float32)
    diagonal = np.zeros((N, N), np.float32)
    for j in range(L - 1, -1, -1):
        Z = (A[j] * beta).sum(axis=1, keepdims=True) + TINY
        posterior[j] = np.where(real[j], R[j] * beta / Z, 0)
        if j == 0:
            break
        w = E[j] * beta / norms[j]
        if jump_counts is not None:
            diagonal += (A[j - 1] * scale).T @ np.where(real[j], w / Z, 0)
        new = (w @ P.T) * scale + beta * e0[j] / norms[j]
        beta = np.where(real[j], new, beta)
    if jump_counts is not None:
        jump_counts += np.bincount(
            bucket[1:].reshape(-1), (diagonal * P).reshape(-1), minlength=2 * K + 1
        )
        jump_counts += np.bincount(bucket[0], posterior[0].sum(axis=0), minlength=2 * K + 1)
    return posterior


def _posteriors(
    model: _Model, source: _Side, target: _Side, rows: np.ndarray, config: HmmConfig
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Yield each row with its matrices `T S` and `S T`."""
    for chosen in _batches(source, target, rows):
        batch = _batch(model.keys, source, target, chosen)
        forward = _forward_backward(model.forward, batch, config, None, False)
        backward = _forward_backward(model.backward, batch, config, None, True)
        for b, row in enumerate(chosen.tolist()):
            S, T = source.lengths[row], target.lengths[row]
            yield row, (forward[:T, b, :S].copy(), backward[:S, b, :T].copy())

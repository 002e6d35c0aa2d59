"""Extraction of links between words from attention weights between tokens.

Throughout, `weights` is one sentence's matrix: T rows, one per decoder step, and S columns, one per
source position in reading order (for a model that reads the source reversed, mirror the columns
first). The caller averages over heads. `source_word_ids[s]` is the word that source token s belongs
to, `target_word_ids[t]` the word of target token t; neither lists the special tokens. Rows and
columns beyond the word ids (EOS, padding) are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from attnzoo.alignment.links import Link

Timing = Literal["predicted", "input"]
Rule = Literal["target", "source", "threshold"]
Level = Literal["token", "word"]

# Row of a token, counted from the row of the step that predicts the token.
TIMINGS: dict[str, int] = {"predicted": 0, "input": 1}


def token_matrix(
    weights: Float[np.ndarray, "T S"],
    source_tokens: int,
    target_tokens: int,
    *,
    timing: Timing = "predicted",
) -> Float[np.ndarray, "target_tokens source_tokens"]:
    """Cut `weights` to one row per target token and one column per source token.

    Step t of a decoder reads token t-1 (BOS at t = 0) and predicts token t. With
    `timing="predicted"` row t belongs to token t. With `timing="input"` row t+1 does, the row of
    the step that reads token t. Luong et al. 2015 (section 5.4, footnote 14) assign location-based
    attention to the predicted and content-based attention to the input word; Chen et al. 2020
    (arXiv 2004.14837) call the latter Shift-Att. The wrong choice raises the alignment error rate
    a lot.

    Raises ValueError where `weights` is not a finite, non-negative matrix or has too few rows or
    columns ("input" needs the row of the step that predicts EOS).
    """
    if timing not in TIMINGS:
        raise ValueError(f"timing={timing!r} is none of {', '.join(TIMINGS)}")
    if weights.ndim != 2:
        raise ValueError(f"weights has shape {weights.shape}, wanted T S (average the heads first)")
    first = TIMINGS[timing]
    T, S = weights.shape
    if first + target_tokens > T or source_tokens > S:
        raise ValueError(
            f"weights has shape {weights.shape}, but {target_tokens} target tokens with "
            f"timing={timing!r} need {first + target_tokens} rows, and {source_tokens} source "
            f"tokens as many columns"
        )
    cut = np.asarray(weights[first : first + target_tokens, :source_tokens], np.float64)
    if not np.all(np.isfinite(cut)) or np.any(cut < 0):
        raise ValueError("weights has entries that are negative, infinite or not a number")
    return cut


def word_matrix(
    weights: Float[np.ndarray, "T S"],
    source_word_ids: Sequence[int],
    target_word_ids: Sequence[int],
    *,
    timing: Timing = "predicted",
    source_words: int | None = None,
    target_words: int | None = None,
) -> Float[np.ndarray, "target_words source_words"]:
    """Sum attention over each word's source tokens and average it over its target tokens.

    For plots. A row shows where one target word attends, and sums to the mass that its tokens give
    to real words (1 minus the mass on EOS). `source_words` and `target_words` give the number of
    words if the last words may have no token; a word without tokens has a row or column of zeros.
    """
    cut = token_matrix(weights, len(source_word_ids), len(target_word_ids), timing=timing)
    source = _membership(source_word_ids, source_words, "source")
    target = _membership(target_word_ids, target_words, "target")
    return _mean_over_tokens(target) @ cut @ source


def row_shares(matrix: Float[np.ndarray, "T S"]) -> Float[np.ndarray, "T S"]:
    """Scale each row to sum to 1, so that all target words count equally; rows of zeros stay."""
    total = matrix.sum(axis=1, keepdims=True)
    return matrix / np.where(total > 0, total, 1)


def links_from_weights(
    weights: Float[np.ndarray, "T S"],
    source_word_ids: Sequence[int],
    target_word_ids: Sequence[int],
    *,
    timing: Timing = "predicted",
    rule: Rule = "target",
    level: Level = "token",
    threshold: float = 0.5,
    eos_is_null: bool = False,
) -> set[Link]:
    """Return word links (i, j) = (source word, target word) from one sentence's weights.

    `rule` selects the cells that become links: "target" takes the largest weight of every target
    (the usual rule), "source" the largest of every source, "threshold" every cell of at least
    `threshold`. Of equal cells the first wins; a row (or column) of zeros gives no link.

    `level` defines a cell. "token": a pair of tokens, and two words are linked if any of
    their tokens are (Zenkel et al. 2019), so a target word of three tokens may get three links.
    "word": a pair of words in `word_matrix`, so that "target" gives every target word at most one
    link, as Luong et al. 2015 do.

    With `eos_is_null` a target token (or word) gets no link if its largest weight is on a dropped
    column (EOS or padding); otherwise it takes its best remaining column. Only for `rule="target"`.
    """
    if rule not in ("target", "source", "threshold"):
        raise ValueError(f"rule={rule!r} is none of target, source, threshold")
    if level not in ("token", "word"):
        raise ValueError(f"level={level!r} is none of token, word")
    if eos_is_null and rule != "target":
        raise ValueError(f"eos_is_null=True has no meaning with rule={rule!r}, only with 'target'")
    if rule == "threshold" and not threshold > 0:
        raise ValueError(f"threshold={threshold} would link every pair, wanted more than 0")

    if level == "word":
        cells = word_matrix(weights, source_word_ids, target_word_ids, timing=timing)
        source_names, target_names = range(cells.shape[1]), range(cells.shape[0])
    else:
        sizes = len(source_word_ids), len(target_word_ids)
        cells = token_matrix(weights, *sizes, timing=timing)
        source_names, target_names = source_word_ids, target_word_ids
    if cells.size == 0:
        return set()

    chosen = np.zeros(cells.shape, bool)
    if rule == "target":
        chosen[np.arange(cells.shape[0]), cells.argmax(axis=1)] = True
    elif rule == "source":
        chosen[cells.argmax(axis=0), np.arange(cells.shape[1])] = True
    else:
        chosen = cells >= threshold
    chosen &= cells > 0
    if eos_is_null:
        every = token_matrix(weights, weights.shape[1], len(target_word_ids), timing=timing)
        dropped = every[:, len(source_word_ids) :]
        if level == "word":
            dropped = _mean_over_tokens(_membership(target_word_ids, None, "target")) @ dropped
        chosen[dropped.max(axis=1, initial=0.0) > cells.max(axis=1)] = False
    rows, columns = np.nonzero(chosen)
    return {
        (int(source_names[s]), int(target_names[t]))
        for t, s in zip(rows.tolist(), columns.tolist())
    }


def _membership(
    word_ids: Sequence[int], words: int | None, side: str
) -> Float[np.ndarray, "tokens words"]:
    """Return a 0/1 matrix, 1 where the token (row) belongs to the word (column)."""
    ids = np.asarray(word_ids, np.int64).reshape(-1)
    needed = int(ids.max()) + 1 if ids.size else 0
    if ids.size and ids.min() < 0:
        raise ValueError(f"{side}_word_ids has {ids.min()}, words count from 0")
    if words is not None and words < needed:
        raise ValueError(f"{side}_words={words}, but {side}_word_ids names word {needed - 1}")
    return np.eye(needed if words is None else words, dtype=np.float64)[ids]


def _mean_over_tokens(
    membership: Float[np.ndarray, "tokens words"],
) -> Float[np.ndarray, "words tokens"]:
    """Return the matrix that averages token rows into word rows; 0 for a word without tokens."""
    return (membership / np.maximum(membership.sum(axis=0), 1)).T

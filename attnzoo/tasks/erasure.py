"""Importance of source words to a translation: erase each word and score the target again.

This is the prediction difference of Li et al., ACL 2019 ("On the Word Alignment from Neural Machine
Translation"), here of log-probabilities and of whole words. It checks an alignment by the model's
predictions instead of its attention.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.data.tokenizers import Encoding
from attnzoo.layers.embedding import Embedding
from attnzoo.module import Module
from attnzoo.special_tokens import UNK
from attnzoo.tasks.translation import ForcedDecoding, Progress, Translator

FILLS = ("zero", "mean", "unk")
GROUP = 256
"""Number of pairs whose erasures are in memory together."""


class BlankEmbedding(Module):
    """An embedding that returns ``blank`` for ids beyond the table; its logits are the table's."""

    def __init__(self, table: Embedding, blank: Float[Array, " D"]):
        self.inner, self.blank = table, nnx.Variable(blank)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Return the rows of ids, or ``blank`` for ids beyond the table."""
        found = self.inner(ids)
        size = self.inner.table[...].shape[0]
        blank = jnp.broadcast_to(self.blank[...], found.shape)
        return jnp.where((ids >= size)[..., None], blank, found)

    def logits(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Return the logits of the table."""
        return self.inner.logits(x)


def with_blank(model: Any, fill: str = "zero", unk_id: int = UNK) -> tuple[Any, int]:
    """Copy a translator with a token for erased words; return the copy and the token's id.

    The token's vector is ``zero``, the ``mean`` of the source's table (each row counts equally), or
    the vector of the unknown word ``unk_id``, which subword tokenizers never train.
    """
    if fill not in FILLS:
        raise ValueError(f"fill={fill!r} is none of {', '.join(FILLS)}")
    copy: Any = nnx.clone(model)
    if "source" not in model.token_tables:
        raise NotImplementedError(f"{type(model).__name__} embeds no source that could be erased")
    name = model.token_tables["source"]
    table = getattr(copy, name)
    rows = table.embedding[...] if isinstance(table, nnx.Embed) else table.table[...]
    blanks = {"mean": jnp.mean(rows, axis=0), "zero": jnp.zeros_like(rows[0]), "unk": rows[unk_id]}
    if isinstance(table, nnx.Embed):
        table.embedding = nnx.Param(jnp.concatenate([rows, blanks[fill][None]]))
    else:
        setattr(copy, name, BlankEmbedding(table, blanks[fill]))
    return copy, rows.shape[0]


def erase_words(
    translator: Translator,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    fill: str = "zero",
    progress: Progress | None = None,
) -> list[ForcedDecoding | None]:
    """Score known pairs, with the importance of each source word in place of attention.

    ``weights[t, s]`` is the drop in nats of the log-probability of target token t if the source
    word that begins at token s is erased, 0 if it rises. Columns of tokens that continue a word,
    and of EOS, are 0. Rows belong to the predicted token: ``translator.links(result,
    timing="predicted")``. A pair of S words is read S + 1 times, in batches. None if a side is
    empty or too long.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources but {len(targets)} targets")
    model, blank = with_blank(translator.model, fill, translator.source_tokenizer.unk_id)
    reader = _reader(translator, model)
    results: list[ForcedDecoding | None] = []
    for start in range(0, len(sources), GROUP):
        part = slice(start, start + GROUP)
        results += _erase_group(reader, sources[part], targets[part], blank)
        if progress is not None:
            progress(len(results), len(sources))
    return results


def _erase_group(
    reader: Translator, sources: Sequence[str], targets: Sequence[str], blank: int
) -> list[ForcedDecoding | None]:
    left: list[Encoding] = []
    right: list[Encoding] = []
    firsts: list[list[int]] = []
    for source, target in zip(sources, targets, strict=True):
        whole, known = (
            reader.source_tokenizer.encode(source),
            reader.target_tokenizer.encode(target),
        )
        words = whole.word_ids
        first = [s for s in range(len(words)) if s == 0 or words[s] != words[s - 1]]
        firsts.append(first)
        erased = [
            [blank if words[s] == words[begin] else i for s, i in enumerate(whole.ids)]
            for begin in first
        ]
        left += [whole, *(dataclasses.replace(whole, ids=ids) for ids in erased)]
        right += [known] * (len(first) + 1)
    read = reader.force_tokens(left, right)
    results: list[ForcedDecoding | None] = []
    at = 0
    for first in firsts:
        whole, *without = read[at : at + len(first) + 1]
        at += len(first) + 1
        if whole is None:
            results.append(None)
            continue
        falls = np.zeros_like(whole.weights)
        for s, other in zip(first, cast(list[ForcedDecoding], without), strict=True):
            falls[:, s] = np.maximum(whole.log_probs - other.log_probs, 0)
        results.append(dataclasses.replace(whole, weights=falls))
    return results


def deletion_areas(
    translator: Translator,
    source: str,
    target: str,
    importances: dict[str, Float[np.ndarray, "T S"]],
    *,
    fill: str = "zero",
    steps: int = 10,
) -> dict[str, Float[np.ndarray, "T"]]:
    """Return the area under the deletion curve of each target word, for each importance matrix.

    For each target word, source words are erased in order of falling importance in its row, in at
    most ``steps`` parts. The curve is the word's probability (the product over its tokens) against
    the share of erased words, 0 to 1. A small area means a faithful matrix (as in
    ``attnzoo.explain.faithfulness.deletion``). Compare it with that of random matrices.

    Raises:
      ValueError: the pair cannot be read, or a matrix has the wrong shape for its words.
    """
    model, blank = with_blank(translator.model, fill, translator.source_tokenizer.unk_id)
    reader = _reader(translator, model)
    left = reader.source_tokenizer.encode(source)
    right = reader.target_tokenizer.encode(target)
    T, S = len(right.words), len(left.words)
    for name, matrix in importances.items():
        if matrix.shape != (T, S):
            raise ValueError(f"{name}: shape {matrix.shape}, wanted {(T, S)}, target by source")
    counts = np.unique(np.round(np.linspace(0, S, steps + 1)).astype(int))
    orders = {name: np.argsort(-m, axis=1, kind="stable") for name, m in importances.items()}
    # Orders share many prefixes: each set of words is read once.
    sets: dict[frozenset[int], int] = {}
    for order in orders.values():
        for row in order.tolist():
            for n in counts.tolist():
                sets.setdefault(frozenset(row[:n]), len(sets))
    erased = [
        dataclasses.replace(
            left,
            ids=[
                blank if word in gone else i
                for i, word in zip(left.ids, left.word_ids, strict=True)
            ],
        )
        for gone in sets
    ]
    read = reader.force_tokens(erased, [right] * len(erased))
    if any(one is None for one in read):
        raise ValueError("a pair that is empty or too long cannot be read")
    found = np.stack([cast(ForcedDecoding, one).log_probs for one in read])[:, : len(right.ids)]
    belongs = np.eye(T, dtype=found.dtype)[np.asarray(right.word_ids)]
    probabilities = np.exp(found @ belongs)  # sets by target words
    areas: dict[str, np.ndarray] = {}
    for name, order in orders.items():
        rows = [[sets[frozenset(row[:n])] for n in counts.tolist()] for row in order.tolist()]
        curves = np.stack([probabilities[at, t] for t, at in enumerate(rows)])
        areas[name] = np.trapezoid(curves, counts / S, axis=1)
    return areas


def _reader(translator: Translator, model: Any) -> Translator:
    """Return a translator for another model, with the same tokenizers, batches and lengths."""
    return Translator(
        model,
        translator.source_tokenizer,
        translator.target_tokenizer,
        batch_size=translator.batch_size,
        max_source=translator.max_source,
    )

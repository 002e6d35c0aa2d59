"""Which source word a translation needs: one after another is erased, and the target reread.

The prediction difference of Li et al., ACL 2019 ("On the Word Alignment from Neural Machine
Translation"), here of log-probabilities and of whole words: a second opinion on an alignment that
asks the model and not its attention.
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
from attnzoo.tasks.translation import Forced, Progress, Translator

FILLS = ("zero", "mean", "unk")
GROUP = 256
"""Pairs whose erasures are in memory together."""


class BlankEmbedding(Module):
    """A table with one more row, ``blank``, that ids past its end read; its logits are the same."""

    def __init__(self, table: Embedding, blank: Float[Array, " D"]):
        self.inner, self.blank = table, nnx.Variable(blank)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Rows, or ``blank``."""
        found = self.inner(ids)
        size = self.inner.table[...].shape[0]
        blank = jnp.broadcast_to(self.blank[...], found.shape)
        return jnp.where((ids >= size)[..., None], blank, found)

    def logits(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Those of the table."""
        return self.inner.logits(x)


def with_blank(model: Any, fill: str = "zero") -> tuple[Any, int]:
    """A copy of a translator that can read an erased source token, and the id of that token.

    Its vector is ``zero``, the ``mean`` of the source's table (rare words count alike), or that of
    the unknown word, ``unk``, which subword tokenizers never train.
    """
    if fill not in FILLS:
        raise ValueError(f"fill={fill!r} is none of {', '.join(FILLS)}")
    copy: Any = nnx.clone(model)
    if "source" not in model.token_tables:
        raise NotImplementedError(f"{type(model).__name__} embeds no source that could be erased")
    name = model.token_tables["source"]
    table = getattr(copy, name)
    rows = table.embedding[...] if isinstance(table, nnx.Embed) else table.table[...]
    blanks = {"mean": jnp.mean(rows, axis=0), "zero": jnp.zeros_like(rows[0]), "unk": rows[UNK]}
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
) -> list[Forced | None]:
    """Known pairs, with what each source word is worth to each target token in place of attention.

    ``weights[t, s]`` is by how many nats the log-probability of target token t falls without the
    source word that token s begins, 0 where it rises; columns of tokens that continue a word, and
    of EOS, are 0. Rows are credited to the token that is predicted: ``translator.links(result,
    timing="predicted")``. A pair of S words is read S + 1 times, in batches. None where a side is
    empty or too long.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources but {len(targets)} targets")
    model, blank = with_blank(translator.model, fill)
    reader = _reader(translator, model)
    results: list[Forced | None] = []
    for start in range(0, len(sources), GROUP):
        part = slice(start, start + GROUP)
        results += _erase_group(reader, sources[part], targets[part], blank)
        if progress is not None:
            progress(len(results), len(sources))
    return results


def _erase_group(
    reader: Translator, sources: Sequence[str], targets: Sequence[str], blank: int
) -> list[Forced | None]:
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
    results: list[Forced | None] = []
    at = 0
    for first in firsts:
        whole, *without = read[at : at + len(first) + 1]
        at += len(first) + 1
        if whole is None:
            results.append(None)
            continue
        falls = np.zeros_like(whole.weights)
        for s, other in zip(first, cast(list[Forced], without), strict=True):
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
    """Do the matrices between words name what the translator needs? One number a target word.

    For each target word source words are erased, those with the largest weights in its row first,
    in ``steps`` parts at most, and the probability of the word, its tokens' product, is watched:
    the area under that curve over the share of erased words, 0 to 1; a small one is good (as
    ``attnzoo.explain.faithfulness.deletion``). Compare with that of random matrices.

    Raises:
      ValueError: the pair cannot be read, or a matrix is not of its words.
    """
    model, blank = with_blank(translator.model, fill)
    reader = _reader(translator, model)
    left = reader.source_tokenizer.encode(source)
    right = reader.target_tokenizer.encode(target)
    T, S = len(right.words), len(left.words)
    for name, matrix in importances.items():
        if matrix.shape != (T, S):
            raise ValueError(f"{name}: shape {matrix.shape}, wanted {(T, S)}, target by source")
    counts = np.unique(np.round(np.linspace(0, S, steps + 1)).astype(int))
    orders = {name: np.argsort(-m, axis=1, kind="stable") for name, m in importances.items()}
    # Orders share many beginnings: every set of words is read once.
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
    found = np.stack([cast(Forced, one).log_probs for one in read])[:, : len(right.ids)]
    belongs = np.eye(T, dtype=found.dtype)[np.asarray(right.word_ids)]
    probabilities = np.exp(found @ belongs)  # sets by target words
    areas: dict[str, np.ndarray] = {}
    for name, order in orders.items():
        rows = [[sets[frozenset(row[:n])] for n in counts.tolist()] for row in order.tolist()]
        curves = np.stack([probabilities[at, t] for t, at in enumerate(rows)])
        areas[name] = np.trapezoid(curves, counts / S, axis=1)
    return areas


def _reader(translator: Translator, model: Any) -> Translator:
    """A translator with another model: the same tokenizers, batches and lengths."""
    return Translator(
        model,
        translator.source_tokenizer,
        translator.target_tokenizer,
        batch_size=translator.batch_size,
        max_source=translator.max_source,
    )
